"""One pair in, one result out: preparation, the engine, and what it cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.images.registration import Registration, fill_uncovered
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.inference.engine import create_engine
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.graph import MINIMUM_SIZE

__all__ = ["FusionPipeline", "FusionResult", "ImagePair", "prepare", "resize_labels"]


@dataclass(frozen=True)
class ImagePair:
    """A pair of frames.

    Attributes:
        visible: H x W x 3 uint8 RGB.
        infrared: h x w uint8, uint16 or float32.
        seconds: stamp of the pair, for the gain control's smoothing; None has none.
    """

    visible: np.ndarray
    infrared: np.ndarray
    seconds: float | None = None


@dataclass(frozen=True)
class FusionResult:
    """What the pipeline makes of a pair.

    Attributes:
        fused: H x W x 3 uint8 RGB, or None where it was not wanted.
        labels: H/2 x W/2 uint8 class ids at the head's own size, or None;
            `resize_labels` brings them to the image's.
        infrared: H x W uint8, the thermal image as the student saw it.
        prepare_ms: time of gain control and registration.
        model_ms: time of the engine, copies to and from the device included.
        repaired_pixels: non-finite thermal pixels that were filled.
    """

    fused: np.ndarray | None
    labels: np.ndarray | None
    infrared: np.ndarray
    prepare_ms: float
    model_ms: float
    repaired_pixels: int


class FusionPipeline:
    """Thermal normalisation, registration and the engine; one instance a stream.

    The gain control remembers the stream, so frames must come in order and from
    one pair of cameras.

    Args:
        model: networks from `load_model`.
        engine, device, precision, threads: as for `create_engine`.
        normalizer: thermal counts to 8 bit; the default leaves 8-bit frames as they are.
        registration: thermal onto RGB; the default goes by size.
    """

    def __init__(
        self,
        model: FusionModel,
        *,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        normalizer: ThermalNormalizer | None = None,
        registration: Registration | None = None,
    ) -> None:
        self.engine = create_engine(
            model, engine=engine, device=device, precision=precision, threads=threads
        )
        self.weights = model.name
        self.class_set: ClassSet | None = model.class_set
        self.normalizer = normalizer if normalizer is not None else ThermalNormalizer()
        self.registration = registration if registration is not None else Registration()

    def warm_up(self, size: tuple[int, int] = (480, 640)) -> None:
        """Run the engine on black pictures of this height and width, for every choice of results.

        What engines set up at first use then does not delay the first pair. Pairs of
        another size still wait for what an engine compiles for theirs.
        """
        visible, infrared = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
        self.engine(visible, infrared)
        self.engine(visible, infrared, labels=False)
        self.engine(visible, infrared, fused=False)

    def __call__(self, pair: ImagePair, *, fused: bool = True, labels: bool = True) -> FusionResult:
        """Fuse one pair.

        Args:
            fused, labels: which results are wanted.

        Raises:
            ValueError: an image of the wrong type or shape, or without a single
                finite thermal pixel; says which and what was expected.
        """
        start = time.perf_counter()
        infrared = prepare(pair, self.normalizer, self.registration)
        repaired = self.normalizer.repaired_pixels
        prepared = time.perf_counter()
        picture, ids = self.engine(pair.visible, infrared, fused=fused, labels=labels)
        done = time.perf_counter()
        return FusionResult(
            picture,
            ids,
            infrared,
            prepare_ms=(prepared - start) * 1e3,
            model_ms=(done - prepared) * 1e3,
            repaired_pixels=repaired,
        )


def prepare(
    pair: ImagePair, normalizer: ThermalNormalizer, registration: Registration
) -> np.ndarray:
    """The thermal image as the student sees it: 8 bits, on the visible camera's pixels.

    Returns:
        H x W uint8, the visible luma where the thermal camera sees nothing.

    Raises:
        ValueError: as `FusionPipeline`.
    """
    _check(pair)
    infrared = normalizer(pair.infrared, pair.seconds)
    size = pair.visible.shape[:2]
    coverage = registration.coverage(infrared.shape, size)
    infrared = registration(infrared, size)
    return infrared if coverage is None else fill_uncovered(infrared, pair.visible, coverage)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring class ids to `size` (height, width) by nearest neighbour: no class is invented."""
    return cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def _check(pair: ImagePair) -> None:
    visible, infrared = pair.visible, pair.infrared
    if visible.dtype != np.uint8 or visible.ndim != 3 or visible.shape[2] != 3:
        raise ValueError(
            f"visible image is {visible.dtype} {visible.shape}, expected uint8 (H, W, 3)"
        )
    if infrared.dtype not in (np.uint8, np.uint16, np.float32) or infrared.ndim != 2:
        raise ValueError(
            f"infrared image is {infrared.dtype} {infrared.shape}, "
            "expected uint8, uint16 or float32 (H, W)"
        )
    for name, image in (("visible", visible), ("infrared", infrared)):
        if min(image.shape[:2]) < MINIMUM_SIZE:
            raise ValueError(
                f"{name} image is {image.shape[1]}x{image.shape[0]}, "
                f"expected at least {MINIMUM_SIZE}x{MINIMUM_SIZE}"
            )
