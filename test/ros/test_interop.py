"""Consumers' own parsing, re-written from their sources, on what the node publishes over DDS.

Each stand-in names the file and the function that it follows; docs/interop.md has the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from harness import START_NS, Graph, write_pairs
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from ivf_core.class_sets import STREET
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.scenes import SyntheticDrive
from ivf_ros.autoware_masks import AUTOWARE_CLASSES, AUTOWARE_NAMES
from ivf_ros.compat import LabelInfo

pytestmark = pytest.mark.dds

WIDTH, HEIGHT, FOCAL, CENTER = 320, 240, 288.0, (159.5, 110.0)
SIZES = {"image": (HEIGHT, WIDTH), "model": (HEIGHT // 2, WIDTH // 2)}
BEST_EFFORT_1 = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_5 = QoSProfile(
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
TOPICS = {
    "mask": ("/fusion/mask/image", Image, qos_profile_sensor_data),
    "confidence": ("/fusion/confidence/image", Image, qos_profile_sensor_data),
    "autoware": ("/fusion/mask/autoware", Image, BEST_EFFORT_1),
    "info": ("/fusion/mask/camera_info", CameraInfo, BEST_EFFORT_1),
    "fused_info": ("/fusion/fused/camera_info", CameraInfo, BEST_EFFORT_1),
    "fused": ("/fusion/fused/image", Image, qos_profile_sensor_data),
    "fused_jpeg": ("/fusion/fused/image/compressed", CompressedImage, qos_profile_sensor_data),
    "overlay_jpeg": ("/fusion/overlay/image/compressed", CompressedImage, qos_profile_sensor_data),
    "mask_png": ("/fusion/mask/image/compressed", CompressedImage, qos_profile_sensor_data),
    "detections": ("/fusion/detections_json", String, 10),
    "labels": ("/fusion/labels", String, LATCHED_5),
}
"""Topics, with the QoS with which their consumers subscribe."""


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, dict[str, Any]]]:
    """Run one node with shipped weights on a street, for each size of the mask."""
    graph = Graph()
    try:
        yield run(graph, tmp_path_factory.mktemp("interop"))
    finally:
        graph.close()


def run(graph: Graph, folder: Path) -> dict[str, dict[str, Any]]:
    """Publish a calibration and a pair for each size of the mask, and collect all results."""
    for topic, kind, qos in TOPICS.values():
        graph.listen(topic, kind, qos)
    if LabelInfo is not None:
        graph.listen("/fusion/label_info", LabelInfo, LATCHED_5)
    publisher = graph.node.create_publisher(CameraInfo, "/rgb/camera_info", 10)
    frame = SyntheticDrive(size=(WIDTH, HEIGHT), rate_hz=1.0, seconds=3.0).frame(0)
    graph.start_fusion(Path("street"), mode="replay")
    graph.until(lambda: publisher.get_subscription_count() > 0)
    results: dict[str, dict[str, Any]] = {}
    for number, size in enumerate(SIZES):
        assert graph.set(mask_size=size)[0].successful
        publisher.publish(calibration())
        graph.spin(0.3)
        pair = frame.visible, frame.infrared
        graph.play(write_pairs(folder / size, [pair], start=2 * number))
        graph.until(
            lambda number=number: all(
                len(graph.messages[topic]) == number + 1
                for name, (topic, *_) in TOPICS.items()
                if name != "labels"
            )
        )
        results[size] = {name: graph.messages[topic][-1] for name, (topic, *_) in TOPICS.items()}
    names = STREET.names
    if LabelInfo is not None:
        graph.until(lambda: bool(graph.messages["/fusion/label_info"]))
        info = graph.messages["/fusion/label_info"][-1]
    else:  # its content, where vision_msgs is not installed
        names = json.loads(results["image"]["labels"].data)["names"]
        classes = [SimpleNamespace(class_id=k, class_name=name) for k, name in enumerate(names)]
        info = SimpleNamespace(class_map=classes)
    for messages in results.values():
        messages["label_info"] = info
    return results


def calibration() -> CameraInfo:
    """Return the calibration of a camera that is rectified."""
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
    info.header.stamp.sec, info.header.stamp.nanosec = divmod(START_NS - 1, 10**9)
    info.k = np.array([FOCAL, 0, CENTER[0], 0, FOCAL, CENTER[1], 0, 0, 1])
    info.p = np.array([FOCAL, 0, CENTER[0], 0, 0, FOCAL, CENTER[1], 0, 0, 0, 1, 0])
    return info


def pixels(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def points(count: int = 500) -> np.ndarray:
    """Return points in the frame of the camera, in metres, whose pixels are not at its edge."""
    random = np.random.default_rng(3)
    z = random.uniform(2, 20, count)
    u, v = random.uniform(1, WIDTH - 2, count), random.uniform(1, HEIGHT - 2, count)
    return np.stack(((u - CENTER[0]) / FOCAL * z, (v - CENTER[1]) / FOCAL * z, z), axis=1)


def project(cloud: np.ndarray, info: CameraInfo) -> np.ndarray:
    """Project as `image_geometry::PinholeCameraModel::project3dToPixel` does, with P."""
    homogeneous = (
        np.reshape(info.p, (3, 4)) @ np.concatenate((cloud, np.ones((len(cloud), 1))), 1).T
    )
    return (homogeneous[:2] / homogeneous[2]).T


@pytest.mark.parametrize("size", SIZES)
def test_headers_and_sizes(published: dict[str, dict[str, Any]], size: str) -> None:
    """Check what exact synchronization needs: equal stamps and frames on all topics."""
    messages = published[size]
    stamped = [name for name in TOPICS if hasattr(messages[name], "header")]
    headers = [messages[name].header for name in stamped]
    assert len(headers) == 9
    assert all(header == headers[0] for header in headers)
    assert headers[0].frame_id == ("rgb_0" if size == "image" else "rgb_2")
    for name in ("mask", "confidence", "autoware"):
        message = messages[name]
        assert (message.height, message.width) == SIZES[size]
        assert (message.encoding, message.step) == ("mono8", message.width)
    assert (messages["info"].height, messages["info"].width) == SIZES[size]
    assert (messages["fused_info"].height, messages["fused_info"].width) == SIZES["image"]


@pytest.mark.parametrize("size", SIZES)
def test_pixel_of_a_point_in_the_mask(published: dict[str, dict[str, Any]], size: str) -> None:
    """Project with ~/mask/camera_info: the pixel is the block that has the RGB pixel."""
    messages = published[size]
    stride = WIDTH // messages["mask"].width
    in_rgb = np.round(project(points(), messages["fused_info"]))
    in_mask = project(points(), messages["info"])
    # The blocks of a mask of half the size are centred between two pixels.
    assert np.abs(in_mask - ((in_rgb + 0.5) / stride - 0.5)).max() <= 0.5 / stride + 1e-9
    full, mask = pixels(published["image"]["mask"]), pixels(messages["mask"])
    u, v = np.floor((in_rgb + 0.5) / stride).astype(int).T
    np.testing.assert_array_equal(mask[v, u], full[tuple(in_rgb.astype(int).T[::-1])])


def run_length_decoder(data: bytes, rows: int, cols: int) -> np.ndarray:
    """Follow `perception_utils::runLengthDecoder` (perception_utils/run_length_encoder.cpp)."""
    mask, index = np.zeros(rows * cols, np.uint8), 0
    for at in range(0, len(data), 5):
        length = int(np.frombuffer(data[at + 1 : at + 5], np.int32)[0])
        mask[index : index + length] = data[at]
        index += length
    assert index == rows * cols
    return mask.reshape(rows, cols)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("info", ["info", "fused_info"])
def test_autoware_filters_the_points_of_its_classes(
    published: dict[str, dict[str, Any]], size: str, info: str
) -> None:
    """Follow `SegmentPointCloudFusionNode::fuse_on_single_image` (autoware_universe).

    perception/autoware_image_projection_based_fusion/src/segmentation_pointcloud_fusion/node.cpp,
    commit 2c0c84b; `check_camera_info` of src/utils/utils.cpp.
    """
    messages = published[size]
    camera, message = messages[info], messages["autoware"]
    assert camera.distortion_model in ("plumb_bob", "rational_polynomial")
    assert len(camera.d) in (5, 8)
    decoded = run_length_decoder(bytes(message.data), message.height, message.width)
    mask = cv2.resize(decoded, (camera.width, camera.height), interpolation=cv2.INTER_NEAREST)
    filtered = []
    targets = ("PERSON", "VEHICLE", "BUILDING")
    for index, (x, y) in enumerate(project(points(), camera)):
        semantic_id = mask[np.uint16(y), np.uint16(x)]
        if semantic_id < len(AUTOWARE_CLASSES) and AUTOWARE_CLASSES[semantic_id] in targets:
            filtered.append(index)

    # By our names, at the pixels that it reads: those of the camera_info's size.
    labels = cv2.resize(
        pixels(messages["mask"]), (camera.width, camera.height), interpolation=cv2.INTER_NEAREST
    )
    names = [AUTOWARE_NAMES.get(name, "UNKNOWN") for name in STREET.names]
    u, v = np.floor(project(points(), camera)).astype(int).T
    expected = [k for k, label in enumerate(labels[v, u]) if names[label] in targets]
    assert filtered == expected
    assert 0 < len(filtered) < len(points())


@pytest.mark.parametrize("size", SIZES)
def test_semantic_costmap_layer_marks_tiles(
    published: dict[str, dict[str, Any]], size: str
) -> None:
    """Follow `SegmentationBuffer` of kiwicampus/semantic_segmentation_layer (commit a70cf6e).

    src/segmentation_buffer.cpp: `createSegmentationCostMultimap`, `bufferSegmentation`;
    src/semantic_segmentation_layer.cpp: `syncSegmConfPointcloudCb`.
    """
    messages = published[size]
    segmentation, confidence = messages["mask"], messages["confidence"]
    costs = {name: (254 if name in ("person", "car") else 0) for name in STREET.names}
    class_map = messages["label_info"].class_map
    assert {c.class_name for c in class_map} <= costs.keys()  # else CRITICAL ERROR, and ignored
    cost_by_id = {c.class_id: costs[c.class_name] for c in class_map}
    assert all(0 <= number <= 255 for number in cost_by_id)  # kept as uint8_t

    # An organized cloud, registered to the mask: as many points as pixels, on ground and walls.
    height, width = segmentation.height, segmentation.width
    v, u = np.mgrid[0:height, 0:width]
    x, y = 1 + 3 * u / width, 3 * v / height
    assert len(segmentation.data) == width * height  # rows without padding: `step` is not read
    assert len(confidence.data) == len(segmentation.data)
    tiles: dict[tuple[int, int], int] = {}
    for row in range(height):
        for column in range(width):
            index = row * width + column
            tile = int(x[row, column] / 0.25), int(y[row, column] / 0.25)
            best = tiles.get(tile)
            if best is None or confidence.data[index] > confidence.data[best]:
                tiles[tile] = index
    observations = [
        (cost_by_id[segmentation.data[index]], confidence.data[index])
        for index in tiles.values()
        if segmentation.data[index] in cost_by_id
    ]
    assert len(observations) == len(tiles)  # no id is undefined
    assert {cost for cost, _ in observations} == {0, 254}
    assert len({confidence for _, confidence in observations}) > 1


def test_compressed_topics_decode_to_the_raw_images(
    published: dict[str, dict[str, Any]],
) -> None:
    """Follow `CvBridge.compressed_imgmsg_to_cv2` (cv_bridge/core.py), and Foxglove's choice."""
    for messages in published.values():
        for name in ("fused_jpeg", "overlay_jpeg", "mask_png"):
            assert messages[name].format.split("; ")[1].split()[0] in ("jpeg", "png")
        png = cv2.imdecode(np.frombuffer(messages["mask_png"].data, np.uint8), cv2.IMREAD_ANYCOLOR)
        np.testing.assert_array_equal(png, pixels(messages["mask"]))
        jpeg = np.frombuffer(messages["fused_jpeg"].data, np.uint8)
        bgr = cv2.imdecode(jpeg, cv2.IMREAD_ANYCOLOR)
        fused = np.frombuffer(messages["fused"].data, np.uint8).reshape(HEIGHT, WIDTH, 3)
        assert np.abs(bgr[..., ::-1].astype(int) - fused).mean() < 8


def test_detections_are_in_the_image(published: dict[str, dict[str, Any]]) -> None:
    """Read as vision_msgs/Detection2D says: pixels of the image with the header's stamp."""
    for messages in published.values():
        found = json.loads(messages["detections"].data)
        header = messages["mask"].header
        assert found["stamp"] == {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec}
        assert (found["height"], found["width"]) == SIZES["image"]
        names = {c.class_id: c.class_name for c in messages["label_info"].class_map}
        assert found["detections"]
        for detection in found["detections"]:
            box = detection["box"]
            assert 0 <= box["left"] < box["left"] + box["width"] <= WIDTH
            assert 0 <= box["top"] < box["top"] + box["height"] <= HEIGHT
            assert 0 <= detection["score"] <= 1
            assert names[detection["class_id"]] == detection["name"]


class SegmentationMetricsFactory:
    """`update` and `get_iou` of perceptionmetrics/utils/segmentation_metrics.py (5663a9a)."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.confusion_matrix = np.zeros((n_classes, n_classes), np.int64)

    def update(self, pred: np.ndarray, gt: np.ndarray, valid_mask: np.ndarray | None) -> None:
        assert np.issubdtype(pred.dtype, np.integer)
        mask = (gt >= 0) & (gt < self.n_classes)
        if valid_mask is not None:
            mask &= valid_mask
        new_entry = np.bincount(
            self.n_classes * gt[mask].astype(int) + pred[mask].astype(int),
            minlength=self.n_classes**2,
        )
        self.confusion_matrix += new_entry.reshape(self.n_classes, self.n_classes)

    def get_iou(self) -> np.ndarray:
        hits = np.diag(self.confusion_matrix)
        union = self.confusion_matrix.sum(0) + self.confusion_matrix.sum(1) - hits
        with np.errstate(invalid="ignore"):
            return hits / union


def test_perception_metrics_count_the_mask(published: dict[str, dict[str, Any]]) -> None:
    """Count our mask against labels of which some are 255: these are left out, as by us."""
    predicted = pixels(published["image"]["mask"])
    truth = np.random.default_rng(5).integers(0, len(STREET), predicted.shape).astype(np.uint8)
    truth[:5] = 255
    factory = SegmentationMetricsFactory(len(STREET))
    factory.update(predicted, truth, predicted != 255)
    assert factory.confusion_matrix.sum() == (truth != 255).sum()
    ours = ConfusionMatrix(len(STREET))
    ours.update(predicted, truth)
    np.testing.assert_allclose(factory.get_iou(), ours.iou())
