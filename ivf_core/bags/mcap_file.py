"""Read an MCAP file by its index: format of mcap.dev/spec."""

from __future__ import annotations

import heapq
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ivf_core.bags.info import BagError
from ivf_core.bags.records import (
    MCAP_MAGIC,
    MissingPackageError,
    chunk_records,
    mcap_chunk,
    mcap_records,
    mcap_text,
)
from ivf_core.bags.storage import StoredMessage, StoredTopic

__all__ = ["McapFile"]

_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _CHUNK_INDEX, _STATISTICS = 3, 4, 5, 6, 8, 11
_FOOTER_BYTES = 37
_QOS = "offered_qos_profiles"


class _Piece(NamedTuple):
    """Chunk, or message outside of chunks: times of its first and last message, and its place."""

    start_ns: int
    end_ns: int
    at: int


class McapFile:
    """Open MCAP file, with the interface `Storage`.

    Channels of other encodings (JSON, Protobuf) are listed, and do not disturb those of ROS.

    Args:
        path: file to open.

    Attributes:
        topics: topics that have a channel.
        start_ns: time of the first message, 0 where there is none.
        end_ns: time of the last message, 0 where there is none.

    Raises:
        BagError: this is no MCAP file, or its end is missing; without the bag's name.
        OSError: the file cannot be read.
        struct.error: the index is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        self._channels: dict[int, StoredTopic] = {}
        self._pieces: list[_Piece] = []
        self._counts: Counter[int] = Counter()
        self._fault = ""
        self._file = path.open("rb")
        try:
            if not self._read_summary():
                self._read_data()
        except BaseException:
            self._file.close()
            raise
        self.topics = [
            StoredTopic(t.id, t.name, t.type, t.encoding, self._counts[t.id], t.qos, t.definition)
            for t in self._channels.values()
        ]
        self.start_ns = min((piece.start_ns for piece in self._pieces), default=0)
        self.end_ns = max((piece.end_ns for piece in self._pieces), default=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def messages(self, topics: Collection[int], since_ns: int = 0) -> Iterator[StoredMessage]:
        """Yield messages in the order of their times; chunks that overlap are in memory together.

        Args:
            topics: numbers of the topics.
            since_ns: time of recording before which messages are left out, and chunks unread.

        Raises:
            BagError: a chunk is damaged.
        """
        waiting: list[tuple[int, int, StoredMessage]] = []
        number = 0
        for piece in sorted(piece for piece in self._pieces if piece.end_ns >= since_ns):
            while waiting and waiting[0][0] <= piece.start_ns:
                yield heapq.heappop(waiting)[2]
            for message in self._piece(piece):
                if message.topic in topics and message.time_ns >= since_ns:
                    heapq.heappush(waiting, (message.time_ns, number, message))
                    number += 1
        while waiting:
            yield heapq.heappop(waiting)[2]
        if self._fault:
            raise BagError(self._fault)

    def _piece(self, piece: _Piece) -> Iterator[StoredMessage]:
        self._file.seek(piece.at)
        kind, length = struct.unpack("<BQ", self._file.read(9))
        record = self._file.read(length)
        if kind != _CHUNK:
            yield _message(record)
            return
        try:
            for kind, part in chunk_records(mcap_chunk(record), strict=True):
                if kind == _MESSAGE:
                    yield _message(part)
        except MissingPackageError:
            raise
        except Exception as error:  # decompressors fail in any way
            raise BagError(f"the chunk at byte {piece.at} is damaged ({error})") from error

    def _read_summary(self) -> bool:
        """Read the index; return False if the file has none, or no chunks that it could name."""
        if self._file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
            raise BagError("it does not begin as an MCAP file")
        size = self._path.stat().st_size
        self._file.seek(max(0, size - _FOOTER_BYTES))
        footer = self._file.read()
        if len(footer) < _FOOTER_BYTES or footer[-8:] != MCAP_MAGIC or footer[0] != 2:
            raise BagError("its end is missing: cut off, or the recording was not closed")
        (start,) = struct.unpack_from("<Q", footer, 9)
        if not start:
            return False
        if not len(MCAP_MAGIC) <= start < size:
            raise BagError(f"its footer places the index at byte {start} of {size}")
        self._file.seek(start)
        counted, messages = False, 0
        lines: list[str] = []
        for _, kind, record in mcap_records(self._file, self._path, lines.append):
            if kind == _CHUNK_INDEX:
                self._pieces.append(_Piece(*struct.unpack_from("<QQQ", record)))
            elif kind == _STATISTICS:
                (messages,) = struct.unpack_from("<Q", record)
                self._counts.update(dict(struct.iter_unpack("<HQ", record[46:])))
                counted = True
            else:
                self._register(kind, record)
        if lines:
            raise BagError(f"its index is damaged: {lines[0]}")
        if not counted or self._counts.total() != messages:
            self._counts.clear()
        elif self._channels and (self._pieces or not messages):
            return True
        self._pieces.clear()
        return False

    def _read_data(self) -> None:
        """Find the messages of a file without chunks or index; their data are not read yet.

        From a damaged part on there is no index: `messages` raises when it comes there.
        """
        self._file.seek(len(MCAP_MAGIC))
        size = self._path.stat().st_size
        found: Counter[int] = Counter()
        while True:
            at = self._file.tell()
            head = self._file.read(9)
            kind, length = struct.unpack("<BQ", head) if len(head) == 9 else (0, 0)
            if kind in (0x02, 0x0F):  # the footer, or the end of the data
                break
            if len(head) < 9 or not kind or length > size - at - 9:
                self._fault = f"damaged at byte {at} of {size}"
                break
            if kind == _MESSAGE and length >= 22:
                message = _message(self._file.read(22))
                found[message.topic] += 1
                self._pieces.append(_Piece(message.time_ns, message.time_ns, at))
                self._file.seek(at + 9 + length)
            elif kind == _CHUNK:
                self._index_chunk(at, self._file.read(length), found)
            else:
                self._register(kind, self._file.read(length))
        self._counts = self._counts or found

    def _index_chunk(self, at: int, record: bytes, found: Counter[int]) -> None:
        """Count the messages of a chunk, and note its times and place."""
        try:
            records = list(chunk_records(mcap_chunk(record), strict=True))
        except MissingPackageError:
            raise
        except Exception as error:  # decompressors fail in any way
            self._fault = self._fault or f"the chunk at byte {at} is damaged ({error})"
            return
        times = []
        for kind, content in records:
            if kind == _MESSAGE:
                message = _message(content)
                found[message.topic] += 1
                times.append(message.time_ns)
            else:
                self._register(kind, content)
        if times:
            self._pieces.append(_Piece(min(times), max(times), at))

    def _register(self, kind: int, record: bytes) -> None:
        """Register a schema or a channel."""
        if kind == _SCHEMA:
            (number,) = struct.unpack_from("<H", record)
            name, at = mcap_text(record, 2)
            encoding, at = mcap_text(record, at)
            self._schemas[number] = name, encoding, record[at + 4 :]
        elif kind == _CHANNEL:
            number, schema = struct.unpack_from("<HH", record)
            topic, at = mcap_text(record, 4)
            message_encoding, at = mcap_text(record, at)
            name, encoding, data = self._schemas.get(schema, ("", "", b""))
            ros = message_encoding == "cdr" and encoding in ("ros2msg", "ros2idl", "omgidl")
            definition = (encoding, data.decode(errors="replace")) if ros else ("", "")
            qos = _metadata(record, at).get(_QOS, "")
            self._channels[number] = StoredTopic(
                number, topic, name, message_encoding, 0, qos, definition
            )


def _message(record: bytes) -> StoredMessage:
    number, _, time_ns = struct.unpack_from("<HIQ", record)
    return StoredMessage(number, time_ns, record[22:])


def _metadata(record: bytes, at: int) -> dict[str, str]:
    """Read the map of texts that ends a channel."""
    found, at = {}, at + 4
    while at + 4 <= len(record):
        name, at = mcap_text(record, at)
        found[name], at = mcap_text(record, at)
    return found
