"""Open bags that may be damaged, and salvage the messages that can still be read.

rosbags reads bags by their index, and rejects those whose index is missing or wrong.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from ivf_core.bags.index import read_index, storage_files
from ivf_core.bags.info import (
    BagError,
    BagInfo,
    BagMessage,
    DamagedBagError,
    TopicInfo,
    message_rate_hz,
)
from ivf_core.bags.plain_files import plain_file, storage_suffix
from ivf_core.bags.reader import FORMATS, BagReader
from ivf_core.bags.records import (
    MissingPackageError,
    Note,
    scan_mcap,
    scan_rosbag1,
    scan_sqlite3,
    unpack_message,
)
from ivf_core.bags.typestore import ros1_types

__all__ = ["Bag", "SalvagedBag", "open_bag"]

_SCANS = {".mcap": scan_mcap, ".db3": scan_sqlite3, ".bag": scan_rosbag1}


class Bag(Protocol):
    """Interface that `BagReader` and its substitutes for damaged bags share.

    Attributes:
        info: summary of the bag, or of the part that can be read.
    """

    info: BagInfo

    def raw(self, topics: list[str], since_ns: int = 0) -> Iterator[BagMessage]:
        """Yield messages of these topics as CDR bytes, from a time of recording on."""
        ...


@contextmanager
def open_bag(path: Path, left_out: list[str]) -> Iterator[Bag]:
    """Open a bag, or the part of it that can be read.

    Args:
        path: rosbag2 folder or file, or rosbag1 file.
        left_out: takes a line for each part that cannot be read, while the bag is open.

    Raises:
        BagError: there is no bag, or no message in it; names the path.
    """
    reader = BagReader(path)
    try:
        reader.__enter__()
    except DamagedBagError as error:
        with ExitStack() as stack:
            yield _salvage(path, left_out, error, stack)
        return
    try:
        if not reader.info.messages:
            raise BagError(f"bag '{path}': it holds no messages")
        yield _PartlySalvagedBag(reader, left_out)
    finally:
        reader.__exit__(None, None, None)


def _salvage(
    path: Path, left_out: list[str], error: DamagedBagError, stack: ExitStack
) -> SalvagedBag:
    """Salvage a bag that its reader rejected with `error`, or raise if nothing can be read."""
    lines: list[str] = []
    try:
        bag = SalvagedBag(path, lines, stack)
    except MissingPackageError:
        raise
    except BagError:
        raise BagError(f"bag '{path}': no message can be read: {error.reason}") from error
    left_out.append(f"bag '{path}': {error.reason}; read without its index")
    left_out.extend(lines)
    return bag


class _PartlySalvagedBag:
    """A bag whose index can be read; from the first damaged part on, the rest is salvaged."""

    def __init__(self, reader: BagReader, left_out: list[str]) -> None:
        self.info = reader.info
        self._reader = reader
        self._left_out = left_out

    def raw(self, topics: list[str], since_ns: int = 0) -> Iterator[BagMessage]:
        """Yield messages of these topics as CDR bytes, from a time of recording on."""
        last: dict[str, int] = {}
        try:
            for message in self._reader.raw(topics, since_ns):
                last[message.topic] = message.time_ns
                yield message
            return
        except DamagedBagError as error:
            damage = error
        with ExitStack() as stack:
            rest = _salvage(self.info.path, self._left_out, damage, stack)
            known = {topic.name for topic in rest.info.topics}
            for message in rest.raw([topic for topic in topics if topic in known], since_ns):
                if message.time_ns > last.get(message.topic, -1):
                    yield message


class SalvagedBag:
    """A damaged bag, read record by record from its start, with the interface `Bag`.

    The whole bag is read once for `info`.

    Args:
        path: rosbag2 folder or file, or rosbag1 file.
        left_out: takes a line for each part that cannot be read.
        stack: keeps decompressed files until it is closed.

    Attributes:
        info: summary of the part that can be read.

    Raises:
        BagError: no message can be read, or a package for decompression is missing.
    """

    info: BagInfo

    def __init__(self, path: Path, left_out: list[str], stack: ExitStack) -> None:
        self._path = path
        self._files = []
        for file in _storage_files(path):
            try:
                plain = stack.enter_context(plain_file(file, left_out.append))
            except OSError as error:
                left_out.append(f"{file.name} cannot be read ({error})")
                continue
            self._files.append((file.name, plain))
        self._format = FORMATS[storage_suffix(_storage_files(path)[0])]
        self.info = self._read_info(left_out.append)

    def raw(self, topics: list[str], since_ns: int = 0) -> Iterator[BagMessage]:
        """Yield messages of these topics as CDR bytes, in the order in which they are stored.

        Args:
            topics: names of the topics.
            since_ns: time of recording before which messages are left out.

        Raises:
            BagError: a topic is not in the bag.
        """
        if unknown := set(topics) - {topic.name for topic in self.info.topics}:
            raise BagError(f"bag '{self._path}': no topic {', '.join(sorted(unknown))}")
        for message in self._messages(lambda _: None):
            if message.topic not in topics or message.time_ns < since_ns:
                continue
            try:
                cdr = self._cdr(message)
            except MissingPackageError:
                raise
            except BagError:
                continue
            yield message._replace(message=cdr)

    def _cdr(self, message: BagMessage) -> bytes:
        """Return the CDR bytes of a message as it is stored, or raise BagError."""
        if self._format != "rosbag1":
            return unpack_message(message.message)
        try:
            return bytes(_noetic_types().ros1_to_cdr(message.message, message.type))
        except Exception as error:  # damaged bytes fail in any way
            raise BagError(f"{message.topic}: {error}") from error

    def _messages(self, note: Note) -> Iterator[BagMessage]:
        """Yield all messages as they are stored, compressed or in ROS 1's layout."""
        for name, path in self._files:
            if path.stat().st_size:
                yield from _SCANS[storage_suffix(path)](path, note)
            else:
                note(f"{name} is empty")

    def _read_info(self, note: Note) -> BagInfo:
        counts: Counter[tuple[str, str]] = Counter()
        first, last = sys.maxsize, 0
        for message in self._messages(note):
            counts[message.topic, message.type] += 1
            first, last = min(first, message.time_ns), max(last, message.time_ns)
        if not counts:
            raise BagError(f"bag '{self._path}': no message can be read")
        seconds = (last - first) / 1e9
        topics = tuple(
            TopicInfo(name, kind, count, message_rate_hz(count, seconds))
            for (name, kind), count in sorted(counts.items())
        )
        return BagInfo(self._path, self._format, seconds, first, counts.total(), topics)


def _storage_files(path: Path) -> list[Path]:
    """Return the files of a bag in the order of recording."""
    if path.is_file():
        return [path]
    listed, extra, _ = storage_files(path, read_index(path))
    return listed or extra


@cache
def _noetic_types() -> Typestore:
    """Return Noetic's types, convertible to the CDR layout of ROS 2."""
    return ros1_types(get_typestore(Stores.ROS1_NOETIC).fielddefs)
