"""Read bags without ROS: rosbag2 (mcap, sqlite3) and rosbag1.

Messages stream one at a time, so that memory stays flat whatever the bag's length.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection, ConnectionExtRosbag1

from ivf_core.bags.info import BagError, BagInfo, BagMessage, TopicInfo, message_rate_hz
from ivf_core.bags.typestore import jazzy_types, ros1_types, same_layout

__all__ = ["FORMATS", "BagReader", "bag_info"]

FORMATS = {".bag": "rosbag1", ".mcap": "rosbag2 mcap", ".db3": "rosbag2 sqlite3"}
"""Format of a bag by the suffix of its storage files."""

_REMEDIES = {
    "rosbag2 mcap": "`mcap recover` may repair it",
    "rosbag2 sqlite3": "`ros2 bag reindex` or `sqlite3 FILE .recover` may repair it",
    "rosbag1": "`rosbag reindex` may repair it",
}


def bag_info(path: str | os.PathLike[str]) -> BagInfo:
    """Read the format, duration and topics of a bag.

    Args:
        path: a bag as for `BagReader`.

    Raises:
        BagError: the bag is missing, empty or damaged; names the path.
    """
    with BagReader(path) as reader:
        return reader.info


class BagReader:
    """Context manager that reads a bag by its index.

    Args:
        path: a rosbag2 folder, one of its .mcap or .db3 files, or a rosbag1
            file (.bag).

    Attributes:
        info: summary of the bag, from entry on.

    Raises:
        BagError: on entry and while reading; names the path and what is wrong.
    """

    info: BagInfo

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()

    def __enter__(self) -> BagReader:
        self._format = _find_format(self.path)
        with self._errors_named():
            self._reader = AnyReader([self.path], default_typestore=jazzy_types())
            self._reader.open()
        self.info = self._read_info()
        self._ros1_types = (
            ros1_types(self._reader.typestore.fielddefs) if self._format == "rosbag1" else None
        )
        return self

    def __exit__(self, *_error: object) -> None:
        self._reader.close()

    @property
    def topics(self) -> tuple[TopicInfo, ...]:
        """Topics of the bag, sorted by name."""
        return self.info.topics

    def messages(self, topics: Iterable[str] | None = None) -> Iterator[BagMessage]:
        """Yield decoded messages in the order of their times.

        Args:
            topics: names to read, all by default.

        Raises:
            BagError: a topic is unknown, or a message cannot be decoded.
        """
        for connection, time_ns, data in self._read(self._select(topics)):
            with self._errors_named(f"{connection.topic} at {time_ns} ns"):
                message = self._reader.deserialize(data, connection.msgtype)
            yield BagMessage(connection.topic, connection.msgtype, time_ns, message)

    def raw(self, topics: Iterable[str] | None = None) -> Iterator[BagMessage]:
        """Yield messages as CDR bytes, undecoded, in the order of their times.

        rosbag1 messages are converted to ROS 2's layout byte by byte.

        Args:
            topics: names to read; by default all whose type `has_cdr`.

        Raises:
            BagError: a topic is unknown, or its type has no CDR form.
        """
        connections = self._select(topics)
        if without := {c.msgtype for c in connections if not self.has_cdr(c.msgtype)}:
            if topics is not None:
                raise BagError(
                    f"bag '{self.path}': ROS 2 changed the layout of {', '.join(sorted(without))}: "
                    "convert the bag with `rosbags-convert`"
                )
            connections = [c for c in connections if c.msgtype not in without]
        types = self._ros1_types
        for connection, time_ns, data in self._read(connections):
            if types is not None:
                with self._errors_named(f"{connection.topic} at {time_ns} ns"):
                    data = bytes(types.ros1_to_cdr(data, connection.msgtype))
            yield BagMessage(connection.topic, connection.msgtype, time_ns, data)

    def has_cdr(self, msgtype: str) -> bool:
        """Return whether `raw` yields this type.

        It does not for rosbag1 types whose layout ROS 2 has changed.

        Args:
            msgtype: "package/msg/Name".
        """
        return self._ros1_types is None or same_layout(self._ros1_types, jazzy_types(), msgtype)

    def _select(self, topics: Iterable[str] | None) -> list[Connection]:
        connections = list(self._reader.connections)
        if topics is None:
            return connections
        wanted = set(topics)
        if unknown := wanted - {c.topic for c in connections}:
            have = ", ".join(topic.name for topic in self.topics) or "none"
            raise BagError(
                f"bag '{self.path}': no topic {', '.join(sorted(unknown))}; it has: {have}"
            )
        return [c for c in connections if c.topic in wanted]

    def _read(self, connections: Sequence[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        if not connections:  # rosbags would take this for "all"
            return
        with self._errors_named():
            yield from self._reader.messages(connections=connections)

    @contextmanager
    def _errors_named(self, where: str = "") -> Iterator[None]:
        """Raise any error of the parsers as a BagError that names the bag."""
        # A damaged file makes the parsers fail in any way (struct, index, SQL,
        # decompression, assertions), hence the breadth.
        try:
            yield
        except Exception as error:
            part = f"{where}: " if where else ""
            raise BagError(
                f"bag '{self.path}': {part}damaged or incomplete "
                f"({str(error) or type(error).__name__}); {_REMEDIES[self._format]}"
            ) from error

    def _read_info(self) -> BagInfo:
        reader = self._reader
        count = reader.message_count
        # rosbags' end is exclusive: one nanosecond after the last message.
        seconds = max(reader.duration - 1, 0) / 1e9 if count else 0.0
        topics: dict[tuple[str, str], TopicInfo] = {}
        for connection in reader.connections:
            key = (connection.topic, connection.msgtype)
            before = topics.get(key, TopicInfo(*key, 0))
            messages = before.count + connection.msgcount
            topics[key] = TopicInfo(
                *key,
                messages,
                message_rate_hz(messages, seconds),
                before.latched or _is_latched(connection),
            )
        return BagInfo(
            path=self.path,
            format=self._format,
            duration_seconds=seconds,
            start_ns=reader.start_time if count else 0,
            messages=count,
            topics=tuple(topics[key] for key in sorted(topics)),
        )


def _find_format(path: Path) -> str:
    """Return the format by name and content of the folder, or raise BagError."""
    if not path.exists():
        raise BagError(f"bag '{path}': no such file or folder")
    if path.is_file():
        if path.suffix not in FORMATS:
            raise BagError(f"bag '{path}': expected a rosbag2 folder or a .mcap, .db3 or .bag file")
        if not path.stat().st_size:
            raise BagError(f"bag '{path}': the file is empty")
        return FORMATS[path.suffix]
    mcap, sqlite3 = sorted(path.glob("*.mcap*")), sorted(path.glob("*.db3*"))
    if not mcap and not sqlite3:
        raise BagError(f"bag '{path}': the folder holds neither .mcap nor .db3 files")
    if not (path / "metadata.yaml").is_file():
        raise BagError(
            f"bag '{path}': metadata.yaml is missing; write it with `ros2 bag reindex {path}` "
            f"or give the storage file itself, '{(mcap or sqlite3)[0]}'"
        )
    return FORMATS[".mcap"] if mcap else FORMATS[".db3"]


def _is_latched(connection: Connection) -> bool:
    if isinstance(connection.ext, ConnectionExtRosbag1):
        return bool(connection.ext.latching)
    return any(
        qos.durability.name == "TRANSIENT_LOCAL" for qos in connection.ext.offered_qos_profiles
    )
