"""Bags open for reading, and what could not be read of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ivf_core.data.rosbag import BagInfo, BagMessage, BagReader

__all__ = ["Bag", "open_bag"]


class Bag(Protocol):
    """What `BagReader` and its substitutes for damaged bags have in common.

    Attributes:
        info: what the bag holds.
    """

    info: BagInfo

    def raw(self, topics: list[str]) -> Iterator[BagMessage]:
        """Messages of these topics as CDR bytes, in the order of their times."""
        ...


@contextmanager
def open_bag(path: Path, left_out: list[str]) -> Iterator[Bag]:
    """Open a bag.

    Args:
        left_out: takes a line for all that cannot be read, while the bag is open.

    Raises:
        BagError: nothing can be read; names the path.
    """
    with BagReader(path) as reader:
        yield reader
