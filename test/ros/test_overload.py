"""Load policy: in a node that is overloaded over DDS, and its preparation of engines."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from harness import PERIOD_NS, START_NS, Graph, smooth_image, stop, write_pairs
from rclpy.logging import get_logger
from sensor_msgs.msg import Image

from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.models.checkpoints import load_model
from ivf_core.system.child_process import Child
from ivf_ros.conversions import to_infrared, to_visible
from ivf_ros.load_control import Level
from ivf_ros.outputs import Wanted
from ivf_ros.overload import EngineUse, LoadPolicy
from ivf_ros.transport import environment

FUSED, MASK, OVERLAY = "/fusion/fused/image", "/fusion/mask/image", "/fusion/overlay/image"


@contextmanager
def one_core() -> Iterator[None]:
    """Restrict the processes that are started inside to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def stamps(messages: list[Image]) -> list[int]:
    return [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in messages]


@pytest.mark.dds
def test_a_node_that_stood_still_loses_no_pair(
    graph: Graph, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop the process for over two periods of the cameras, as a busy computer does.

    The cameras are slow, so that the computer's own pauses are short beside a period.
    """
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    graph.listen(FUSED, Image)
    graph.listen(MASK, Image)
    process = graph.start_fusion(tiny_weights, threads=1)
    with Child("ivf_ros.benchmark_cameras", {"size": (160, 120), "namespace": ""}) as cameras:
        graph.until(cameras.answered)
        cameras.answer()
        cameras.send("publish 40 4")
        for seen in range(6, 36, 6):
            graph.until(lambda least=seen: len(graph.messages[FUSED]) >= least)
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.55)
            process.send_signal(signal.SIGCONT)
        graph.until(cameras.answered)
        graph.until(lambda: graph.values()["pairs_pending"] == "0")
    graph.until(lambda: graph.counts() == (40, 40, {}))
    assert stamps(graph.messages[FUSED]) == sorted(stamps(graph.messages[FUSED]))


@pytest.mark.dds
def test_overloaded_node_says_so_lowers_its_level_and_returns(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give one core the largest weights in fp32 at 60 Hz: too much for any machine."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    for topic in (FUSED, MASK, OVERLAY):
        graph.listen(topic, Image)
    with one_core():
        process = graph.start_fusion(Path("clear"), engine="auto", threads=1)
    load = lambda name: graph.values("load").get(f"load.{name}", "")  # noqa: E731
    with Child("ivf_ros.benchmark_cameras", {"size": (640, 480), "namespace": ""}) as cameras:
        graph.until(cameras.answered)
        cameras.answer()
        cameras.send("publish 3600 60")
        graph.until(lambda: "overloaded" in graph.status("load").message, 60)
        assert graph.status("load").level == DiagnosticStatus.WARN
        assert "load_policy:=adaptive" in graph.status("load").message
        assert load("level") == "0"
        assert float(load("utilization")) > 0.9

        assert graph.set(load_policy="adaptive")[0].successful
        graph.until(lambda: load("level") not in ("", "0"), 60)
        graph.until(lambda: "lowered by load_policy to masks on" in graph.status("load").message)
        assert graph.status("load").level == DiagnosticStatus.WARN
        seen = len(graph.messages[MASK])
        graph.until(lambda: len(graph.messages[MASK]) >= seen + 2, 60)
        graph.until(cameras.answered, 120)
        cameras.answer()
        graph.until(lambda: load("level") == "0", 60)  # no pair is too many

        # After a pause the first two pairs wait for a third, and one of the three is fused.
        cameras.send("publish 60 5")
        graph.until(cameras.answered)
        graph.until(lambda: graph.values()["pairs_pending"] == "0")
    graph.spin(1.0)
    came_in, out, dropped = graph.counts()
    assert came_in == out + sum(dropped.values())
    assert dropped["replaced_by_newer"] > 0
    assert set(dropped) <= {"replaced_by_newer", "skipped_by_load_policy"}
    fused, masks = stamps(graph.messages[FUSED]), stamps(graph.messages[MASK])
    assert len(fused) == out
    assert len(masks) == int(graph.values()["masks_out"]) < out
    assert set(masks) < set(fused)
    assert fused == sorted(set(fused)), "never an older pair after a newer one"
    assert masks == stamps(graph.messages[OVERLAY])
    assert {(m.width, m.height) for m in graph.messages[FUSED]} == {(640, 480)}
    assert graph.status("load").level == DiagnosticStatus.OK, graph.status("load").message
    log = stop(process)
    assert "load: " in log
    assert "now masks on one pair in" in log
    assert "Traceback" not in log


@pytest.mark.dds
def test_masks_only_on_the_pairs_that_they_were_computed_for(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    """Compare each mask with the one of its own pair, at half the resolution, in a replay."""
    pairs = [
        (smooth_image(66, 98, n), smooth_image(66, 98, n + 50)[..., 0].copy()) for n in range(7)
    ]
    for topic in (FUSED, MASK, OVERLAY):
        graph.listen(topic, Image)
    process = graph.start_fusion(
        tiny_weights, mode="replay", load_policy="adaptive", mask_interval=3, fusion_scale=0.5
    )
    graph.play(write_pairs(tmp_path / "bag", pairs))
    graph.settle(len(pairs))
    assert graph.counts() == (7, 7, {})
    graph.until(lambda: len(graph.messages[FUSED]) == 7 and len(graph.messages[OVERLAY]) == 3)
    every = [START_NS + n * PERIOD_NS for n in range(7)]
    assert stamps(graph.messages[FUSED]) == every
    assert stamps(graph.messages[MASK]) == stamps(graph.messages[OVERLAY]) == every[::3]
    assert graph.values()["masks_out"] == "3"
    pipeline = FusionPipeline(
        load_model(tiny_weights), engine="torch", device="cpu", precision="fp32"
    )
    for given, message in zip(pairs, graph.messages[FUSED], strict=True):
        expected = pipeline(ImagePair(*given), scale=0.5)
        assert expected.fused is not None
        np.testing.assert_array_equal(to_visible(message), expected.fused)
    for given, message in zip(pairs[::3], graph.messages[MASK], strict=True):
        expected = pipeline(ImagePair(*given), scale=0.5)
        assert expected.labels is not None
        np.testing.assert_array_equal(
            to_infrared(message), resize_labels(expected.labels, (66, 98))
        )
    assert "not applied in replay mode" in stop(process)


@pytest.mark.dds
def test_pairs_without_a_wanted_result_are_counted(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    pair = smooth_image(48, 64, 1), smooth_image(48, 64, 2)[..., 0].copy()
    graph.listen(MASK, Image)
    graph.start_fusion(
        tiny_weights, mode="replay", mask_interval=2, mask_size="model", fusion_scale=0.5
    )
    graph.play(write_pairs(tmp_path / "bag", [pair] * 6))
    graph.settle(6)
    assert graph.counts() == (6, 3, {"skipped_by_load_policy": 3})
    graph.until(lambda: len(graph.messages[MASK]) == 3)
    assert {(m.height, m.width) for m in graph.messages[MASK]} == {(24, 32)}


class Twins:
    """Holder of pipelines whose compilation ends when the test says so."""

    def __init__(self, pipeline: FusionPipeline) -> None:
        self.pipeline = pipeline
        self.allowed = threading.Event()
        self.error: Exception | None = None
        self.installed: dict[EngineUse, FusionPipeline] = {}

    def make_twin(self, use: EngineUse, size: tuple[int, int]) -> FusionPipeline:
        assert self.allowed.wait(10)
        if self.error is not None:
            raise self.error
        return self.pipeline.twin()

    def install(self, twins: Mapping[EngineUse, FusionPipeline]) -> None:
        self.installed |= twins


ALL_WANTED = Wanted(fused=True, mask=True, overlay=False)


@pytest.fixture
def twins(tiny_weights: Path) -> Twins:
    return Twins(
        FusionPipeline(load_model(tiny_weights), engine="torch", device="cpu", precision="fp32")
    )


class Driver:
    """Policy under a given load in simulated time, until a check changes something."""

    def __init__(self, twins: Twins, **settings: Any) -> None:
        self.settings = {
            "mode": "live", "load_policy": "adaptive", "mask_interval": 1, "fusion_scale": 1.0,
            **settings,
        }  # fmt: skip
        self.policy = LoadPolicy(lambda: self.settings, twins, get_logger("test"))
        self.now = 0.0

    def run(self, seconds: float, cost: float, rate: float = 30.0) -> None:
        """Let pairs arrive, of which each is processed."""
        end, next_check = self.now + seconds, self.now
        while self.now < end:
            self.now += 1 / rate
            if self.policy.arrived(self.now):
                plan = self.policy.plan(ALL_WANTED, everything=False, has_head=True)
                self.policy.processed(self.now, plan, cost, (480, 640))
            if self.now >= next_check:
                next_check += 0.5
                self.policy.check(self.now)

    def level(self) -> Level:
        return self.policy.plan(ALL_WANTED, everything=True, has_head=True).level


@pytest.mark.parametrize(
    ("wanted", "fused", "labels", "confidence"),
    [
        (Wanted(fused=True), True, False, False),
        (Wanted(mask=True), False, True, False),
        (Wanted(fused=True, overlay=True), True, True, False),
        (Wanted(overlay=True), True, True, False),
        (Wanted(confidence=True), False, True, True),
        (Wanted(fused=True, detections=True), True, True, True),
        (Wanted(mask=True, detections_json=True), False, True, True),
    ],
)
def test_only_what_is_wanted_is_computed(
    twins: Twins, wanted: Wanted, fused: bool, labels: bool, confidence: bool
) -> None:
    policy = Driver(twins, mask_interval=2).policy
    uses = [policy.plan(wanted, everything=False, has_head=True).use for _ in range(3)]
    between = EngineUse(1.0, wanted.fused, False, False)
    assert uses == [EngineUse(1.0, fused, labels, confidence), between, uses[0]]
    assert policy.plan(wanted, everything=False, has_head=False).use == between
    snapshot = policy.plan(wanted, everything=True, has_head=True).use
    assert snapshot == EngineUse(1.0, True, True, confidence)
    assert bool(wanted)


def test_level_waits_for_its_engines(twins: Twins) -> None:
    driver = Driver(twins)
    driver.run(5.0, cost=0.1)
    assert driver.level() == Level(), "its engines are not compiled yet"
    twins.allowed.set()
    driver.policy.close()
    driver.policy.check(driver.now)
    level = driver.level()
    assert level.scale < 1
    assert set(twins.installed) == {
        EngineUse(level.scale, True, True),
        EngineUse(level.scale, True, False),
    }
    status, text, values = driver.policy.finding(driver.now)
    assert status == DiagnosticStatus.WARN
    assert f"lowered by load_policy to {level}: 30.0 pairs a second arrive" in text
    assert "100.0 ms each at the set quality" in text
    assert values["load.level_changes"] == "1"


def test_level_goes_down_and_up(twins: Twins) -> None:
    """Log changes in both directions: rclpy raises if one call has two severities."""
    twins.allowed.set()
    driver = Driver(twins)
    for cost, lowered in ((0.1, True), (0.001, False)):
        driver.run(8.0, cost)
        driver.policy.close()
        driver.run(60.0, cost)
        assert (driver.level() != Level()) == lowered


def test_engines_that_cannot_be_compiled_are_reported(twins: Twins) -> None:
    twins.error = RuntimeError("out of memory")
    twins.allowed.set()
    driver = Driver(twins)
    driver.run(8.0, cost=0.1)
    driver.policy.close()
    driver.policy.check(driver.now)
    assert driver.level() == Level()
    status, text, _ = driver.policy.finding(driver.now)
    assert status == DiagnosticStatus.WARN
    assert "the level stays: RuntimeError: out of memory" in text


def test_engines_of_a_replaced_model_are_not_used(twins: Twins) -> None:
    driver = Driver(twins)
    driver.run(5.0, cost=0.1)
    driver.policy.forget_engines()
    twins.allowed.set()
    driver.policy.close()
    driver.policy.check(driver.now)
    assert not twins.installed


def test_changed_parameters_apply_while_the_node_runs(twins: Twins) -> None:
    twins.allowed.set()
    driver = Driver(twins, load_policy="full")
    driver.run(2.0, cost=0.1)
    assert driver.level() == Level()
    driver.settings |= {"mask_interval": 4, "fusion_scale": 0.75}
    driver.run(2.0, cost=0.01)
    driver.policy.close()
    driver.run(1.0, cost=0.01)
    assert driver.level() == Level(4, 0.75)
    assert driver.policy.finding(driver.now)[0] == DiagnosticStatus.OK


def test_a_snapshot_gets_everything(twins: Twins) -> None:
    driver = Driver(twins, mask_interval=100)
    plans = [driver.policy.plan(ALL_WANTED, everything=n == 2, has_head=True) for n in range(4)]
    assert [plan.use.labels for plan in plans] == [True, False, True, False]
