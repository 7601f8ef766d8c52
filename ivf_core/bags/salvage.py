"""Open bags that may be damaged, and salvage the messages that can still be read.

rosbags reads bags by their index, and rejects those whose index is missing or wrong.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from ivf_core.bags.info import BagError, BagInfo, BagMessage, TopicInfo, message_rate_hz
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

    def raw(self, topics: list[str]) -> Iterator[BagMessage]:
        """Yield messages of these topics as CDR bytes."""
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
    if not path.exists():
        raise BagError(f"bag '{path}': no such file or folder")
    reader = BagReader(path)
    try:
        reader.__enter__()
    except BagError as error:
        yield _salvage(path, left_out, error)
        return
    try:
        if not reader.info.messages:
            raise BagError(f"bag '{path}': it holds no messages")
        yield _PartlySalvagedBag(reader, left_out)
    finally:
        reader.__exit__(None, None, None)


def _salvage(path: Path, left_out: list[str], error: BagError) -> SalvagedBag:
    """Salvage a bag that its reader rejected with `error`, or raise `error`."""
    lines: list[str] = []
    try:
        bag = SalvagedBag(path, lines)
    except MissingPackageError:
        raise
    except BagError:
        raise error from None
    left_out.append(f"{error}; read without its index")
    left_out.extend(lines)
    return bag


class _PartlySalvagedBag:
    """A bag whose index can be read; from the first damaged part on, the rest is salvaged."""

    def __init__(self, reader: BagReader, left_out: list[str]) -> None:
        self.info = reader.info
        self._reader = reader
        self._left_out = left_out

    def raw(self, topics: list[str]) -> Iterator[BagMessage]:
        """Yield messages of these topics as CDR bytes."""
        last: dict[str, int] = {}
        try:
            for message in self._reader.raw(topics):
                last[message.topic] = message.time_ns
                yield message
            return
        except BagError as error:
            rest = _salvage(self.info.path, self._left_out, error)
        known = {topic.name for topic in rest.info.topics}
        for message in rest.raw([topic for topic in topics if topic in known]):
            if message.time_ns > last.get(message.topic, -1):
                yield message


class SalvagedBag:
    """A damaged bag, read record by record from its start, with the interface `Bag`.

    The whole bag is read once for `info`.

    Args:
        path: rosbag2 folder or file, or rosbag1 file.
        left_out: takes a line for each part that cannot be read.

    Attributes:
        info: summary of the part that can be read.

    Raises:
        BagError: no message can be read, or a package for decompression is missing.
    """

    info: BagInfo

    def __init__(self, path: Path, left_out: list[str]) -> None:
        self._path = path
        self._files = _storage_files(path)
        self.info = self._read_info(left_out.append)

    def raw(self, topics: list[str]) -> Iterator[BagMessage]:
        """Yield messages of these topics as CDR bytes, in the order in which they are stored.

        Args:
            topics: names of the topics.

        Raises:
            BagError: a topic is not in the bag.
        """
        if unknown := set(topics) - {topic.name for topic in self.info.topics}:
            raise BagError(f"bag '{self._path}': no topic {', '.join(sorted(unknown))}")
        for message in self._messages(lambda _: None):
            if message.topic not in topics:
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
        if self._path.suffix != ".bag":
            return unpack_message(message.message)
        try:
            return bytes(_noetic_types().ros1_to_cdr(message.message, message.type))
        except Exception as error:  # damaged bytes fail in any way
            raise BagError(f"{message.topic}: {error}") from error

    def _messages(self, note: Note) -> Iterator[BagMessage]:
        """Yield all messages as they are stored, compressed or in ROS 1's layout."""
        for path in self._files:
            scan = _SCANS.get(path.suffix)
            if scan is None:
                note(f"{path.name} is compressed as a whole: not read")
            elif not path.stat().st_size:
                note(f"{path.name} is empty")
            else:
                yield from scan(path, note)

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
        kind = FORMATS.get(self._files[0].suffix, FORMATS[".bag"])
        return BagInfo(self._path, kind, seconds, first, counts.total(), topics)


def _storage_files(path: Path) -> list[Path]:
    """Return the files of a bag in the order of recording."""
    if path.is_file():
        return [path]
    files = [p for p in path.iterdir() if re.search(r"\.(mcap|db3)(\.zstd)?$", p.name)]

    def number(file: Path) -> tuple[int, str]:
        found = re.search(r"_(\d+)\.", file.name)
        return int(found[1]) if found else 0, file.name

    if not files:
        raise BagError(f"bag '{path}': the folder holds neither .mcap nor .db3 files")
    return sorted(files, key=number)


@cache
def _noetic_types() -> Typestore:
    """Return Noetic's types, convertible to the CDR layout of ROS 2."""
    return ros1_types(get_typestore(Stores.ROS1_NOETIC).fielddefs)
