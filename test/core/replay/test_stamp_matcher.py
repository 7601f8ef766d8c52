"""Messages that belong to pairs, by stamps that may be out of order or jump."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from ivf_core.bags.info import BagInfo, BagMessage
from ivf_core.replay.stamp_matcher import StampMatcher


class Recording:
    """Bag of one topic, whose messages are stamps."""

    info: BagInfo

    def __init__(self, stamps: list[int]) -> None:
        self._stamps = stamps

    def raw(self, topics: list[str]) -> Iterator[BagMessage]:
        for number, stamp in enumerate(self._stamps):
            cdr = b"\0\1\0\0" + struct.pack("<iI", *divmod(stamp, 10**9)) + b"\0" * 8
            yield BagMessage(topics[0], "a/msg/B", number, cdr)


def matched(stamps: list[int], wanted: list[int]) -> list[int | None]:
    """Return the number of the message that each wanted stamp gets."""
    matcher = StampMatcher(Recording(stamps), "/labels")
    found = (matcher.match(stamp) for stamp in wanted)
    return [None if message is None else message.time_ns for message in found]


ORDERED = list(range(1, 41))


def test_every_message_of_an_ordered_recording() -> None:
    assert matched(ORDERED, ORDERED) == list(range(40))
    assert matched(ORDERED, [3, 9, 10, 40]) == [2, 8, 9, 39]
    assert matched(ORDERED[::3], [1, 2, 3, 4, 5, 7]) == [0, None, None, 1, None, 2]


@pytest.mark.parametrize("at", [0, 1, 20, 38])
def test_neighbours_in_the_wrong_order(at: int) -> None:
    stamps = ORDERED.copy()
    stamps[at : at + 2] = stamps[at + 1], stamps[at]
    assert matched(stamps, ORDERED) == [stamps.index(stamp) for stamp in ORDERED]


@pytest.mark.parametrize("outlier", [10**6, 5_000_000_000])
def test_an_outlier_costs_itself(outlier: int) -> None:
    stamps = ORDERED.copy()
    stamps[20] = outlier
    expected = [None if number == 20 else number for number in range(40)]
    assert matched(stamps, ORDERED) == expected


@pytest.mark.parametrize("count", [4, 40])
def test_loops(count: int) -> None:
    stamps = ORDERED[:count] * 3
    assert matched(stamps, stamps) == list(range(3 * count))
