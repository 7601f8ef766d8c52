"""What a bag holds: topics, messages, and the error of bags."""

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
    "TopicInfo",
]

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"


class BagError(ValueError):
    """A bag that is missing, damaged, or not what was asked for."""


@dataclass(frozen=True)
class TopicInfo:
    """One topic of a bag.

    Attributes:
        name: as recorded, "/rgb/image_raw".
        type: "sensor_msgs/msg/Image".
        count: number of messages.
        rate_hz: messages per second over the bag's duration, 0 where there are
            too few messages to tell.
        latched: late subscribers get the last message (rosbag1's latching,
            rosbag2's transient local durability).
    """

    name: str
    type: str
    count: int
    rate_hz: float = 0.0
    latched: bool = False

    @property
    def is_image(self) -> bool:
        return self.type in (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE)


@dataclass(frozen=True)
class BagInfo:
    """What a bag holds.

    Attributes:
        path: the folder or file.
        format: "rosbag2 mcap", "rosbag2 sqlite3" or "rosbag1".
        duration_seconds: from the first message to the last.
        start_ns: time of the first message since the epoch, 0 in an empty bag.
        messages: number of messages.
        topics: sorted by name.
    """

    path: Path
    format: str
    duration_seconds: float
    start_ns: int
    messages: int
    topics: tuple[TopicInfo, ...]


class BagMessage(NamedTuple):
    """One message of a bag.

    Attributes:
        topic: its name.
        type: "package/msg/Name", also for rosbag1.
        time_ns: when it was recorded, since the epoch.
        message: the message as an object, or its CDR bytes.
    """

    topic: str
    type: str
    time_ns: int
    message: Any
