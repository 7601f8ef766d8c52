"""Recordings of two cameras: bags, videos and folders of pairs, read image by image."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ivf_core.bags.info import BagError
from ivf_core.bags.salvage import Bag, open_bag
from ivf_core.bags.stamps import read_stamp
from ivf_core.bags.topics import first_kinds, guess_camera_topics
from ivf_core.bags.typestore import decode
from ivf_core.images.files import ImageFileError, list_images, read_infrared, read_visible
from ivf_core.images.messages import MessageError, to_infrared, to_visible
from ivf_core.images.videos import VIDEO_SUFFIXES, video_frames, video_timing

__all__ = ["CAMERAS", "Recording", "nearest_pairs", "open_recording"]

CAMERAS = ("rgb", "thermal")

_RGB_FOLDERS = ("visible", "rgb", "vi", "vis", "color")
_THERMAL_FOLDERS = ("infrared", "thermal", "ir", "lwir")


class Recording(ABC):
    """Images of two cameras, with their stamps where they have any.

    Attributes:
        kind: "bag", "video" or "folder".
        inputs: files and folders that are read.
        stamps: seconds of the images by camera, in order of reading; images of a folder
            have none and are pairs already.
        names: number of images, or their names, by camera.
        left_out: a line for each image that could not be read.
        settings: lines that say what is read.
    """

    kind: str
    inputs: list[Path]
    stamps: dict[str, np.ndarray] | None
    left_out: list[str]
    settings: list[str]

    @abstractmethod
    def read(self, camera: str, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield images by their number, in order; those that cannot be read are left out.

        Args:
            camera: "rgb" (H x W x 3 uint8) or "thermal" (h x w uint8, uint16 or float32).
            wanted: numbers of images.
        """

    def pairs(
        self, count: int, tolerance: float, offset: float = 0.0
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Read pairs at even distances.

        Args:
            count: largest number of pairs.
            tolerance: largest difference of stamps in seconds.
            offset: seconds to add to thermal stamps.

        Raises:
            ValueError: there are no pairs; says why.
        """
        found = self.pair_numbers(tolerance, offset)
        if not found:
            raise ValueError(
                f"'{self.inputs[0]}': no RGB and thermal image within {tolerance * 1e3:g} ms; give "
                "a larger --tolerance-seconds, or the --offset-seconds between both clocks"
            )
        chosen = np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))
        numbers = [found[index] for index in chosen]
        images = {
            camera: dict(self.read(camera, sorted({pair[side] for pair in numbers})))
            for side, camera in enumerate(CAMERAS)
        }
        pairs = [
            (images["rgb"][first], images["thermal"][second])
            for first, second in numbers
            if first in images["rgb"] and second in images["thermal"]
        ]
        if not pairs:
            raise ValueError(f"'{self.inputs[0]}': no pair can be read: {self.left_out[0]}")
        return pairs

    @abstractmethod
    def pair_numbers(self, tolerance: float, offset: float) -> list[tuple[int, int]]:
        """Return the numbers of the images of each pair."""


class _StampedRecording(Recording):
    stamps: dict[str, np.ndarray]

    def pair_numbers(self, tolerance: float, offset: float) -> list[tuple[int, int]]:
        return nearest_pairs(self.stamps["rgb"], self.stamps["thermal"] + offset, tolerance)


def nearest_pairs(rgb: np.ndarray, thermal: np.ndarray, tolerance: float) -> list[tuple[int, int]]:
    """Return for each thermal stamp the nearest RGB stamp, of several pairs with one the nearest.

    Args:
        rgb: N stamps in seconds.
        thermal: M stamps in seconds.
        tolerance: largest difference in seconds.

    Returns:
        Indices of RGB and thermal stamps, in the order of the thermal ones.
    """
    if not len(rgb) or not len(thermal):
        return []
    order = np.argsort(rgb, kind="stable")
    place = np.clip(np.searchsorted(rgb[order], thermal), 1, max(len(rgb) - 1, 1))
    before, after = order[place - 1], order[np.minimum(place, len(rgb) - 1)]
    nearer = np.abs(rgb[before] - thermal) <= np.abs(rgb[after] - thermal)
    nearest = np.where(nearer, before, after)
    gaps = np.abs(rgb[nearest] - thermal)
    best: dict[int, int] = {}
    for index in np.flatnonzero(gaps <= tolerance).tolist():
        partner = int(nearest[index])
        if partner not in best or gaps[index] < gaps[best[partner]]:
            best[partner] = index
    return sorted(best.items(), key=lambda pair: pair[1])


class _BagRecording(_StampedRecording):
    kind = "bag"

    def __init__(self, path: Path, topics: tuple[str | None, str | None]) -> None:
        self.inputs = [path]
        self.left_out = []
        with open_bag(path, self.left_out) as bag:
            self._topics = dict(zip(CAMERAS, _camera_topics(bag, topics), strict=True))
            stamps: dict[str, list[float]] = {camera: [] for camera in CAMERAS}
            for camera, topic in self._topics.items():
                for message in bag.raw([topic]):
                    seconds = message.time_ns
                    with suppress(ValueError):
                        seconds = read_stamp(message.message) or message.time_ns
                    stamps[camera].append(seconds)
        # Whole seconds are taken away first: a float holds no nanoseconds of this century.
        start = min((stamp for times in stamps.values() for stamp in times), default=0)
        self.stamps = {
            camera: (np.array(times, np.int64) - start) / 1e9 for camera, times in stamps.items()
        }
        self.settings = [f"{camera}: {topic}" for camera, topic in self._topics.items()]

    def read(self, camera: str, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        convert: Callable[..., np.ndarray] = to_visible if camera == "rgb" else to_infrared
        needed, last = set(wanted), max(wanted, default=-1)
        with open_bag(self.inputs[0], []) as bag:
            for number, message in enumerate(bag.raw([self._topics[camera]])):
                if number > last:
                    return
                if number not in needed:
                    continue
                try:
                    image = convert(decode(message.message, message.type))
                except (BagError, MessageError) as error:
                    self.left_out.append(f"{self._topics[camera]}, image {number}: {error}")
                    continue
                yield number, image


class _VideoRecording(_StampedRecording):
    kind = "video"

    def __init__(self, visible: Path, infrared: Path) -> None:
        self.inputs = [visible, infrared]
        self.left_out = []
        self._timings = [video_timing(path) for path in self.inputs]
        self.stamps = {}
        for camera, path, timing in zip(CAMERAS, self.inputs, self._timings, strict=True):
            times = [
                seconds for seconds, _ in video_frames(path, timing, infrared=camera == "thermal")
            ]
            self.stamps[camera] = np.array(times)
        self.settings = [
            f"{camera}: {path}" for camera, path in zip(CAMERAS, self.inputs, strict=True)
        ]

    def read(self, camera: str, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        side = CAMERAS.index(camera)
        needed, last = set(wanted), max(wanted, default=-1)
        frames = video_frames(self.inputs[side], self._timings[side], infrared=side == 1)
        for number, (_, image) in enumerate(frames):
            if number > last:
                return
            if number in needed:
                yield number, image


class _FolderRecording(Recording):
    kind = "folder"
    stamps = None

    def __init__(self, visible: Path, infrared: Path) -> None:
        self.inputs = [visible, infrared]
        first, second = list_images(visible), list_images(infrared)
        self._names = [name for name in first if name in second]
        if not self._names:
            raise ImageFileError(
                f"'{visible}' ({len(first)} images) and '{infrared}' ({len(second)} images): "
                "no two have the same name"
            )
        self._paths = {"rgb": first, "thermal": second}
        self.left_out = []
        self.settings = [
            f"{camera}: {path}" for camera, path in zip(CAMERAS, self.inputs, strict=True)
        ]

    def read(self, camera: str, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        load: Callable[..., np.ndarray] = read_visible if camera == "rgb" else read_infrared
        for number in sorted(wanted):
            path = self._paths[camera][self._names[number]]
            try:
                yield number, load(path)
            except ImageFileError as error:
                self.left_out.append(str(error))

    def pair_numbers(self, tolerance: float, offset: float) -> list[tuple[int, int]]:
        return [(number, number) for number in range(len(self._names))]


def open_recording(
    sources: Sequence[Path],
    topics: tuple[str | None, str | None] = (None, None),
) -> Recording:
    """Open a bag, two videos, two folders, or a folder with a folder of each camera.

    Args:
        sources: one path of a bag or of a folder with folders `visible` and `infrared` (or `rgb`
            and `thermal`), or two paths, RGB first.
        topics: RGB and thermal topic of a bag; None guesses.

    Raises:
        ValueError: a path is missing or of no such kind; names it.
    """
    for path in sources:
        if not os.path.lexists(path):
            raise ImageFileError(f"'{path}': no such file or folder")
    if len(sources) == 2:
        visible, infrared = sources
        if visible.is_dir() and infrared.is_dir():
            return _FolderRecording(visible, infrared)
        if all(path.suffix.lower() in VIDEO_SUFFIXES for path in sources):
            return _VideoRecording(visible, infrared)
        raise ImageFileError(
            f"'{visible}' and '{infrared}': expected two folders of images or two videos"
        )
    if len(sources) != 1:
        raise ImageFileError(f"{len(sources)} sources, expected one or two (RGB, thermal)")
    path = sources[0]
    if path.is_dir():
        folders = [
            next((path / name for name in names if (path / name).is_dir()), None)
            for names in (_RGB_FOLDERS, _THERMAL_FOLDERS)
        ]
        if folders[0] is not None and folders[1] is not None:
            return _FolderRecording(folders[0], folders[1])
    return _BagRecording(path, topics)


def _camera_topics(bag: Bag, topics: tuple[str | None, str | None]) -> tuple[str, str]:
    """Return both topics, guessed from contents and names where they are not given."""
    images = [topic for topic in bag.info.topics if topic.is_image and topic.count]
    names = {topic.name for topic in images}
    for name in topics:
        if name is not None and name not in names:
            raise BagError(
                f"bag '{bag.info.path}': no images on {name}; its image topics: "
                f"{', '.join(sorted(names)) or 'none'}"
            )
    rgb, thermal = topics
    if rgb is None or thermal is None:
        left = [topic for topic in images if topic.name not in topics]
        if len(left) == 1 and (rgb or thermal):
            return rgb or left[0].name, thermal or left[0].name
        try:
            guess = guess_camera_topics(images, first_kinds(bag, images))
        except BagError as error:
            raise BagError(f"bag '{bag.info.path}': {error}") from error
        rgb, thermal = rgb or guess[0], thermal or guess[1]
    return rgb, thermal
