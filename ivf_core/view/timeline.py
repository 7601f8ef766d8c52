"""Time line of the page: bins of what was lost or found, and a list of events."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

__all__ = ["NOT_SEEN", "Timeline"]

NOT_SEEN = -1
"""Severity in bins of which no frame has been computed."""

_MOST_EVENTS = 200


class Timeline:
    """Counts of lost images, the worst health and events, by bins of time.

    Several threads use it. With a moving start its memory is that of one window.

    Args:
        bin_seconds: width of a bin.
        bins: number of bins.
        moving: whether the window ends with the present time, which starts at 0; otherwise it
            begins at 0.
    """

    def __init__(self, bin_seconds: float, bins: int, *, moving: bool = False) -> None:
        self._width = bin_seconds
        self._first = 1 - bins if moving else 0  # number of the first bin
        self._lock = threading.Lock()
        self._lost = deque([0] * bins, bins)
        self._severity = deque([NOT_SEEN] * bins, bins)
        self._alone = deque([0] * bins, bins)
        self._events: deque[dict[str, Any]] = deque(maxlen=_MOST_EVENTS)

    def lose(self, seconds: float, count: int) -> None:
        """Count images or pairs that were lost.

        Args:
            seconds: time.
            count: number of them.
        """
        with self._lock:
            place = self._place(seconds)
            if place is not None:
                self._lost[place] += count

    def use_alone(self, seconds: float) -> None:
        """Note that one camera is used alone.

        Args:
            seconds: time.
        """
        with self._lock:
            place = self._place(seconds)
            if place is not None:
                self._alone[place] = 1

    def examine(self, seconds: float, severity: int, since: float | None = None) -> None:
        """Note the health at a time.

        Args:
            seconds: time.
            severity: a `Severity`.
            since: time before, from which on it holds where nothing else is known; or None.
        """
        with self._lock:
            place = self._place(seconds)
            if place is None:
                return
            self._severity[place] = max(self._severity[place], severity)
            start = place if since is None else self._place(since)
            for between in range(place if start is None else start + 1, place):
                if self._severity[between] == NOT_SEEN:
                    self._severity[between] = severity

    def add_event(self, seconds: float, frame: int, severity: int, text: str) -> None:
        """Add an event, unless it is in the list already.

        Args:
            seconds: time.
            frame: number of the frame to show for it.
            severity: a `Severity`.
            text: what happened.
        """
        event = {
            "seconds": round(seconds, 3), "frame": frame, "severity": severity, "text": text,
        }  # fmt: skip
        with self._lock:
            if event not in self._events:
                self._events.append(event)

    def advance(self, seconds: float) -> None:
        """Move the window so that it ends with a time.

        Args:
            seconds: time of the newest frame.
        """
        with self._lock:
            beyond = int(seconds // self._width) - (self._first + len(self._lost)) + 1
            for _ in range(min(max(0, beyond), len(self._lost))):
                self._lost.append(0)
                self._severity.append(NOT_SEEN)
                self._alone.append(0)
            self._first += max(0, beyond)

    def to_json(self) -> dict[str, Any]:
        """Return the bins, and the events in the order of their times."""
        with self._lock:
            return {
                "start": round(self._first * self._width, 6),
                "bin_seconds": self._width,
                "lost": list(self._lost),
                "severity": list(self._severity),
                "alone": list(self._alone),
                "events": sorted(self._events, key=lambda event: event["seconds"]),
            }

    def _place(self, seconds: float) -> int | None:
        """Return the bin of a time, or None outside of the window; with the lock held."""
        place = int(seconds // self._width) - self._first
        if place == len(self._lost):  # the very end
            place -= 1
        return place if 0 <= place < len(self._lost) else None
