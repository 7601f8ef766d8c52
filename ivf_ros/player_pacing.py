"""Pacing of the player: by the recorded times, or by the progress of the receiver."""

from __future__ import annotations

import threading
import time

__all__ = ["Schedule", "Window"]

_LATE_NS = 10**7


class Schedule:
    """Times at which the messages of a bag are due, at a factor of the recorded speed.

    Used by one thread, the one that plays.

    Args:
        rate: factor of the recorded speed.
        frame_period_ns: pause between the last message of a loop and the first of the
            next, at the recorded speed.
    """

    def __init__(self, rate: float, frame_period_ns: float) -> None:
        self._rate = rate
        self._frame_period_ns = frame_period_ns
        self._to_wall_ns = time.time_ns() - time.monotonic_ns()
        self._start_ns = self._due_ns = time.monotonic_ns()
        self._loop = -1
        self._first_ns = 0
        self._late = 0
        self._latest_ns = 0

    def begin(self, loop: int, first_ns: int) -> None:
        """Start a loop of the bag; do nothing if it has started.

        Args:
            loop: index of the loop.
            first_ns: recorded time of its first message.
        """
        if loop != self._loop:
            if self._loop >= 0:
                self._start_ns = self._due_ns + round(self._frame_period_ns / self._rate)
            self._loop, self._first_ns = loop, first_ns

    def wall_ns(self, time_ns: int) -> int:
        """Return the time of day at which a message is due, in ns.

        Args:
            time_ns: recorded time of the message.
        """
        return self._due(time_ns) + self._to_wall_ns

    def wait(self, time_ns: int, stopping: threading.Event) -> bool:
        """Wait until a message is due, and note how late it is.

        Args:
            time_ns: recorded time of the message.
            stopping: ends the wait when it is set.

        Returns:
            False if the wait was ended by `stopping`.
        """
        self._due_ns = self._due(time_ns)
        early_ns = self._due_ns - time.monotonic_ns()
        if early_ns > 0 and stopping.wait(early_ns / 1e9):
            return False
        self._late += early_ns < -_LATE_NS
        self._latest_ns = max(self._latest_ns, -early_ns)
        return True

    def summary(self) -> str:
        """Return the number of late messages and the largest delay, for the log."""
        return (
            f"{self._late} messages more than {_LATE_NS / 1e6:.0f} ms late, "
            f"at most {self._latest_ns / 1e6:.1f} ms"
        )

    def _due(self, time_ns: int) -> int:
        """Return the monotonic time at which a message is due, in ns."""
        return self._start_ns + round((time_ns - self._first_ns) / self._rate)


class Window:
    """Limit of the number of frames under way, with a wait while it is reached.

    If there is no progress for `stall_seconds` (or for the longest pause so far, if the
    receiver is slower), frames were lost or the receiver needs more of them. The window
    then grows by one frame at a time until there is progress.

    The player's thread calls `enter`, `drain` and `wait_for_report`, the executor's
    thread `report`; any thread may call `release`.

    Args:
        size: number of frames that may be under way at first.
        stall_seconds: shortest time without progress that is a stall.

    Attributes:
        stalls: number of times without progress for too long.
        under_way: number of frames that are published and not done.
    """

    def __init__(self, size: int, stall_seconds: float) -> None:
        self._size = size
        self._patience = stall_seconds
        self._changed = threading.Condition()
        self._reported: int | None = None
        self._moved = 0.0
        self._stalled = False
        self._released = False
        self.under_way = 0
        self.stalls = 0

    def report(self, done: int) -> None:
        """Take over the receiver's count of frames that are done.

        The first count only tells where the receiver stood before. A count that has
        decreased comes from a receiver that was restarted and has lost its frames.

        Args:
            done: number of frames that are done.
        """
        with self._changed:
            before, self._reported = self._reported, done
            if done == before:
                return  # no progress
            if before is not None:
                self.under_way = max(self.under_way - (done - before), 0) if done > before else 0
                now = time.monotonic()
                self._patience = max(self._patience, now - self._moved)
                self._moved, self._stalled = now, False
            self._changed.notify_all()

    @property
    def reported(self) -> bool:
        """True once the receiver has reported its progress."""
        return self._reported is not None

    def wait_for_report(self, seconds: float) -> bool:
        """Wait for the receiver's first report.

        Args:
            seconds: longest time to wait.

        Returns:
            Whether there was a report, or `release` was called.
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: self._reported is not None or self._released, seconds
            )

    def enter(self) -> None:
        """Wait for room, then count one more frame."""
        with self._changed:
            while not self._released and self.under_way >= self._size:
                pause = self._patience / self._size if self._stalled else self._patience
                if not self._changed.wait(pause):
                    self.stalls += not self._stalled
                    self._stalled = True
                    self._size += 1
            if not self.under_way:
                self._moved = time.monotonic()
            self.under_way += 1

    def drain(self, seconds: float) -> None:
        """Wait until no frame is under way, or there is no progress for a time.

        Args:
            seconds: longest time without progress.
        """
        with self._changed:
            while self.under_way and not self._released:
                if not self._changed.wait(max(seconds, self._patience)):
                    return

    def release(self) -> None:
        """End all present and future waits."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    def summary(self) -> str:
        """Return the number of stalls and of unfinished frames, for the log."""
        return f"{self.stalls} stalls, {self.under_way} frames never done"
