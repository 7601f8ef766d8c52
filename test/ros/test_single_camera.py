"""Cameras that stop, return or show nothing: the node in a process of its own, over DDS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from harness import PERIOD_NS, START_NS, Graph, smooth_image, stop
from lifecycle_msgs.msg import Transition
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String

from ivf_core.bags.writer import BagWriter
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.models.checkpoints import load_model
from ivf_ros.conversions import to_visible

pytestmark = pytest.mark.dds

FUSED, MASK, HEALTH = "/fusion/fused/image", "/fusion/mask/image", "/fusion/camera_health"
RGB_SIZE, THERMAL_SIZE = (48, 64), (24, 32)
FRAMES = 60  # at 10 Hz


def visible_image(index: int) -> np.ndarray:
    return smooth_image(*RGB_SIZE, index)


def infrared_image(index: int) -> np.ndarray:
    return smooth_image(*THERMAL_SIZE, 100 + index)[..., 0].copy()


def write_bag(
    path: Path,
    *,
    rgb: Callable[[int], np.ndarray | None] = visible_image,
    thermal: Callable[[int], np.ndarray | None] = infrared_image,
) -> Path:
    """Write a bag of 6 s.

    A function that returns None leaves a frame out; an image without pixels becomes a message
    whose data are missing.
    """
    with BagWriter(path) as bag:
        for index in range(FRAMES):
            stamp = START_NS + index * PERIOD_NS
            if (visible := rgb(index)) is not None:
                bag.write_image("/rgb/image_raw", stamp, visible, "rgb8", "rgb")
            infrared = thermal(index)
            if infrared is not None and not infrared.size:
                message = Image(encoding="mono8", height=24, width=32, step=32)
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
                data = serialize_message(message)
                bag.write("/thermal/image_raw", "sensor_msgs/msg/Image", stamp, data)
            elif infrared is not None:
                bag.write_image("/thermal/image_raw", stamp, infrared, "mono8", "thermal")
    return path


def without(image: Callable[[int], np.ndarray], first: int, last: int) -> Callable[[int], Any]:
    return lambda index: None if first <= index < last else image(index)


def index_of(message: Any) -> int:
    """Return the number of the frame whose stamp a result has."""
    stamp = message.header.stamp
    return (stamp.sec * 10**9 + stamp.nanosec - START_NS) // PERIOD_NS


def play(graph: Graph, weights: Path, bag: Path, **parameters: Any) -> Any:
    """Play a bag in real time into a live node; return the node's process."""
    for topic, kind in ((FUSED, Image), (MASK, Image), (HEALTH, String)):
        graph.listen(topic, kind)
    process = graph.start_fusion(weights, **parameters)
    graph.play(bag)
    graph.spin(1.0)
    return process


def check_counters(graph: Graph) -> dict[str, str]:
    """Deactivate the node, and check that each frame is under one of its counters."""
    assert graph.change_state(Transition.TRANSITION_DEACTIVATE)
    graph.until(lambda: graph.values().get("state") == "inactive")
    values = graph.values()
    came_in, out, dropped = graph.counts()
    assert came_in == out + sum(dropped.values())
    assert len(graph.messages[FUSED]) == out
    alone = {c: int(values.get(f"single_camera.{c}_in", 0)) for c in ("rgb", "thermal")}
    for camera, stream in (("rgb", "visible"), ("thermal", "infrared")):
        unpaired = sum(
            int(count)
            for name, count in values.items()
            if name.startswith("frames.") and name.endswith(stream)
        )
        pairs = came_in - sum(alone.values())
        received = int(graph.values(f"{camera} camera")["received"])
        assert received == pairs + alone[camera] + unpaired, (camera, values)
    return values


def check_complete(values: dict[str, str], indices: set[int], wanted: set[int]) -> None:
    """Check that missing results were dropped for newer ones and counted."""
    dropped = sum(int(count) for name, count in values.items() if name.startswith("dropped."))
    assert len(wanted - indices) <= dropped, wanted - indices


def expected(weights: Path, camera: str, index: int) -> np.ndarray:
    """Return the fused image of one camera's frame with zeros as its partner."""
    pipeline = FusionPipeline(load_model(weights), engine="torch", device="cpu", precision="fp32")
    if camera == "rgb":
        result = pipeline(ImagePair(visible_image(index), None))
    else:
        zeros = np.zeros((*RGB_SIZE, 3), np.uint8)
        result = pipeline(ImagePair(zeros, infrared_image(index)))
    assert result.fused is not None
    return result.fused


@pytest.mark.parametrize("camera", ["rgb", "thermal"])
def test_other_camera_continues_alone(
    graph: Graph, tiny_weights: Path, tmp_path: Path, camera: str
) -> None:
    other = "thermal" if camera == "rgb" else "rgb"
    image = visible_image if other == "rgb" else infrared_image
    bag = write_bag(tmp_path / "bag", **{other: without(image, 15, 40)})  # type: ignore[arg-type]
    process = play(graph, tiny_weights, bag)
    indices = [index_of(message) for message in graph.messages[FUSED]]
    assert indices == sorted(set(indices)), "stamps only advance"
    by_index = {index_of(message): message for message in graph.messages[FUSED]}
    assert len(set(range(25, 40)) & set(indices)) > 7, "the rate of the camera that is left"
    assert set(range(43, FRAMES)) & set(indices), "pairs again"
    for index in sorted(set(range(28, 40)) & set(indices))[::6]:
        assert by_index[index].header.frame_id == camera
        np.testing.assert_array_equal(
            to_visible(by_index[index]), expected(tiny_weights, camera, index)
        )
    assert by_index[max(indices)].header.frame_id == "rgb"
    assert len(graph.messages[MASK]) == len(indices)

    modes = [json.loads(message.data)["cameras"] for message in graph.messages[HEALTH]]
    changes = [mode for k, mode in enumerate(modes) if k == 0 or modes[k - 1] != mode]
    assert changes == ["both", f"{camera} only", "both"]
    texts = {
        status.message
        for message in graph.messages["/diagnostics"]
        for status in message.status
        if status.name == "/fusion: cameras"
    }
    assert f"single camera: {camera} only: {other} is silent" in texts
    values = check_counters(graph)
    check_complete(values, set(indices), set(range(25, 40)) | set(range(43, FRAMES)))
    assert values[f"single_camera.{camera}_in"] == values[f"single_camera.{camera}_out"]
    assert int(values[f"single_camera.{camera}_in"]) >= 15
    log = stop(process)
    assert f"single camera: {camera} only: {other} is silent" in log
    assert "both cameras are in use again" in log


def test_stop_publishes_pairs_only(graph: Graph, tiny_weights: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", thermal=without(infrared_image, 15, 40))
    play(graph, tiny_weights, bag, single_camera="stop")
    indices = {index_of(message) for message in graph.messages[FUSED]}
    wanted = set(range(15)) | set(range(40, FRAMES))
    assert indices <= wanted
    health = [json.loads(message.data) for message in graph.messages[HEALTH]]
    assert {report["cameras"] for report in health} == {"both"}
    assert "silent" in {s["name"] for report in health for s in report["thermal"]["symptoms"]}
    check_complete(check_counters(graph), indices, wanted)


def test_black_camera_is_left_out_until_it_sees(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    bag = write_bag(
        tmp_path / "bag",
        thermal=lambda k: np.zeros(THERMAL_SIZE, np.uint8) if 10 <= k < 35 else infrared_image(k),
    )
    process = play(graph, tiny_weights, bag)
    indices = {index_of(message) for message in graph.messages[FUSED]}
    assert len(set(range(20, FRAMES - 3)) & indices) > 20
    reports = [json.loads(message.data) for message in graph.messages[HEALTH]]
    black = [r for r in reports if [s["name"] for s in r["thermal"]["symptoms"]] == ["black"]]
    assert black
    assert black[-1]["rgb"]["severity"] != "unusable"
    assert black[-1]["thermal"]["severity"] == "unusable"
    assert "lens cap" in black[-1]["thermal"]["symptoms"][0]["remedy"]
    assert {report["cameras"] for report in reports} == {"both", "rgb only"}
    assert reports[-1]["cameras"] == "both"
    assert reports[-1]["thermal"]["symptoms"] == []
    levels = {
        status.level
        for message in graph.messages["/diagnostics"]
        for status in message.status
        if status.name == "/fusion: thermal camera" and "black: no signal" in status.message
    }
    assert levels == {DiagnosticStatus.ERROR}
    values = check_counters(graph)
    assert int(values["frames.not_in_use_infrared"]) > 10, "examined, not fused"
    log = stop(process)
    assert "thermal camera: black: no signal: check lens cap" in log
    assert "thermal camera: no longer black" in log


def test_camera_that_sends_no_data_is_left_out(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    bag = write_bag(
        tmp_path / "bag",
        thermal=lambda k: np.zeros((0, 0), np.uint8) if 10 <= k < 35 else infrared_image(k),
    )
    play(graph, tiny_weights, bag)
    indices = {index_of(message) for message in graph.messages[FUSED]}
    assert len(set(range(20, FRAMES - 3)) & indices) > 20
    reports = [json.loads(message.data) for message in graph.messages[HEALTH]]
    found = {s["name"]: s["text"] for r in reports for s in r["thermal"]["symptoms"]}
    assert "expected at least 768 bytes, got 0" in found["unreadable"]
    assert reports[-1]["cameras"] == "both"
    values = check_counters(graph)
    assert 3 <= int(values["dropped.thermal_short_data"]) <= 8, "until it was certain"


def test_thermal_camera_alone_from_the_start(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    """Fuse at the size of the thermal image if no RGB image has come."""
    bag = write_bag(tmp_path / "bag", rgb=lambda _: None)
    play(graph, tiny_weights, bag, timeout_seconds=1.0)
    messages = graph.messages[FUSED]
    assert set(range(15, FRAMES)) <= {index_of(message) for message in messages}
    assert {(m.height, m.width, m.header.frame_id) for m in messages} == {
        (*THERMAL_SIZE, "thermal")
    }
    check_counters(graph)


def test_replay_keeps_to_pairs(graph: Graph, tiny_weights: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", thermal=without(infrared_image, 15, 40))
    play(graph, tiny_weights, bag, mode="replay")
    graph.settle(35)
    assert graph.counts() == (35, 35, {})
