"""Convert frames, videos and folders of images to bags."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ivf_core.bags.info import BagError
from ivf_core.bags.typestore import message
from ivf_core.bags.writer import BagWriter
from ivf_core.class_sets import MFNET, ClassSet
from ivf_core.images.encodings import thermal_encoding
from ivf_core.images.pair_sources import open_pairs

__all__ = [
    "CLASSES_TOPIC",
    "LABELS_TOPIC",
    "RGB_TOPIC",
    "START_NS",
    "THERMAL_TOPIC",
    "ConvertedPairs",
    "from_video",
    "write_drive_bag",
]

RGB_TOPIC = "/rgb/image_raw"
THERMAL_TOPIC = "/thermal/image_raw"
LABELS_TOPIC = "/ground_truth/labels"
CLASSES_TOPIC = "/ground_truth/classes"

START_NS = 1_700_000_000_000_000_000
"""Stamp of the first frame of bags made from sources without a clock; 0 would mean "no stamp"."""

_LARGEST_OFFSET_SECONDS = 1e8
_LEAST_RATE_HZ = 1e-4
_RGB_FRAME, _THERMAL_FRAME = "rgb_camera", "thermal_camera"

Progress = Callable[[int, "int | None"], None]
"""Function called with the frames written so far and their total, None where unknown."""


class DriveFrame(Protocol):
    """Frame of a drive with its ground truth: arrays of one size."""

    @property
    def visible(self) -> np.ndarray:
        """Visible image, H x W x 3 uint8 RGB."""
        ...

    @property
    def infrared(self) -> np.ndarray:
        """Thermal image, H x W uint8."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """Class ids, H x W uint8, or None."""
        ...


def write_drive_bag(
    path: str | os.PathLike[str],
    frames: Iterable[DriveFrame],
    rate_hz: float,
    *,
    start_ns: int = START_NS,
    storage: str = "mcap",
    class_set: ClassSet = MFNET,
    progress: Progress | None = None,
) -> int:
    """Write frames with their ground truth to a bag.

    Frame k is stamped start_ns + k / rate_hz on `RGB_TOPIC` (rgb8),
    `THERMAL_TOPIC` (mono8) and, where it has labels, `LABELS_TOPIC` (mono8). With the first
    labels, `CLASSES_TOPIC` gets their class set as JSON, as the node publishes its own.

    Args:
        path: folder to create.
        frames: frames in order.
        rate_hz: frames per second.
        start_ns: stamp of the first frame.
        storage: "mcap" or "sqlite3".
        class_set: class set of the labels; by default that of synthetic scenes.
        progress: called after each frame.

    Returns:
        The number of frames.

    Raises:
        BagError: from `BagWriter`, or a rate that is not positive.
    """
    _check_rate(rate_hz)
    total = len(frames) if isinstance(frames, Sequence) else None
    count, announced = 0, False
    with BagWriter(path, storage) as writer:
        for count, frame in enumerate(frames, start=1):
            stamp = start_ns + round((count - 1) * 1e9 / rate_hz)
            writer.write_image(RGB_TOPIC, stamp, frame.visible, "rgb8", _RGB_FRAME)
            writer.write_image(THERMAL_TOPIC, stamp, frame.infrared, "mono8", _THERMAL_FRAME)
            if frame.labels is not None:
                if not announced:
                    text = message("std_msgs/msg/String", data=class_set.to_json())
                    writer.write(CLASSES_TOPIC, "std_msgs/msg/String", stamp, text, latched=True)
                    announced = True
                writer.write_image(LABELS_TOPIC, stamp, frame.labels, "mono8", _RGB_FRAME)
            if progress is not None:
                progress(count, total)
    return count


class ConvertedPairs(NamedTuple):
    """Result of `from_video`.

    Attributes:
        pairs: number of pairs in the bag.
        unmatched: files and frames without a partner, which are not in the bag, a line each.
    """

    pairs: int
    unmatched: list[str]


def from_video(
    visible_path: str | os.PathLike[str],
    infrared_path: str | os.PathLike[str],
    bag_path: str | os.PathLike[str],
    *,
    rate_hz: float | None = None,
    compressed: bool = False,
    infrared_offset_seconds: float = 0.0,
    storage: str = "mcap",
    progress: Progress | None = None,
) -> ConvertedPairs:
    """Write two videos, or two folders of images, to a bag.

    Images are stamped `START_NS` + their frame times; with `rate_hz`, pair k + k / rate_hz.

    Args:
        visible_path: video or folder of the visible camera.
        infrared_path: video or folder of the thermal camera.
        bag_path: folder to create.
        rate_hz: frames per second; by default the videos' own times. Folders have
            none, so they need it.
        compressed: write JPEG (8 bits) and PNG (16 bits) on `.../compressed` topics.
        infrared_offset_seconds: added to the thermal stamps.
        storage: "mcap" or "sqlite3".
        progress: called after each pair.

    Raises:
        BagError: from `BagWriter`; or the rate is missing or not positive.
        ImageFileError: from `open_pairs`, for inputs that cannot be read.
    """
    pairs = open_pairs(visible_path, infrared_path)
    own_times = rate_hz is None
    if rate_hz is None:
        rate_hz = pairs.rate_hz
    if rate_hz is None:
        raise BagError(f"'{visible_path}': has no frame rate: give one")
    _check_rate(rate_hz)
    if not abs(infrared_offset_seconds) < _LARGEST_OFFSET_SECONDS:
        raise BagError(
            f"infrared_offset_seconds is {infrared_offset_seconds}, expected less than "
            f"{_LARGEST_OFFSET_SECONDS:g} either way"
        )
    offset_ns = round(infrared_offset_seconds * 1e9)
    count = 0
    with BagWriter(bag_path, storage) as writer:
        for count, pair in enumerate(pairs, start=1):
            seconds = infrared_seconds = (count - 1) / rate_hz
            if own_times and pair.seconds is not None and pair.infrared_seconds is not None:
                seconds, infrared_seconds = pair.seconds, pair.infrared_seconds
            stamp = START_NS + round(seconds * 1e9)
            thermal_stamp = START_NS + round(infrared_seconds * 1e9) + offset_ns
            thermal = thermal_encoding(pair.infrared.dtype)
            for topic, time_ns, array, encoding, frame_id in (
                (RGB_TOPIC, stamp, pair.visible, "rgb8", _RGB_FRAME),
                (THERMAL_TOPIC, thermal_stamp, pair.infrared, thermal, _THERMAL_FRAME),
            ):
                if compressed:
                    file_format = "png" if array.dtype == np.uint16 else "jpeg"
                    writer.write_compressed(
                        f"{topic}/compressed", time_ns, array, encoding, frame_id, file_format
                    )
                else:
                    writer.write_image(topic, time_ns, array, encoding, frame_id)
            if progress is not None:
                progress(count, pairs.length)
    return ConvertedPairs(count, pairs.unmatched)


def _check_rate(rate_hz: float) -> None:
    if not _LEAST_RATE_HZ <= rate_hz < math.inf:
        raise BagError(
            f"frame rate {rate_hz}: expected a positive number of frames per second, "
            f"at least {_LEAST_RATE_HZ:g}"
        )
