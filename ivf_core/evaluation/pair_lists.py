"""Lists of the pairs to evaluate: from folders and videos, with labels, and selections of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from ivf_core.data.pairs import PairFiles, VisibleFile
from ivf_core.data.points import PointLabel
from ivf_core.images.files import ImageFileError, list_images
from ivf_core.images.pair_sources import open_pairs
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.images.videos import (
    VIDEO_SUFFIXES,
    announced_frames,
    open_capture,
    open_video,
    to_grey_frame,
)

__all__ = [
    "CAMERAS",
    "VideoFrame",
    "match_folders",
    "match_sources",
    "read_stems",
    "select_pairs",
    "times_of_day",
]

CAMERAS = ("both", "visible", "infrared")
"""Cameras that the methods see; the image of the other one is black."""


class _FrameReader:
    """Reader of the frames of one video, quick if they are asked for nearly in order.

    Args:
        path: path of the video.
        infrared: true for a thermal video, whose depth is kept.
    """

    _KEPT = 64  # frames; threads that read ahead ask slightly out of order

    def __init__(self, path: Path, *, infrared: bool = False) -> None:
        self._path = path
        self._infrared = infrared
        self._lock = Lock()
        self._video: cv2.VideoCapture | None = None
        self._next = 0
        self._frames: dict[int, np.ndarray] = {}

    def read(self, index: int) -> np.ndarray:
        """Return a frame, H x W x 3 uint8 in OpenCV's order, or H x W uint16 of a thermal video.

        Args:
            index: number of the frame, from 0.

        Raises:
            ImageFileError: the video ends before it.
        """
        with self._lock:
            if index in self._frames:
                return self._frames[index]
            if self._video is None or index < self._next:
                self._video, self._next = open_capture(self._path, keep_depth=self._infrared), 0
            # Frames between are decoded as well: seeking is not exact in all formats.
            while self._next <= index:
                _, frame = self._video.read()
                if frame is None:
                    raise ImageFileError(f"video '{self._path}': no frame {self._next}")
                if index - self._next < self._KEPT // 2:
                    self._frames[self._next] = frame
                self._next += 1
            while len(self._frames) > self._KEPT:
                del self._frames[min(self._frames)]
            return self._frames[index]


@dataclass(frozen=True)
class VideoFrame(PairFiles):
    """Pair of frames of two videos.

    Attributes:
        index: number of the frame, from 0.
        readers: readers of the visible and the infrared video, shared by all frames.
    """

    index: int = 0
    readers: tuple[_FrameReader, _FrameReader] | None = None

    def read_visible(self) -> np.ndarray:
        """Read the visible frame, H x W x 3 uint8 RGB."""
        assert self.readers is not None
        return cv2.cvtColor(self.readers[0].read(self.index), cv2.COLOR_BGR2RGB)

    def read_infrared(self, before: int = 0) -> np.ndarray:
        """Read the thermal frame, H x W uint8.

        Args:
            before: number of frames before this one; the first frame is the earliest.
        """
        assert self.readers is not None
        frame = to_grey_frame(self.readers[1].read(max(0, self.index - before)))
        return frame if frame.dtype == np.uint8 else ThermalNormalizer()(frame)


def match_sources(
    visible: Sequence[Path], infrared: Sequence[Path], labels: Path | None = None
) -> tuple[list[PairFiles], list[str]]:
    """Match the images of folders by file name, and the frames of videos by their number.

    Args:
        visible: folders of visible images, and videos, whose frames are named VIDEO_frameNNN
            after the video without `_visible`.
        infrared: as many, of the same kinds; none if that camera is absent.
        labels: folder of class ids, or None.

    Returns:
        The pairs, and one line for each file without a partner.

    Raises:
        ImageFileError: see `match_folders`; or two pairs have the same name.
        ValueError: not as many infrared sources as visible ones.
    """
    if infrared and len(infrared) != len(visible):
        raise ValueError(
            f"{len(visible)} visible and {len(infrared)} infrared sources, expected as many"
        )
    pairs: list[PairFiles] = []
    unmatched: list[str] = []
    partners: Sequence[Path | None] = infrared or [None] * len(visible)
    for first, second in zip(visible, partners, strict=True):
        if first.suffix.lower() in VIDEO_SUFFIXES and not first.is_dir():
            pairs += _video_frames(first, second if second is not None else first)
            continue
        more, lines = match_folders(first, second, labels)
        pairs += more
        unmatched += lines
    names: dict[str, Path] = {}
    for pair in pairs:
        if pair.name in names:
            raise ImageFileError(
                f"'{names[pair.name]}' and '{pair.visible}': pairs of several folders need "
                "names that differ"
            )
        names[pair.name] = pair.visible
    return pairs, unmatched


def match_folders(
    visible: Path, infrared: Path | None, labels: Path | None = None
) -> tuple[list[PairFiles], list[str]]:
    """Match the images of folders by file name without suffix.

    Args:
        visible: folder of visible images.
        infrared: folder of infrared images, or None if that camera is absent.
        labels: folder of class ids, or None.

    Returns:
        The pairs, and one line for each file without a partner.

    Raises:
        ImageFileError: no such folder, or no two images have the same name.
    """
    folders = {"visible": list_images(visible)}
    folders["infrared"] = folders["visible"] if infrared is None else list_images(infrared)
    stems = [stem for stem in folders["visible"] if stem in folders["infrared"]]
    if not stems:
        raise ImageFileError(
            f"'{visible}' ({len(folders['visible'])} images) and '{infrared}' "
            f"({len(folders['infrared'])} images): no two have the same name"
        )
    if labels is not None:
        folders["labels"] = list_images(labels)
        if not any(stem in folders["labels"] for stem in stems):
            raise ImageFileError(f"'{labels}': none is named as a pair, such as '{stems[0]}'")
    known = set(stems)
    unmatched = [
        f"{path}: no pair of that name"
        for images in folders.values()
        for stem, path in images.items()
        if stem not in known
    ]
    with_labels = folders.get("labels", {})
    if labels is not None:
        unmatched += [f"{folders['visible'][s]}: no labels" for s in stems if s not in with_labels]
    kind = VisibleFile if infrared is None else PairFiles
    pairs = [
        kind(s, folders["visible"][s], folders["infrared"][s], with_labels.get(s)) for s in stems
    ]
    return pairs, unmatched


def _video_frames(visible: Path, infrared: Path) -> list[PairFiles]:
    # Raises where the two do not fit together.
    if infrared != visible and not open_pairs(visible, infrared).constant_rate:
        raise ImageFileError(
            f"'{visible}' and '{infrared}': their frame times vary, so that frames of the same "
            "number are not of the same moment; expected videos of a constant rate"
        )
    with open_video(visible) as video, open_video(infrared) as other:
        count = min(announced_frames(video), announced_frames(other))
    if count < 1:
        raise ImageFileError(f"video '{visible}': does not state its number of frames")
    readers = _FrameReader(visible), _FrameReader(infrared, infrared=True)
    name = visible.stem.removesuffix("_visible")
    return [
        VideoFrame(f"{name}_frame{index:03d}", visible, infrared, index=index, readers=readers)
        for index in range(count)
    ]


def read_stems(path: Path) -> list[str]:
    """Read the names of pairs from a text file, one a line.

    Raises:
        ValueError: the file cannot be read or names nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"names of pairs '{path}': cannot be read: {error}") from error
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        raise ValueError(f"names of pairs '{path}': it names none")
    return stems


def select_pairs(
    pairs: Sequence[PairFiles],
    *,
    stems: Sequence[str] | None = None,
    every: int = 1,
    annotated: Collection[str] | None = None,
) -> list[PairFiles]:
    """Select the pairs to score.

    Args:
        pairs: all pairs.
        stems: names of the pairs to keep; by default all.
        every: keep the first and then each `every`-th of what remains, which are those that
            `ivf_core.data.pairs.hold_out` holds out from training.
        annotated: names of pairs with boxes or points; others are left out. By default all.

    Raises:
        ValueError: a name is not that of a pair, `every` is below 1, or no pair remains.
    """
    if every < 1:
        raise ValueError(f"every is {every}, expected 1 or more")
    chosen = list(pairs)
    if stems is not None:
        wanted = set(stems)
        chosen = [pair for pair in chosen if pair.name in wanted]
        if missing := sorted(wanted - {pair.name for pair in chosen}):
            raise ValueError(f"no pair is named {', '.join(missing[:5])} ({len(missing)} missing)")
    chosen = chosen[::every]
    if annotated is not None:
        chosen = [pair for pair in chosen if pair.name in annotated]
    if not chosen:
        raise ValueError(f"none of {len(pairs)} pairs remains to be scored")
    return chosen


def times_of_day(
    names: Sequence[str], points: Mapping[str, Sequence[PointLabel]]
) -> dict[str, str]:
    """Return the times of day of the pairs that have one, "day", "dusk" or "night".

    Args:
        names: names of the pairs; MSRS's and MFNet's end in D or N.
        points: points by pair, which state the time.
    """
    times = {}
    for name in names:
        if found := re.fullmatch(r"\d+([DN])", name):
            times[name] = "day" if found[1] == "D" else "night"
        if name in points:
            times[name] = points[name][0].time
    return times
