"""Third stage: write the output bag and the video."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.bags.info import BagMessage
from ivf_core.images.overlay import draw_overlay
from ivf_core.inference.pipeline import resize_labels
from ivf_core.replay.frames import FusedFrame
from ivf_core.replay.output_files import BagOutput, VideoOutput
from ivf_core.replay.result_sources import ResultSource
from ivf_core.replay.settings import ReplaySettings

__all__ = ["WriteStage"]


class WriteStage:
    """Stage that writes the output bag and the video; entered by thread "write".

    A recording of the node has its results in a bag already, so that only inputs are copied.

    Args:
        folder: folder of the outputs.
        settings: settings of the replay.
        results: source of the results.
        rate_hz: frames per second of the video.

    Attributes:
        processor_seconds: processor time of the stage, once it has ended.
    """

    def __init__(
        self,
        folder: Path,
        settings: ReplaySettings,
        results: ResultSource,
        *,
        rate_hz: float,
    ) -> None:
        self._settings = settings
        self._class_set = results.class_set
        self._recorded = results.recorded
        self._bag = BagOutput(folder / "bag", settings.storage, results.class_set)
        self._video = VideoOutput(folder / "side_by_side.mp4", rate_hz) if settings.video else None
        self._open = ExitStack()
        self.processor_seconds = 0.0

    def __enter__(self) -> WriteStage:
        self.processor_seconds = -time.thread_time()
        self._open.enter_context(self._bag)
        if self._video is not None:
            self._open.enter_context(self._video)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.__exit__(*exception)
        self.processor_seconds += time.thread_time()

    def write(self, item: FusedFrame | BagMessage) -> None:
        """Copy an input message, or write the result of a pair."""
        if isinstance(item, BagMessage):
            self._bag.copy(item)
            return
        began = time.perf_counter()
        mask, overlay = self._mask_and_overlay(item)
        if not self._recorded:
            self._bag.write(item, mask, overlay)
        if self._video is not None:
            self._video.write(item, overlay)
        item.stage_ms["write_ms"] = (time.perf_counter() - began) * 1e3

    def _mask_and_overlay(self, frame: FusedFrame) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return mask and overlay where they are written, both H x W of the RGB image."""
        written = self._video is not None or not self._recorded
        if not written or frame.labels is None or frame.fused is None or not self._class_set:
            return None, None
        mask = resize_labels(frame.labels, frame.registered.shape)
        settings = self._settings
        return mask, draw_overlay(
            frame.fused, mask, self._class_set, settings.opacity, settings.palette
        )
