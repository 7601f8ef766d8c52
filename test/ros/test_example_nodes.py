"""Examples that are nodes: over DDS, beside the real fusion node."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import PERIOD_NS, START_NS, Graph, smooth_image, stop, write_pairs

pytest.importorskip("rclpy")

from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Float64, Header, String

from ivf_core.class_sets import MFNET
from ivf_ros.compat import Detection2DArray
from ivf_ros.conversions import to_image, to_infrared
from ivf_ros.qos import LATCHED
from ivf_ros.transport import environment

EXAMPLES = Path(__file__).parents[2] / "examples"
POINTS = np.array(
    [(0.0, 0.0, 5.0, 7.0), (2.0, 0.0, 5.0, 8.0), (0.0, 0.0, -5.0, 9.0), (np.nan, 0, 5, 1)],
    np.float32,
)


@pytest.fixture
def example() -> Iterator[Any]:
    """Start examples, which end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(EXAMPLES / name), "--ros-args", *arguments]
        process = subprocess.Popen(
            command, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        started.append(process)
        return process

    yield start
    for process in started:
        output = stop(process)
        assert process.returncode == 0, output
        assert "Traceback" not in output


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cloud(points: np.ndarray) -> PointCloud2:
    """Return x, y, z and intensity of points as a message."""
    fields = [
        PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
        for place, name in enumerate(("x", "y", "z", "intensity"))
    ]
    return PointCloud2(
        height=1, width=len(points), fields=fields, point_step=16, row_step=16 * len(points),
        data=points.tobytes(),
    )  # fmt: skip


def half_of_people() -> tuple[Image, CameraInfo]:
    """Return a mask whose left half shows people, and its calibration."""
    labels = np.zeros((40, 60), np.uint8)
    labels[:, :31] = MFNET.names.index("person")
    info = CameraInfo(width=60, height=40)
    info.p = [50.0, 0.0, 29.5, 0.0, 0.0, 50.0, 19.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    return to_image(labels, "mono8", Header()), info


def test_points_are_selected_by_the_mask() -> None:
    mask, info = half_of_people()
    person = MFNET.names.index("person")
    select = load("filter_points").select
    assert select(cloud(POINTS), mask, info, [person]).tolist() == [True, False, False, False]
    assert select(cloud(POINTS), mask, info, [0]).tolist() == [False, True, False, False]
    assert not select(cloud(POINTS[:0]), mask, info, [person]).any()
    random = np.random.default_rng(0).uniform(-9, 9, (500, 4)).astype(np.float32)
    chosen = select(cloud(random), mask, info, [0, person])
    x, y, z = random[:, :3].T.astype(float)
    with np.errstate(all="ignore"):
        u, v = 50 * x / z + 29.5, 50 * y / z + 19.5
    seen = (z > 0) & (u >= -0.5) & (u < 59.5) & (v >= -0.5) & (v < 39.5)
    np.testing.assert_array_equal(chosen, seen)


@pytest.mark.dds
def test_filter_points_over_dds(graph: Graph, example: Any) -> None:
    example("filter_points.py")
    graph.listen("/point_filter/points", PointCloud2)
    mask, info = half_of_people()
    publishers = {
        topic: graph.node.create_publisher(kind, topic, qos)
        for topic, kind, qos in (
            ("/labels", String, LATCHED), ("/mask", Image, 10), ("/info", CameraInfo, 10),
            ("/points", PointCloud2, 10),
        )
    }  # fmt: skip
    publishers["/labels"].publish(String(data=MFNET.to_json()))
    graph.until(lambda: all(p.get_subscription_count() for p in publishers.values()), 60)

    def came() -> bool:
        for topic, message in (("/mask", mask), ("/info", info), ("/points", cloud(POINTS))):
            publishers[topic].publish(message)
        graph.spin(0.1)
        return bool(graph.messages["/point_filter/points"])

    graph.until(came)
    kept = graph.messages["/point_filter/points"][0]
    assert (kept.width, kept.row_step) == (1, 16)
    assert np.frombuffer(kept.data, np.float32).tolist() == POINTS[0].tolist()


@pytest.mark.dds
def test_masks_and_detections_of_the_fusion_node(
    graph: Graph, example: Any, tiny_weights: Path, tmp_path: Path
) -> None:
    example("use_masks.py", "-r", "mask:=/fusion/mask/image", "-r", "labels:=/fusion/labels")
    example("publish_detections.py", "-r", "__ns:=/fusion", "-p", "minimum_pixels:=1")
    graph.start_fusion(tiny_weights, mode="replay")
    graph.listen("/people_ahead/share", Float64)
    graph.listen("/fusion/mask/image", Image)
    boxes = "/fusion/near_objects/detections"
    graph.listen(boxes, Detection2DArray or String)
    count = graph.node.count_subscribers
    graph.until(lambda: count("/fusion/mask/image") >= 3 and count("/fusion/confidence/image"), 60)
    images = [(smooth_image(64, 96, n), smooth_image(64, 96, n + 9)[..., 0]) for n in range(3)]
    graph.play(write_pairs(tmp_path / "bag", images))
    graph.until(lambda: len(graph.messages[boxes]) == 3)
    graph.until(lambda: len(graph.messages["/people_ahead/share"]) == 3)
    person = MFNET.names.index("person")
    shares = [
        float((to_infrared(mask)[:, 32:-32] == person).mean())
        for mask in graph.messages["/fusion/mask/image"]
    ]
    assert [message.data for message in graph.messages["/people_ahead/share"]] == shares
    if Detection2DArray is None:
        stamps = [json.loads(message.data)["stamp"] for message in graph.messages[boxes]]
        assert stamps[2] == {
            "sec": START_NS // 10**9, "nanosec": 2 * PERIOD_NS,
        }  # fmt: skip
