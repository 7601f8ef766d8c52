"""Sequences of image pairs, read from two images, two folders or two videos."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ivf_core.images.files import (
    IMAGE_SUFFIXES,
    ImageFileError,
    list_images,
    read_infrared,
    read_visible,
)
from ivf_core.images.videos import VIDEO_SUFFIXES, announced_frames, open_video

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
    """

    name: str
    seconds: float | None
    visible: np.ndarray
    infrared: np.ndarray


class PairSource(ABC):
    """Sequence of pairs that `open_pairs` opens; it can be iterated more than once.

    Frames are read one at a time: memory does not grow with the length.

    Attributes:
        kind: "image", "folder" or "video".
        length: number of pairs, or None where a video does not state it. For videos this
            is the number in the file's header; see `unmatched`.
        rate_hz: frame rate of a video, otherwise None.
        unmatched: files or frames without a partner, one line each. For videos the list
            is complete only after iterating to the end.
    """

    kind: str
    length: int | None
    rate_hz: float | None = None
    unmatched: list[str]

    def __iter__(self) -> Iterator[PairFrame]:
        return self.frames()

    @abstractmethod
    def frames(
        self, on_error: Callable[[ImageFileError], None] | None = None
    ) -> Iterator[PairFrame]:
        """Read the pairs in order.

        Args:
            on_error: called with the error if an image cannot be read; its pair is left
                out. Without it the error is raised.

        Yields:
            One `PairFrame` for each pair that can be read.

        Raises:
            ImageFileError: an image cannot be read and there is no `on_error`,
                or a video cannot be opened.
        """


def open_pairs(visible: str | os.PathLike[str], infrared: str | os.PathLike[str]) -> PairSource:
    """Open two images, two folders (matched by stem) or two videos (matched by frame number).

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
        self, on_error: Callable[[ImageFileError], None] | None = None
    ) -> Iterator[PairFrame]:
        for name, (visible, infrared) in self._pairs.items():
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
        rates, counts = [], []
        for path in self._paths:
            with open_video(path) as video:
                rates.append(video.get(cv2.CAP_PROP_FPS))
                counts.append(announced_frames(video))
            if not 0 < rates[-1] < math.inf:
                raise ImageFileError(f"video '{path}': does not give its frame rate")
        if abs(rates[0] - rates[1]) > _RATE_TOLERANCE * max(rates):
            raise ImageFileError(
                f"'{visible}' has {rates[0]:g} frames a second but '{infrared}' {rates[1]:g}: "
                "expected the same rate"
            )
        self.rate_hz = self._rate_hz = float(rates[0])
        self.length = min(counts) if min(counts) > 0 else None
        self._announced = counts

    def frames(
        self, on_error: Callable[[ImageFileError], None] | None = None
    ) -> Iterator[PairFrame]:
        # A frame that cannot be decoded ends the video, see `_missing`.
        index = 0
        with open_video(self._paths[0]) as visible, open_video(self._paths[1]) as infrared:
            while True:
                frames = visible.read()[1], infrared.read()[1]
                if frames[0] is None or frames[1] is None:
                    break
                yield PairFrame(
                    f"{index:06d}",
                    index / self._rate_hz,
                    cv2.cvtColor(frames[0], cv2.COLOR_BGR2RGB),
                    cv2.cvtColor(frames[1], cv2.COLOR_BGR2GRAY),
                )
                index += 1
        self.unmatched = self._missing(index, frames)

    def _missing(
        self, index: int, frames: tuple[np.ndarray | None, np.ndarray | None]
    ) -> list[str]:
        """List the frames left when the first of the videos ended, `frames` being the last read."""
        lines = []
        for path, announced, frame in zip(self._paths, self._announced, frames, strict=True):
            if frame is not None:
                lines.append(f"{path}: continues after frame {index}, where the other one ends")
            elif index < announced:
                lines.append(f"{path}: ends after {index} of the {announced} frames it announces")
        return lines


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
