"""Filter for message_filters that pairs RGB and thermal messages by their stamps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ivf_core.pairing import Pair, PairingCounters, TimePairer
from ivf_ros.compat import SimpleFilter

__all__ = ["PairSynchronizer", "stamp_to_ns", "stamp_to_seconds"]

_NS_PER_SECOND = 1_000_000_000


def stamp_to_ns(stamp: Any) -> int:
    """Return a `builtin_interfaces/Time` in nanoseconds, exactly.

    Args:
        stamp: time with `sec` and `nanosec`.
    """
    return int(stamp.sec) * _NS_PER_SECOND + int(stamp.nanosec)


def stamp_to_seconds(stamp: Any) -> float:
    """Return a `builtin_interfaces/Time` in seconds, as a float of about 0.2 us resolution.

    Args:
        stamp: time with `sec` and `nanosec`.
    """
    return stamp_to_ns(stamp) / _NS_PER_SECOND


class PairSynchronizer(SimpleFilter):
    """Filter that calls its callbacks with `(rgb, thermal)` for each pair of `TimePairer`.

    Any thread may call it. A pair is delivered by the thread whose message decided it, or
    by another thread that is already delivering: pairs are delivered one at a time and in
    order. No lock is held during a callback, so a callback may add messages, reset the
    synchronizer or read its counters; pairs that result are delivered after it returns.

    An exception of a callback reaches the source that delivered the message. The pair
    counts as delivered; the pairs behind it follow with the next message.

    Args:
        rgb: filter of messages with a header; connected by `registerCallback`.
        thermal: likewise.
        tolerance_ns: as in `ivf_core.pairing.TimePairer`, whose visible images are the RGB
            and whose infrared images are the thermal ones; so are the following.
        queue_size: messages of each camera that wait for a partner.
        offset_ns: added to thermal stamps before they are compared.
        minimum_interval_ns: shortest time between two frames of one camera.

    Raises:
        ValueError: a setting is out of range; names it.
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
        """Return a consistent copy of the counters; visible is RGB, infrared is thermal."""
        with self._lock:
            return self._pairer.counters()

    def set_tolerance(self, tolerance_ns: int) -> None:
        """Change the tolerance.

        Args:
            tolerance_ns: largest difference between the stamps of a pair.

        Raises:
            ValueError: it is negative.
        """
        with self._lock:
            self._pairer.tolerance_ns = tolerance_ns

    def set_offset(self, offset_ns: int) -> None:
        """Change the offset between the shutters.

        Args:
            offset_ns: added to thermal stamps before they are compared.
        """
        with self._lock:
            self._pairer.offset_ns = offset_ns

    def set_minimum_interval(self, minimum_interval_ns: int) -> None:
        """Change the shortest time between two frames of one camera.

        Args:
            minimum_interval_ns: time in nanoseconds.

        Raises:
            ValueError: it is negative.
        """
        with self._lock:
            self._pairer.minimum_interval_ns = minimum_interval_ns

    def flush(self) -> None:
        """End both streams: deliver the remaining pairs and count the remaining messages."""
        with self._lock:
            self._undelivered.extend(self._pairer.flush())
        self._deliver()

    def reset(self, reason: str = "reset") -> None:
        """Drop and count all undecided messages; decided pairs are still delivered.

        Args:
            reason: name of the counter.
        """
        with self._lock:
            self._pairer.reset(reason)

    def _add(self, message: Any, add: Callable[[int, Any], list[Pair]]) -> None:
        """Add a message to the pairer and deliver the pairs that it decides."""
        stamp = stamp_to_ns(message.header.stamp)
        with self._lock:
            self._undelivered.extend(add(stamp, message))
        self._deliver()

    def _deliver(self) -> None:
        """Deliver the decided pairs in order, unless another thread is delivering."""
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
