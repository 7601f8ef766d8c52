"""Read a database of rosbag2's sqlite3 storage, of any of its schemas."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ivf_core.bags.info import BagError
from ivf_core.bags.storage import StoredMessage, StoredTopic

__all__ = ["COMPANIONS", "SqliteFile", "open_database"]

COMPANIONS = ("-wal", "-journal")
"""Endings of the files in which SQLite keeps what is not yet in the database."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open a database for reading, without a lock and without its companions.

    Args:
        path: file of any name.

    Raises:
        sqlite3.Error: this is no database.
    """
    # In a URI, the characters # ? % of a name have a meaning of their own.
    name = quote(str(path.absolute()))
    # The thread that reads may be another than the one that opens; they take turns.
    return sqlite3.connect(f"file:{name}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def _check_length(path: Path) -> None:
    """Raise BagError if a database lacks pages at its end, which SQLite notices only in use."""
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise BagError("it is not an SQLite database, or its beginning is missing")
    page, changes, pages, valid_for = (
        int.from_bytes(header[at : at + size], "big")
        for at, size in ((16, 2), (24, 4), (28, 4), (92, 4))
    )
    page = 65_536 if page == 1 else page
    size = path.stat().st_size
    if changes == valid_for and size < page * pages:
        raise BagError(f"cut off at byte {size} of {page * pages}")


class SqliteFile:
    """Open database, with the interface `Storage`.

    Args:
        path: file to open.

    Attributes:
        topics: all topics.
        start_ns: time of the first message, 0 where there is none.
        end_ns: time of the last message, 0 where there is none.

    Raises:
        BagError: the database has other tables than those of rosbag2; without the bag's name.
        sqlite3.Error: this is no database, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        _check_length(path)
        self._database = open_database(path)
        try:
            self._read()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def messages(self, topics: Collection[int], since_ns: int = 0) -> Iterator[StoredMessage]:
        """Yield messages in the order of their times.

        Args:
            topics: numbers of the topics.
            since_ns: time of recording before which messages are left out.

        Raises:
            sqlite3.Error: the database is damaged.
        """
        marks = ",".join("?" * len(topics))
        # sqlite3 reads a row ahead, and drops a row if the next one is damaged: rows of numbers
        # only are read so.
        order = (
            f"SELECT id FROM messages WHERE topic_id IN ({marks}) AND timestamp >= ? "
            "ORDER BY timestamp, id"
        )
        one = "SELECT topic_id, timestamp, data FROM messages WHERE id = ?"
        for number in self._database.execute(order, (*topics, since_ns)):
            yield StoredMessage(*self._database.execute(one, number).fetchone())

    def _read(self) -> None:
        tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master")}
        if missing := {"topics", "messages"} - tables:
            lacks = " and none ".join(sorted(missing))
            raise BagError(f"the database has no table {lacks}: it is not of rosbag2")
        counts, self.start_ns, self.end_ns = {}, 0, 0
        query = "SELECT topic_id, COUNT(*), MIN(timestamp), MAX(timestamp) FROM messages GROUP BY 1"
        for topic, count, first, last in self._database.execute(query):
            counts[topic] = count
            self.start_ns = min(self.start_ns or first, first)
            self.end_ns = max(self.end_ns, last)
        definitions = {}
        if "message_definitions" in tables:
            for row in self._rows("message_definitions"):
                text = row["encoding"], row["encoded_message_definition"]
                definitions[row["topic_type"]] = text
        self.topics = [
            StoredTopic(
                row["id"],
                row["name"],
                row["type"],
                row["serialization_format"],
                counts.get(row["id"], 0),
                row.get("offered_qos_profiles", ""),
                definitions.get(row["type"], ("", "")),
            )
            for row in self._rows("topics")
        ]

    def _rows(self, table: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table by column: the schemas of rosbag2 differ in their columns."""
        cursor = self._database.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))
