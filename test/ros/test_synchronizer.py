"""Synchronizer as a filter of message_filters: order, re-entrance, exceptions, threads."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="ivf_ros needs rclpy")

from ivf_ros.compat import SimpleFilter
from ivf_ros.synchronizer import PairSynchronizer, stamp_to_ns

PERIOD = 33_333_333
TIMEOUT = 30  # seconds until a thread counts as stuck


def message(stamp_ns):
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = SimpleNamespace(sec=sec, nanosec=nanosec)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp))


class Rig:
    """Rig of two sources and a synchronizer, with the stamps of the delivered pairs."""

    def __init__(self, **settings):
        self.rgb, self.thermal = SimpleFilter(), SimpleFilter()
        self.synchronizer = PairSynchronizer(
            self.rgb, self.thermal, **{"tolerance_ns": 0, **settings}
        )
        self.pairs = []
        self.synchronizer.registerCallback(self.take)

    def take(self, rgb, thermal):
        self.pairs.append((stamp_to_ns(rgb.header.stamp), stamp_to_ns(thermal.header.stamp)))

    def send(self, stamp_ns):
        """Send the two messages of an exact pair."""
        self.rgb.signalMessage(message(stamp_ns))
        self.thermal.signalMessage(message(stamp_ns))


def run_threads(*targets):
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "deadlock"


def test_callbacks_get_the_same_objects_and_further_arguments():
    rig = Rig()
    taken = []
    rig.synchronizer.registerCallback(lambda *arguments: taken.append(arguments), "more")
    rgb, thermal = message(5), message(5)
    rig.thermal.signalMessage(thermal)
    rig.rgb.signalMessage(rgb)
    assert len(taken) == 1
    assert taken[0][0] is rgb
    assert taken[0][1] is thermal
    assert taken[0][2] == "more"


def test_real_messages_and_the_largest_stamp():
    image = pytest.importorskip("sensor_msgs.msg").Image
    rig = Rig()
    for source in (rig.rgb, rig.thermal):
        sent = image()
        sent.header.stamp.sec = 2**31 - 1
        sent.header.stamp.nanosec = 999_999_999
        source.signalMessage(sent)
    assert rig.pairs == [((2**31 - 1) * 10**9 + 999_999_999,) * 2]


def test_zero_stamps_are_paired():
    rig = Rig()
    rig.send(0)
    rig.send(PERIOD)
    assert rig.pairs == [(0, 0), (PERIOD, PERIOD)]


def test_three_loops_of_a_bag():
    rig = Rig()
    for _ in range(3):
        for n in range(50):
            rig.send(n * PERIOD)
    assert rig.pairs == [(n * PERIOD, n * PERIOD) for _ in range(3) for n in range(50)]
    assert rig.synchronizer.counters().jumps == {"visible": 2, "infrared": 2}


def test_settings_reach_the_policy_and_change_at_run_time():
    rig = Rig(tolerance_ns=5, offset_ns=10, minimum_interval_ns=10)
    rig.rgb.signalMessage(message(115))
    rig.thermal.signalMessage(message(100))
    assert rig.pairs == [(115, 100)]
    rig.synchronizer.set_offset(0)
    rig.synchronizer.set_tolerance(20)
    rig.synchronizer.set_minimum_interval(40)
    rig.rgb.signalMessage(message(200))
    rig.thermal.signalMessage(message(220))
    assert rig.pairs[1:] == [(200, 220)]


@pytest.mark.parametrize("name", ["tolerance_ns", "queue_size", "minimum_interval_ns"])
def test_invalid_settings_are_rejected_by_name(name):
    with pytest.raises(ValueError, match=name):
        PairSynchronizer(SimpleFilter(), SimpleFilter(), **{"tolerance_ns": 0, name: -1})


def test_counters_and_queue_size():
    rig = Rig(queue_size=2)
    for n in range(5):
        rig.rgb.signalMessage(message(n))
    rig.thermal.signalMessage(message(4))
    counters = rig.synchronizer.counters()
    assert counters.received == {"visible": 5, "infrared": 1}
    assert counters.paired == 1
    assert counters.dropped == {"queue_full_visible": 3, "unmatched_visible": 1}
    assert counters.queued == {"visible": 0, "infrared": 0}


def test_reset_counts_the_messages_that_it_drops():
    rig = Rig()
    rig.rgb.signalMessage(message(PERIOD))
    rig.synchronizer.reset()
    rig.thermal.signalMessage(message(PERIOD))
    rig.send(0)
    assert rig.synchronizer.counters().dropped["reset_visible"] == 1
    rig.synchronizer.reset()
    rig.send(0)
    assert rig.pairs[-1] == (0, 0)


def test_flush_delivers_the_last_pair():
    rig = Rig(tolerance_ns=10)
    rig.rgb.signalMessage(message(100))
    rig.thermal.signalMessage(message(105))
    assert rig.pairs == []
    rig.synchronizer.flush()
    assert rig.pairs == [(100, 105)]


def test_callback_may_feed_and_read_the_synchronizer():
    """Deliver the pairs that a callback causes after it returns: all consumers see one order."""
    rig = Rig()
    depths = []

    def feed_back(rgb, thermal):
        depths.append("in")
        if len(rig.pairs) < 5:
            rig.send(len(rig.pairs) * PERIOD)
        rig.synchronizer.counters()
        rig.synchronizer.set_tolerance(0)
        depths.append("out")

    rig.synchronizer.registerCallback(feed_back)
    run_threads(lambda: rig.send(0))
    assert rig.pairs == [(n * PERIOD, n * PERIOD) for n in range(5)]
    assert depths == ["in", "out"] * 5


def test_callback_may_reset_the_synchronizer():
    rig = Rig()
    rig.synchronizer.registerCallback(lambda *_: rig.synchronizer.reset())
    run_threads(lambda: [rig.send(stamp) for stamp in (100, 0, 50)])
    assert rig.pairs == [(100, 100), (0, 0), (50, 50)]


def test_no_lock_is_held_during_a_callback():
    """Feed and read from other threads while a callback runs."""
    rig = Rig()
    seen = []

    def wait_for_another_thread(rgb, thermal):
        if rgb.header.stamp.nanosec == 0:
            run_threads(
                lambda: rig.send(PERIOD),
                lambda: seen.append(rig.synchronizer.counters().paired),
            )

    rig.synchronizer.registerCallback(wait_for_another_thread)
    run_threads(lambda: rig.send(0))
    assert seen[0] in (1, 2)
    assert rig.pairs == [(0, 0), (PERIOD, PERIOD)]


def test_exception_reaches_the_source_and_no_later_pair_is_lost():
    rig = Rig(tolerance_ns=20)

    def raise_once(rgb, thermal):
        if len(rig.pairs) == 1:
            raise RuntimeError("callback failed")

    rig.synchronizer.registerCallback(raise_once)
    # Shrinking gaps, 8, 7, 0, are decided together: the last frame gives two pairs.
    rig.rgb.signalMessage(message(100))
    rig.thermal.signalMessage(message(108))
    rig.rgb.signalMessage(message(115))
    with pytest.raises(RuntimeError, match="callback failed"):
        rig.thermal.signalMessage(message(115))
    assert rig.pairs == [(100, 108)]
    rig.rgb.signalMessage(message(150))
    assert rig.pairs == [(100, 108), (115, 115)]
    rig.thermal.signalMessage(message(150))
    assert rig.pairs == [(100, 108), (115, 115), (150, 150)]


def test_other_threads_continue_after_an_exception():
    rig = Rig()

    def raise_at_first(rgb, thermal):
        if len(rig.pairs) == 1:
            raise RuntimeError("callback failed")

    rig.synchronizer.registerCallback(raise_at_first)

    def first():
        with pytest.raises(RuntimeError, match="callback failed"):
            rig.send(0)

    run_threads(first)
    run_threads(lambda: rig.send(PERIOD))
    assert rig.pairs == [(0, 0), (PERIOD, PERIOD)]


def test_two_threads_deliver_every_pair_once_in_order_one_at_a_time():
    count = 3000
    rig = Rig(queue_size=count)  # one thread may run far ahead of the other
    overlaps = []
    busy = []

    def alone(rgb, thermal):
        busy.append(threading.get_ident())
        if len(busy) != 1:
            overlaps.append(rgb)
        busy.pop()

    rig.synchronizer.registerCallback(alone)
    start = threading.Barrier(2)

    def publish(source):
        start.wait(TIMEOUT)
        for n in range(count):
            source.signalMessage(message(n * PERIOD))

    run_threads(lambda: publish(rig.rgb), lambda: publish(rig.thermal))
    assert rig.pairs == [(n * PERIOD, n * PERIOD) for n in range(count)]
    assert overlaps == []
