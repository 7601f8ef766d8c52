"""Fuse pictures, folders and videos into files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ivf_core.images.files import write_image
from ivf_core.images.overlay import draw_overlay
from ivf_core.images.pair_sources import PairSource
from ivf_core.images.videos import VideoWriter
from ivf_core.inference.pipeline import FusionPipeline, ImagePair, resize_labels

__all__ = ["FusedFiles", "fuse_files"]


@dataclass
class FusedFiles:
    """What `fuse_files` did.

    Attributes:
        pairs: pairs fused.
        failed: pairs that could not be, one line each with the reason.
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
    """Fuse every pair of a source.

    A pair that cannot be read or fused is listed in `failed`; the rest goes on.

    Pictures go to `output/fused`, class ids to `output/mask` and overlays to
    `output/overlay`, as PNG by the pair's name. Of a video the fused pictures
    and overlays become `fused.mp4` and `overlay.mp4` instead. Without a head
    there are no masks and overlays.

    Args:
        opacity, palette: of the overlay, as in `draw_overlay`.
        progress: called with the number of pairs looked at, fused or failed.

    Raises:
        OSError: a file cannot be written.
    """
    done = FusedFiles()
    kinds = ["fused"] + (["mask", "overlay"] if pipeline.class_set is not None else [])

    def advance() -> None:
        if progress is not None:
            progress(done.pairs + len(done.failed))

    def leave_out(reason: str) -> None:
        done.failed.append(reason)
        advance()

    with ExitStack() as stack:
        films: dict[str, VideoWriter] = {}
        for frame in source.frames(on_error=lambda error: leave_out(str(error))):
            try:
                result = pipeline(ImagePair(frame.visible, frame.infrared, frame.seconds))
            except ValueError as error:
                leave_out(f"{frame.name}: {error}")
                continue
            pictures: dict[str, np.ndarray] = {}
            if result.fused is not None:
                pictures["fused"] = result.fused
                if result.labels is not None and pipeline.class_set is not None:
                    labels = resize_labels(result.labels, result.infrared.shape)
                    pictures["mask"] = labels
                    pictures["overlay"] = draw_overlay(
                        result.fused, labels, pipeline.class_set, opacity, palette
                    )
            if source.rate_hz is not None and not films:
                size = frame.visible.shape[:2]
                for kind in kinds:
                    if kind != "mask":  # a video codec would invent classes
                        path = output / f"{kind}.mp4"
                        films[kind] = stack.enter_context(VideoWriter(path, source.rate_hz, size))
            for kind, picture in pictures.items():
                if kind in films:
                    films[kind].write(picture)
                else:
                    (output / kind).mkdir(parents=True, exist_ok=True)
                    write_image(output / kind / f"{frame.name}.png", picture)
            done.pairs += 1
            done.model_ms.append(result.model_ms)
            advance()
        done.written = [
            output / (f"{kind}.mp4" if kind in films else kind) for kind in kinds if done.pairs
        ]
    return done
