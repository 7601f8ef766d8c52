"""Read what is left of a damaged bag: record by record, without index and summary.

rosbags reads bags by their index, and refuses those whose index is missing or wrong.
"""

from __future__ import annotations

import bz2
import re
import sqlite3
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import lz4.frame
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from ivf_core.bags.info import BagError, BagInfo, BagMessage, TopicInfo

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["SalvagedBag"]

_ROSBAG1 = b"#ROSBAG V2.0\n"
_MCAP = b"\x89MCAP0\r\n"
_ZSTD = b"\x28\xb5\x2f\xfd"
_HEADER = "std_msgs/msg/Header"
_LARGEST_RECORD = 1 << 31

Note = Callable[[str], None]
"""Takes a line on something that could not be read."""


class SalvagedBag:
    """A damaged bag, read from its start as far as it goes; the same use as `BagReader`.

    The whole bag is read once to see what there is.

    Args:
        path: rosbag2 folder or file, or rosbag1 file.
        left_out: takes a line for each part that cannot be read.

    Attributes:
        info: of what can be read.

    Raises:
        BagError: no message can be read.
    """

    info: BagInfo

    def __init__(self, path: Path, left_out: list[str]) -> None:
        self._path = path
        self._files = _storage_files(path)
        self.info = self._look(left_out.append)

    def raw(self, topics: list[str]) -> Iterator[BagMessage]:
        """Messages of these topics as CDR bytes, in the order in which they are stored.

        Raises:
            BagError: a topic that is not there.
        """
        if unknown := set(topics) - {topic.name for topic in self.info.topics}:
            raise BagError(f"bag '{self._path}': no topic {', '.join(sorted(unknown))}")
        for message in self._messages(lambda _: None):
            if message.topic in topics:
                with suppress(BagError):
                    yield message._replace(message=self._cdr(message))

    def _cdr(self, message: BagMessage) -> bytes:
        data = message.message
        if self._path.suffix == ".bag":
            try:
                return bytes(_ros1_store().ros1_to_cdr(data, message.type))
            except Exception as error:  # damaged bytes fail in any way
                raise BagError(f"{message.topic}: {error}") from error
        if data[:4] == _ZSTD:  # a bag whose messages are compressed one by one
            try:
                return zstd.decompress(data)
            except zstd.ZstdError as error:
                raise BagError(f"{message.topic}: {error}") from error
        return data

    def _messages(self, note: Note) -> Iterator[BagMessage]:
        for path in self._files:
            scan = {".mcap": _scan_mcap, ".db3": _scan_sqlite3, ".bag": _scan_rosbag1}.get(
                path.suffix
            )
            if scan is None:
                note(f"{path.name} is compressed as a whole: not read")
            elif not path.stat().st_size:
                note(f"{path.name} is empty")
            else:
                yield from scan(path, note)

    def _look(self, note: Note) -> BagInfo:
        counts: Counter[tuple[str, str]] = Counter()
        first, last = sys.maxsize, 0
        for message in self._messages(note):
            counts[message.topic, message.type] += 1
            first, last = min(first, message.time_ns), max(last, message.time_ns)
        if not counts:
            raise BagError(f"bag '{self._path}': no message can be read")
        seconds = (last - first) / 1e9
        topics = tuple(
            TopicInfo(
                name, kind, count, (count - 1) / seconds if count > 1 and seconds > 0 else 0.0
            )
            for (name, kind), count in sorted(counts.items())
        )
        suffix = self._files[0].suffix
        kind = {".mcap": "rosbag2 mcap", ".db3": "rosbag2 sqlite3"}.get(suffix, "rosbag1")
        return BagInfo(self._path, kind, seconds, first, counts.total(), topics)


def _storage_files(path: Path) -> list[Path]:
    """The files of a bag in the order of recording."""
    if path.is_file():
        return [path]
    files = [p for p in path.iterdir() if re.search(r"\.(mcap|db3)(\.zstd)?$", p.name)]

    def number(file: Path) -> tuple[int, str]:
        found = re.search(r"_(\d+)\.", file.name)
        return int(found[1]) if found else 0, file.name

    if not files:
        raise BagError(f"bag '{path}': the folder holds neither .mcap nor .db3 files")
    return sorted(files, key=number)


# MCAP (mcap.dev/spec)


class _Channel(NamedTuple):
    topic: str
    type: str


def _scan_mcap(path: Path, note: Note) -> Iterator[BagMessage]:
    schemas: dict[int, str] = {}
    channels: dict[int, _Channel] = {}
    with path.open("rb") as file:
        if file.read(len(_MCAP)) != _MCAP:
            note(f"{path.name} does not begin as an MCAP file")
            return
        for at, kind, record in _mcap_records(file, path, note):
            if kind == 0x0F:  # end of data: index and summary follow
                return
            if kind != 0x06:
                yield from _mcap_message(kind, record, schemas, channels)
                continue
            try:
                inside = _mcap_chunk(record)
            except Exception as error:  # decompressors fail in any way
                note(f"{path.name}: the chunk at byte {at} is damaged ({error})")
                continue
            place = 0
            while place + 9 <= len(inside):
                kind, length = struct.unpack_from("<BQ", inside, place)
                place += 9 + length
                if place > len(inside):
                    break
                yield from _mcap_message(kind, inside[place - length : place], schemas, channels)


def _mcap_records(file: BinaryIO, path: Path, note: Note) -> Iterator[tuple[int, int, bytes]]:
    size = path.stat().st_size
    while head := file.read(9):
        at = file.tell() - len(head)
        if len(head) == 9:
            kind, length = struct.unpack("<BQ", head)
            if kind == 0x02:  # the footer
                return
            if length <= size - file.tell():
                yield at, kind, file.read(length)
                continue
            if kind == 0x06:
                yield at, kind, file.read()
        note(f"{path.name} is cut off or damaged at byte {at} of {size}")
        return


def _mcap_chunk(record: bytes) -> bytes:
    """The records of a chunk; of one that is cut off, those that are there."""
    _, _, size, crc, name = struct.unpack_from("<QQQII", record)
    compression = record[32 : 32 + name].decode()
    (length,) = struct.unpack_from("<Q", record, 32 + name)
    data = record[40 + name : 40 + name + length]
    if size > _LARGEST_RECORD:
        raise ValueError(f"it claims {size} bytes")
    whole = len(data) == length
    if compression == "lz4":
        data = lz4.frame.LZ4FrameDecompressor().decompress(data)
    elif compression == "zstd":
        data = zstd.ZstdDecompressor().decompress(data)
    elif compression:
        raise ValueError(f"compressed by {compression}")
    if not whole:
        return data
    if len(data) != size or (crc and zlib.crc32(data) != crc):
        raise ValueError("its checksum is wrong")
    return data


def _mcap_message(
    kind: int, record: bytes, schemas: dict[int, str], channels: dict[int, _Channel]
) -> Iterator[BagMessage]:
    """Note a schema or a channel, or give a message."""
    # A record that is cut short, or bytes that are none, tell nothing.
    with suppress(struct.error, UnicodeDecodeError):
        if kind == 0x03:
            (number,) = struct.unpack_from("<H", record)
            schemas[number], _ = _mcap_text(record, 2)
        elif kind == 0x04:
            number, schema = struct.unpack_from("<HH", record)
            topic, _ = _mcap_text(record, 4)
            channels[number] = _Channel(topic, schemas.get(schema, ""))
        elif kind == 0x05:
            number, _, time_ns = struct.unpack_from("<HIQ", record)
            if number in channels:
                yield BagMessage(*channels[number], time_ns, record[22:])


def _mcap_text(record: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", record, at)
    return record[at + 4 : at + 4 + length].decode(), at + 4 + length


# SQLite


def _scan_sqlite3(path: Path, note: Note) -> Iterator[BagMessage]:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            # Without it SQLite refuses a file that is shorter than its header says.
            database.execute("PRAGMA writable_schema = ON")
            topics = {
                number: _Channel(name, kind)
                for number, name, kind in database.execute("SELECT id, name, type FROM topics")
            }
            yield from _rows(database, path, topics, note)
    except sqlite3.Error as error:
        note(f"{path.name} is damaged ({error})")


def _rows(
    database: sqlite3.Connection, path: Path, topics: Mapping[int, _Channel], note: Note
) -> Iterator[BagMessage]:
    """Messages by number; past a damaged page it goes on, further ahead at each attempt."""
    query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"
    last, skip = 0, 1
    while skip < 1 << 20:
        try:
            for number, topic, time_ns, data in database.execute(query, (last,)):
                last, skip = number, 1
                if topic in topics and data is not None:
                    yield BagMessage(*topics[topic], time_ns, data)
            return
        except sqlite3.Error as error:
            if skip == 1:
                note(f"{path.name} is damaged after message {last} ({error})")
            last, skip = last + skip, 2 * skip


# rosbag1 (wiki.ros.org/Bags/Format/2.0)


def _scan_rosbag1(path: Path, note: Note) -> Iterator[BagMessage]:
    connections: dict[int, _Channel] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_ROSBAG1)) != _ROSBAG1:
            note(f"{path.name} does not begin as a rosbag1 file")
            return
        while True:
            at = file.tell()
            try:
                record = _rosbag1_record(file.read, size - at)
            except (struct.error, ValueError):
                note(f"{path.name} is cut off or damaged at byte {at} of {size}")
                return
            if record is None:
                return
            fields, data = record
            if fields.get("op") != b"\x05":
                yield from _rosbag1_message(fields, data, connections)
                continue
            try:
                inside = _rosbag1_chunk(fields, data)
            except Exception as error:  # decompressors fail in any way
                note(f"{path.name}: the chunk at byte {at} is damaged ({error})")
                continue
            yield from _rosbag1_inside(inside, connections)


def _rosbag1_inside(data: bytes, connections: dict[int, _Channel]) -> Iterator[BagMessage]:
    place = 0

    def read(length: int) -> bytes:
        nonlocal place
        place += length
        return data[place - length : place]

    with suppress(struct.error, ValueError):
        while (record := _rosbag1_record(read, len(data) - place)) is not None:
            yield from _rosbag1_message(*record, connections)


def _rosbag1_record(
    read: Callable[[int], bytes], left: int
) -> tuple[dict[str, bytes], bytes] | None:
    """Header fields and data of the next record; None at the end.

    Raises:
        struct.error, ValueError: cut off, or not a record.
    """
    head = read(4)
    if not head:
        return None
    fields = _rosbag1_fields(_sized(read, head, left))
    return fields, _sized(read, read(4), left)


def _sized(read: Callable[[int], bytes], head: bytes, left: int) -> bytes:
    (length,) = struct.unpack("<I", head)
    if length > left:
        raise ValueError(f"{length} bytes of {left}")
    data = read(length)
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes of {length}")
    return data


def _rosbag1_fields(header: bytes) -> dict[str, bytes]:
    fields, place = {}, 0
    while place + 4 <= len(header):
        (length,) = struct.unpack_from("<I", header, place)
        name, _, value = header[place + 4 : place + 4 + length].partition(b"=")
        fields[name.decode()] = value
        place += 4 + length
    return fields


def _rosbag1_chunk(fields: Mapping[str, bytes], data: bytes) -> bytes:
    compression = fields.get("compression", b"none")
    unpack: dict[bytes, Callable[[bytes], Any]] = {
        b"none": bytes,
        b"bz2": bz2.decompress,
        b"lz4": lz4.frame.decompress,
    }
    return unpack[compression](data)


def _rosbag1_message(
    fields: Mapping[str, bytes], data: bytes, connections: dict[int, _Channel]
) -> Iterator[BagMessage]:
    """Note a connection, or give a message."""
    with suppress(struct.error, KeyError, UnicodeDecodeError):
        if fields["op"] == b"\x07":
            (number,) = struct.unpack("<I", fields["conn"])
            package, _, name = _rosbag1_fields(data)["type"].decode().partition("/")
            connections[number] = _Channel(fields["topic"].decode(), f"{package}/msg/{name}")
        elif fields["op"] == b"\x02":
            (number,) = struct.unpack("<I", fields["conn"])
            seconds, nanoseconds = struct.unpack("<II", fields["time"])
            if number in connections:
                yield BagMessage(*connections[number], seconds * 10**9 + nanoseconds, data)


@cache
def _ros1_store() -> Typestore:
    """Noetic's types with ROS 2's header, which has no `seq`."""
    noetic, jazzy = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_JAZZY)
    store = get_typestore(Stores.EMPTY)
    store.register({**noetic.fielddefs, _HEADER: jazzy.fielddefs[_HEADER]})
    return store
