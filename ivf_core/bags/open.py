"""Bags open for reading, damaged ones too, and what could not be read of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ivf_core.bags.info import BagError, BagInfo, BagMessage
from ivf_core.bags.reader import BagReader
from ivf_core.bags.salvage import SalvagedBag

__all__ = ["Bag", "open_bag"]


class Bag(Protocol):
    """What `BagReader` and its substitutes for damaged bags have in common.

    Attributes:
        info: what the bag holds.
    """

    info: BagInfo

    def raw(self, topics: list[str]) -> Iterator[BagMessage]:
        """Messages of these topics as CDR bytes."""
        ...


@contextmanager
def open_bag(path: Path, left_out: list[str]) -> Iterator[Bag]:
    """Open a bag, or what can be read of it.

    Args:
        left_out: takes a line for all that cannot be read, while the bag is open.

    Raises:
        BagError: there is no bag, or no message in it; names the path.
    """
    if not path.exists():
        raise BagError(f"bag '{path}': no such file or folder")
    reader = BagReader(path)
    try:
        reader.__enter__()
    except BagError as error:
        yield _salvaged(path, left_out, error)
        return
    try:
        if not reader.info.messages:
            raise BagError(f"bag '{path}': it holds no messages")
        yield _DamagedOnTheWay(reader, left_out)
    finally:
        reader.__exit__(None, None, None)


def _salvaged(path: Path, left_out: list[str], error: BagError) -> SalvagedBag:
    lines: list[str] = []
    try:
        bag = SalvagedBag(path, lines)
    except BagError:
        raise error from None
    left_out.append(f"{error}; read without its index")
    left_out.extend(lines)
    return bag


class _DamagedOnTheWay:
    """A bag whose index can be read; where a part of it cannot, the rest is salvaged."""

    def __init__(self, reader: BagReader, left_out: list[str]) -> None:
        self.info = reader.info
        self._reader = reader
        self._left_out = left_out

    def raw(self, topics: list[str]) -> Iterator[BagMessage]:
        last: dict[str, int] = {}
        try:
            for message in self._reader.raw(topics):
                last[message.topic] = message.time_ns
                yield message
            return
        except BagError as error:
            rest = _salvaged(self.info.path, self._left_out, error)
        there = [topic for topic in topics if topic in {t.name for t in rest.info.topics}]
        for message in rest.raw(there):
            if message.time_ns > last.get(message.topic, -1):
                yield message
