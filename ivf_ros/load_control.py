"""Load control: choose how much is computed for each pair, so that the node keeps up.

Times and costs in, levels out: no clock, no lock, no thread, no ROS.

- The *cost* of a level is the mean time that the worker takes for a pair, decode to publish.
  Utilization is cost times input rate, divided by the interval of the pairs that are taken.
- A step down needs a utilization above 0.9 for a second. It leads to the first lower level
  that is predicted to fit, which at a gross overload is several levels away.
- A step up needs a higher level that is predicted to fit into 0.7, for three seconds. If it
  has to be undone within ten seconds, the next one waits twice as long, up to a minute.
- A prediction is the cost that the level had when it was last in use, times the present
  slowness of the machine: the cost of the present level, relative to its own at that time.
  The cost of a level that was not in use lately is interpolated between the levels that were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

__all__ = ["TOO_HIGH", "Level", "LoadControl", "levels_below"]

TOO_HIGH = 0.9
"""Utilization above which the machine does not keep up."""

_LOW_ENOUGH = 0.7
_SECONDSTOO_HIGH = 1.0
_PATIENCE_SECONDS, _LONGEST_PATIENCE_SECONDS = 3.0, 60.0
_TRIAL_SECONDS = 10.0
_LEARNING_SECONDS = 2.0
_REMEMBERED_PATIENCES = 10  # duration for which a cost is believed, in units of the patience
_WINDOW_SECONDS = 2.0
_LEAST_PAIRS = 3
_MASK_SHARE = 0.5  # of the work of a pair, until it was measured
_MASK_FACTORS = (2, 4)
_SCALES = (0.75, 0.5)
_SMALLEST_SCALE = 0.25
_PAIR_INTERVALS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Level:
    """Extent of the computation.

    Attributes:
        mask_interval: masks are computed on one pair in so many of those that are fused.
        scale: factor of height and width of the images that the model receives.
        pair_interval: one pair in so many is fused.
    """

    mask_interval: int = 1
    scale: float = 1.0
    pair_interval: int = 1

    @property
    def work(self) -> float:
        """Work of a fused pair, relative to one with a mask at full size."""
        return self.scale**2 * (1 - _MASK_SHARE + _MASK_SHARE / self.mask_interval)

    def __str__(self) -> str:
        parts = []
        if self.mask_interval > 1:
            parts.append(f"masks on one pair in {self.mask_interval}")
        if self.scale < 1:
            parts.append(f"fusion at {self.scale:.4g} of the image size")
        if self.pair_interval > 1:
            parts.append(f"one pair in {self.pair_interval} fused")
        return ", ".join(parts) or "each pair at full quality"


def levels_below(highest: Level, *, masks: bool) -> tuple[Level, ...]:
    """Return the levels from a highest one down, in the order in which they are used.

    Args:
        highest: first level.
        masks: whether masks are computed at all; otherwise fewer of them save nothing.
    """
    levels = [highest]
    if masks:
        for factor in _MASK_FACTORS:
            levels.append(replace(highest, mask_interval=highest.mask_interval * factor))
    for share in _SCALES:
        scale = max(highest.scale * share, _SMALLEST_SCALE)
        if scale < levels[-1].scale:
            levels.append(replace(levels[-1], scale=scale))
    for factor in _PAIR_INTERVALS:
        levels.append(replace(levels[-1], pair_interval=highest.pair_interval * factor))
    return tuple(levels)


@dataclass(frozen=True)
class _Learned:
    """Cost of a level in seconds at slowness 1, and the time when it was last in use."""

    cost: float
    last_used: float


class LoadControl:
    """Choice of a level from the arrivals of pairs and the time that each one takes.

    All times are seconds of one clock that never goes back.

    Args:
        levels: levels from the highest to the lowest; a single one is never left.

    Attributes:
        index: index of the present level.
        levels: see `Args`.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        self.index = 0
        self._arrivals: deque[float] = deque()
        self._replaced: deque[float] = deque()
        self._costs: deque[tuple[float, float, bool]] = deque()  # time, seconds, with mask
        self._since_taken = 0
        self._last_taken = float("-inf")
        self._last_output = float("-inf")
        self._learned: dict[tuple[int, float], _Learned] = {}
        self._slowness = 1.0
        self._entered = 0.0
        self._trial_since: float | None = None  # time of a step up that is not proven yet
        self._patience = _PATIENCE_SECONDS
        self._high_since: float | None = None
        self._low_since: float | None = None

    @property
    def level(self) -> Level:
        """Present level."""
        return self.levels[self.index]

    # What happens

    def arrived(self, now: float) -> bool:
        """Count a pair that arrives.

        Args:
            now: time of the arrival.

        Returns:
            Whether to take it; the pairs that are taken are evenly spaced.
        """
        self._arrivals.append(now)
        self._since_taken += 1
        if self._since_taken < self.level.pair_interval:
            return False
        self._since_taken = 0
        self._last_taken = now
        return True

    def replaced(self, now: float) -> None:
        """Count a pair that was taken and replaced by a newer one before its turn.

        Args:
            now: time of the replacement.
        """
        self._replaced.append(now)

    def processed(self, now: float, level: Level, seconds: float, *, masks: bool) -> None:
        """Take over the cost of a pair.

        Args:
            now: time at its end.
            level: level that was in force at its start.
            seconds: time from decode to publish.
            masks: whether its mask was computed.
        """
        self._last_output = now
        if level == self.level:
            self._costs.append((now, seconds, masks))
            oldest = now - _WINDOW_SECONDS
            while self._costs[0][0] < oldest and len(self._costs) > self._least_pairs:
                self._costs.popleft()

    def hold(self, now: float, arrival: float) -> float:
        """Return the seconds to wait before a pair without a mask is published.

        Where masks are computed on some of the pairs only, those take longer. The others
        are held back so that outputs are evenly spaced, but by at most the difference, and
        not longer than until the next pair arrives.

        Args:
            now: present time, when the pair is ready.
            arrival: time at which it arrived.
        """
        masked, plain = self._costs_by_kind()
        rate = self.input_hz(now)
        unknown = masked is None or plain is None or rate == 0
        if unknown or self.index == 0 or self._last_taken > arrival:
            return 0.0
        assert masked is not None
        assert plain is not None
        due = min(self._last_output, arrival) + self.level.pair_interval / rate
        return max(min(due - now, masked - plain), 0.0)

    # What is known

    def input_hz(self, now: float) -> float:
        """Return the rate at which pairs arrive, over the last two seconds or three pairs.

        Args:
            now: present time.
        """
        while len(self._arrivals) > _LEAST_PAIRS and self._arrivals[0] < now - _WINDOW_SECONDS:
            self._arrivals.popleft()
        if len(self._arrivals) < 2:
            return 0.0
        span, intervals = self._arrivals[-1] - self._arrivals[0], len(self._arrivals) - 1
        mean = span / intervals
        silence = max(now - self._arrivals[-1] - mean, 0.0)
        return intervals / max(span + silence, 1e-6)

    def replaced_share(self, now: float) -> float:
        """Return the share of the arrivals of the last two seconds that were replaced.

        Args:
            now: present time.
        """
        oldest = now - _WINDOW_SECONDS
        while self._replaced and self._replaced[0] < oldest:
            self._replaced.popleft()
        recent = sum(time >= oldest for time in self._arrivals)
        return len(self._replaced) / recent if recent else 0.0

    def cost(self, index: int | None = None) -> float | None:
        """Return the time for a pair in seconds, measured or predicted; None if unknown.

        Args:
            index: index of a level; by default the present one.
        """
        if index is None or index == self.index:
            measured = self._measured()
            if measured is not None:
                return measured
        level = self.levels[self.index if index is None else index]
        learned = self._learned.get((level.mask_interval, level.scale))
        known = self._interpolated(level.work) if learned is None else learned.cost
        return None if known is None else known * self._slowness

    def utilization(self, now: float, index: int | None = None) -> float | None:
        """Return the share of the time that the pairs of a level take; None if unknown.

        Args:
            now: present time.
            index: index of a level; by default the present one.
        """
        cost = self.cost(index)
        if cost is None:
            return None
        level = self.levels[self.index if index is None else index]
        return cost * self.input_hz(now) / level.pair_interval

    # What to do

    def target(self, now: float) -> int:
        """Return the index of the level that should be in force; call it regularly.

        Args:
            now: present time.
        """
        measured = self._measured()
        if measured is not None:
            self._learn(now, measured)
            utilization = self.utilization(now)
            assert utilization is not None
            if self.index + 1 < len(self.levels) and utilization > TOO_HIGH:
                self._low_since = None
                self._high_since = now if self._high_since is None else self._high_since
                held = now - self._high_since >= _SECONDSTOO_HIGH
                return self._lower(now) if held else self.index
        self._high_since = None
        if self._trial_since is not None and now - self._trial_since > _TRIAL_SECONDS:
            self._trial_since, self._patience = None, _PATIENCE_SECONDS
        higher = self._higher(now)
        if higher == self.index:
            self._low_since = None
            return self.index
        self._low_since = now if self._low_since is None else self._low_since
        return higher if now - self._low_since >= self._patience else self.index

    def enter(self, index: int, now: float) -> None:
        """Put a level in force.

        Args:
            index: index of the level.
            now: present time.
        """
        if index < self.index:
            self._trial_since = now
        elif index > self.index and self._trial_since is not None:
            self._trial_since = None
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE_SECONDS)
        self._start(index, now)

    def set_levels(self, levels: Sequence[Level], now: float) -> None:
        """Replace the levels; the one most like the present level comes into force.

        Args:
            levels: levels from the highest to the lowest.
            now: present time.
        """
        present = self.level
        self.levels = tuple(levels)
        self._start(self.most_like(present, levels), now)

    @staticmethod
    def most_like(present: Level, levels: Sequence[Level]) -> int:
        """Return the index of the first level that needs at most the work of another one.

        Args:
            present: the other level.
            levels: levels from the highest to the lowest.
        """
        load = present.work / present.pair_interval
        fitting = (i for i, x in enumerate(levels) if x.work / x.pair_interval <= load * 1.001)
        return next(fitting, len(levels) - 1)

    def _start(self, index: int, now: float) -> None:
        """Begin to measure a level."""
        self.index = index
        self._entered = now
        self._costs.clear()
        self._high_since = self._low_since = None

    @property
    def _least_pairs(self) -> int:
        """Smallest number of costs that says something about the present level."""
        return max(_LEAST_PAIRS, self.level.mask_interval + 1)

    def _measured(self) -> float | None:
        """Return the mean cost of the present level, without the longest of each kind."""
        if len(self._costs) < self._least_pairs:
            return None
        masked, plain = self._costs_by_kind()
        if masked is None or plain is None:
            return masked if plain is None else plain
        interval = self.level.mask_interval
        return (masked + (interval - 1) * plain) / interval

    def _costs_by_kind(self) -> tuple[float | None, float | None]:
        """Return the mean costs of pairs with and without a mask."""
        masked = _trimmed_mean([seconds for _, seconds, masks in self._costs if masks])
        return masked, _trimmed_mean([seconds for _, seconds, masks in self._costs if not masks])

    def _learn(self, now: float, measured: float) -> None:
        """Compare the measured cost with the level's own, or take it over at first."""
        key = self.level.mask_interval, self.level.scale
        learned = self._learned.get(key)
        if learned is None or now - self._entered < _LEARNING_SECONDS:
            learned = _Learned(measured / self._slowness, now)
        self._slowness = measured / learned.cost
        self._learned[key] = replace(learned, last_used=now)
        oldest = now - _REMEMBERED_PATIENCES * self._patience
        self._learned = {k: x for k, x in self._learned.items() if x.last_used >= oldest}

    def _interpolated(self, work: float) -> float | None:
        """Return the cost at slowness 1 for an amount of work, from the levels in use so far."""
        known = sorted(
            (Level(interval, scale).work, learned.cost)
            for (interval, scale), learned in self._learned.items()
        )
        less = next((x for x in reversed(known) if x[0] <= work), None)
        more = next((x for x in known if x[0] > work), None)
        if less is not None and more is not None:
            share = (work - less[0]) / (more[0] - less[0])
            return less[1] + share * (more[1] - less[1])
        nearest = less or more
        return None if nearest is None else nearest[1] * work / nearest[0]

    def _lower(self, now: float) -> int:
        """Return the index of the first lower level that is predicted to fit."""
        for index in range(self.index + 1, len(self.levels)):
            utilization = self.utilization(now, index)
            if utilization is not None and utilization <= TOO_HIGH:
                return index
        return len(self.levels) - 1

    def _higher(self, now: float) -> int:
        """Return the index of the highest level that is predicted to fit, or the present one."""
        for index in range(self.index):
            utilization = self.utilization(now, index)
            if utilization is not None and utilization < _LOW_ENOUGH:
                return index
        return self.index


def _trimmed_mean(values: Sequence[float]) -> float | None:
    """Return the mean without the largest of three or more values; None without values."""
    if not values:
        return None
    kept = sorted(values)[:-1] if len(values) >= _LEAST_PAIRS else values
    return fmean(kept)
