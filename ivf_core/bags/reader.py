"""Read bags without ROS: rosbag2 (mcap, sqlite3) and rosbag1.

Messages stream one at a time, so that memory stays flat whatever the bag's length.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rosbags.interfaces import ConnectionExtRosbag1
from rosbags.rosbag1 import Reader as Rosbag1Reader

from ivf_core.bags.folder import Rosbag2
from ivf_core.bags.info import (
    BagError,
    BagInfo,
    BagMessage,
    DamagedBagError,
    TopicInfo,
    message_rate_hz,
)
from ivf_core.bags.plain_files import storage_suffix
from ivf_core.bags.records import MissingPackageError
from ivf_core.bags.typestore import bag_types, decoder, jazzy_types, ros1_types, same_layout
from ivf_core.system.short_text import short_text

__all__ = ["FORMATS", "BagReader", "bag_info"]

FORMATS = {".bag": "rosbag1", ".mcap": "rosbag2 mcap", ".db3": "rosbag2 sqlite3"}
"""Format of a bag by the suffix of its storage files."""

_EXPECTED = "a rosbag2 folder or a .mcap, .db3 or .bag file"


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
        path: a rosbag2 folder, one of its .mcap or .db3 files (also with .zstd), or a
            rosbag1 file (.bag).

    Attributes:
        info: summary of the bag, from entry on.

    Raises:
        BagError: on entry and while reading; names the path and what is wrong.
    """

    info: BagInfo

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()

    def __enter__(self) -> BagReader:
        self._format = find_format(self.path)
        self._open = ExitStack()
        with self._errors_named():
            bag: Rosbag2 | _Rosbag1 = (
                _Rosbag1(self.path) if self._format == "rosbag1" else Rosbag2(self.path)
            )
            self._open.enter_context(bag)
            self._bag = bag
        self.info = self._read_info()
        return self

    def __exit__(self, *_error: object) -> None:
        self._open.close()

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
        for message in self._read(self._select(topics)):
            with self._errors_named(f"{message.topic} at {message.time_ns} ns: "):
                decoded = self._bag.decode(message.message, message.type)
            yield message._replace(message=decoded)

    def raw(self, topics: Iterable[str] | None = None, since_ns: int = 0) -> Iterator[BagMessage]:
        """Yield messages as CDR bytes, undecoded, in the order of their times.

        rosbag1 messages are converted to ROS 2's layout byte by byte.

        Args:
            topics: names to read; by default all whose type `has_cdr`.
            since_ns: time of recording before which messages are left out, and hardly read.

        Raises:
            BagError: a topic is unknown, or its type has no CDR form.
        """
        selected = self._select(topics)
        if without := {kind for _, kind in selected if not self.has_cdr(kind)}:
            if topics is not None:
                raise BagError(
                    f"bag '{self.path}': ROS 2 changed the layout of {', '.join(sorted(without))}: "
                    "name other topics"
                )
            selected = {(name, kind) for name, kind in selected if kind not in without}
        for message in self._read(selected, since_ns):
            with self._errors_named(f"{message.topic} at {message.time_ns} ns: "):
                cdr = self._bag.cdr(message.message, message.type)
            yield message._replace(message=cdr)

    def has_cdr(self, msgtype: str) -> bool:
        """Return whether `raw` yields this type.

        It does not for rosbag1 types whose layout ROS 2 has changed.

        Args:
            msgtype: "package/msg/Name".
        """
        return self._bag.has_cdr(msgtype)

    def _select(self, topics: Iterable[str] | None) -> set[tuple[str, str]]:
        """Return name and type of the topics."""
        have = {(topic.name, topic.type) for topic in self.topics}
        if topics is None:
            return have
        wanted = set(topics)
        if unknown := wanted - {name for name, _ in have}:
            listing = ", ".join(topic.name for topic in self.topics) or "none"
            raise BagError(
                f"bag '{self.path}': no topic {', '.join(sorted(unknown))}; it has: {listing}"
            )
        return {(name, kind) for name, kind in have if name in wanted}

    def _read(self, topics: set[tuple[str, str]], since_ns: int = 0) -> Iterator[BagMessage]:
        with self._errors_named():
            yield from self._bag.messages(topics, since_ns)

    @contextmanager
    def _errors_named(self, where: str = "") -> Iterator[None]:
        """Raise any error of the parsers as a BagError that names the bag."""
        try:
            yield
        except MissingPackageError as error:
            raise MissingPackageError(f"bag '{self.path}': {where}{error}") from error
        except BagError as error:
            raise DamagedBagError(self.path, f"{where}{error}") from error
        except OSError as error:
            reason = error.strerror or error
            raise BagError(f"bag '{self.path}': {where}cannot be read: {reason}") from error
        except MemoryError as error:
            raise BagError(f"bag '{self.path}': {where}memory is too small for it") from error
        except Exception as error:
            # A damaged file makes the parsers fail in any way (struct, index, SQL,
            # decompression, assertions), hence the breadth.
            reason = f"damaged ({short_text(str(error) or type(error).__name__)})"
            raise DamagedBagError(self.path, f"{where}{reason}") from error

    def _read_info(self) -> BagInfo:
        bag = self._bag
        count = sum(topic.count for topic in bag.topics)
        seconds = (bag.end_ns - bag.start_ns) / 1e9 if count else 0.0
        topics: dict[tuple[str, str], TopicInfo] = {}
        for topic in bag.topics:
            key = topic.name, topic.type
            before = topics.get(key, TopicInfo(*key, 0))
            messages = before.count + topic.count
            rate = message_rate_hz(messages, seconds)
            topics[key] = TopicInfo(*key, messages, rate, before.latched or topic.latched)
        return BagInfo(
            path=self.path,
            format=self._format,
            duration_seconds=seconds,
            start_ns=bag.start_ns if count else 0,
            messages=count,
            topics=tuple(topics[key] for key in sorted(topics)),
            differences=tuple(bag.differences),
        )


class _Rosbag1:
    """Context manager that reads a rosbag1 file, with the interface of `Rosbag2`."""

    differences: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        # rosbags takes any name that is a file.
        self._reader = Rosbag1Reader(path)

    def __enter__(self) -> _Rosbag1:
        self._reader.open()
        connections = self._reader.connections
        definitions: dict[str, Any] = {}
        for connection in connections:
            definitions.update(bag_types("ros1msg", connection.msgdef.data, connection.msgtype))
        self._types = ros1_types(definitions)
        self._decoder = decoder(definitions)
        self.topics = [
            TopicInfo(c.topic, c.msgtype, c.msgcount, latched=_is_latching(c.ext))
            for c in connections
        ]
        self.start_ns = self._reader.start_time
        # rosbags' end is exclusive: one nanosecond after the last message.
        self.end_ns = self._reader.end_time - 1
        return self

    def __exit__(self, *_error: object) -> None:
        self._reader.close()

    def messages(self, topics: set[tuple[str, str]], since_ns: int = 0) -> Iterator[BagMessage]:
        chosen = [c for c in self._reader.connections if (c.topic, c.msgtype) in topics]
        if not chosen:  # rosbags would take this for "all"
            return
        for connection, time_ns, data in self._reader.messages(chosen, start=since_ns):
            yield BagMessage(connection.topic, connection.msgtype, time_ns, data)

    def cdr(self, data: bytes, msgtype: str) -> bytes:
        return bytes(self._types.ros1_to_cdr(data, msgtype))

    def decode(self, data: bytes, msgtype: str) -> Any:
        return self._decoder.deserialize_ros1(data, msgtype)

    def has_cdr(self, msgtype: str) -> bool:
        return same_layout(self._types, jazzy_types(), msgtype)


def find_format(path: Path) -> str:
    """Return the format of a bag by its name and content.

    Args:
        path: file or folder.

    Raises:
        BagError: there is no bag; names the path and what was expected.
    """
    if not path.exists():
        raise BagError(f"bag '{path}': no such file or folder")
    if path.is_file():
        suffix = storage_suffix(path)
        if suffix not in FORMATS:
            raise BagError(f"bag '{path}': expected {_EXPECTED}")
        if not path.stat().st_size:
            raise BagError(f"bag '{path}': the file is empty")
        return FORMATS[suffix]
    for suffix in (".mcap", ".db3"):
        if any(storage_suffix(child) == suffix for child in path.iterdir()):
            return FORMATS[suffix]
    raise BagError(f"bag '{path}': the folder holds neither .mcap nor .db3 files")


def _is_latching(ext: object) -> bool:
    return isinstance(ext, ConnectionExtRosbag1) and bool(ext.latching)
