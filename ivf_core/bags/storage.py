"""Contents of a storage file of rosbag2 as plain objects, whatever its format."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rosbags.rosbag2.metadata import parse_qos

__all__ = ["Storage", "StoredMessage", "StoredTopic", "normal_qos"]


@dataclass(frozen=True)
class StoredTopic:
    """One topic of a storage file.

    Attributes:
        id: number of the topic in its file.
        name: topic name.
        type: message type, "package/msg/Name".
        encoding: encoding of the messages, "cdr" for those of ROS 2.
        count: number of messages.
        qos: quality of service that its publishers offered, as YAML.
        definition: encoding ("ros2msg", "ros2idl") and text of the type's definition;
            empty where the file has none.
    """

    id: int
    name: str
    type: str
    encoding: str
    count: int
    qos: str = ""
    definition: tuple[str, str] = ("", "")


class StoredMessage(NamedTuple):
    """One message of a storage file.

    Attributes:
        topic: number of its topic in the file.
        time_ns: time of recording in ns since the epoch.
        data: CDR bytes, or a zstd frame of them.
    """

    topic: int
    time_ns: int
    data: bytes


class Storage(Protocol):
    """Interface of an open storage file.

    Attributes:
        topics: all topics, also those that are not of ROS.
        start_ns: time of the first message, 0 where there is none.
        end_ns: time of the last message, 0 where there is none.
    """

    topics: list[StoredTopic]
    start_ns: int
    end_ns: int

    def messages(self, topics: Collection[int], since_ns: int = 0) -> Iterator[StoredMessage]:
        """Yield messages in the order of their times.

        Args:
            topics: numbers of the topics.
            since_ns: time of recording before which messages are left out.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def normal_qos(offered: object) -> tuple[object, ...]:
    """Return offered QoS profiles in a form that can be compared.

    Args:
        offered: YAML text, or a list of mappings, of any version of rosbag2.

    Returns:
        The profiles, of type `Qos`; where they are damaged, the text.
    """
    try:
        return tuple(parse_qos(offered))  # type: ignore[arg-type]
    except Exception:  # edited text fails in any way
        return (str(offered),)
