"""A message_filters filter that pairs RGB and thermal messages by their stamps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ivf_core.pairing import Pair, PairingCounters, TimePairer
from ivf_ros.compat import SimpleFilter

__all__ = ["PairSynchronizer", "stamp_to_ns"]

_NS_PER_SECOND = 1_000_000_000


def stamp_to_ns(stamp: Any) -> int:
    """A `builtin_interfaces/Time` in nanoseconds."""
    return int(stamp.sec) * _NS_PER_SECOND + int(stamp.nanosec)


class PairSynchronizer(SimpleFilter):
    """Calls its callbacks with `(rgb, thermal)` for each pair of `TimePairer`.

    A pair is delivered by the thread that brought the message deciding it, or by
    another one that is delivering already: pairs come one at a time and in
    order. No lock is held meanwhile, so a callback may feed, reset or question
    the synchronizer; pairs that it causes follow when it has returned.

    An exception of a callback reaches the source that delivered the message. Its
    pair counts as delivered; pairs behind it follow with the next message.

    Args:
        rgb: filter of messages with a header, connected by `registerCallback`.
        thermal: likewise.
        tolerance_ns, queue_size, offset_ns, minimum_interval_ns: as in
            `ivf_core.pairing.TimePairer`, visible is RGB and infrared is thermal.

    Raises:
        ValueError: a setting out of range; names it.
    """

    def __init__(
        self,
        rgb: SimpleFilter,
        thermal: SimpleFilter,
        *,
        tolerance_ns: int,
        queue_size: int = 10,
        offset_ns: int = 0,
        minimum_interval_ns: int = 0,
    ) -> None:
        super().__init__()
        self._pairer: TimePairer[Any] = TimePairer(
            tolerance_ns, queue_size, offset_ns, minimum_interval_ns
        )
        self._lock = threading.Lock()  # guards all below and the pairer
        self._undelivered: deque[Pair] = deque()
        self._delivering = False
        rgb.registerCallback(self._add, self._pairer.add_visible)
        thermal.registerCallback(self._add, self._pairer.add_infrared)

    def counters(self) -> PairingCounters:
        """A consistent snapshot; visible is RGB, infrared is thermal."""
        with self._lock:
            return self._pairer.counters()

    def set_tolerance(self, tolerance_ns: int) -> None:
        """Change the tolerance; raises ValueError if it is negative."""
        with self._lock:
            self._pairer.tolerance_ns = tolerance_ns

    def set_offset(self, offset_ns: int) -> None:
        """Change what is added to thermal stamps before they are compared."""
        with self._lock:
            self._pairer.offset_ns = offset_ns

    def set_minimum_interval(self, minimum_interval_ns: int) -> None:
        """Change the assumed frame interval; raises ValueError if it is negative."""
        with self._lock:
            self._pairer.minimum_interval_ns = minimum_interval_ns

    def flush(self) -> None:
        """End both streams: deliver the pairs that are left and count the rest."""
        with self._lock:
            self._undelivered.extend(self._pairer.flush())
        self._deliver()

    def reset(self) -> None:
        """Drop and count all undecided messages; pairs already decided are still delivered."""
        with self._lock:
            self._pairer.reset()

    def _add(self, message: Any, add: Callable[[int, Any], list[Pair]]) -> None:
        stamp = stamp_to_ns(message.header.stamp)
        with self._lock:
            self._undelivered.extend(add(stamp, message))
        self._deliver()

    def _deliver(self) -> None:
        while True:
            with self._lock:
                if self._delivering or not self._undelivered:
                    return
                self._delivering = True
                pair = self._undelivered.popleft()
            try:
                self.signalMessage(pair.visible, pair.infrared)
            finally:
                with self._lock:
                    self._delivering = False
