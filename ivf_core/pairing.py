"""Pair the frames of two cameras by their time stamps.

Stamps in, pairs out: no clock, no lock, no ROS. The same policy runs live in
the node and offline on recordings, so the result depends on the stamps alone,
not on how the two streams interleave when they arrive.

The policy
----------
Put the frames of both cameras in one row, ordered by stamp. Candidates are a
visible and an infrared frame at most `tolerance_ns` apart. The nearest two
become a pair, of equally near ones the earlier; then the next nearest whose
frames are still free and which does not cross a pair (so that pairs advance in
both streams), and so on. A frame thus loses its nearest partner only to a
frame that is at least as near to it.

Why it can be decided on the way
--------------------------------
1. Only neighbours in the row can become a pair. Nothing lies between the
   nearest two, or it would be nearer; taken out, they leave a left and a right
   part of the row that are independent, and the same holds in each.
2. So the row is a path whose edges are the gaps between neighbours of different
   cameras. A gap that is at most as long as the next one and shorter than the
   one before is a pair whatever follows. While the gaps get strictly shorter,
   nothing is decided: these frames are the *chain*. Where it ends (the next gap
   is not shorter, is beyond the tolerance, or the next frame is from the same
   camera), its last gap is a pair, then every second one back from there, and
   an odd frame at the front has no partner.
3. The end of the chain shows before the next frame of the row is there. With
   frames a, b of different cameras at the end, only the next frame c of a's
   camera can be nearer to b. It lies at `a + minimum_interval_ns` at the
   earliest. So a pair is final at once when its gap is 0 or at most half of
   `minimum_interval_ns`, and otherwise when c has arrived, whatever its stamp.
   This holds for either order of the two cameras.
4. The next frame of the row is known when it is waiting and the other camera
   cannot deliver an earlier one, because it has passed that stamp already.

A stamp that goes back (a looping bag, restarted simulation) opens a new epoch
of its stream. Frames pair within an epoch only and epochs follow one another in
the row, so every loop of a bag gives the same pairs.
"""

from __future__ import annotations

import heapq
import math
import operator
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["Pair", "PairingCounters", "TimePairer", "pair_streams"]

T = TypeVar("T")


class Pair(NamedTuple):
    """Two frames of one moment (Python 3.10 has no generic named tuples).

    Attributes:
        visible: the item given to `TimePairer.add_visible`.
        infrared: the item given to `TimePairer.add_infrared`.
        visible_stamp: in ns, as received.
        infrared_stamp: in ns, as received, without the offset.
    """

    visible: Any
    infrared: Any
    visible_stamp: int
    infrared_stamp: int


class PairingCounters(NamedTuple):
    """A snapshot of what became of every frame.

    For each stream, received = paired + its drops + queued.

    Attributes:
        received: frames by stream, "visible" and "infrared".
        queued: undecided frames by stream.
        jumps: how often the stamps went back, by stream.
        paired: pairs returned.
        dropped: frames without a pair by reason. Each reason ends in `_visible`
            or `_infrared`:
            `unmatched`: no free partner within the tolerance;
            `queue_full`: the other camera stopped or lags;
            `duplicate`: the stamp of the frame before, again;
            `time_jump`: the other stream's stamps went back, or did not follow
            when this one's did;
            `reset`: undecided at a `TimePairer.reset`.
    """

    received: dict[str, int]
    queued: dict[str, int]
    jumps: dict[str, int]
    paired: int
    dropped: dict[str, int]


class _Stream:
    """One camera: its frames that are not in the chain yet, and how far it has come."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.offset = 0
        self.waiting: deque[_Frame] = deque()
        self.queued = 0  # waiting or in the chain
        self.received = 0
        self.jumps = 0
        self.epoch = 0
        self.last: int | None = None  # None: the next frame may have any stamp

    def restart(self, epoch: int) -> None:
        self.epoch = epoch
        self.last = None


@dataclass(frozen=True, eq=False)
class _Frame:
    stream: _Stream
    epoch: int
    stamp: int
    item: Any

    @property
    def time(self) -> int:
        return self.stamp + self.stream.offset

    @property
    def position(self) -> tuple[int, int]:
        """Where the frame stands in the row."""
        return self.epoch, self.time


class TimePairer(Generic[T]):
    """Pairs each visible frame with the infrared frame nearest in time.

    See the module's docstring for the policy. Stamps are whole nanoseconds of
    any sign. The cost per frame is constant on average. Not thread-safe.

    Args:
        tolerance_ns: largest difference within a pair; 0 pairs equal stamps only.
        queue_size: largest number of undecided frames of each stream. When it is
            exceeded, the other stream is waited for no longer.
        offset_ns: added to infrared stamps before they are compared. Positive
            where an infrared stamp lies before the visible stamp of the same
            moment, negative where it lies after.
        minimum_interval_ns: frames of one camera are never closer together than
            this. It saves waiting for the next frame; if it is wrong, a pair may
            miss a nearer partner. 0 assumes nothing.

    Raises:
        ValueError: a negative tolerance or interval, or a queue size below 1.
        TypeError: a setting or a stamp that is not a whole number.
    """

    def __init__(
        self,
        tolerance_ns: int,
        queue_size: int = 10,
        offset_ns: int = 0,
        minimum_interval_ns: int = 0,
    ) -> None:
        self._visible = _Stream("visible")
        self._infrared = _Stream("infrared")
        self._chain: list[_Frame] = []
        self._paired = 0
        self._dropped: dict[str, int] = {}
        self._queue_size = _whole("queue_size", queue_size, minimum=1)
        self.tolerance_ns = tolerance_ns
        self.offset_ns = offset_ns
        self.minimum_interval_ns = minimum_interval_ns

    @property
    def tolerance_ns(self) -> int:
        """May be set at any time; holds for all frames that are undecided then."""
        return self._tolerance

    @tolerance_ns.setter
    def tolerance_ns(self, value: int) -> None:
        self._tolerance = _whole("tolerance_ns", value, minimum=0)
        self._requeue_chain()

    @property
    def offset_ns(self) -> int:
        """May be set at any time; holds for all frames that are undecided then."""
        return self._infrared.offset

    @offset_ns.setter
    def offset_ns(self, value: int) -> None:
        self._infrared.offset = _whole("offset_ns", value)
        self._requeue_chain()

    @property
    def minimum_interval_ns(self) -> int:
        """May be set at any time; holds for all frames that are undecided then."""
        return self._minimum_interval

    @minimum_interval_ns.setter
    def minimum_interval_ns(self, value: int) -> None:
        self._minimum_interval = _whole("minimum_interval_ns", value, minimum=0)
        self._requeue_chain()

    @property
    def queue_size(self) -> int:
        return self._queue_size

    @property
    def received(self) -> dict[str, int]:
        """Frames received, by stream."""
        return {stream.name: stream.received for stream in self._streams}

    @property
    def queued(self) -> dict[str, int]:
        """Undecided frames, by stream."""
        return {stream.name: stream.queued for stream in self._streams}

    @property
    def jumps(self) -> dict[str, int]:
        """How often the stamps went back, by stream."""
        return {stream.name: stream.jumps for stream in self._streams}

    @property
    def paired(self) -> int:
        """Pairs returned."""
        return self._paired

    @property
    def dropped(self) -> dict[str, int]:
        """Frames without a pair, by reason (`PairingCounters.dropped`)."""
        return dict(self._dropped)

    def counters(self) -> PairingCounters:
        """All counters, as a copy."""
        return PairingCounters(self.received, self.queued, self.jumps, self.paired, self.dropped)

    def add_visible(self, stamp_ns: int, item: T) -> list[Pair]:
        """Take the next visible frame and return the pairs that it decides, in order."""
        return self._add(self._visible, stamp_ns, item)

    def add_infrared(self, stamp_ns: int, item: T) -> list[Pair]:
        """Take the next infrared frame and return the pairs that it decides, in order."""
        return self._add(self._infrared, stamp_ns, item)

    def flush(self) -> list[Pair]:
        """End both streams: pair what is left, count the rest, be ready for new streams."""
        pairs = self._advance(ended=True)
        self._restart_streams()
        return pairs

    def reset(self) -> None:
        """Drop all undecided frames under "reset" and be ready for new streams."""
        self._requeue_chain()
        for stream in self._streams:
            while stream.waiting:
                self._drop(stream.waiting.popleft(), "reset")
        self._restart_streams()

    @property
    def _streams(self) -> tuple[_Stream, _Stream]:
        return self._visible, self._infrared

    def _other(self, stream: _Stream) -> _Stream:
        return self._infrared if stream is self._visible else self._visible

    def _restart_streams(self) -> None:
        for stream in self._streams:
            stream.restart(epoch=0)

    def _add(self, stream: _Stream, stamp: int, item: T) -> list[Pair]:
        stamp = _whole("stamp_ns", stamp)
        stream.received += 1
        stream.queued += 1
        if stream.last is not None and stamp < stream.last:
            stream.epoch += 1
            stream.jumps += 1
        frame = _Frame(stream, stream.epoch, stamp, item)
        if stamp == stream.last:
            self._drop(frame, "duplicate")
            return []
        stream.last = stamp
        stream.waiting.append(frame)
        pairs = self._advance()
        while stream.queued > self._queue_size:
            pairs += self._stop_waiting(stream)
            pairs += self._advance()
        return pairs

    def _advance(self, ended: bool = False) -> list[Pair]:
        """Move frames from the queues into the chain as far as their order is known."""
        pairs: list[Pair] = []
        while True:
            if self._chain:
                last = self._chain[-1]
                epoch, time = self._earliest(self._other(last.stream), ended)
                if (epoch, time) >= (last.epoch, last.time + self._reach()):
                    pairs += self._close_chain("time_jump" if epoch > last.epoch else "unmatched")
            frame = self._take_next(ended)
            if frame is None:
                return pairs
            if self._chain and not self._extends_chain(frame):
                pairs += self._close_chain("unmatched")
            self._chain.append(frame)

    def _earliest(self, stream: _Stream, ended: bool) -> tuple[float, float]:
        """The position of the stream's next frame, or the earliest that it can have."""
        if stream.waiting:
            return stream.waiting[0].position
        if ended:
            return max(self._visible.epoch, self._infrared.epoch), math.inf
        if stream.last is None:
            return stream.epoch, -math.inf
        return stream.epoch, stream.last + stream.offset + self._minimum_interval

    def _take_next(self, ended: bool) -> _Frame | None:
        """The next frame of the row, or None while it is not known.

        Which of two equal stamps comes first makes no difference: they are a pair.
        """
        visible = self._earliest(self._visible, ended)
        infrared = self._earliest(self._infrared, ended)
        if self._visible.waiting and visible <= infrared:
            return self._visible.waiting.popleft()
        if self._infrared.waiting and infrared <= visible:
            return self._infrared.waiting.popleft()
        return None

    def _reach(self) -> int:
        """A frame must be nearer than this to the chain's end to continue it."""
        if len(self._chain) == 1:
            return self._tolerance + 1
        return abs(self._chain[-1].time - self._chain[-2].time)

    def _extends_chain(self, frame: _Frame) -> bool:
        last = self._chain[-1]
        return frame.stream is not last.stream and abs(frame.time - last.time) < self._reach()

    def _close_chain(self, reason: str) -> list[Pair]:
        """Pair the chain from its end; a frame all alone is dropped for `reason`."""
        chain, self._chain = self._chain, []
        start = len(chain) % 2
        if start:
            self._drop(chain[0], reason if len(chain) == 1 else "unmatched")
        return [self._pair(*chain[i : i + 2]) for i in range(start, len(chain), 2)]

    def _pair(self, first: _Frame, second: _Frame) -> Pair:
        first.stream.queued -= 1
        second.stream.queued -= 1
        self._paired += 1
        if first.stream is self._infrared:
            first, second = second, first
        return Pair(first.item, second.item, first.stamp, second.stamp)

    def _drop(self, frame: _Frame, reason: str) -> None:
        frame.stream.queued -= 1
        key = f"{reason}_{frame.stream.name}"
        self._dropped[key] = self._dropped.get(key, 0) + 1

    def _stop_waiting(self, stream: _Stream) -> list[Pair]:
        """The stream's queue is full: decide its oldest frame without the other stream."""
        if self._chain:
            if self._chain[-1].stream is not stream and stream.waiting:
                self._chain.append(stream.waiting.popleft())
            return self._close_chain("queue_full")
        other = self._other(stream)
        oldest = stream.waiting.popleft()
        if oldest.epoch > other.epoch:
            # The other stream did not follow the jump, so let it join with any stamp.
            other.restart(oldest.epoch)
            self._drop(oldest, "time_jump")
        else:
            self._drop(oldest, "queue_full")
        return []

    def _requeue_chain(self) -> None:
        """Settings have changed: the next call builds the chain anew."""
        for frame in reversed(self._chain):
            frame.stream.waiting.appendleft(frame)
        self._chain = []


def pair_streams(
    visible_stamps: Iterable[int], infrared_stamps: Iterable[int], **settings: int
) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """Pair two recorded streams.

    The frames are taken in the order of their stamps, epoch by epoch. If only
    one stream jumps back, its frames after the jump find no partner here; give
    such a recording to `TimePairer` in the order of arrival.

    Args:
        visible_stamps: in ns, in the order of the stream.
        infrared_stamps: likewise.
        settings: of `TimePairer`; the queues are unlimited by default.

    Returns:
        Pairs of indices into the two streams, and drops by reason.
    """
    visible = [_whole("visible_stamps", stamp) for stamp in visible_stamps]
    infrared = [_whole("infrared_stamps", stamp) for stamp in infrared_stamps]
    settings.setdefault("queue_size", len(visible) + len(infrared) + 1)
    pairer: TimePairer[int] = TimePairer(**settings)
    row = heapq.merge(
        _positions(visible, 0, pairer.add_visible),
        _positions(infrared, pairer.offset_ns, pairer.add_infrared),
        key=operator.itemgetter(0),
    )
    pairs = [pair for _, add, stamp, index in row for pair in add(stamp, index)]
    pairs += pairer.flush()
    return [(pair.visible, pair.infrared) for pair in pairs], pairer.dropped


def _positions(stamps: list[int], offset: int, add: Any) -> Iterator[tuple[Any, Any, int, int]]:
    epoch = 0
    for index, stamp in enumerate(stamps):
        epoch += index > 0 and stamp < stamps[index - 1]
        yield (epoch, stamp + offset), add, stamp, index


def _whole(name: str, value: int, minimum: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number of ns or items, got {value!r}") from None
    if minimum is not None and number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {number}")
    return number
