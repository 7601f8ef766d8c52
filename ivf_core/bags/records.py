"""Read the storage files of a bag record by record, without their index and summary.

One function per format: `scan_mcap` (mcap.dev/spec), `scan_sqlite3` (rosbag2's database) and
`scan_rosbag1` (wiki.ros.org/Bags/Format/2.0). Each yields the messages that can be read, in
the order in which they are stored, and notes the parts that cannot.
"""

from __future__ import annotations

import bz2
import importlib
import sqlite3
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple

from ivf_core.bags.info import BagError, BagMessage
from ivf_core.bags.sqlite_file import open_database

__all__ = [
    "MCAP_MAGIC",
    "MissingPackageError",
    "Note",
    "chunk_records",
    "mcap_chunk",
    "mcap_records",
    "mcap_text",
    "scan_mcap",
    "scan_rosbag1",
    "scan_sqlite3",
    "unpack_message",
    "zstd_package",
]

_ROSBAG1 = b"#ROSBAG V2.0\n"
MCAP_MAGIC = b"\x89MCAP0\r\n"
"""First and last bytes of an MCAP file."""

_ZSTD = b"\x28\xb5\x2f\xfd"
_LARGEST_RECORD = 1 << 31

Note = Callable[[str], None]
"""Function that takes a line on something that could not be read."""


class MissingPackageError(BagError):
    """A compressed part of a bag needs a package that is not installed."""


class _Channel(NamedTuple):
    """Topic and message type of a connection."""

    topic: str
    type: str


# Decompression: the packages are imported only where a bag needs them.


def _package(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"the bag is compressed: reading it needs the package {package}, "
            f"install it with `pip install {package}`"
        ) from error


def zstd_package() -> ModuleType:
    """Return the module that decompresses zstd, or raise MissingPackageError."""
    module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return _package(module, "backports.zstd")


def _lz4() -> ModuleType:
    return _package("lz4.frame", "lz4")


def unpack_message(data: bytes) -> bytes:
    """Return a message of a bag whose messages may be zstd-compressed one by one.

    Args:
        data: CDR bytes, or a zstd frame of them.

    Raises:
        BagError: the frame is damaged, or the package for zstd is missing.
    """
    if data[:4] != _ZSTD:
        return data
    zstd = zstd_package()
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        raise BagError(f"damaged zstd frame ({error})") from error


# MCAP


def scan_mcap(path: Path, note: Note) -> Iterator[BagMessage]:
    """Yield the messages of an MCAP file up to the end of its data, or of the file.

    Args:
        path: file to read.
        note: takes a line for each part that cannot be read.

    Raises:
        MissingPackageError: a chunk is compressed, and the package for it is missing.
    """
    schemas: dict[int, str] = {}
    channels: dict[int, _Channel] = {}
    with path.open("rb") as file:
        if file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
            note(f"{path.name} does not begin as an MCAP file")
            return
        for at, kind, record in mcap_records(file, path, note):
            if kind == 0x0F:  # end of data: index and summary follow
                return
            if kind != 0x06:
                yield from _mcap_message(kind, record, schemas, channels)
                continue
            try:
                records = mcap_chunk(record)
            except MissingPackageError:
                raise
            except Exception as error:  # decompressors fail in any way
                note(f"{path.name}: the chunk at byte {at} is damaged ({error})")
                continue
            for part, content in chunk_records(records):
                yield from _mcap_message(part, content, schemas, channels)


def mcap_records(file: BinaryIO, path: Path, note: Note) -> Iterator[tuple[int, int, bytes]]:
    """Yield place, kind and content of each record before the footer; also of a cut-off chunk.

    Args:
        file: open at the first record.
        path: the file, for its size and name.
        note: takes a line where the file is cut off.
    """
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


def chunk_records(records: bytes, *, strict: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of each whole record of a decompressed chunk.

    Args:
        records: the chunk.
        strict: raise where a record is not whole, instead of stopping there.

    Raises:
        BagError: a record is longer than the rest of the chunk.
    """
    place = 0
    while place + 9 <= len(records):
        kind, length = struct.unpack_from("<BQ", records, place)
        place += 9 + length
        if place > len(records):
            break
        yield kind, records[place - length : place]
    if strict and place != len(records):
        raise BagError("a record is longer than the rest of it")


def mcap_chunk(record: bytes) -> bytes:
    """Decompress the records of a chunk; of one that is cut off, those that are there.

    Args:
        record: content of the chunk.

    Raises:
        MissingPackageError: the package for its compression is missing.
        ValueError: its size, checksum or compression is wrong; decompressors fail in any way.
    """
    _, _, size, crc, name = struct.unpack_from("<QQQII", record)
    compression = record[32 : 32 + name].decode()
    (length,) = struct.unpack_from("<Q", record, 32 + name)
    data = record[40 + name : 40 + name + length]
    if size > _LARGEST_RECORD:
        raise ValueError(f"it claims {size} bytes")
    whole = len(data) == length
    if compression == "lz4":
        data = _lz4().LZ4FrameDecompressor().decompress(data)
    elif compression == "zstd":
        data = zstd_package().ZstdDecompressor().decompress(data)
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
    """Register a schema or a channel, or yield a message."""
    # A record that is cut short, or bytes that are none, tell nothing.
    with suppress(struct.error, UnicodeDecodeError):
        if kind == 0x03:
            (number,) = struct.unpack_from("<H", record)
            schemas[number] = mcap_text(record, 2)[0]
        elif kind == 0x04:
            number, schema = struct.unpack_from("<HH", record)
            topic, at = mcap_text(record, 4)
            if mcap_text(record, at)[0] == "cdr":  # others are not of ROS 2
                channels[number] = _Channel(topic, schemas.get(schema, ""))
        elif kind == 0x05:
            number, _, time_ns = struct.unpack_from("<HIQ", record)
            if number in channels:
                yield BagMessage(*channels[number], time_ns, record[22:])


def mcap_text(record: bytes, at: int) -> tuple[str, int]:
    """Read a text with its length in front; return it and the place after it.

    Args:
        record: content of a record.
        at: place of the text.
    """
    (length,) = struct.unpack_from("<I", record, at)
    return record[at + 4 : at + 4 + length].decode(), at + 4 + length


# SQLite


def scan_sqlite3(path: Path, note: Note) -> Iterator[BagMessage]:
    """Yield the messages of a database by their number, without those on damaged pages.

    Args:
        path: file to read.
        note: takes a line for each part that cannot be read.
    """
    try:
        with closing(open_database(path)) as database:
            # Without it SQLite rejects a file that is shorter than its header says.
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
    """Yield messages by number; past a damaged page, resume further ahead at each attempt."""
    # One at a time: sqlite3 reads a row ahead, and drops a row if the next one is damaged.
    query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id LIMIT 1"
    last, skip = 0, 1
    while skip < 1 << 20:
        try:
            while (row := database.execute(query, (last,)).fetchone()) is not None:
                last, topic, time_ns, data = row
                skip = 1
                if topic in topics and data is not None:
                    yield BagMessage(*topics[topic], time_ns, data)
            return
        except sqlite3.Error as error:
            if skip == 1:
                note(f"{path.name} is damaged after message {last} ({error})")
            last, skip = last + skip, 2 * skip


# rosbag1


def scan_rosbag1(path: Path, note: Note) -> Iterator[BagMessage]:
    """Yield the messages of a rosbag1 file, in ROS 1's layout, up to the end of the file.

    Args:
        path: file to read.
        note: takes a line for each part that cannot be read.

    Raises:
        MissingPackageError: a chunk is compressed, and the package for it is missing.
    """
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
                records = _rosbag1_chunk(fields, data)
            except MissingPackageError:
                raise
            except Exception as error:  # decompressors fail in any way
                note(f"{path.name}: the chunk at byte {at} is damaged ({error})")
                continue
            yield from _rosbag1_chunk_messages(records, connections)


def _rosbag1_chunk_messages(data: bytes, connections: dict[int, _Channel]) -> Iterator[BagMessage]:
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
    """Read header fields and data of the next record; return None at the end.

    Args:
        read: returns the next bytes, of a number given.
        left: number of bytes up to the end.

    Raises:
        struct.error, ValueError: cut off, or not a record.
    """
    head = read(4)
    if not head:
        return None
    fields = _rosbag1_fields(_sized(read, head, left))
    return fields, _sized(read, read(4), left)


def _sized(read: Callable[[int], bytes], head: bytes, left: int) -> bytes:
    """Read as many bytes as `head` says, a uint32."""
    (length,) = struct.unpack("<I", head)
    if length > left:
        raise ValueError(f"{length} bytes of {left}")
    data = read(length)
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes of {length}")
    return data


def _rosbag1_fields(header: bytes) -> dict[str, bytes]:
    """Parse a header's fields: each a length and name=value."""
    fields, place = {}, 0
    while place + 4 <= len(header):
        (length,) = struct.unpack_from("<I", header, place)
        name, _, value = header[place + 4 : place + 4 + length].partition(b"=")
        fields[name.decode()] = value
        place += 4 + length
    return fields


def _rosbag1_chunk(fields: Mapping[str, bytes], data: bytes) -> bytes:
    """Decompress the records of a chunk."""
    compression = fields.get("compression", b"none")
    if compression == b"none":
        return data
    if compression == b"bz2":
        return bz2.decompress(data)
    if compression == b"lz4":
        return _lz4().decompress(data)
    raise ValueError(f"compressed by {compression.decode(errors='replace')}")


def _rosbag1_message(
    fields: Mapping[str, bytes], data: bytes, connections: dict[int, _Channel]
) -> Iterator[BagMessage]:
    """Register a connection, or yield a message."""
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
