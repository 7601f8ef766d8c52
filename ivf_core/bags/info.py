"""Contents of a bag as plain objects: bag, topics, messages; and the error that they share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "COMPRESSED_IMAGE_TYPE",
    "IMAGE_TYPE",
    "BagError",
    "BagInfo",
    "BagMessage",
    "DamagedBagError",
    "TopicInfo",
    "message_rate_hz",
]

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"


class BagError(ValueError):
    """A bag that is missing, damaged, or not what was asked for."""


class DamagedBagError(BagError):
    """A bag that cannot be read by its index, of which `open_bag` may read a part.

    Attributes:
        reason: what is wrong, without the bag's name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"bag '{path}': {reason}; `ivf replay` reads the part that is whole")
        self.reason = reason


@dataclass(frozen=True)
class TopicInfo:
    """One topic of a bag.

    Attributes:
        name: topic name as recorded, "/rgb/image_raw".
        type: message type, "sensor_msgs/msg/Image".
        count: number of messages.
        rate_hz: messages per second, see `message_rate_hz`; 0 where it is unknown.
        latched: true if late subscribers get the last message (rosbag1's latching,
            rosbag2's transient local durability).
    """

    name: str
    type: str
    count: int
    rate_hz: float = 0.0
    latched: bool = False

    @property
    def is_image(self) -> bool:
        """True for raw and compressed images."""
        return self.type in (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE)


@dataclass(frozen=True)
class BagInfo:
    """Summary of a bag.

    Attributes:
        path: the folder or file.
        format: "rosbag2 mcap", "rosbag2 sqlite3" or "rosbag1".
        duration_seconds: time from the first message to the last.
        start_ns: time of the first message in ns since the epoch, 0 in an empty bag.
        messages: number of messages.
        topics: all topics, sorted by name.
        differences: lines on what the index announces and the storage does not hold, or the
            other way round; the storage is what is read.
    """

    path: Path
    format: str
    duration_seconds: float
    start_ns: int
    messages: int
    topics: tuple[TopicInfo, ...]
    differences: tuple[str, ...] = ()


class BagMessage(NamedTuple):
    """One message of a bag.

    Attributes:
        topic: name of its topic.
        type: "package/msg/Name", also for rosbag1.
        time_ns: time of recording in ns since the epoch.
        message: the message as an object, or its CDR bytes.
    """

    topic: str
    type: str
    time_ns: int
    message: Any


def message_rate_hz(count: int, seconds: float) -> float:
    """Return the messages per second of a topic, 0 where there are too few to tell.

    Args:
        count: number of messages.
        seconds: duration of the bag.
    """
    return (count - 1) / seconds if count > 1 and seconds > 0 else 0.0
