"""Counters, percentiles, the watch on a camera, and the mailbox, without ROS nodes."""

from __future__ import annotations

import threading
import time

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy

from ivf_ros.camera_watch import CameraWatch
from ivf_ros.compat import TopicEndpointInfo, profile_variables
from ivf_ros.diagnostics import FindingLog, PairStatistics, percentiles
from ivf_ros.worker import Mailbox, Worker

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def test_percentiles() -> None:
    assert percentiles([]) == {}
    assert percentiles([3.0]) == {"median": 3.0, "p95": 3.0, "p99": 3.0}
    assert percentiles(range(101)) == {"median": 50, "p95": 95, "p99": 99}


def test_counts_add_up() -> None:
    statistics = PairStatistics()
    for _ in range(5):
        statistics.came_in()
    statistics.drop("replaced_by_newer", 2)
    statistics.drop("nothing", 0)
    statistics.went_out({"model_ms": 4.0}, repaired=True)
    statistics.went_out({"model_ms": 6.0, "latency_ms": 9.0}, repaired=False)
    report = statistics.report()
    assert report["pairs_in"] == "5"
    assert report["pairs_out"] == "2"
    assert report["pairs_pending"] == "1"
    assert report["dropped.replaced_by_newer"] == "2"
    assert "dropped.nothing" not in report
    assert report["repaired_thermal_frames"] == "1"
    assert float(report["model_ms.median"]) == 5.0
    assert float(report["latency_ms.p99"]) == 9.0
    assert statistics.check()[0] == OK  # replacing is what live mode does
    statistics.drop("rgb_bad_step")
    level, text = statistics.check()
    assert level == WARN
    assert "5 pairs in, 2 out; dropped: 2 replaced_by_newer, 1 rgb_bad_step" in text
    assert statistics.check()[0] == OK, "nothing has gone wrong since"
    assert statistics.settled() == 5


def test_frames_without_a_partner_are_counted_on_their_own_as_well() -> None:
    statistics = PairStatistics()
    statistics.came_in()
    for camera in ("rgb", "rgb", "thermal"):
        statistics.came_in(camera)
    statistics.went_out({}, repaired=False)
    statistics.went_out({}, repaired=False, alone="rgb")
    report = statistics.report()
    assert (report["pairs_in"], report["pairs_out"], report["pairs_pending"]) == ("4", "2", "2")
    single = {key: value for key, value in report.items() if key.startswith("single_camera.")}
    assert single == {
        "single_camera.rgb_in": "2",
        "single_camera.rgb_out": "1",
        "single_camera.thermal_in": "1",
    }
    assert "4 pairs in, 2 out (of these in: 2 rgb only, 1 thermal only)" in statistics.check()[1]


def test_backlog_is_reported() -> None:
    statistics = PairStatistics()
    for _ in range(60):
        statistics.came_in()
    level, text = statistics.check()
    assert level == WARN
    assert "60 pairs wait" in text


def watch_stream(kept: list[int], infos: int = 0, rate: float = 30.0) -> CameraWatch:
    watch = CameraWatch("/rgb/image_raw")
    for index in kept:
        watch.image(index / rate, now=100 + index / rate)
    for index in range(infos):
        watch.camera_info(index / rate)
    return watch


def publisher(name: str = "driver", **policies: object) -> TopicEndpointInfo:
    return TopicEndpointInfo(node_name=name, qos_profile=QoSProfile(depth=5, **policies))


def check(watch: CameraWatch, now: float, publishers: int = 1) -> tuple[bytes, str]:
    return watch.check(now, since=100.0, timeout=2.0, publishers=[publisher()] * publishers)


def test_healthy_camera_is_ok() -> None:
    watch = watch_stream(list(range(60)))
    assert watch.lost_share() == 0
    assert check(watch, 102.0) == (OK, "receiving")


@pytest.mark.parametrize("infos", [0, 90])
def test_occasional_loss_is_reported(infos: int) -> None:
    watch = watch_stream([n for n in range(90) if n % 5], infos)
    assert watch.lost_share() == pytest.approx(0.2, abs=0.03)
    level, text = check(watch, 103.0)
    assert level == WARN
    assert "/rgb/image_raw are lost" in text
    assert f"{profile_variables()[0]} set to" in text


def test_camera_info_shows_steady_loss() -> None:
    """Deliver every third image only: the gaps are even, but CameraInfo shows the real rate."""
    assert watch_stream(list(range(0, 180, 3))).lost_share() == 0
    watch = CameraWatch("/t")
    for index in range(180):
        watch.camera_info(index / 30)
        if index % 3 == 0:
            watch.image(index / 30, now=0.0)
    assert watch.lost_share() == pytest.approx(2 / 3, abs=0.05)


def test_jitter_is_no_loss() -> None:
    watch = CameraWatch("/t")
    for index in range(60):
        watch.image(index / 30 + 0.004 * (index % 3), now=0.0)
    assert watch.lost_share() < 0.05


def test_looping_bag_is_no_loss() -> None:
    watch = watch_stream([*range(40), *range(40)])
    assert watch.lost_share() == 0


def test_silence_is_reported() -> None:
    watch = CameraWatch("/rgb/image_raw")
    assert check(watch, 101.0) == (OK, "waiting for /rgb/image_raw")
    level, text = check(watch, 103.0, publishers=0)
    assert (level, text) == (ERROR, "no publisher on /rgb/image_raw")
    assert check(watch, 103.0) == (ERROR, "no publisher on /rgb/image_raw"), "it has just started"
    level, text = check(watch, 105.5)
    assert level == ERROR
    assert "1 publisher(s) on /rgb/image_raw, but no image has arrived in 5.5 s" in text
    watch.image(0.0, now=103.0)
    assert check(watch, 104.0)[0] == OK
    level, text = check(watch, 106.0)
    assert level == ERROR
    assert text.startswith("no image on /rgb/image_raw for 3.0 s: check power")
    level, text = check(watch, 106.0, publishers=0)
    assert level == ERROR
    assert text.endswith("and no publisher: its driver has ended")
    watch.camera_info(5.0)
    check(watch, 106.5)
    level, text = check(watch, 109.0)
    assert "while its calibration arrives. Fast DDS drops" in text


def test_camera_that_repeats_its_stamp_is_reported() -> None:
    watch = CameraWatch("/t")
    for index in range(30):
        watch.image(0.0, now=100 + index / 30)
    level, text = check(watch, 101.0)
    assert level == ERROR
    assert "all have the stamp 0.000 s: the driver must set header.stamp" in text
    watch.image(1.0, now=101.0)
    assert check(watch, 101.0)[0] == OK


def test_publisher_of_another_type_or_transport_is_reported() -> None:
    raw, compressed = "/rgb/image_raw", "/rgb/image_raw/compressed"
    watch = CameraWatch(
        raw,
        type="sensor_msgs/msg/Image",
        other_transport=(compressed, "rgb_transport:=compressed"),
    )
    level, text = watch.check(103.0, 100.0, 2.0, [], others=1)
    assert (level, text) == (
        ERROR,
        f"no publisher on {raw}, but 1 on {compressed}: set rgb_transport:=compressed",
    )
    both = CameraWatch(raw, other_transport=(raw, "rgb_transport:=compressed"))
    assert both.check(103.0, 100.0, 2.0, [], others=1)[1] == f"no publisher on {raw}"
    wrong = publisher("driver")
    wrong.topic_type = "sensor_msgs/msg/CompressedImage"
    level, text = watch.check(100.5, 100.0, 2.0, [wrong])
    assert level == ERROR
    assert f"publishes sensor_msgs/msg/CompressedImage on {raw}" in text
    assert text.endswith("set rgb_transport:=compressed")


def test_another_rate_after_an_absence_is_no_loss() -> None:
    watch = CameraWatch("/t")
    for stamp in [*(n / 10 for n in range(20)), *(10 + n / 30 for n in range(20))]:
        watch.image(stamp, now=0.0)
    assert watch.lost_share() == 0


def test_disorder_of_stamps_is_no_loss() -> None:
    kept = list(range(60))
    kept[20:22] = 21, 20
    assert watch_stream(kept).lost_share() == 0


class Lines:
    """Logger that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def error(self, text: str) -> None:
        self.lines.append(("error", text))

    def warning(self, text: str) -> None:
        self.lines.append(("warning", text))

    def info(self, text: str) -> None:
        self.lines.append(("info", text))


def test_a_finding_is_logged_when_it_begins_and_when_it_ends() -> None:
    logger = Lines()
    log = FindingLog(logger)
    log.note("rgb camera", OK, "receiving", 0.0)
    for tick in range(1, 60):
        log.note("rgb camera", ERROR, f"no image for {tick / 2} s", tick / 2)
    for tick in range(60, 70):
        log.note("rgb camera", OK, "receiving", tick / 2)
    assert logger.lines == [
        ("error", "rgb camera: no image for 0.5 s"),
        ("info", "rgb camera: in order again (receiving)"),
    ]


def test_a_finding_that_flickers_or_gets_worse() -> None:
    logger = Lines()
    log = FindingLog(logger)
    for tick in range(20):
        log.note("pairing", WARN if tick % 2 else OK, "5% are lost", tick / 2)
    log.note("pairing", ERROR, "no image", 10.0)
    log.note("pairing", ERROR, "no publisher", 10.5)
    log.note("pairing", ERROR, "no image", 11.0)
    log.note("pairing", ERROR, "no publisher", 12.0)
    assert logger.lines == [
        ("warning", "pairing: 5% are lost"),
        ("error", "pairing: no image"),
        ("error", "pairing: no publisher"),
    ]


def test_faults_without_a_result_are_an_error() -> None:
    statistics = PairStatistics()
    statistics.came_in()
    statistics.drop("no_subscriber")
    assert statistics.check(timeout=0.0)[0] == OK
    statistics.came_in()
    statistics.drop("model_error")
    level, text = statistics.check(timeout=0.0)
    assert level == ERROR
    assert "no result for" in text
    statistics.went_out({}, repaired=False)
    assert statistics.check(timeout=0.0)[0] == OK


def test_mismatched_qos_is_reported() -> None:
    watch = CameraWatch("/rgb/image_raw", QoSProfile(depth=5))  # reliable
    bad = publisher("lepton", reliability=ReliabilityPolicy.BEST_EFFORT)
    level, text = watch.check(101.0, 100.0, 2.0, [bad])
    assert level == ERROR
    assert "lepton offers a QoS on /rgb/image_raw that does not match" in text
    assert "eliab" in text
    watch.image(0.0, now=103.0)  # another publisher matches
    assert watch.check(103.5, 100.0, 2.0, [bad, publisher()])[0] == WARN
    assert watch.check(103.5, 100.0, 2.0, [publisher()])[0] == OK


def test_shutter_pause_is_no_loss() -> None:
    stamps = [n / 30 for n in range(30)] + [2.0 + n / 30 for n in range(20)]
    for infos in (False, True):
        watch = CameraWatch("/t")
        for stamp in stamps:
            watch.image(stamp, now=0.0)
            if infos:
                watch.camera_info(stamp)
        assert watch.lost_share() == 0


def test_live_mailbox_keeps_the_newest() -> None:
    mailbox: Mailbox[int] = Mailbox(keep_all=False)
    assert [mailbox.put(n) for n in range(3)] == [0, 1, 1]
    assert mailbox.get() == 2
    assert [mailbox.put(n, waiting=2) for n in range(3)] == [0, 0, 1]
    assert len(mailbox) == 2
    assert mailbox.put(3) == 2, "the number that may wait has become smaller"
    assert mailbox.get() == 3
    assert mailbox.close(discard=True) == 0
    assert mailbox.get() is None
    assert mailbox.put(4), "rejected after closing"


def test_full_replay_mailbox_holds_the_caller_back_until_there_is_room() -> None:
    mailbox: Mailbox[int] = Mailbox(keep_all=True)
    many = 3 * Mailbox.LIMIT
    lost: list[int] = []

    def fill() -> None:
        lost.extend(mailbox.put(number) for number in range(many))

    thread = threading.Thread(target=fill)
    thread.start()
    taken = []
    while len(taken) < many:
        assert len(mailbox) <= Mailbox.LIMIT
        if not mailbox.waits and len(mailbox) < Mailbox.LIMIT:
            time.sleep(0.001)  # nothing is taken before the mailbox is full
            continue
        item = mailbox.get()
        assert item is not None
        taken.append(item)
    thread.join()
    assert taken == list(range(many))
    assert not any(lost)
    assert mailbox.waits


def test_closing_a_full_mailbox_ends_the_wait() -> None:
    mailbox: Mailbox[int] = Mailbox(keep_all=True)
    for number in range(Mailbox.LIMIT):
        mailbox.put(number)
    lost: list[int] = []
    thread = threading.Thread(target=lambda: lost.append(mailbox.put(-1)))
    thread.start()
    while not mailbox.waits:
        time.sleep(0.001)
    assert mailbox.close(discard=True) == Mailbox.LIMIT
    thread.join()
    assert lost == [1]


def test_replay_mailbox_keeps_all() -> None:
    mailbox: Mailbox[int] = Mailbox(keep_all=True)
    assert not any(mailbox.put(n) for n in range(3))
    assert [mailbox.get(), mailbox.get()] == [0, 1]
    assert mailbox.close(discard=False) == 0
    assert [mailbox.get(), mailbox.get()] == [2, None]


def test_closing_can_discard() -> None:
    mailbox: Mailbox[int] = Mailbox(keep_all=True)
    mailbox.put(1)
    assert mailbox.close(discard=True) == 1
    assert mailbox.get() is None


def test_worker_survives_errors_and_ends() -> None:
    mailbox: Mailbox[int] = Mailbox(keep_all=True)
    done: list[int] = []
    errors: list[Exception] = []
    third = threading.Event()

    def process(number: int) -> None:
        if number == 1:
            raise RuntimeError("one")
        done.append(number)
        if number == 2:
            third.set()

    worker = Worker(mailbox, process, errors.append)
    for number in range(3):
        mailbox.put(number)
    assert third.wait(10)
    assert worker.stop(discard=False) == 0
    assert done == [0, 2]
    assert [str(error) for error in errors] == ["one"]
