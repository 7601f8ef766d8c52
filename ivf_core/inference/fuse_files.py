"""Fuse images, folders and videos into files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.images.files import write_image
from ivf_core.images.overlay import draw_overlay
from ivf_core.images.pair_sources import PairSource
from ivf_core.images.videos import VideoWriter
from ivf_core.inference.pipeline import FusionPipeline, FusionResult, ImagePair, resize_labels

__all__ = ["FusedFiles", "fuse_files"]


@dataclass
class FusedFiles:
    """Report of `fuse_files`.

    Attributes:
        pairs: number of pairs fused.
        failed: pairs that could not be fused, one line each with the reason.
        model_ms: time of the model for each pair.
        written: the files and folders written.
    """

    pairs: int = 0
    failed: list[str] = field(default_factory=list)
    model_ms: list[float] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)


def fuse_files(
    source: PairSource,
    pipeline: FusionPipeline,
    output: Path,
    *,
    opacity: float = 0.5,
    palette: str = "natural",
    progress: Callable[[int], None] | None = None,
) -> FusedFiles:
    """Fuse every pair of a source and write the results.

    A pair that cannot be read or fused is listed in `failed`; the others are still fused.

    Fused images are written to `output/fused`, class ids to `output/mask` and overlays to
    `output/overlay`, as PNG files named after the pair. For a video, fused images and
    overlays become `fused.mp4` and `overlay.mp4` instead. Without a segmentation head
    there are no masks and overlays.

    Args:
        source: the pairs, from `open_pairs`.
        pipeline: fuses each pair.
        output: folder for the results.
        opacity: share of the class colours in the overlay, 0 to 1.
        palette: colours of the overlay, as in `draw_overlay`.
        progress: called after each pair with the number of pairs fused or failed so far.

    Returns:
        Counts, failures and times.

    Raises:
        OSError: a file cannot be written.
    """
    report = FusedFiles()

    def advance() -> None:
        if progress is not None:
            progress(report.pairs + len(report.failed))

    def leave_out(reason: str) -> None:
        report.failed.append(reason)
        advance()

    with _Outputs(output, source.rate_hz) as outputs:
        for frame in source.frames(on_error=lambda error: leave_out(str(error))):
            try:
                result = pipeline(ImagePair(frame.visible, frame.infrared, frame.seconds))
            except ValueError as error:
                leave_out(f"{frame.name}: {error}")
                continue
            for kind, image in _images(result, pipeline.class_set, opacity, palette).items():
                outputs.write(kind, frame.name, image)
            report.pairs += 1
            report.model_ms.append(result.model_ms)
            advance()
        report.written = list(outputs.paths.values())
    return report


def _images(
    result: FusionResult, class_set: ClassSet | None, opacity: float, palette: str
) -> dict[str, np.ndarray]:
    """Return the images to write, by kind: "fused", "mask" and "overlay"."""
    assert result.fused is not None
    images = {"fused": result.fused}
    if result.labels is not None and class_set is not None:
        images["mask"] = resize_labels(result.labels, result.infrared.shape)
        images["overlay"] = draw_overlay(result.fused, images["mask"], class_set, opacity, palette)
    return images


class _Outputs(AbstractContextManager["_Outputs"]):
    """Writer of a folder of PNG files or a video for each kind of image.

    Attributes:
        paths: the folders and videos, by kind.
    """

    def __init__(self, folder: Path, rate_hz: float | None) -> None:
        self.paths: dict[str, Path] = {}
        self._folder = folder
        self._rate_hz = rate_hz
        self._videos: dict[str, VideoWriter] = {}
        self._stack = ExitStack()

    def write(self, kind: str, name: str, image: np.ndarray) -> None:
        if self._rate_hz is None or kind == "mask":  # a video codec would invent classes
            self.paths[kind] = self._folder / kind
            write_image(self.paths[kind] / f"{name}.png", image)
            return
        if kind not in self._videos:
            self.paths[kind] = self._folder / f"{kind}.mp4"
            writer = VideoWriter(self.paths[kind], self._rate_hz, image.shape[:2])
            self._videos[kind] = self._stack.enter_context(writer)
        self._videos[kind].write(image)

    def __exit__(self, *exception: object) -> bool | None:
        return self._stack.__exit__(*exception)  # type: ignore[arg-type]
