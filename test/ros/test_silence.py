"""Troubles that a node must not keep to itself: cameras in another process, over DDS."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import camera_process
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from harness import Graph, smooth_image, stop, write_pairs
from rcl_interfaces.msg import Log
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

from ivf_ros.transport import environment

pytestmark = pytest.mark.dds

FUSED, HEALTH, LOG = "/fusion/fused/image", "/fusion/camera_health", "/rosout"
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def cameras() -> Iterator[Start]:
    """Provide a function that starts a process of two cameras; all end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, camera_process.__file__, *options]
        process = subprocess.Popen(
            command, env=environment(), stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        stop(process)


def level(graph: Graph, part: str) -> Any:
    status = graph.status(part)
    return None if status is None else status.level


def has_ended(graph: Graph, part: str) -> bool:
    """Return whether the log has said that a part is in order again."""
    return any(message.msg.startswith(f"{part}: in order again") for message in graph.messages[LOG])


def lines(log: str, words: str) -> list[str]:
    return [line for line in log.splitlines() if words in line]


def test_shifted_stamps_are_named_with_the_value_that_mends_them(
    graph: Graph, tiny_weights: Path, cameras: Start
) -> None:
    graph.listen(LOG, Log)
    process = graph.start_fusion(tiny_weights)
    cameras("shift=-0.045")
    graph.until(lambda: level(graph, "pairing") is not None)
    graph.until(lambda: "45.0 ms behind RGB stamps" in graph.status("pairing").message)
    assert level(graph, "pairing") == ERROR
    assert "offset_seconds:=0.045" in graph.status("pairing").message
    assert graph.set(offset_seconds=0.045)[0].successful
    graph.until(lambda: level(graph, "pairing") == OK)
    graph.until(lambda: has_ended(graph, "pairing"))
    log = stop(process)
    assert len(lines(log, "45.0 ms behind")) == 1
    assert len(lines(log, "pairing: in order again")) == 1


def test_dead_cameras_are_an_error_until_they_return(
    graph: Graph, tiny_weights: Path, cameras: Start
) -> None:
    graph.listen(FUSED, Image)
    graph.listen(HEALTH, String)
    graph.listen(LOG, Log)
    process = graph.start_fusion(tiny_weights)
    both = cameras()
    parts = ("rgb camera", "thermal camera", "pairing", "cameras")
    graph.until(lambda: len(graph.messages[FUSED]) > 5)
    graph.until(lambda: {level(graph, part) for part in parts} == {OK})
    stop(both)
    graph.until(lambda: {level(graph, part) for part in parts} == {ERROR})
    assert "no publisher" in graph.status("rgb camera").message
    assert "nothing to fuse for" in graph.status("pairing").message
    assert graph.status("cameras").message.startswith("no camera delivers")
    graph.until(
        lambda: (
            {
                json.loads(graph.messages[HEALTH][-1].data)[camera]["severity"]
                for camera in ("rgb", "thermal")
            }
            == {"unusable"}
        )
    )
    cameras()
    graph.until(lambda: {level(graph, part) for part in parts} == {OK})
    graph.until(lambda: has_ended(graph, "rgb camera") and has_ended(graph, "thermal camera"))
    log = stop(process)
    for camera in ("rgb", "thermal"):
        assert len(lines(log, f"{camera} camera: no image on /{camera}/image_raw")) == 1


def test_swapped_cameras_are_said(graph: Graph, tiny_weights: Path, cameras: Start) -> None:
    process = graph.start_fusion(tiny_weights)
    cameras("rgb=mono16", "thermal=rgb8")
    for camera, encoding in (("rgb", "mono16"), ("thermal", "rgb8")):
        graph.until(lambda part=f"{camera} camera": level(graph, part) == WARN)  # type: ignore[misc]
        text = graph.status(f"{camera} camera").message
        assert f"/{camera}/image_raw carries {encoding}" in text
        assert "the cameras look swapped" in text
        assert graph.values(f"{camera} camera")["encoding"] == encoding
    graph.spin(1.0)
    log = stop(process)
    assert len(lines(log, "/rgb/image_raw carries mono16")) == 1
    assert len(lines(log, "the cameras look swapped")) == 1


def test_remapped_base_topic_with_compressed_transport(graph: Graph, tiny_weights: Path) -> None:
    graph.start_fusion(
        tiny_weights,
        *("-r", "rgb/image_raw:=/cam/image_raw"),
        *("-r", "thermal/image_raw/compressed:=/boson/small"),
        rgb_transport="compressed",
        thermal_transport="compressed",
    )
    for topic in ("/cam/image_raw/compressed", "/boson/small"):
        assert len(graph.node.get_subscriptions_info_by_topic(topic)) == 1
    assert graph.values("rgb camera")["topic"] == "/cam/image_raw/compressed"


def test_the_other_transport_and_a_node_of_the_same_name_are_said(
    graph: Graph, tiny_weights: Path, cameras: Start
) -> None:
    graph.start_fusion(tiny_weights, rgb_transport="compressed", timeout_seconds=0.5)
    cameras()
    graph.until(
        lambda: (
            "no publisher on /rgb/image_raw/compressed, but 1 on /rgb/image_raw: "
            "set rgb_transport:=raw" in graph.status("rgb camera").message
        )
    )
    assert level(graph, "graph") == OK
    graph.start("player_node", "-r", "__node:=fusion")  # has no bag, and ends
    graph.start("fusion_node", autostart=False)
    graph.until(lambda: level(graph, "graph") == WARN)
    assert graph.status("graph").message.startswith("2 nodes are named /fusion")


def test_a_late_subscriber_gets_no_old_image(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    pair = smooth_image(48, 64, 1), smooth_image(48, 64, 2)[..., 0].copy()
    graph.listen(FUSED, Image)
    override = {"qos_overrides./fusion/mask/image.publisher.durability": "transient_local"}
    graph.start_fusion(tiny_weights, mode="replay", **override)
    graph.play(write_pairs(tmp_path / "bag", [pair] * 3))
    graph.until(lambda: len(graph.messages[FUSED]) == 3)
    late: list[Image] = []
    for durability in (DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE):
        qos = QoSProfile(depth=5, durability=durability)
        graph.node.create_subscription(Image, FUSED, late.append, qos)
    graph.spin(1.0)
    assert late == []
    for topic, durability in (
        ("fused/image", DurabilityPolicy.VOLATILE),
        ("overlay/image", DurabilityPolicy.VOLATILE),
        ("mask/image", DurabilityPolicy.TRANSIENT_LOCAL),
        ("labels", DurabilityPolicy.TRANSIENT_LOCAL),
    ):
        (info,) = graph.node.get_publishers_info_by_topic(f"/fusion/{topic}")
        assert info.qos_profile.durability == durability, topic
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("/fusion/fused/image.publisher.deadline", "expected publisher.POLICY with one of history"),
        ("/rgb/image_raw.publisher.depth", "expected subscription.POLICY"),
        ("/fusion/labels.publisher.durability", "the QoS of this topic is fixed"),
    ],
)
def test_overrides_without_effect_are_rejected(
    graph: Graph, tiny_weights: Path, override: str, expected: str
) -> None:
    process = graph.start(
        "fusion_node", weights=str(tiny_weights), engine="torch", device="cpu", precision="fp32",
        **{f"qos_overrides.{override}": 1},
    )  # fmt: skip
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"parameter qos_overrides.{override}: " in output
    assert expected in output
    assert "Traceback" not in output
