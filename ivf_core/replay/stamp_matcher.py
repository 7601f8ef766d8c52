"""Find the messages of one topic that belong to the pairs of a bag, by their stamps."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator
from itertools import islice

from ivf_core.bags.info import BagMessage
from ivf_core.bags.salvage import Bag
from ivf_core.bags.stamps import read_stamp

__all__ = ["StampMatcher"]

_KEPT = 16
_BEYOND = 4  # messages that are read beyond a wanted stamp: it may come late
_LASTING = 3  # messages whose stamps have to stay behind before it counts as a jump


class StampMatcher:
    """Matcher of the messages of one topic to pairs, by the stamp of the RGB image.

    Stamps must agree to the nanosecond, or to `tolerance_ns`. The bag is read only as far
    as the pairs have come, and a few messages further, since messages may be out of order. A
    jump back of the stamps that lasts starts a new epoch, as it does in the pairing.

    Args:
        bag: open for reading, and used by no other reader.
        topic: name of the topic.
        tolerance_ns: largest difference of stamps.

    Attributes:
        matched: number of messages that belong to a pair.
        received: number of messages read.
    """

    def __init__(self, bag: Bag, topic: str, tolerance_ns: int = 0) -> None:
        self._messages = bag.raw([topic])
        self._tolerance = tolerance_ns
        self._ahead: deque[tuple[int, BagMessage]] = deque()
        self._kept: deque[tuple[tuple[int, int], BagMessage]] = deque(maxlen=_KEPT)
        self._epoch = self._wanted_epoch = 0
        self._last_wanted = -1
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
        while sum(position > wanted for position, _ in self._kept) < _BEYOND:
            if not self._read_one():
                break
        found = min(
            (kept for kept in self._kept if kept[0][0] == wanted[0]),
            key=lambda kept: abs(kept[0][1] - stamp_ns),
            default=None,
        )
        if found is None or abs(found[0][1] - stamp_ns) > self._tolerance:
            return None
        self.matched += 1
        return found[1]

    def _read_one(self) -> bool:
        """Take the next message; return whether there was one."""
        self._ahead.extend(islice(self._stamped(), _LASTING - len(self._ahead)))
        if not self._ahead:
            return False
        present = [stamp for (epoch, stamp), _ in self._kept if epoch == self._epoch]
        most = statistics.median_low(stamp for stamp, _ in self._ahead)
        stamp, message = self._ahead.popleft()
        repeats = stamp in present and most in present and stamp < present[-1]
        if present and (max(stamp, most) < min(present) or repeats):
            self._epoch += 1
        self.received += 1
        self._kept.append(((self._epoch, stamp), message))
        return True

    def _stamped(self) -> Iterator[tuple[int, BagMessage]]:
        """Yield the messages that have a stamp."""
        for message in self._messages:
            try:
                yield read_stamp(message.message) or message.time_ns, message
            except ValueError:
                continue
