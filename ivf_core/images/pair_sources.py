"""Sequences of image pairs, read from two images, two folders or two videos."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ivf_core.images.files import (
    IMAGE_SUFFIXES,
    ImageFileError,
    list_images,
    read_infrared,
    read_visible,
)
from ivf_core.images.videos import (
    VIDEO_SUFFIXES,
    announced_frames,
    open_video,
    video_frames,
    video_timing,
)

__all__ = ["PairFrame", "PairSource", "open_pairs"]

# Relative. 29.97 and 30 Hz differ by 1e-3 and drift apart by a frame in half a minute.
_RATE_TOLERANCE = 5e-4


@dataclass(frozen=True)
class PairFrame:
    """Visible and thermal image of the same moment.

    Attributes:
        name: stem of the file, or the frame number in six digits.
        seconds: time since the start of the video; None for still images.
        visible: H x W x 3 uint8 RGB.
        infrared: H' x W' uint8, uint16 or float32.
        infrared_seconds: time of the thermal frame since the start of its video; None for still
            images.
    """

    name: str
    seconds: float | None
    visible: np.ndarray
    infrared: np.ndarray
    infrared_seconds: float | None = None


class PairSource(ABC):
    """Sequence of pairs that `open_pairs` opens; it can be iterated more than once.

    Frames are read one at a time: memory does not grow with the length.

    Attributes:
        kind: "image", "folder" or "video".
        length: number of pairs, or None where a video does not state it. For videos this
            is the number in the file's header; see `unmatched`.
        rate_hz: frame rate of a video, its mean where it varies; otherwise None.
        constant_rate: false for videos whose frame times are not multiples of a period.
        unmatched: files or frames without a partner, one line each. For videos the list
            is complete only after iterating to the end.
    """

    kind: str
    length: int | None
    rate_hz: float | None = None
    constant_rate: bool = True
    unmatched: list[str]

    def __iter__(self) -> Iterator[PairFrame]:
        return self.frames()

    @abstractmethod
    def frames(
        self, on_error: Callable[[ImageFileError], None] | None = None, start: int = 0
    ) -> Iterator[PairFrame]:
        """Read the pairs in order.

        Args:
            on_error: called with the error if an image cannot be read; its pair is left
                out. Without it the error is raised.
            start: number of the first pair to read. Of videos at a constant rate it is the
                number of a period; of others, all before it is decoded.

        Yields:
            One `PairFrame` for each pair that can be read.

        Raises:
            ImageFileError: an image cannot be read and there is no `on_error`,
                or a video cannot be opened.
        """


def open_pairs(visible: str | os.PathLike[str], infrared: str | os.PathLike[str]) -> PairSource:
    """Open two images, two folders (matched by stem) or two videos (matched by frame times).

    Args:
        visible: path of the visible image, folder or video.
        infrared: path of the thermal image, folder or video, of the same kind.

    Returns:
        The pairs, of which none is decoded yet.

    Raises:
        ImageFileError: a path is missing or unreadable, the two are of different kinds,
            no stems match, or the videos' frame rates differ.
    """
    visible, infrared = Path(visible), Path(infrared)
    kinds = _kind(visible), _kind(infrared)
    if kinds[0] != kinds[1]:
        raise ImageFileError(
            f"{kinds[0]} '{visible}' and {kinds[1]} '{infrared}': "
            "expected two images, two folders or two videos"
        )
    if kinds[0] == "folder":
        return _FolderPairs(visible, infrared)
    if kinds[0] == "video":
        return _VideoPairs(visible, infrared)
    return _ImagePairs("image", {visible.stem: (visible, infrared)}, [])


class _ImagePairs(PairSource):
    def __init__(
        self, kind: str, pairs: dict[str, tuple[Path, Path]], unmatched: list[str]
    ) -> None:
        self.kind = kind
        self.length = len(pairs)
        self.unmatched = unmatched
        self._pairs = pairs

    def frames(
        self, on_error: Callable[[ImageFileError], None] | None = None, start: int = 0
    ) -> Iterator[PairFrame]:
        for name, (visible, infrared) in islice(self._pairs.items(), start, None):
            try:
                frame = PairFrame(name, None, read_visible(visible), read_infrared(infrared))
            except ImageFileError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            yield frame


class _FolderPairs(_ImagePairs):
    def __init__(self, visible: Path, infrared: Path) -> None:
        first, second = list_images(visible), list_images(infrared)
        pairs = {stem: (first[stem], second[stem]) for stem in first if stem in second}
        if not pairs:
            raise ImageFileError(
                f"'{visible}' ({len(first)} images) and '{infrared}' ({len(second)} images): "
                "no two have the same name"
            )
        alone = [path for stem, path in (first | second).items() if stem not in pairs]
        super().__init__("folder", pairs, [f"{path}: no partner" for path in alone])


class _VideoPairs(PairSource):
    kind = "video"

    def __init__(self, visible: Path, infrared: Path) -> None:
        self._paths = (visible, infrared)
        self.unmatched = []
        timings, counts = [], []
        for path in self._paths:
            timings.append(video_timing(path))
            with open_video(path, keep_depth=path is infrared) as video:
                counts.append(announced_frames(video))
        rates = [timing.rate_hz for timing in timings]
        self.constant_rate = all(timing.constant for timing in timings)
        if self.constant_rate and abs(rates[0] - rates[1]) > _RATE_TOLERANCE * max(rates):
            raise ImageFileError(
                f"'{visible}' has {rates[0]:g} frames a second but '{infrared}' {rates[1]:g}: "
                "expected the same rate"
            )
        self.rate_hz = float(min(rates))
        # The header's count rests on its rate.
        known = self.constant_rate and min(counts) > 0
        self.length = min(counts) if known else None
        self._announced = counts if known else [0, 0]
        self._timings = timings
        self._tolerance = 0.5 / min(rates)

    def frames(
        self, on_error: Callable[[ImageFileError], None] | None = None, start: int = 0
    ) -> Iterator[PairFrame]:
        if not self.constant_rate:
            yield from islice(self._frames_from(0), start, None)
            return
        yield from self._frames_from(start)

    def _frames_from(self, start: int) -> Iterator[PairFrame]:
        # A frame that cannot be decoded ends the video, see `_missing`.
        sides = [
            _Frames(video_frames(path, timing, infrared=path is self._paths[1], start=start))
            for path, timing in zip(self._paths, self._timings, strict=True)
        ]
        visible, infrared = sides
        index = start
        try:
            while visible.head is not None and infrared.head is not None:
                late = visible.surplus(infrared, self._tolerance)
                if late is not None:
                    late.skip()
                    continue
                yield PairFrame(
                    f"{index:06d}",
                    visible.head[0],
                    visible.head[1],
                    infrared.head[1],
                    infrared.head[0],
                )
                index += 1
                visible.advance()
                infrared.advance()
            if not start:
                self.unmatched = self._missing(sides)
        finally:
            for side in sides:
                side.close()

    def _missing(self, sides: Sequence[_Frames]) -> list[str]:
        """List the frames without a partner, when one of the videos has ended."""
        lines = []
        for path, announced, side in zip(self._paths, self._announced, sides, strict=True):
            if side.skipped:
                lines.append(
                    f"{path}: {side.skipped} frames have no partner within "
                    f"{self._tolerance * 1e3:.0f} ms"
                )
            if side.head is not None:
                lines.append(f"{path}: continues after frame {side.read}, where the other one ends")
            elif side.read < announced:
                lines.append(
                    f"{path}: ends after {side.read} of the {announced} frames it announces"
                )
        return lines


class _Frames:
    """Frames of a video with their times, and a look at the one after the next.

    Attributes:
        head: time and pixels of the next frame; None at the end.
        read: number of frames before it.
        skipped: number of frames that were left out.
    """

    def __init__(self, frames: Iterator[tuple[float, np.ndarray]]) -> None:
        self._frames = frames
        self.head = next(frames, None)
        self._after = next(frames, None)
        self.read = 0
        self.skipped = 0

    def surplus(self, other: _Frames, tolerance: float) -> _Frames | None:
        """Return the video whose next frame has no partner, None if both make a pair.

        Args:
            other: frames of the other video.
            tolerance: largest difference in seconds.
        """
        assert self.head is not None
        assert other.head is not None
        apart = abs(self.head[0] - other.head[0])
        if apart > tolerance:
            return self if self.head[0] < other.head[0] else other
        if other._after is not None and abs(self.head[0] - other._after[0]) < apart:
            return other
        if self._after is not None and abs(self._after[0] - other.head[0]) < apart:
            return self
        return None

    def skip(self) -> None:
        """Leave out the next frame."""
        self.skipped += 1
        self.advance()

    def advance(self) -> None:
        """Take the next frame."""
        self.read += 1
        self.head, self._after = self._after, next(self._frames, None)

    def close(self) -> None:
        """Close the video."""
        self._frames.close()  # type: ignore[attr-defined]


def _kind(path: Path) -> str:
    """Return the kind of a path: "image", "folder" or "video"."""
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise ImageFileError(f"'{path}': no such file or folder")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    raise ImageFileError(
        f"'{path}': neither an image ({', '.join(IMAGE_SUFFIXES)}) "
        f"nor a video ({', '.join(VIDEO_SUFFIXES)})"
    )
