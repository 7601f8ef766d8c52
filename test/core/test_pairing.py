"""Tests of the pairing policy against a brute-force reference, and of its latency."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ivf_core.pairing import TimePairer, pair_streams

UNLIMITED = 10_000

# A busy machine must not fail the tests.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


# Helpers ---------------------------------------------------------------------------------


def feed(pairer, events):
    """Feed ("v" | "i", stamp) events; an item is the number of the event in its stream."""
    numbers = Counter()
    pairs = []
    for side, stamp in events:
        add = pairer.add_visible if side == "v" else pairer.add_infrared
        pairs += add(stamp, numbers[side])
        numbers[side] += 1
        assert_accounts_balance(pairer)
    return pairs


def assert_accounts_balance(pairer):
    for side in ("visible", "infrared"):
        dropped = sum(n for reason, n in pairer.dropped.items() if reason.endswith(f"_{side}"))
        assert pairer.received[side] == pairer.paired + dropped + pairer.queued[side]
        assert 0 <= pairer.queued[side] <= pairer.queue_size


def interleave(visible, infrared, order):
    """Merge two streams in a given order of turns; each keeps its own order."""
    streams = {"v": list(visible), "i": list(infrared)}
    events = []
    for side in itertools.chain((("v", "i")[turn] for turn in order), itertools.cycle("vi")):
        if not streams["v"] and not streams["i"]:
            return events
        if streams[side]:
            events.append((side, streams[side].pop(0)))
    raise AssertionError("unreachable")


def stamps_of(pairs):
    return [(pair.visible_stamp, pair.infrared_stamp) for pair in pairs]


def reference(visible, infrared, tolerance, offset=0):
    """Apply the policy literally to sorted streams: nearest first, free, not crossing."""
    candidates = sorted(
        (abs(v - i - offset), v + i + offset, v, i)
        for v in visible
        for i in infrared
        if abs(v - i - offset) <= tolerance
    )
    chosen = []
    for _, _, v, i in candidates:
        if all((v < w and i < j) or (v > w and i > j) for w, j in chosen):
            chosen.append((v, i))
    return sorted(chosen)


sorted_stamps = st.lists(st.integers(-60, 60), max_size=20, unique=True).map(sorted)
turns = st.lists(st.integers(0, 1), max_size=40)
tolerances = st.integers(0, 30)
offsets = st.integers(-20, 20)


@st.composite
def spaced_stamps(draw, interval):
    """Draw stamps of a camera whose frames are at least `interval` apart."""
    gaps = draw(st.lists(st.integers(interval, 3 * interval), max_size=12))
    return list(itertools.accumulate(gaps, initial=draw(st.integers(-20, 20))))


@st.composite
def epochs(draw):
    """Draw the epochs of a stream: each lasts, and repeats the one before or is before it."""
    parts = []
    for n in range(draw(st.integers(1, 3))):
        stamps = draw(st.lists(st.integers(0, 40), min_size=3, max_size=20, unique=True))
        new = [1000 - 50 * n + stamp for stamp in sorted(stamps)]
        parts.append(parts[-1] if parts and draw(st.booleans()) else new)
    return parts


def is_late_in(stamps, index):
    return stamps[index] < max(stamps[:index], default=-math.inf)


# Properties ------------------------------------------------------------------------------


STAMPS = st.sampled_from((0, 2_000, 10**15, -(10**6), -200, -40, 0, 0, 50, 200, 6_000))


@settings(unhurried, max_examples=1000)
@given(
    st.integers(0, 12),
    st.lists(st.tuples(st.sampled_from("vib"), STAMPS, st.booleans()), max_size=25),
    st.sampled_from((1, 2, 4, 10)),
)
def test_good_frames_pair_again_after_any_stamps(before, hostile, queue_size):
    """No stamps, also of both cameras at once, keep the good ones that follow from pairing."""
    pairer = TimePairer(20, queue_size)
    stamps = itertools.count(10**9, 33)
    feed(pairer, [(side, stamp) for stamp in itertools.islice(stamps, before) for side in "vi"])
    for sides, distance, absolute in hostile:
        stamp = distance if absolute else next(stamps) + distance
        feed(pairer, [(side, stamp) for side in {"b": "vi"}.get(sides, sides)])
    # Each camera may need its queue to find that it has gone back, and the other one to follow.
    for stamp in itertools.islice(stamps, 2 * queue_size + 6):
        pairs = feed(pairer, [("v", stamp), ("i", stamp)])
    assert [pair.visible_stamp for pair in pairs] == [stamp]


@unhurried
@given(sorted_stamps, sorted_stamps, tolerances, offsets, turns)
def test_agrees_with_the_reference_at_any_interleaving(visible, infrared, tolerance, offset, order):
    pairer = TimePairer(tolerance, UNLIMITED, offset)
    pairs = feed(pairer, interleave(visible, infrared, order)) + pairer.flush()
    assert stamps_of(pairs) == reference(visible, infrared, tolerance, offset)
    assert_accounts_balance(pairer)
    assert pairer.queued == {"visible": 0, "infrared": 0}


@unhurried
@given(st.data(), st.integers(1, 12), tolerances, offsets, turns)
def test_interval_assumption_changes_no_pair(data, interval, tolerance, offset, order):
    visible = data.draw(spaced_stamps(interval))
    infrared = data.draw(spaced_stamps(interval))
    pairer = TimePairer(tolerance, UNLIMITED, offset, minimum_interval_ns=interval)
    pairs = feed(pairer, interleave(visible, infrared, order)) + pairer.flush()
    assert stamps_of(pairs) == reference(visible, infrared, tolerance, offset)


@unhurried
@given(sorted_stamps, sorted_stamps, tolerances)
def test_no_two_frames_are_nearer_to_each_other_than_to_their_partners(
    visible, infrared, tolerance
):
    indices, _ = pair_streams(visible, infrared, tolerance_ns=tolerance)
    pairs = [(visible[i], infrared[j]) for i, j in indices]
    for v, i in itertools.product(visible, infrared):
        if abs(v - i) > tolerance or (v, i) in pairs:
            continue
        in_the_way = [(w, j) for w, j in pairs if not (w < v and j < i) and not (w > v and j > i)]
        assert any(abs(w - j) <= abs(v - i) for w, j in in_the_way)


@unhurried
@given(epochs(), epochs(), tolerances, turns)
def test_jumps_pair_epoch_by_epoch_at_any_interleaving(visible, infrared, tolerance, order):
    pairer = TimePairer(tolerance, UNLIMITED)
    streams = [list(itertools.chain(*parts)) for parts in (visible, infrared)]
    pairs = feed(pairer, interleave(*streams, order)) + pairer.flush()
    expected = [
        pair for v, i in zip(visible, infrared, strict=False) for pair in reference(v, i, tolerance)
    ]
    assert stamps_of(pairs) == expected
    assert pairer.queued == {"visible": 0, "infrared": 0}
    assert pairer.jumps == {"visible": len(visible) - 1, "infrared": len(infrared) - 1}


@unhurried
@given(sorted_stamps, sorted_stamps, tolerances, st.permutations(range(20)), st.integers(0, 4))
def test_disorder_before_the_other_stream_comes_changes_no_pair(
    visible, infrared, tolerance, random_order, reach
):
    """Nothing is decided while one stream alone is there, so all late frames are sorted in.

    A frame that is before the first one of its stream would be a suspected jump.
    """
    keys = {stamp: n and n + reach * random_order[n] / 20 for n, stamp in enumerate(visible)}
    pairer = TimePairer(tolerance, UNLIMITED)
    events = [("v", stamp) for stamp in sorted(visible, key=keys.get)]
    pairs = feed(pairer, events + [("i", stamp) for stamp in infrared]) + pairer.flush()
    assert stamps_of(pairs) == reference(visible, infrared, tolerance)
    assert pairer.jumps == {"visible": 0, "infrared": 0}


@unhurried
@given(st.data(), st.integers(0, 40), turns)
def test_disorder_costs_at_most_the_late_frames(data, phase, order):
    """Frames of equal periods lose no partner to frames out of order in either stream."""
    streams = []
    for shift in (0, phase):
        stamps = [100 * n + shift for n in range(30)]
        for n in data.draw(st.sets(st.integers(0, 28).map(lambda n: n // 2 * 2), max_size=5)):
            stamps[n : n + 2] = stamps[n + 1], stamps[n]
        streams.append(stamps)
    pairer = TimePairer(40, queue_size=UNLIMITED)
    pairs = feed(pairer, interleave(*streams, order)) + pairer.flush()
    late = sum(is_late_in(stamps, n) for stamps in streams for n in range(30))
    assert len(pairs) >= 30 - late
    assert stamps_of(pairs) == sorted(stamps_of(pairs))
    assert all(i - v == phase for v, i in stamps_of(pairs))
    assert set(pairer.dropped) <= {
        f"{reason}_{stream}"
        for reason in ("out_of_order", "outlier", "unmatched")
        for stream in ("visible", "infrared")
    }


kinds = ["v", "i"] * 8 + ["tolerance_ns", "offset_ns", "minimum_interval_ns", "reset", "flush"]
events_of_any_kind = st.lists(
    st.tuples(st.sampled_from(kinds), st.integers(0, 40)), min_size=20, max_size=40
)


@settings(unhurried, max_examples=1000)
@given(events_of_any_kind, st.integers(1, 5), st.sampled_from([0, 4, 20]))
def test_frames_of_any_input_are_used_once_and_accounted_for(events, queue_size, pace):
    """Invariants hold with tiny queues, wrong intervals, jumps and changing settings."""
    pairer = TimePairer(10, queue_size)
    numbers = Counter()
    pairs = []
    ends = 0
    for time, (kind, value) in zip(itertools.count(0, pace), events, strict=False):
        new = []
        if kind in "vi":
            add = pairer.add_visible if kind == "v" else pairer.add_infrared
            new = add(time + value, numbers[kind])
            numbers[kind] += 1
        elif kind == "flush":
            new = pairer.flush()
        elif kind == "reset":
            pairer.reset()
        else:
            setattr(pairer, kind, value)
        for pair in new:
            difference = pair.visible_stamp - pair.infrared_stamp - pairer.offset_ns
            assert abs(difference) <= pairer.tolerance_ns
        pairs += new
        assert_accounts_balance(pairer)
        assert pairer.paired == len(pairs)
        if kind in ("flush", "reset"):
            ends += 1
            assert pairer.queued == {"visible": 0, "infrared": 0}
    for side in ("visible", "infrared"):
        assert len({getattr(pair, side) for pair in pairs}) == len(pairs)
        stamps = [getattr(pair, f"{side}_stamp") for pair in pairs]
        steps_back = sum(later <= earlier for earlier, later in itertools.pairwise(stamps))
        assert steps_back <= ends + sum(pairer.jumps.values())


@unhurried
@given(sorted_stamps, sorted_stamps, tolerances)
def test_pair_streams_counts_every_frame(visible, infrared, tolerance):
    indices, dropped = pair_streams(visible, infrared, tolerance_ns=tolerance)
    assert dropped.get("unmatched_visible", 0) == len(visible) - len(indices)
    assert dropped.get("unmatched_infrared", 0) == len(infrared) - len(indices)
    assert set(dropped) <= {"unmatched_visible", "unmatched_infrared"}


# Choice of the partner ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "infrared", "expected"),
    [
        pytest.param([0, 10], [9], [(10, 9)], id="the nearer of two visible frames gets it"),
        pytest.param([0, 10], [5], [(0, 5)], id="the earlier of two equally near"),
        pytest.param([5], [0, 10], [(5, 0)], id="the earlier of two equally near infrared"),
        pytest.param([0, 20, 40], [10, 30, 50], [(0, 10), (20, 30), (40, 50)], id="opposite phase"),
        pytest.param([0, 17, 30], [9, 24], [(17, 9), (30, 24)], id="paired from the nearest back"),
        pytest.param([0, 17], [9, 24], [(0, 9), (17, 24)], id="the loser takes its second choice"),
        pytest.param([0, 10], [11, 21], [(10, 11)], id="no pair around another pair"),
        pytest.param([0], [20], [(0, 20)], id="at the tolerance"),
        pytest.param([0], [21], [], id="beyond the tolerance"),
    ],
)
def test_partner(visible, infrared, expected):
    indices, _ = pair_streams(visible, infrared, tolerance_ns=20)
    assert [(visible[i], infrared[j]) for i, j in indices] == expected


def test_zero_tolerance_pairs_equal_stamps():
    assert pair_streams([0, 33, 66], [0, 34, 66], tolerance_ns=0)[0] == [(0, 0), (2, 2)]


def test_offset_is_added_to_infrared_stamps():
    """Infrared stamps are 7 before the visible ones of the same moment."""
    pairer = TimePairer(0, offset_ns=7)
    (pair,) = feed(pairer, [("i", 93), ("v", 100)])
    assert (pair.visible_stamp, pair.infrared_stamp) == (100, 93)


def test_pair_streams_takes_the_order_from_corrected_stamps():
    stamps = [33 * n for n in range(100)]
    indices, dropped = pair_streams(
        stamps, [s - 1000 for s in stamps], tolerance_ns=0, offset_ns=1000, queue_size=1
    )
    assert indices == [(n, n) for n in range(100)]
    assert dropped == {}


# Latency: the frame whose arrival returns the pair -------------------------------------------


def returned_at(events, **kwargs):
    """Return the stamps of the pairs that each event returned."""
    pairer = TimePairer(**{"tolerance_ns": 20, **kwargs})
    return [stamps_of(feed(pairer, [event])) for event in events]


def test_an_exact_pair_is_returned_at_once():
    events = [("v", 0), ("i", 0), ("i", 33), ("v", 33)]
    assert returned_at(events) == [[], [(0, 0)], [], [(33, 33)]]


def test_an_exact_pair_settles_everything_before_it():
    events = [("v", 0), ("i", 8), ("v", 10), ("i", 10)]
    assert returned_at(events) == [[], [], [], [(0, 8), (10, 10)]]


@pytest.mark.parametrize("first", ["v", "i"])
def test_an_inexact_pair_waits_for_the_next_frame_of_the_earlier_side(first):
    second = "i" if first == "v" else "v"
    pair = (0, 5) if first == "v" else (5, 0)
    for events in ([(first, 0), (second, 5), (first, 33)], [(second, 5), (first, 0), (first, 33)]):
        assert returned_at(events) == [[], [], [pair]]


@pytest.mark.parametrize("first", ["v", "i"])
def test_a_known_interval_makes_the_wait_unnecessary(first):
    second = "i" if first == "v" else "v"
    pair = (0, 16) if first == "v" else (16, 0)
    for events in ([(first, 0), (second, 16)], [(second, 16), (first, 0)]):
        assert returned_at(events, minimum_interval_ns=32) == [[], [pair]]
        assert returned_at(events, minimum_interval_ns=31) == [[], []]


def test_a_frame_without_partner_is_counted_with_the_next_pair():
    """Keep it until then: its partner may come late."""
    pairer = TimePairer(tolerance_ns=5)
    feed(pairer, [("v", 0), ("i", 6)])
    assert pairer.dropped == {}
    feed(pairer, [("v", 33), ("i", 33)])
    assert pairer.dropped == {"unmatched_visible": 1, "unmatched_infrared": 1}


def test_frames_without_partner_fill_the_queue_only():
    pairer = TimePairer(tolerance_ns=5, queue_size=3)
    assert feed(pairer, [e for n in range(10) for e in (("v", 33 * n), ("i", 33 * n + 16))]) == []
    assert pairer.dropped == {"unmatched_visible": 7, "unmatched_infrared": 7}


# Queues ----------------------------------------------------------------------------------


def test_a_stopped_camera_costs_only_unpaired_frames():
    pairer = TimePairer(tolerance_ns=10, queue_size=3)
    pairs = feed(pairer, [("v", 0), ("i", 4)] + [("i", 4 + 33 * n) for n in range(1, 10)])
    assert stamps_of(pairs) == [(0, 4)]
    assert pairer.dropped == {"queue_full_infrared": 6}
    assert pairer.queued == {"visible": 0, "infrared": 3}
    assert stamps_of(feed(pairer, [("v", 4 + 33 * 8)])) == [(268, 268)]


def test_a_camera_that_never_started_fills_the_queue_only():
    pairer = TimePairer(tolerance_ns=10, queue_size=3)
    assert feed(pairer, [("v", 33 * n) for n in range(10)]) == []
    assert pairer.dropped == {"queue_full_visible": 7}


def test_a_burst_after_a_pause_pairs_with_what_is_still_queued():
    pairer = TimePairer(tolerance_ns=50, queue_size=4)
    feed(pairer, [("v", 33 * n) for n in range(10)])
    pairs = feed(pairer, [("i", 33 * n) for n in range(10)])
    assert stamps_of(pairs) == [(33 * n, 33 * n) for n in range(6, 10)]


def test_repeated_stamps_are_counted():
    pairer = TimePairer(tolerance_ns=0)
    pairs = feed(pairer, [("v", 7), ("v", 7), ("i", 7), ("i", 7), ("i", 7), ("v", 8), ("i", 8)])
    assert stamps_of(pairs) == [(7, 7), (8, 8)]
    assert pairer.dropped == {"duplicate_visible": 1, "duplicate_infrared": 2}


# Time jumps ------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [0, 5, 40, 1000])
@pytest.mark.parametrize("lead", [-5, -1, 0, 1, 5])
def test_a_looping_bag_gives_all_pairs_in_every_loop(tolerance, lead):
    """One stream may be up to five frames ahead of the other when the bag starts again."""
    visible = [("v", 33 * n) for _ in range(3) for n in range(50)]
    infrared = [("i", 33 * n) for _ in range(3) for n in range(50)]
    if lead < 0:
        visible, infrared = infrared, visible
    ahead, visible = visible[: abs(lead)], visible[abs(lead) :]
    events = ahead + [
        event
        for pair in itertools.zip_longest(visible, infrared)
        for event in pair
        if event is not None
    ]
    pairer = TimePairer(tolerance)
    pairs = feed(pairer, events) + pairer.flush()
    assert stamps_of(pairs) == [(33 * n, 33 * n) for _ in range(3) for n in range(50)]
    assert pairer.dropped == {}
    assert pairer.jumps == {"visible": 2, "infrared": 2}


def test_a_frame_left_over_at_the_end_of_a_loop_is_counted_when_the_other_stream_continues():
    pairer = TimePairer(tolerance_ns=5)
    first = [(side, 33 * n) for n in range(3) for side in "vi"]
    feed(pairer, [*first, ("v", 99), ("v", 0), ("v", 33), ("v", 66)])
    assert pairer.dropped == {}
    assert stamps_of(feed(pairer, [("i", 33 * n) for n in range(3)])) == [
        (33 * n, 33 * n) for n in range(3)
    ]
    assert pairer.dropped == {"time_jump_visible": 1}


def test_a_camera_that_comes_late_after_a_restart_joins_at_once():
    pairer = TimePairer(tolerance_ns=0, queue_size=10)
    feed(pairer, [(side, n) for n in range(50) for side in "vi"])
    feed(pairer, [("v", n) for n in range(15)])
    pairs = feed(pairer, [("i", n) for n in range(15)])
    assert stamps_of(pairs) == [(n, n) for n in range(5, 15)]
    assert pairer.dropped == {
        "time_jump_visible": 1,
        "queue_full_visible": 4,
        "unmatched_infrared": 5,
    }


@pytest.mark.parametrize("step", [-100_000, -700, -40, 40, 700, 100_000])
@pytest.mark.parametrize("side", ["v", "i"])
def test_streams_pair_again_after_one_clock_was_set_and_set_back(step, side):
    """No pair is wrong while one clock is wrong, and pairs are complete again afterwards."""
    queue_size = 10
    pairer = TimePairer(tolerance_ns=3, queue_size=queue_size)
    pairs_at = []
    for n in range(300):
        shift = step if 100 <= n < 200 else 0
        for camera in "vi":
            stamp = 1_000_000 + 33 * n + (shift if camera == side else 0)
            pairs_at += [n] * len(feed(pairer, [(camera, stamp)]))
    assert set(range(99)) <= set(pairs_at)
    recovered = 200 + 2 * queue_size + (abs(step) // 33 if abs(step) < 1000 else 0)
    assert [n for n in pairs_at if n >= recovered] == list(range(recovered, 300))
    assert sum(pairer.jumps.values()) == (abs(step) > 33 * queue_size)


def test_one_camera_set_back_for_good_is_followed_by_the_other_one():
    pairer = TimePairer(tolerance_ns=0, queue_size=10)
    feed(pairer, [(side, 10_000 + n) for n in range(50) for side in "vi"])
    feed(pairer, [e for n in range(50) for e in (("v", n), ("i", 10_050 + n))])
    assert pairer.paired == 50
    pairs = feed(pairer, [(side, 50 + n) for n in range(50) for side in "vi"])
    assert stamps_of(pairs)[-39:] == [(n, n) for n in range(61, 100)]
    assert pairer.dropped["time_jump_visible"] > 0


# Frames out of order, and outliers ---------------------------------------------------------------

PERIOD = 33_000_000


def stream_with(changes, count=90):
    """Return events of two cameras at 30 Hz; `changes` gives stamps of RGB frames by index."""
    return [
        event
        for n in range(count)
        for event in (("v", changes.get(n, PERIOD * n)), ("i", PERIOD * n + 3_000_000))
    ]


def test_neighbours_in_the_wrong_order_are_sorted_in():
    pairer = TimePairer(tolerance_ns=20_000_000, minimum_interval_ns=15_000_000)
    swapped = {n: PERIOD * (21 - n) for n in (10, 11)}
    pairs = feed(pairer, stream_with(swapped))
    assert stamps_of(pairs) == [(PERIOD * n, PERIOD * n + 3_000_000) for n in range(90)]
    assert pairer.dropped == {}
    assert pairer.jumps == {"visible": 0, "infrared": 0}


def test_a_frame_behind_decided_ones_is_dropped_alone():
    pairer = TimePairer(tolerance_ns=20_000_000, minimum_interval_ns=15_000_000)
    late = [PERIOD * n for n in range(90)]
    late.insert(13, late.pop(10))
    pairs = feed(pairer, stream_with(dict(enumerate(late))))
    assert len(pairs) == 89
    assert pairer.dropped == {"unmatched_infrared": 1, "out_of_order_visible": 1}
    assert pairer.jumps == {"visible": 0, "infrared": 0}


@pytest.mark.parametrize("side", ["visible", "infrared"])
@pytest.mark.parametrize("every", [90, 18, 6])
@pytest.mark.parametrize(
    "outlier",
    [
        pytest.param(lambda n: 0, id="zero"),
        pytest.param(lambda n: -(10**15), id="long ago"),
        pytest.param(lambda n: PERIOD * (n + 12), id="12 frames ahead"),
        pytest.param(lambda n: PERIOD * (n + 60) + 5, id="2 s ahead"),
        pytest.param(lambda n: 10**15 + n, id="days ahead"),
        pytest.param(lambda n: 10**15 - PERIOD * n, id="days ahead, less and less"),
    ],
)
def test_an_outlier_costs_its_own_pair(side, every, outlier):
    """A stamp that lies among others may cost the pair that it lies at as well."""
    count = 180
    changes = {n: outlier(n) for n in range(5, count, every)}
    events = stream_with(changes, count)
    if side == "infrared":
        events = [({"v": "i", "i": "v"}[camera], stamp) for camera, stamp in events]
    pairer = TimePairer(tolerance_ns=20_000_000, minimum_interval_ns=15_000_000)
    pairs = feed(pairer, events) + pairer.flush()
    assert len(pairs) >= count - 2 * len(changes)
    if abs(outlier(0)) != 12 * PERIOD:
        assert len(pairs) == count - len(changes)
    assert stamps_of(pairs) == sorted(stamps_of(pairs))
    assert pairer.jumps == {"visible": 0, "infrared": 0}


def test_outliers_of_both_cameras_cost_their_pair_only():
    events = stream_with({})
    for n in (20, 21):
        events[n] = (events[n][0], 10**15)
    pairer = TimePairer(tolerance_ns=20_000_000)
    pairs = feed(pairer, events) + pairer.flush()
    assert len(pairs) == 89
    assert pairer.dropped == {"outlier_visible": 1, "outlier_infrared": 1}


@pytest.mark.parametrize("outlier", [0, 10**15])
def test_an_outlier_at_the_start_costs_its_pair(outlier):
    events = stream_with({0: outlier})
    pairer = TimePairer(tolerance_ns=20_000_000, minimum_interval_ns=15_000_000)
    pairs = feed(pairer, events) + pairer.flush()
    assert len(pairs) >= 89
    assert pairer.jumps == {"visible": 0, "infrared": 0}


def test_a_long_pause_loses_no_frame():
    """Hold the first frames after a pause back until it is certain that they are no outliers."""
    stamps = [PERIOD * n + (n >= 30) * 10**12 for n in range(60)]
    pairer = TimePairer(tolerance_ns=0)
    pairs_at = [
        n for n, stamp in enumerate(stamps) for _ in feed(pairer, [("v", stamp), ("i", stamp)])
    ]
    assert pairs_at == [*range(30), 32, 32, 32, *range(33, 60)]
    assert pairer.dropped == {}


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_short_bag_that_loops_loses_no_frame(count):
    events = [(side, PERIOD * n) for _ in range(8) for n in range(count) for side in "vi"]
    pairer = TimePairer(tolerance_ns=0)
    pairs = feed(pairer, events) + pairer.flush()
    assert stamps_of(pairs) == [(PERIOD * n, PERIOD * n) for _ in range(8) for n in range(count)]


# Settings --------------------------------------------------------------------------------


def test_settings_change_for_undecided_frames_too():
    pairer = TimePairer(tolerance_ns=20)
    assert feed(pairer, [("v", 0), ("i", 15)]) == []
    pairer.tolerance_ns = 10
    assert feed(pairer, [("v", 20)]) == []
    pairer.offset_ns = 5
    assert stamps_of(feed(pairer, [("i", 48)])) == [(20, 15)]
    assert pairer.dropped == {"unmatched_visible": 1}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("tolerance_ns", 20, [(0, 8), (15, 21)], id="unchanged"),
        pytest.param("tolerance_ns", 7, [(15, 21)], id="the first gap is too long now"),
        pytest.param("offset_ns", -20, [(0, 21)], id="the frames have another order now"),
    ],
)
def test_a_change_undoes_what_was_not_final(name, value, expected):
    pairer = TimePairer(tolerance_ns=20)
    assert feed(pairer, [("v", 0), ("i", 8), ("v", 15), ("i", 21)]) == []
    setattr(pairer, name, value)
    assert stamps_of(pairer.flush()) == expected


def test_reset_counts_and_starts_again():
    pairer = TimePairer(tolerance_ns=20)
    feed(pairer, [("v", 100), ("i", 115), ("v", 133), ("i", 148)])
    assert pairer.paired == 1
    pairer.reset()
    assert pairer.dropped == {"reset_visible": 1, "reset_infrared": 1}
    assert stamps_of(feed(pairer, [("v", 0), ("i", 0)])) == [(0, 0)]
    assert pairer.jumps == {"visible": 0, "infrared": 0}
    feed(pairer, [("v", 33)])
    pairer.reset("not_in_use")
    assert pairer.dropped["not_in_use_visible"] == 1


def test_counters_are_a_copy():
    pairer = TimePairer(tolerance_ns=0, queue_size=1)
    before = pairer.counters()
    feed(pairer, [("v", 0), ("i", 0), ("v", 1), ("v", 2)])
    after = pairer.counters()
    assert before.received == {"visible": 0, "infrared": 0}
    assert before.dropped == {}
    assert after.received == {"visible": 3, "infrared": 1}
    assert after.queued == {"visible": 1, "infrared": 0}
    assert after.paired == 1
    assert after.dropped == {"queue_full_visible": 1}


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("tolerance_ns", -1, ValueError),
        ("queue_size", 0, ValueError),
        ("minimum_interval_ns", -1, ValueError),
        ("tolerance_ns", 0.02, TypeError),
        ("offset_ns", None, TypeError),
    ],
)
def test_wrong_settings_are_rejected_by_name(name, value, error):
    with pytest.raises(error, match=name):
        TimePairer(**{"tolerance_ns": 1, name: value})


def test_a_rejected_change_leaves_the_setting_as_it_was():
    pairer = TimePairer(tolerance_ns=5)
    with pytest.raises(ValueError, match="tolerance_ns"):
        pairer.tolerance_ns = -1
    assert pairer.tolerance_ns == 5


def test_stamps_in_seconds_are_rejected():
    with pytest.raises(TypeError, match="stamp_ns"):
        TimePairer(0).add_visible(12.5, "frame")


def test_a_long_chain_takes_linear_time():
    """Each gap is one shorter than the one before, so that only the last frame decides."""
    count = 20_000
    times = list(itertools.accumulate(range(count, 0, -1), initial=0))
    indices, dropped = pair_streams(times[0::2], times[1::2], tolerance_ns=count)
    assert len(indices) == count // 2
    assert dropped == {"unmatched_visible": 1}


def test_jittered_cameras_of_equal_rate_lose_nothing():
    rng = random.Random(1)
    period = 33_333_333
    visible = [n * period + rng.randrange(2_000_000) for n in range(500)]
    infrared = [n * period + rng.randrange(2_000_000) for n in range(500)]
    indices, _ = pair_streams(
        visible, infrared, tolerance_ns=period // 2, minimum_interval_ns=period // 2
    )
    assert indices == [(n, n) for n in range(500)]
