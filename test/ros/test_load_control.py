"""Load control in simulated time: a worker, a mailbox of one place, costs that are given."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivf_ros.load_control import Level, LoadControl, levels_below

ALL = levels_below(Level(), masks=True)


@dataclass
class Simulation:
    """Cameras, mailbox and worker around a `LoadControl`, as in the node.

    Attributes:
        seconds: cost of a pair by time, level, and whether its mask is computed.
        rate: pairs a second by time.
    """

    seconds: Callable[[float, Level, bool], float]
    rate: Callable[[float], float]
    control: LoadControl = field(default_factory=lambda: LoadControl(ALL))
    outputs: list[tuple[float, float, bool]] = field(default_factory=list)  # time, stamp, mask
    changes: list[tuple[float, int]] = field(default_factory=list)
    arrived: int = 0
    skipped: int = 0
    replaced: int = 0

    def run(self, end: float) -> Simulation:
        """Run from time 0 to `end`."""
        order = itertools.count()
        events: list[tuple[float, int, str]] = [(0.0, next(order), "pair")]
        heapq.heappush(events, (0.01, next(order), "check"))
        waiting: float | None = None
        busy = mask = False
        level, stamp, cost, fused = self.control.level, 0.0, 0.0, 0
        while events[0][0] < end:
            now, _, event = heapq.heappop(events)
            if event == "pair":
                heapq.heappush(events, (now + 1 / self.rate(now), next(order), "pair"))
                self.arrived += 1
                if not self.control.arrived(now):
                    self.skipped += 1
                else:
                    if waiting is not None:
                        self.control.replaced(now)
                        self.replaced += 1
                    waiting = now
            elif event == "check":
                heapq.heappush(events, (now + 0.5, next(order), "check"))
                index = self.control.target(now)
                if index != self.control.index:
                    self.control.enter(index, now)
                    self.changes.append((now, index))
                    fused = 0
            elif event == "ready":
                hold = self.control.hold(now, stamp)
                if mask or level != self.control.level:
                    hold = 0.0
                heapq.heappush(events, (now + hold, next(order), "done"))
            else:
                busy = False
                self.control.processed(now, level, cost, masks=mask)
                self.outputs.append((now, stamp, mask))
            if not busy and waiting is not None:
                level, stamp, waiting, busy = self.control.level, waiting, None, True
                mask = fused % level.mask_interval == 0
                fused += 1
                cost = self.seconds(now, level, mask)
                heapq.heappush(events, (now + cost, next(order), "ready"))
        return self

    def unevenness(self, since: float, *, stamps: bool) -> float:
        """Standard deviation over mean of the intervals between outputs, or their stamps."""
        times = [stamp if stamps else now for now, stamp, _ in self.outputs if now >= since]
        intervals = [b - a for a, b in pairwise(times)]
        return pstdev(intervals) / fmean(intervals)


def costs(at_full: float, head: float = 0.4, fixed: float = 0.004) -> Callable[..., float]:
    """Return the cost of a network: a fixed part, and one by pixels and masks."""

    def seconds(_now: float, level: Level, mask: bool) -> float:
        return fixed + at_full * level.scale**2 * (1.0 if mask else 1.0 - head)

    return seconds


def test_levels_go_down_in_the_documented_order() -> None:
    assert [str(level) for level in ALL[:6]] == [
        "each pair at full quality",
        "masks on one pair in 2",
        "masks on one pair in 4",
        "masks on one pair in 4, fusion at 0.75 of the image size",
        "masks on one pair in 4, fusion at 0.5 of the image size",
        "masks on one pair in 4, fusion at 0.5 of the image size, one pair in 2 fused",
    ]
    loads = [level.work / level.pair_interval for level in ALL]
    assert loads == sorted(loads, reverse=True)


def test_levels_start_from_the_users_and_end_at_a_quarter() -> None:
    levels = levels_below(Level(mask_interval=3, scale=0.4), masks=True)
    assert levels[0] == Level(3, 0.4)
    assert min(level.mask_interval for level in levels) == 3
    assert {level.scale for level in levels} == {0.4, 0.4 * 0.75, 0.25}
    assert all(level.mask_interval == 1 for level in levels_below(Level(), masks=False))


def test_node_that_keeps_up_stays_at_full_quality() -> None:
    done = Simulation(costs(0.02), lambda now: 30.0).run(60)
    assert not done.changes
    assert len(done.outputs) == pytest.approx(done.arrived, abs=1)
    assert all(mask for *_, mask in done.outputs)


@settings(deadline=None, max_examples=60)
@given(
    cost=st.floats(0.005, 2.0),
    head=st.floats(0.05, 0.7),
    rate=st.floats(2.0, 60.0),
)
def test_any_constant_load_ends_at_a_level_that_fits(cost: float, head: float, rate: float) -> None:
    done = Simulation(costs(cost, head), lambda now: rate).run(240)
    last = [change for change in done.changes if change[0] > 120]
    ups = sum(b < a for (_, a), (_, b) in pairwise([(0.0, 0), *done.changes]))
    assert ups <= 4, done.changes
    assert len(last) <= 4, done.changes
    utilization = done.control.utilization(240)
    assert utilization is not None
    assert utilization <= 0.9 or done.control.index == len(ALL) - 1


@settings(deadline=None, max_examples=30)
@given(cost=st.floats(0.005, 1.0), rate=st.floats(5.0, 60.0), jitter=st.floats(0.0, 0.5))
def test_outputs_are_in_order_and_none_is_older_than_the_mailbox(
    cost: float, rate: float, jitter: float
) -> None:
    noise = itertools.cycle((0.0, 1.0, 0.3, 0.7, 0.1))
    base = costs(cost)
    done = Simulation(
        lambda now, level, mask: base(now, level, mask) * (1 + jitter * next(noise)),
        lambda now: rate,
    ).run(60)
    stamps = [stamp for _, stamp, _ in done.outputs]
    assert stamps == sorted(set(stamps))
    assert 0 <= done.arrived - done.skipped - done.replaced - len(done.outputs) <= 2


@pytest.mark.parametrize("cost", [0.06, 0.1, 0.3, 1.0])
def test_spacing_is_steadier_than_at_full_quality(cost: float) -> None:
    full = Simulation(costs(cost), lambda now: 30.0, LoadControl(ALL[:1])).run(60)
    adaptive = Simulation(costs(cost), lambda now: 30.0).run(60)
    assert adaptive.unevenness(30, stamps=True) < 1e-6
    assert full.unevenness(30, stamps=True) > adaptive.unevenness(30, stamps=True)
    assert len(adaptive.outputs) > len(full.outputs)


def test_pairs_without_a_mask_are_held_back_for_even_outputs() -> None:
    """Hold outputs at one interval while the pair with a mask, the slowest, still fits."""
    done = Simulation(costs(0.2), lambda now: 30.0).run(60)
    assert done.control.level == Level(4, 0.5, 2)
    assert done.unevenness(30, stamps=False) < 0.02
    slowest = 0.004 + 0.2 / 4
    assert max(now - stamp for now, stamp, _ in done.outputs if now > 30) < slowest + 0.001


def test_returns_to_full_quality_when_the_rate_falls() -> None:
    done = Simulation(costs(0.1), lambda now: 30.0 if now < 30 else 4.0).run(60)
    assert done.control.index == 0
    assert next(now for now, index in done.changes if index == 0) < 40


def test_returns_to_full_quality_when_the_input_ends() -> None:
    control = LoadControl(ALL)
    Simulation(costs(0.1), lambda now: 30.0, control).run(20)
    assert control.index > 0
    for tick in range(20):
        index = control.target(20 + tick)
        if index != control.index:
            control.enter(index, 20 + tick)
    assert control.index == 0
    assert control.input_hz(60) < 2


def test_returns_to_full_quality_when_the_machine_gets_faster() -> None:
    slow, quick = costs(0.1), costs(0.01)
    done = Simulation(
        lambda now, *given: (slow if now < 30 else quick)(now, *given), lambda now: 30.0
    ).run(90)
    assert done.control.index == 0


def test_failed_steps_up_become_rare() -> None:
    """Let the higher levels cost far more than any prediction says, for as long as they last."""
    seconds = lambda now, level, mask: 0.3 if level == ALL[0] else 0.005  # noqa: E731
    done = Simulation(seconds, lambda now: 30.0).run(1200)
    ups = [now for now, index in done.changes if index == 0]
    assert 1 <= len(ups) <= 12
    gaps = [b - a for a, b in pairwise(ups)]
    assert gaps == sorted(gaps) or min(gaps[-2:]) > 100


def test_one_slow_pair_changes_nothing() -> None:
    hiccups = itertools.cycle([1.0, *[0.02] * 400])
    done = Simulation(lambda *_: next(hiccups), lambda now: 30.0).run(60)
    assert not done.changes


def test_changed_levels_keep_the_load() -> None:
    control = LoadControl(ALL)
    control.enter(4, 0.0)
    control.set_levels(levels_below(Level(scale=0.5), masks=True), 1.0)
    assert control.level == Level(4, 0.5)
    control.set_levels(ALL[:1], 2.0)
    assert control.level == Level()
