"""Fusion pipeline for one pair of images: preparation, engine and timings."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.images.registration import Registration, fill_uncovered
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.inference.batches import BatchResult, fuse_batch
from ivf_core.inference.engine import create_engine
from ivf_core.inference.protocol import Engine
from ivf_core.inference.selection import MeasuredEngine
from ivf_core.models.interface import MINIMUM_SIZE
from ivf_core.models.weights_files import WeightsFile, open_weights
from ivf_core.rigs.remap import AnyRegistration, as_remap

if TYPE_CHECKING:
    from ivf_core.models.checkpoints import FusionModel

__all__ = [
    "AlignedPair",
    "FusionPipeline",
    "FusionResult",
    "ImagePair",
    "PreparedPair",
    "absent_visible",
    "leave_out_blank",
    "prepare",
    "resize_image",
    "resize_labels",
    "scaled_size",
]


@dataclass(frozen=True)
class ImagePair:
    """Visible and thermal image of the same moment.

    Attributes:
        visible: H x W x 3 uint8 RGB.
            An image of zeros stands for a visible camera that is absent.
        infrared: h x w uint8, uint16 or float32; None if the thermal camera is absent, for
            which the model receives an image of zeros.
        seconds: stamp of the pair, for the smoothing of the gain control; None disables it.
    """

    visible: np.ndarray
    infrared: np.ndarray | None
    seconds: float | None = None


class AlignedPair(NamedTuple):
    """Images of a pair on the same pixels.

    Attributes:
        visible: H x W x 3 uint8 RGB, undistorted where the registration does that.
        infrared: H x W uint8, with the visible luma where the thermal camera sees nothing.
        registration_ms: time of the remap, and of that luma.
        coverage: H x W bool, the pixels that the thermal camera sees; None for all.
    """

    visible: np.ndarray
    infrared: np.ndarray
    registration_ms: float
    coverage: np.ndarray | None = None


@dataclass(frozen=True)
class PreparedPair:
    """Pair whose thermal image is prepared, ready for the engine.

    Attributes:
        visible: image for the engine, h x w x 3 uint8 RGB.
        infrared_input: image for the engine, h x w uint8.
        aligned: both images at the size of the visible image.
        repaired_pixels: number of non-finite thermal pixels that were filled.
        prepare_ms: time that it took.
        left_out_pixels: number of thermal pixels that the gain control took for no scene.
    """

    visible: np.ndarray
    infrared_input: np.ndarray
    aligned: AlignedPair
    repaired_pixels: int
    prepare_ms: float
    left_out_pixels: int = 0

    @property
    def infrared(self) -> np.ndarray:
        """Prepared thermal image at the size of the visible image, H x W uint8."""
        return self.aligned.infrared


@dataclass(frozen=True)
class FusionResult:
    """Result of the pipeline for one pair.

    Attributes:
        fused: H x W x 3 uint8 RGB, or None if it was not wanted.
        labels: H/2 x W/2 uint8 class ids at the size of the head's output (less if the
            model received smaller images), or None; `resize_labels` scales them to the
            size of the image.
        infrared: H x W uint8, the prepared thermal image.
        visible: H x W x 3 uint8, the visible image that was fused: undistorted where the
            registration does that.
        prepare_ms: time of gain control, registration and scaling.
        registration_ms: time of the registration, a part of `prepare_ms`.
        coverage: H x W bool, the pixels of `infrared` that the thermal camera sees; None for all.
        model_ms: time of the engine, including copies to and from the device.
        repaired_pixels: number of non-finite thermal pixels that were filled.
        confidence: confidence in the class ids, uint8 at the size of `labels`: the largest
            probability of a class times 255; or None.
        left_out_pixels: number of thermal pixels that the gain control took for no scene.
    """

    fused: np.ndarray | None
    labels: np.ndarray | None
    infrared: np.ndarray
    prepare_ms: float
    model_ms: float
    repaired_pixels: int
    confidence: np.ndarray | None = None
    left_out_pixels: int = 0
    visible: np.ndarray | None = None
    registration_ms: float = 0.0
    coverage: np.ndarray | None = None


class FusionPipeline:
    """Thermal normalisation, registration and engine, for one stream of pairs.

    The gain control depends on earlier frames, so frames must come in order and from
    one pair of cameras.

    Args:
        weights: shipped name, path of a weights file, opened file, or networks in memory.
        engine: see `create_engine`.
        device: see `create_engine`.
        precision: see `create_engine`.
        threads: see `create_engine`.
        normalizer: converts thermal counts to 8 bits; the default keeps 8-bit frames.
        registration: maps thermal images onto RGB; the default scales them to its size. That of
            a file is `ivf_core.rigs.remap.read_registration(path)`.

    Attributes:
        engine: the engine in use.
        weights: name of the weights.
        class_set: classes of the masks, or None if the weights have no head.
        normalizer: normalizer of the thermal images.
        registration: registration of the thermal images; another one may be set between pairs.

    Raises:
        ValueError: see `create_engine` and `open_weights`.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | WeightsFile | FusionModel,
        *,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        normalizer: ThermalNormalizer | None = None,
        registration: AnyRegistration | None = None,
    ) -> None:
        if isinstance(weights, (str, os.PathLike)):
            weights = open_weights(weights)
        self.engine = create_engine(
            weights, engine=engine, device=device, precision=precision, threads=threads
        )
        self._source, self._device, self._threads = weights, device, threads
        self.weights = weights.name
        self.class_set: ClassSet | None = weights.class_set
        self.normalizer = normalizer if normalizer is not None else ThermalNormalizer()
        self.registration = as_remap(registration or Registration())

    def twin(self, threads: int | None = None) -> FusionPipeline:
        """Return a pipeline with an engine of its own, which shares everything else.

        An engine is called by one thread at a time. Another thread can warm up the twin
        for a new size while this pipeline runs; then the twin takes its place.

        Args:
            threads: see `create_engine`; by default this pipeline's.
        """
        twin = copy.copy(self)
        twin.engine = create_engine(
            self._source,
            engine=self.engine.name,
            device=self._device,
            precision=self.engine.precision,
            threads=self._threads if threads is None else threads,
        )
        return twin

    def select_engine(self, size: tuple[int, ...]) -> Engine:
        """Return the engine for a size of images, measured now if engine or precision is "auto".

        Args:
            size: height and width.
        """
        engine = self.engine
        return engine.select(size) if isinstance(engine, MeasuredEngine) else engine

    def warm_up(self, size: tuple[int, int] = (480, 640)) -> None:
        """Run the engine on black images, so that the first pair does not wait for it.

        Pairs of another size, and the first pair of which only one result is wanted, still
        wait while an engine prepares for them: each choice has a memory of its own, which
        few streams need.

        Args:
            size: height and width.
        """
        self.engine(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8))

    def forget_sizes(self) -> None:
        """Free what the engine has prepared for sizes of images; the next pair prepares again."""
        self.engine.forget_sizes()

    def __call__(
        self,
        pair: ImagePair,
        *,
        fused: bool = True,
        labels: bool = True,
        confidence: bool = False,
        scale: float = 1.0,
    ) -> FusionResult:
        """Fuse one pair.

        Args:
            pair: the images, with the stamp of the pair.
            fused: whether the fused image is wanted.
            labels: whether the class ids are wanted.
            confidence: whether the confidence in the class ids is wanted.
            scale: factor of height and width of the images that the model receives, at
                most 1; the fused image is scaled back to the size of the visible image.

        Returns:
            The results and timings.

        Raises:
            ValueError: an image of the wrong dtype or shape, or without any finite thermal
                pixel; the message names the image and what was expected.
        """
        prepared = self.prepare(pair, scale)
        return self.complete(prepared, fused=fused, labels=labels, confidence=confidence)

    def run_batch(
        self,
        visible: Any,
        infrared: Any,
        *,
        seconds: Sequence[float] | None = None,
        fused: bool = True,
        labels: bool = True,
        confidence: bool = False,
    ) -> BatchResult:
        """Fuse a batch of pairs of one size, given as NumPy arrays or PyTorch tensors.

        The engine torch takes a batch at once, the others one pair after another. Tensors need
        the engine torch; results are tensors on the same device. 8-bit thermal tensors of the
        size of the visible ones stay on it; others are prepared on the CPU.

        Args:
            visible: N x H x W x 3 uint8 RGB.
            infrared: N x h x w uint8, uint16 or float32, of the same kind and device.
            seconds: N stamps, for the smoothing of the gain control; None adapts it to each
                image alone.
            fused: see `__call__`.
            labels: see `__call__`.
            confidence: see `__call__`.

        Raises:
            ValueError: another shape, dtype or device, or tensors where the engine is another;
                names what was found and what was expected.
        """
        return fuse_batch(
            self, visible, infrared, seconds=seconds,
            fused=fused, labels=labels, confidence=confidence,
        )  # fmt: skip

    def prepare_batch(
        self, visible: np.ndarray, infrared: np.ndarray, seconds: Sequence[float] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Prepare the pairs of a batch; batches must come in order.

        Args:
            visible: as in `run_batch`, arrays only.
            infrared: as in `run_batch`, arrays only.
            seconds: as in `run_batch`.

        Returns:
            Visible images, N x H x W x 3 uint8, and thermal images, N x H x W uint8.
        """
        stamps = [None] * len(visible) if seconds is None else seconds
        pairs = [ImagePair(*images) for images in zip(visible, infrared, stamps, strict=True)]
        aligned = [
            prepare(leave_out_blank(pair), self.normalizer, self.registration) for pair in pairs
        ]
        return np.stack([pair.visible for pair in aligned]), np.stack([p.infrared for p in aligned])

    def prepare(self, pair: ImagePair, scale: float = 1.0) -> PreparedPair:
        """Prepare the next pair for the engine; pairs must come in order.

        Args:
            pair: see `__call__`.
            scale: see `__call__`.

        Raises:
            ValueError: see `__call__`.
        """
        start = time.perf_counter()
        pair = leave_out_blank(pair)
        aligned = prepare(pair, self.normalizer, self.registration)
        infrared = aligned.infrared
        absent = pair.infrared is None
        repaired = 0 if absent else self.normalizer.repaired_pixels
        left_out = 0 if absent else self.normalizer.left_out_pixels
        size = scaled_size(infrared.shape, scale)
        inputs = resize_image(aligned.visible, size), resize_image(infrared, size)
        duration = (time.perf_counter() - start) * 1e3
        return PreparedPair(*inputs, aligned, repaired, duration, left_out)

    def complete(
        self,
        prepared: PreparedPair,
        engine: Engine | None = None,
        *,
        fused: bool = True,
        labels: bool = True,
        confidence: bool = False,
    ) -> FusionResult:
        """Run an engine on a prepared pair; threads may do so at once, each with its engine.

        Args:
            prepared: result of `prepare`.
            engine: engine to run; by default the pipeline's.
            fused: see `__call__`.
            labels: see `__call__`.
            confidence: see `__call__`.
        """
        inputs = prepared.visible, prepared.infrared_input
        start = time.perf_counter()
        result = (engine or self.engine)(*inputs, fused=fused, labels=labels, confidence=confidence)
        done = time.perf_counter()
        image = result.fused
        if image is not None:
            image = resize_image(image, prepared.infrared.shape)
        return FusionResult(
            image,
            result.labels,
            prepared.infrared,
            prepare_ms=prepared.prepare_ms + (time.perf_counter() - done) * 1e3,
            model_ms=(done - start) * 1e3,
            repaired_pixels=prepared.repaired_pixels,
            confidence=result.confidence,
            left_out_pixels=prepared.left_out_pixels,
            visible=prepared.aligned.visible,
            registration_ms=prepared.aligned.registration_ms,
            coverage=prepared.aligned.coverage,
        )


def prepare(
    pair: ImagePair, normalizer: ThermalNormalizer, registration: AnyRegistration
) -> AlignedPair:
    """Prepare a pair for the student: thermal image of 8 bits, registered onto the visible one.

    The gain control measures the thermal pixels that the visible camera sees as well.

    Args:
        pair: the images, with the stamp of the pair.
        normalizer: converts thermal counts to 8 bits.
        registration: maps thermal images onto visible ones.

    Returns:
        Both images; the thermal one is zeros if it is absent.

    Raises:
        ValueError: see `FusionPipeline.__call__`.
    """
    _check(pair)
    size = pair.visible.shape[:2]
    start = time.perf_counter()
    visible = registration.undistort(pair.visible)
    if pair.infrared is None:
        spent = (time.perf_counter() - start) * 1e3
        return AlignedPair(visible, np.zeros(size, np.uint8), spent)
    shape = pair.infrared.shape[:2]
    coverage, seen = registration.coverage(shape, size), registration.seen(shape, size)
    undistorted = time.perf_counter()
    infrared = normalizer(pair.infrared, pair.seconds, seen)
    normalized = time.perf_counter()
    infrared = fill_uncovered(registration(infrared, size), visible, coverage)
    spent = time.perf_counter() - normalized + undistorted - start
    return AlignedPair(visible, infrared, spent * 1e3, coverage)


def leave_out_blank(pair: ImagePair) -> ImagePair:
    """Replace an image of one value everywhere by that of an absent camera.

    A camera that is white all over, or grey, tells as little as one that is black, which the
    networks know.

    Args:
        pair: the images, with the stamp of the pair.

    Returns:
        The pair; `pair` itself if both images show something, or neither does.

    Raises:
        ValueError: see `FusionPipeline.__call__`.
    """
    _check(pair)
    if pair.infrared is None:
        return pair
    blank = _is_blank(pair.visible), _is_blank(pair.infrared)
    if blank == (False, True):
        return replace(pair, infrared=None)
    if blank == (True, False):
        return replace(pair, visible=np.zeros_like(pair.visible))
    return pair


def _is_blank(image: np.ndarray) -> bool:
    """Return whether all pixels are equal, and finite."""
    first = image[0, 0]
    # Most images differ in their corners already, and are not read.
    corners = bool((image[-1, -1] == first).all() and np.isfinite(first).all())
    return corners and bool((image == first).all())


def absent_visible(
    infrared: np.ndarray, registration: AnyRegistration, last_size: tuple[int, ...] | None
) -> np.ndarray:
    """Return the visible image of zeros that stands for an absent camera.

    It has the size of the last visible image, or else that for which the registration was
    found, or else that of the thermal image.

    Args:
        infrared: h x w, the thermal image that is fused alone.
        registration: maps thermal images onto visible ones.
        last_size: height and width of the last visible image, or None.

    Returns:
        H x W x 3 uint8.
    """
    size = last_size
    if size is None:
        known = registration.rgb_size
        size = infrared.shape[:2] if known is None else (known[1], known[0])
    return np.zeros((*size, 3), np.uint8)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale class ids by nearest neighbour, which invents no class.

    Args:
        labels: h x w uint8.
        size: height and width of the result.

    Returns:
        H x W uint8.
    """
    return cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def scaled_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """Return the size of the images that the model receives.

    Args:
        size: height and width of the pair.
        scale: factor, at most 1; the model's smallest size limits it.

    Returns:
        Height and width.

    Raises:
        ValueError: a scale that is not above 0 and at most 1.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale is {scale}, expected more than 0 and at most 1")
    height, width = (min(n, max(MINIMUM_SIZE, round(n * scale))) for n in size)
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Scale an image, by area if it shrinks (no aliasing) and bilinearly if it grows.

    Args:
        image: H x W or H x W x 3.
        size: height and width of the result.

    Returns:
        The scaled image; `image` itself if it has that size.
    """
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=mode)


def _check(pair: ImagePair) -> None:
    visible, infrared = pair.visible, pair.infrared
    if visible.dtype != np.uint8 or visible.ndim != 3 or visible.shape[2] != 3:
        raise ValueError(
            f"visible image is {visible.dtype} {visible.shape}, expected uint8 (H, W, 3)"
        )
    if infrared is not None and (
        infrared.dtype not in (np.uint8, np.uint16, np.float32) or infrared.ndim != 2
    ):
        raise ValueError(
            f"infrared image is {infrared.dtype} {infrared.shape}, "
            "expected uint8, uint16 or float32 (H, W)"
        )
    for name, image in (("visible", visible), ("infrared", infrared)):
        if image is not None and min(image.shape[:2]) < MINIMUM_SIZE:
            raise ValueError(
                f"{name} image is {image.shape[1]}x{image.shape[0]}, "
                f"expected at least {MINIMUM_SIZE}x{MINIMUM_SIZE}"
            )
