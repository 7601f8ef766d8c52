"""Pairs of a recording, read by their number: of images, folders and videos."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ivf_core.images.files import ImageFileError
from ivf_core.images.pair_sources import PairFrame, PairSource
from ivf_core.view.timeline import Timeline

__all__ = ["BINS", "FilePairs", "Sequence", "SourceFrame", "UnreadableFrameError"]

BINS = 240
"""Number of bins of a recording's time line."""

_SKIPPED = 30  # frames that are decoded and left out rather than sought
_RATE_HZ = 10.0  # of images without times


class UnreadableFrameError(ValueError):
    """A frame of which the images cannot be read."""


@dataclass(frozen=True)
class SourceFrame:
    """Images of one frame of a recording.

    Attributes:
        name: name for files.
        seconds: time since the start of the recording.
        stamp: stamp in seconds, for gain control and health; None for images without one.
        visible: H x W x 3 uint8 RGB; None for the thermal camera alone.
        infrared: h x w uint8, uint16 or float32; None for the RGB camera alone.
        facts: further values for the page, as label and text.
    """

    name: str
    seconds: float
    stamp: float | None
    visible: np.ndarray | None
    infrared: np.ndarray | None
    facts: tuple[tuple[str, str], ...] = ()


class Sequence(Protocol):
    """Pairs of a recording by their number. One thread at a time reads.

    Attributes:
        title: name of the recording.
        facts: what the page says about it, as label and text.
        rate_hz: frames a second at the recorded speed, on average.
        timeline: time line of the recording.
    """

    title: str
    facts: list[tuple[str, str]]
    rate_hz: float
    timeline: Timeline

    @property
    def duration_seconds(self) -> float:
        """Length of the recording."""
        ...

    def seconds(self, since: int) -> list[float]:
        """Return the times of the frames that are known so far, from one on."""
        ...

    def progress(self) -> dict[str, Any]:
        """Return `complete`, `note` and `counters` of the status."""
        ...

    def read(self, number: int) -> SourceFrame:
        """Read a frame.

        Raises:
            LookupError: there is no such frame.
            UnreadableFrameError: its images cannot be read.
        """
        ...

    def close(self) -> None:
        """Close the files."""
        ...


class FilePairs:
    """Pairs of images, folders or videos, with the interface `Sequence`.

    Args:
        source: from `open_pairs`.
        title: name for the page.
        rate_hz: frames a second of images, which then count as a film with times; None shows
            them one by one.
    """

    def __init__(self, source: PairSource, title: str, rate_hz: float | None = None) -> None:
        self._source = source
        self.title = title
        self.facts = [("source", source.kind)]
        self._timed = source.rate_hz is not None or rate_hz is not None
        self.rate_hz = source.rate_hz or rate_hz or _RATE_HZ
        self._count = source.length or 0
        self._complete = source.length is not None
        self.timeline = self._new_timeline()
        self._failed: set[int] = set()
        self._frames: Iterator[PairFrame] | None = None
        self._next = 0
        self._closing = threading.Event()
        self._counting: threading.Thread | None = None
        if not self._complete:
            self._counting = threading.Thread(target=self._count_frames, daemon=True)
            self._counting.start()

    @property
    def duration_seconds(self) -> float:
        """Length at the rate of the frames."""
        return self._count / self.rate_hz

    def seconds(self, since: int) -> list[float]:
        """Return the times of the frames that are known so far, from one on."""
        return [round(number / self.rate_hz, 4) for number in range(max(0, since), self._count)]

    def progress(self) -> dict[str, Any]:
        """Return `complete`, `note` and `counters` of the status."""
        note = "" if self._complete else "counting the frames"
        unmatched = len(self._source.unmatched)
        counters = [["pairs", self._count]]
        if self._failed:
            counters.append(["cannot be read", len(self._failed)])
        if unmatched:
            counters.append(["files or frames without a partner", unmatched])
        return {"complete": self._complete, "note": note, "counters": counters}

    def read(self, number: int) -> SourceFrame:
        """Read a frame: the next ones in turn, others by seeking; see `Sequence`."""
        if not 0 <= number < self._count:
            raise LookupError(f"frame {number}: there are {self._count}")
        if self._frames is None or not self._next <= number <= self._next + _SKIPPED:
            self._frames, self._next = self._source.frames(start=number), number
        frame = None
        try:
            while self._next <= number:
                self._next += 1
                frame = next(self._frames, None)
        except ImageFileError as error:
            self._frames = None
            self._failed.add(number)
            self.timeline.lose(number / self.rate_hz, 1)
            raise UnreadableFrameError(str(error)) from error
        if frame is None:
            self._frames = None
            raise UnreadableFrameError(f"frame {number}: the video ends before it")
        seconds = number / self.rate_hz
        stamp = frame.seconds if frame.seconds is not None else seconds
        facts = []
        if frame.infrared_seconds is not None and frame.seconds is not None:
            apart = (frame.infrared_seconds - frame.seconds) * 1e3
            facts.append(("thermal minus RGB", f"{apart:+.1f} ms"))
        return SourceFrame(
            frame.name, seconds, stamp if self._timed else None, frame.visible, frame.infrared,
            tuple(facts),
        )  # fmt: skip

    def close(self) -> None:
        """Close the videos."""
        self._closing.set()
        if self._counting is not None:
            self._counting.join()
        self._frames = None

    def _new_timeline(self) -> Timeline:
        return Timeline(max(self._count, 1) / self.rate_hz / BINS, BINS)

    def _count_frames(self) -> None:
        """Count the pairs of videos whose headers do not tell, by decoding them once."""
        try:
            for _ in self._source.frames():
                if self._closing.is_set():
                    return
                self._count += 1
        finally:
            self.timeline = self._new_timeline()
            self._complete = True
