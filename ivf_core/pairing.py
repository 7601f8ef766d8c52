"""Pair the frames of two cameras by their time stamps.

Stamps in, pairs out: no clock, no lock, no ROS. The node applies this policy live, and
recordings are paired with it offline. The result depends on the stamps alone, not on the
order in which the frames of the two streams arrive.

The policy
----------
All frames of both cameras form one sequence, ordered by stamp. Candidates are a visible and
an infrared frame at most `tolerance_ns` apart. The nearest two become a pair, the earlier
ones if several are equally near. Then come the next nearest whose frames are still free and
which do not cross a pair (so that pairs advance in both streams), and so on. A frame thus
loses its nearest partner only to a frame that is at least as near to that partner.

How pairs are decided while frames arrive
-----------------------------------------
1. Only neighbours in the sequence can become a pair. No frame is between the nearest two, or
   it would be nearer. Without these two, the sequence has a left and a right part that are
   independent, and the same holds in each.
2. The sequence is therefore a path whose edges are the gaps between neighbours of different
   cameras. A gap that is at most as long as the next one and shorter than the one before is
   a pair, whatever follows. While the gaps get strictly shorter, nothing is decided: these
   frames are the *chain*. At the end of the chain (the next gap is not shorter, is beyond
   the tolerance, or the next frame is from the same camera), its last gap is a pair, then
   every second one before it, and an odd frame at the front has no partner.
3. The end of the chain is known before the next frame of the sequence arrives. With frames
   a, b of different cameras at the end, only the next frame c of a's camera can be nearer to
   b. Its stamp is at least `a + minimum_interval_ns`. So a pair is final at once if its gap
   is 0 or at most half of `minimum_interval_ns`, and otherwise when c has arrived, whatever
   its stamp. This holds for either order of the two cameras.
4. The next frame of the sequence is known when it is waiting and the other camera cannot
   deliver an earlier one, because it has passed that stamp already.

Frames out of order, and jumps
------------------------------
5. Stamps of a stream may arrive out of order. A frame that found no partner stays undecided
   until a later pair is final or its queue is full, so that a late partner still finds it: a
   frame that is later than all decided ones of its stream is sorted in. A frame that
   comes later still, but within the last `queue_size` stamps, is dropped as out of order;
   after more than `queue_size` of these in a row the stream has gone back (point 6).
6. A stamp before these (a looping bag, a restarted simulation), one that is repeated, and
   one further ahead than 100 intervals are suspected jumps. The frame is held back. If the
   next frame continues the stream, the frame held back was an outlier and is dropped. If
   `_LASTING` frames in a row are suspected, the jump is real: stamps that went back open a
   new epoch of their stream. Frames pair within an epoch only, and epochs follow one
   another in the sequence, so every loop of a bag gives the same pairs.
"""

from __future__ import annotations

import heapq
import math
import operator
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["Pair", "PairingCounters", "TimePairer", "pair_streams"]

T = TypeVar("T")

_LASTING = 3
"""Number of frames in a row after which a jump of the stamps is real."""

_FAR_INTERVALS = 100
"""Number of intervals ahead of the stream beyond which a stamp is a suspected jump.

The shutter of a microbolometer closes for up to a second: 60 intervals at most.
"""

_INTERVALS_KEPT = 8
_INTERVALS_NEEDED = 3


class Pair(NamedTuple):
    """Two frames of the same moment (not generic: Python 3.10 has no generic named tuples).

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
    """Counts of received, undecided, paired and dropped frames at one moment.

    For each stream, received = paired + its drops + queued.

    Attributes:
        received: frames by stream, "visible" and "infrared".
        queued: undecided frames by stream.
        jumps: number of times that the stamps went back for good, by stream.
        paired: pairs returned.
        dropped: frames without a pair by reason. Each reason ends in `_visible`
            or `_infrared`:
            `unmatched`: no free partner within the tolerance;
            `queue_full`: the other camera stopped or lags;
            `duplicate`: the stamp repeats that of the frame before;
            `out_of_order`: the frame came after later ones were decided;
            `outlier`: a stamp that the next frames did not confirm;
            `time_jump`: the other stream's stamps went back, or did not follow
            when the stamps of this one did;
            `reset`, or the reason given: undecided at a `TimePairer.reset`.
    """

    received: dict[str, int]
    queued: dict[str, int]
    jumps: dict[str, int]
    paired: int
    dropped: dict[str, int]


class TimePairer(Generic[T]):
    """Pairing of each visible frame with the infrared frame nearest in time.

    See the module's docstring for the policy. Stamps are integer nanoseconds of
    any sign. The cost per frame is constant on average. Not thread-safe.

    Args:
        tolerance_ns: largest difference within a pair; 0 pairs equal stamps only.
        queue_size: largest number of undecided frames of each stream. When it is
            exceeded, the oldest frame is decided without waiting for the other stream.
        offset_ns: added to infrared stamps before they are compared. Positive
            if an infrared stamp is before the visible stamp of the same
            moment, negative if it is after.
        minimum_interval_ns: shortest time between two frames of one camera. It shortens the
            wait for the next frame; if the true interval is shorter, a pair may miss a
            nearer partner. 0 assumes nothing.

    Raises:
        ValueError: a negative tolerance or interval, or a queue size below 1.
        TypeError: a setting or a stamp that is not an integer.
    """

    def __init__(
        self,
        tolerance_ns: int,
        queue_size: int = 10,
        offset_ns: int = 0,
        minimum_interval_ns: int = 0,
    ) -> None:
        self._queue_size = _integer("queue_size", queue_size, minimum=1)
        self._visible = _Stream("visible", self._queue_size, self._requeue)
        self._infrared = _Stream("infrared", self._queue_size, self._requeue)
        self._streams = (self._visible, self._infrared)
        self._chain = _Chain()
        self._passed: deque[_Frame] = deque()  # without a partner so far, before the chain
        self._paired = 0
        self.tolerance_ns = tolerance_ns
        self.offset_ns = offset_ns
        self.minimum_interval_ns = minimum_interval_ns

    @property
    def tolerance_ns(self) -> int:
        """Largest difference within a pair; a new value also applies to undecided frames."""
        return self._tolerance

    @tolerance_ns.setter
    def tolerance_ns(self, value: int) -> None:
        self._tolerance = _integer("tolerance_ns", value, minimum=0)
        self._requeue()

    @property
    def offset_ns(self) -> int:
        """Offset added to infrared stamps; a new value also applies to undecided frames."""
        return self._infrared.offset

    @offset_ns.setter
    def offset_ns(self, value: int) -> None:
        self._infrared.offset = _integer("offset_ns", value)
        self._requeue()

    @property
    def minimum_interval_ns(self) -> int:
        """Shortest frame interval assumed; a new value also applies to undecided frames."""
        return self._minimum_interval

    @minimum_interval_ns.setter
    def minimum_interval_ns(self, value: int) -> None:
        self._minimum_interval = _integer("minimum_interval_ns", value, minimum=0)
        self._requeue()

    @property
    def queue_size(self) -> int:
        """Largest number of undecided frames of each stream."""
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
        """Number of times that the stamps went back for good, by stream."""
        return {stream.name: stream.jumps for stream in self._streams}

    @property
    def paired(self) -> int:
        """Number of pairs returned."""
        return self._paired

    @property
    def dropped(self) -> dict[str, int]:
        """Frames without a pair, by reason (`PairingCounters.dropped`)."""
        return {
            f"{reason}_{stream.name}": count
            for stream in self._streams
            for reason, count in stream.dropped.items()
        }

    def counters(self) -> PairingCounters:
        """Return a copy of all counters."""
        return PairingCounters(self.received, self.queued, self.jumps, self.paired, self.dropped)

    def add_visible(self, stamp_ns: int, item: T) -> list[Pair]:
        """Take the next visible frame and return the pairs that it decides, in order."""
        return self._add(self._visible, stamp_ns, item)

    def add_infrared(self, stamp_ns: int, item: T) -> list[Pair]:
        """Take the next infrared frame and return the pairs that it decides, in order."""
        return self._add(self._infrared, stamp_ns, item)

    def flush(self) -> list[Pair]:
        """End both streams: pair the remaining frames, count the rest, accept new streams."""
        for stream in self._streams:
            stream.settle()
        pairs = self._advance(ended=True)
        self._drop_passed()
        self._restart_streams()
        return pairs

    def reset(self, reason: str = "reset") -> None:
        """Drop all undecided frames under a reason and accept new streams."""
        self._requeue()
        for stream in self._streams:
            for frame in (*stream.waiting, *stream.suspects):
                frame.drop(reason)
            stream.waiting.clear()
            stream.suspects.clear()
        self._restart_streams()

    def _restart_streams(self) -> None:
        for stream in self._streams:
            stream.restart(epoch=0)

    def _other(self, stream: _Stream) -> _Stream:
        return self._infrared if stream is self._visible else self._visible

    def _add(self, stream: _Stream, stamp: int, item: T) -> list[Pair]:
        stream.receive(_integer("stamp_ns", stamp), item)
        pairs = self._advance()
        while stream.queued > self._queue_size:
            pairs += self._stop_waiting(stream)
            pairs += self._advance()
        return pairs

    def _advance(self, ended: bool = False) -> list[Pair]:
        """Move frames from the queues into the chain as far as their order is known."""
        pairs: list[Pair] = []
        while True:
            if self._chain.frames:
                last = self._chain.frames[-1]
                epoch, time = self._earliest(self._other(last.stream), ended)
                if (epoch, time) >= (last.epoch, last.time + self._chain.reach(self._tolerance)):
                    pairs += self._close_chain("time_jump" if epoch > last.epoch else "unmatched")
            frame = self._take_next(ended)
            if frame is None:
                return pairs
            if self._chain.frames and not self._chain.is_extended_by(frame, self._tolerance):
                pairs += self._close_chain("unmatched")
            self._chain.frames.append(frame)

    def _earliest(self, stream: _Stream, ended: bool) -> tuple[float, float]:
        """Return the position of the stream's next frame, or the earliest that it can have."""
        if ended and not stream.waiting:
            return max(each.epoch for each in self._streams), math.inf
        return stream.earliest(self._minimum_interval)

    def _take_next(self, ended: bool) -> _Frame | None:
        """Take the next frame of the sequence, or return None while it is not known.

        The order of two equal stamps makes no difference: they are a pair.
        """
        visible, infrared = (self._earliest(stream, ended) for stream in self._streams)
        if self._visible.waiting and visible <= infrared:
            return self._visible.waiting.popleft()
        if self._infrared.waiting and infrared <= visible:
            return self._infrared.waiting.popleft()
        return None

    def _close_chain(self, reason: str) -> list[Pair]:
        """Decide the chain; a single frame that has passed its partners stays undecided."""
        if len(self._chain.frames) == 1 and reason == "unmatched":
            self._passed.append(self._chain.frames.pop())
            return []
        self._drop_passed()
        pairs = self._chain.close(reason)
        self._paired += len(pairs)
        return pairs

    def _drop_passed(self) -> None:
        """Drop the frames without a partner: a later pair is final."""
        while self._passed:
            self._passed.popleft().drop("unmatched")

    def _requeue(self) -> None:
        """Return all undecided frames to their streams, so that all is decided again."""
        for frame in (*reversed(self._chain.frames), *reversed(self._passed)):
            frame.stream.waiting.appendleft(frame)
        self._chain.frames = []
        self._passed.clear()

    def _stop_waiting(self, stream: _Stream) -> list[Pair]:
        """Decide the oldest frame of a stream whose queue is full, without the other stream."""
        oldest = next((frame for frame in self._passed if frame.stream is stream), None)
        if oldest is not None:
            self._passed.remove(oldest)
            oldest.drop("unmatched")
            return []
        frames = self._chain.frames
        if frames:
            if frames[-1].stream is not stream and stream.waiting:
                frames.append(stream.waiting.popleft())
            return self._close_chain("queue_full")
        other = self._other(stream)
        oldest = stream.waiting.popleft()
        if oldest.epoch > other.epoch:
            # The other stream did not follow the jump, so let it join with any stamp.
            other.join(oldest.epoch)
            oldest.drop("time_jump")
        else:
            oldest.drop("queue_full")
        return []


class _Stream:
    """Stream of one camera: its waiting frames, its latest stamp and its counters.

    Args:
        name: "visible" or "infrared".
        queue_size: as for `TimePairer`.
        requeue: returns all undecided frames to their streams.
    """

    def __init__(self, name: str, queue_size: int, requeue: Callable[[], None]) -> None:
        self.name = name
        self.offset = 0
        self.waiting: deque[_Frame] = deque()  # in order of time, not in the chain yet
        self.suspects: list[_Frame] = []  # held back until a jump of the stamps is real
        self.received = 0
        self.queued = 0  # waiting, suspected, in the chain, or passed by
        self.jumps = 0
        self.dropped: Counter[str] = Counter()
        self._queue_size = queue_size
        self._requeue = requeue
        self._recent: deque[int] = deque(maxlen=queue_size)  # stamps of this epoch
        self._intervals: deque[int] = deque(maxlen=_INTERVALS_KEPT)
        self.restart(0)

    def restart(self, epoch: int) -> None:
        """Let the next frame have any stamp, in this epoch."""
        self.epoch = epoch
        self.last: int | None = None  # latest stamp; None: the next one may be any
        self._decided: int | None = None  # latest stamp of a decided frame of this epoch
        self._late = 0  # frames dropped as out of order since the last one in order
        self._recent.clear()
        self._intervals.clear()

    def receive(self, stamp: int, item: Any) -> None:
        """Queue the next frame, hold it back, or drop and count it."""
        self.received += 1
        self.queued += 1
        self._place(_Frame(self, self.epoch, stamp, item, self.received))

    def settle(self) -> None:
        """Decide the suspected jump at the end of the stream."""
        while self.suspects:
            ahead = self.last is None or self.suspects[0].stamp > self.last
            if ahead or len(self.suspects) > 1:
                self._accept_jump()
            else:
                self._drop_suspects()

    def join(self, epoch: int) -> None:
        """Follow the other stream into its epoch, with any stamp."""
        self.restart(epoch)
        suspects, self.suspects = self.suspects, []
        for frame in suspects:
            self._place(frame)

    def note_decided(self, frame: _Frame) -> None:
        """Take note that a frame was paired or dropped."""
        self.queued -= 1
        if frame.epoch == self.epoch and (self._decided is None or frame.stamp > self._decided):
            self._decided = frame.stamp

    def earliest(self, minimum_interval: int) -> tuple[float, float]:
        """Return the position of the next frame, or the earliest that it can have."""
        if self.waiting:
            return self.waiting[0].position
        if self.last is None:
            return self.epoch, -math.inf
        return self.epoch, self.last + self.offset + minimum_interval

    def _place(self, frame: _Frame) -> None:
        frame.epoch, stamp = self.epoch, frame.stamp
        if self.last is None or (stamp > self.last and not self._is_far(stamp)):
            self._drop_suspects()
            self._append(frame)
        elif stamp == (self.suspects[-1].stamp if self.suspects else self.last):
            frame.discard("duplicate")
        elif stamp > self.last or stamp in self._recent:
            self._suspect(frame)
        elif stamp > (min(self._recent) if self._decided is None else self._decided):
            self._sort_in(frame)
        elif stamp > min(self._recent):
            self._discard_late(frame)
        else:
            self._suspect(frame)

    def _discard_late(self, frame: _Frame) -> None:
        """Drop a frame that is out of order; follow the stream when more than a queue of them are.

        Two cameras that share a clock can both be far ahead for a moment: without this, all
        frames would be out of order until that time has come.
        """
        self._late += 1
        if self._late <= self._queue_size:
            frame.discard("out_of_order")
            return
        self._drop_suspects()
        self.jumps += 1
        self.restart(self.epoch + 1)
        self._place(frame)

    def _is_far(self, stamp: int) -> bool:
        """Return whether a stamp is further ahead than any pause of a camera."""
        if self.last is None or len(self._intervals) < _INTERVALS_NEEDED:
            return False
        return stamp - self.last > _FAR_INTERVALS * statistics.median_low(self._intervals)

    def _append(self, frame: _Frame) -> None:
        if self.last is not None:
            self._intervals.append(frame.stamp - self.last)
        self.last, self._late = frame.stamp, 0
        self._recent.append(frame.stamp)
        self.waiting.append(frame)

    def _sort_in(self, frame: _Frame) -> None:
        """Put a frame that is out of order in its place.

        A frame with a later stamp that came more than a queue of frames ago is an outlier.
        """
        self._late = 0
        self._requeue()
        after: list[_Frame] = []
        while self.waiting and self.waiting[-1].position > frame.position:
            after.append(self.waiting.pop())
        self.waiting.append(frame)
        self._recent.append(frame.stamp)
        while after:
            later = after.pop()
            if frame.number - later.number > self._queue_size:
                later.discard("outlier")
            else:
                self.waiting.append(later)
        self.last = self.waiting[-1].stamp

    def _suspect(self, frame: _Frame) -> None:
        self.suspects.append(frame)
        if len(self.suspects) >= min(_LASTING, self._queue_size):
            self._accept_jump()

    def _accept_jump(self) -> None:
        """Follow the suspected frames, in a new epoch if their stamps went back."""
        suspects, self.suspects = self.suspects, []
        if self.last is None or suspects[0].stamp > self.last:
            self.last = None
        elif self._decided is None and len(self._recent) < min(_LASTING, self._queue_size):
            self._drop_epoch()
        else:
            self.jumps += 1
            self.restart(self.epoch + 1)
        for frame in suspects:
            self._place(frame)

    def _drop_epoch(self) -> None:
        """Drop the frames of this epoch: it did not last, the stream begins behind them."""
        self._requeue()
        while self.waiting and self.waiting[-1].epoch == self.epoch:
            self.waiting.pop().discard("outlier")
        self.restart(self.epoch)

    def _drop_suspects(self) -> None:
        for frame in self.suspects:
            frame.discard("outlier")
        self.suspects.clear()


@dataclass(eq=False)
class _Frame:
    stream: _Stream
    epoch: int
    stamp: int
    item: Any
    number: int  # of the arrival in its stream

    @property
    def time(self) -> int:
        """Stamp with the stream's offset."""
        return self.stamp + self.stream.offset

    @property
    def position(self) -> tuple[int, int]:
        """Sort key of the frame in the sequence."""
        return self.epoch, self.time

    def drop(self, reason: str) -> None:
        """Count the frame, undecided until now, as dropped in its turn."""
        self.stream.note_decided(self)
        self.stream.dropped[reason] += 1

    def discard(self, reason: str) -> None:
        """Count the frame as dropped out of its turn: it decides nothing about others."""
        self.stream.queued -= 1
        self.stream.dropped[reason] += 1


class _Chain:
    """Undecided neighbours of alternating cameras with strictly shorter gaps (point 2)."""

    def __init__(self) -> None:
        self.frames: list[_Frame] = []

    def reach(self, tolerance: int) -> int:
        """Return the distance from the last frame below which a frame extends the chain."""
        if len(self.frames) == 1:
            return tolerance + 1
        return abs(self.frames[-1].time - self.frames[-2].time)

    def is_extended_by(self, frame: _Frame, tolerance: int) -> bool:
        last = self.frames[-1]
        near = abs(frame.time - last.time) < self.reach(tolerance)
        return frame.stream is not last.stream and near

    def close(self, reason: str) -> list[Pair]:
        """Pair the frames from the end; a frame that is alone is dropped for `reason`."""
        frames, self.frames = self.frames, []
        start = len(frames) % 2
        if start:
            frames[0].drop(reason if len(frames) == 1 else "unmatched")
        return [_to_pair(*frames[i : i + 2]) for i in range(start, len(frames), 2)]


def _to_pair(first: _Frame, second: _Frame) -> Pair:
    for frame in (first, second):
        frame.stream.note_decided(frame)
    if first.stream.name == "infrared":
        first, second = second, first
    return Pair(first.item, second.item, first.stamp, second.stamp)


def pair_streams(
    visible_stamps: Iterable[int], infrared_stamps: Iterable[int], **settings: int
) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """Pair two recorded streams.

    The frames are taken in the order of their stamps, epoch by epoch. If only
    one stream jumps back, its frames after the jump find no partner here; give
    such a recording to `TimePairer` in the order of arrival.

    Args:
        visible_stamps: in ns, in the order of the stream.
        infrared_stamps: in ns, in the order of the stream.
        settings: arguments of `TimePairer`; the queues are unlimited by default.

    Returns:
        Pairs of indices into the two streams, and drops by reason.
    """
    visible = [_integer("visible_stamps", stamp) for stamp in visible_stamps]
    infrared = [_integer("infrared_stamps", stamp) for stamp in infrared_stamps]
    settings.setdefault("queue_size", len(visible) + len(infrared) + 1)
    pairer: TimePairer[int] = TimePairer(**settings)
    sequence = heapq.merge(
        _positions(visible, 0, pairer.add_visible),
        _positions(infrared, pairer.offset_ns, pairer.add_infrared),
        key=operator.itemgetter(0),
    )
    pairs = [pair for _, add, stamp, index in sequence for pair in add(stamp, index)]
    pairs += pairer.flush()
    return [(pair.visible, pair.infrared) for pair in pairs], pairer.dropped


def _positions(stamps: list[int], offset: int, add: Any) -> Iterator[tuple[Any, Any, int, int]]:
    """Yield the order in which to take frames: a late one comes right after earlier arrivals."""
    epoch, latest = 0, -math.inf
    for index, stamp in enumerate(stamps):
        following = stamps[index : index + _LASTING]
        if stamp < latest and max(following) < latest:
            epoch, latest = epoch + 1, -math.inf
        latest = max(stamp, latest)
        yield (epoch, latest + offset), add, stamp, index


def _integer(name: str, value: int, minimum: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer of ns or items, got {value!r}") from None
    if minimum is not None and number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {number}")
    return number
