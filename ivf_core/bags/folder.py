"""Read the storage files of a rosbag2 bag as one, whatever its index says."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.interfaces import Qos

from ivf_core.bags.index import index_differences, read_index, storage_files
from ivf_core.bags.info import BagMessage, TopicInfo
from ivf_core.bags.mcap_file import McapFile
from ivf_core.bags.plain_files import plain_file, storage_suffix
from ivf_core.bags.records import unpack_message
from ivf_core.bags.sqlite_file import SqliteFile
from ivf_core.bags.storage import Storage, normal_qos
from ivf_core.bags.typestore import bag_types, decoder

__all__ = ["Rosbag2"]

_FORMATS: dict[str, Callable[[Path], Storage]] = {".mcap": McapFile, ".db3": SqliteFile}
_CDR = "cdr"


@dataclass(frozen=True)
class _File:
    """Open storage file."""

    name: str
    storage: Storage


class Rosbag2:
    """Context manager that reads a rosbag2 folder, or one of its storage files.

    Messages come from the storage files; metadata.yaml only tells which these are. Where both
    differ, `differences` says so.

    Args:
        path: folder or file.

    Attributes:
        topics: topics of ROS 2, one for each in each file.
        start_ns: time of the first message, 0 where there is none.
        end_ns: time of the last message, 0 where there is none.
        differences: lines on index and storage files that differ, and on what is not read.

    Raises:
        BagError: on entry and while reading, without the bag's name.
        OSError, sqlite3.Error, struct.error: a file cannot be read, or is damaged.
    """

    topics: list[TopicInfo]
    start_ns: int
    end_ns: int

    def __init__(self, path: Path) -> None:
        self._path = path
        self.differences: list[str] = []
        self._decoder: Any = None

    def __enter__(self) -> Rosbag2:
        with ExitStack() as stack:
            self._files = self._open_files(stack)
            self._close = stack.pop_all()
        self._sort()
        return self

    def __exit__(self, *_error: object) -> None:
        self._close.close()

    def messages(self, topics: set[tuple[str, str]], since_ns: int = 0) -> Iterator[BagMessage]:
        """Yield messages in the order of their times, as they are stored.

        Args:
            topics: name and type of the topics.
            since_ns: time of recording before which messages are left out.
        """
        for group in self._groups:
            late = [file for file in group if file.storage.end_ns >= since_ns]
            yield from heapq.merge(*(_messages(file, topics, since_ns) for file in late), key=_time)

    def cdr(self, data: bytes, _msgtype: str) -> bytes:
        """Return the CDR bytes of a stored message."""
        return unpack_message(data)

    def decode(self, data: bytes, msgtype: str) -> Any:
        """Decode a stored message by the definition in the bag, or by that of ROS 2 Jazzy."""
        if self._decoder is None:
            definitions: dict[str, Any] = {}
            for file in self._files:
                for topic in file.storage.topics:
                    if topic.definition[1]:
                        definitions.update(bag_types(*topic.definition, topic.type))
            self._decoder = decoder(definitions)
        return self._decoder.deserialize_cdr(unpack_message(data), msgtype)

    def has_cdr(self, _msgtype: str) -> bool:
        """Return True: all messages are in CDR."""
        return True

    def _open_files(self, stack: ExitStack) -> list[_File]:
        """Open the storage files in the order of recording."""
        if self._path.is_file():
            return [self._open(stack, self._path)]
        index = read_index(self._path)
        listed, extra, missing = storage_files(self._path, index)
        self.differences += missing
        if index.fault or not listed:
            fault = index.fault or "metadata.yaml lists no storage file that is there"
            self.differences.append(f"{fault}: the storage files are read without it")
            return [self._open(stack, path) for path in (*listed, *extra)]
        files = [self._open(stack, path) for path in listed]
        for path in extra:
            self._add_unlisted(stack, files, path)
        held = [topic for file in files for topic in file.storage.topics]
        lines = index_differences(index, [topic for topic in held if topic.encoding == _CDR])
        self.differences += [f"{line}; the storage files are read" for line in lines]
        return files

    def _open(self, stack: ExitStack, path: Path) -> _File:
        plain = stack.enter_context(plain_file(path, self.differences.append))
        storage = _FORMATS[storage_suffix(path)](plain)
        stack.callback(storage.close)
        return _File(path.name, storage)

    def _add_unlisted(self, stack: ExitStack, files: list[_File], path: Path) -> None:
        """Open a file that the index does not list, unless it looks like a copy of others."""
        try:
            new = self._open(stack, path)
        except Exception as error:  # damaged files fail in any way; the listed ones do not
            self.differences.append(f"{path.name} is not in metadata.yaml and not read ({error})")
            return
        start, end = new.storage.start_ns, new.storage.end_ns
        over = [f for f in files if f.storage.start_ns <= end and start <= f.storage.end_ns]
        if over:
            self.differences.append(
                f"{path.name} is not in metadata.yaml and not read: it overlaps {over[0].name}"
            )
            return
        self.differences.append(f"{path.name} is not in metadata.yaml; it is read as well")
        files.append(new)

    def _sort(self) -> None:
        """Group files that overlap in time, and summarize their topics."""
        self.topics = []
        foreign: dict[str, str] = {}
        for file in self._files:
            for topic in file.storage.topics:
                if topic.encoding == _CDR:
                    latched = _is_latched(topic.qos)
                    self.topics.append(
                        TopicInfo(topic.name, topic.type, topic.count, latched=latched)
                    )
                elif topic.count:
                    foreign[topic.name] = topic.encoding
        for name, encoding in sorted(foreign.items()):
            self.differences.append(f"{name} is not read: its messages are '{encoding}', not CDR")
        full = [file for file in self._files if any(t.count for t in file.storage.topics)]
        self.start_ns = min((file.storage.start_ns for file in full), default=0)
        self.end_ns = max((file.storage.end_ns for file in full), default=0)
        self._groups: list[list[_File]] = []
        last = -1
        for file in sorted(full, key=lambda one: one.storage.start_ns):
            if not self._groups or file.storage.start_ns > last:
                self._groups.append([])
            self._groups[-1].append(file)
            last = max(last, file.storage.end_ns)


def _messages(file: _File, topics: set[tuple[str, str]], since_ns: int) -> Iterator[BagMessage]:
    chosen = {
        topic.id: topic
        for topic in file.storage.topics
        if topic.encoding == _CDR and (topic.name, topic.type) in topics
    }
    if not chosen:
        return
    for number, time_ns, data in file.storage.messages(chosen, since_ns):
        yield BagMessage(chosen[number].name, chosen[number].type, time_ns, data)


def _time(message: BagMessage) -> int:
    return message.time_ns


def _is_latched(qos: object) -> bool:
    profiles = [profile for profile in normal_qos(qos) if isinstance(profile, Qos)]
    return any(profile.durability.name == "TRANSIENT_LOCAL" for profile in profiles)
