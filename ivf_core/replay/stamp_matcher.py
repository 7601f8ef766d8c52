"""Find the messages of one topic that belong to the pairs of a bag, by their stamps."""

from __future__ import annotations

from collections import deque

from ivf_core.bags.info import BagMessage
from ivf_core.bags.salvage import Bag
from ivf_core.bags.stamps import read_stamp

__all__ = ["StampMatcher"]


class StampMatcher:
    """Matcher of the messages of one topic to pairs, by the stamp of the RGB image.

    Stamps must agree to the nanosecond, or to `tolerance_ns`. The bag is read only as far
    as the pairs have come. A jump back of the stamps starts a new epoch, as it does in the
    pairing.

    Args:
        bag: open for reading, and used by no other reader.
        topic: name of the topic.
        tolerance_ns: largest difference of stamps.

    Attributes:
        matched: number of messages that belong to a pair.
        received: number of messages read.
    """

    _KEPT = 8

    def __init__(self, bag: Bag, topic: str, tolerance_ns: int = 0) -> None:
        self._messages = bag.raw([topic])
        self._tolerance = tolerance_ns
        self._kept: deque[tuple[tuple[int, int], BagMessage]] = deque(maxlen=self._KEPT)
        self._epoch = self._wanted_epoch = 0
        self._last = self._last_wanted = -1
        self._ended = False
        self.matched = 0
        self.received = 0

    def match(self, stamp_ns: int) -> BagMessage | None:
        """Return the message that belongs to a pair, or None.

        Args:
            stamp_ns: stamp of the pair's RGB image. Pairs must come in their order.
        """
        if stamp_ns < self._last_wanted:
            self._wanted_epoch += 1
        self._last_wanted = stamp_ns
        wanted = (self._wanted_epoch, stamp_ns)
        # Read one past the wanted stamp, for it may be nearer.
        while not self._ended and (not self._kept or self._kept[-1][0] <= wanted):
            self._read_one()
        found = min(
            (kept for kept in self._kept if kept[0][0] == wanted[0]),
            key=lambda kept: abs(kept[0][1] - stamp_ns),
            default=None,
        )
        if found is None or abs(found[0][1] - stamp_ns) > self._tolerance:
            return None
        self.matched += 1
        return found[1]

    def _read_one(self) -> None:
        for message in self._messages:
            try:
                stamp = read_stamp(message.message) or message.time_ns
            except ValueError:
                continue
            if stamp < self._last:
                self._epoch += 1
            self._last = stamp
            self.received += 1
            self._kept.append(((self._epoch, stamp), message))
            return
        self._ended = True
