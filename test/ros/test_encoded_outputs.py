"""Encoded outputs: formats as image_transport reads them, remapping, counters, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from harness import Graph, smooth_image
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ivf_core.class_sets import CLASS_SETS, MFNET, STREET
from ivf_ros.autoware_masks import AUTOWARE_CLASSES, AUTOWARE_NAMES, to_autoware_mask
from ivf_ros.conversions import to_infrared, to_jpeg, to_png, to_visible
from ivf_ros.diagnostics import OK, WARN
from ivf_ros.encoded_outputs import ENCODED, EncodedOutputs
from ivf_ros.qos import RESULTS

HEADER = Header(frame_id="rgb")
SETTINGS = {"jpeg_quality": 95}


def decode_as_image_transport(message: CompressedImage) -> tuple[np.ndarray, str]:
    """Decode as `CompressedSubscriber::internalCallback` does (compressed_image_transport)."""
    image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    encoding, separator, compressed = message.format.partition(";")
    assert separator  # else it takes the number of channels for the encoding
    if encoding == "rgb8" and "compressed bgr" in compressed:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image, encoding


def test_jpeg_as_image_transport_reads_it() -> None:
    rgb = smooth_image(48, 65, 1)
    rgb[:, :, 0] //= 2  # no grey: an exchange of red and blue would show
    message = to_jpeg(rgb, 95, HEADER)
    assert message.format == "rgb8; jpeg compressed bgr8"
    assert bytes(message.data[:2]) == b"\xff\xd8"
    image, encoding = decode_as_image_transport(message)
    assert (encoding, image.shape, message.header.frame_id) == ("rgb8", rgb.shape, "rgb")
    exchanged = np.abs(image[..., ::-1].astype(int) - rgb).mean()
    assert np.abs(image.astype(int) - rgb).mean() < exchanged / 4
    np.testing.assert_array_equal(to_visible(message), image)  # our own node reads it as well
    assert len(to_jpeg(rgb, 20, HEADER).data) < len(message.data)


def test_png_keeps_every_class_id() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    message = to_png(labels, HEADER)
    assert message.format == "mono8; png compressed "
    image, encoding = decode_as_image_transport(message)
    assert encoding == "mono8"
    np.testing.assert_array_equal(image, labels)
    np.testing.assert_array_equal(to_infrared(message), labels)


def test_image_that_jpeg_cannot_hold_is_named() -> None:
    with pytest.raises(ValueError, match="image of 70000 x 1: cannot be encoded as jpg"):
        to_jpeg(np.zeros((1, 70000, 3), np.uint8), 95, HEADER)


def test_classes_of_autoware() -> None:
    names = {name for class_set in CLASS_SETS.values() for name in class_set.names}
    unknown = {"unlabeled", "background", "terrain", "fire_extinguisher", "backpack", "hand_drill"}
    assert names - AUTOWARE_NAMES.keys() == unknown
    assert set(AUTOWARE_NAMES.values()) <= set(AUTOWARE_CLASSES)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (48, 64)])
def test_runs_of_autoware_have_five_bytes(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, len(STREET), shape).astype(np.uint8)
    message = to_autoware_mask(labels, STREET, HEADER)
    data = bytes(message.data)
    pixels = [
        data[at] for at in range(0, len(data), 5)
        for _ in range(int.from_bytes(data[at + 1 : at + 5], "little"))
    ]  # fmt: skip
    assert [AUTOWARE_CLASSES[pixel] for pixel in pixels] == [
        AUTOWARE_NAMES.get(STREET.names[label], "UNKNOWN") for label in labels.ravel()
    ]


@pytest.fixture
def node() -> Iterator[Callable[..., LifecycleNode]]:
    """Provide a constructor of a node with arguments for ROS."""
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes: list[LifecycleNode] = []

    def create(*arguments: str) -> LifecycleNode:
        cli_args = ["--ros-args", *arguments] if arguments else []
        nodes.append(LifecycleNode("fusion", context=context, cli_args=cli_args))
        return nodes[0]

    yield create
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def outputs_of(node: LifecycleNode) -> EncodedOutputs:
    return EncodedOutputs(node, lambda kind, topic: node.create_publisher(kind, topic, RESULTS))


def test_compressed_topics_follow_the_raw_ones(node: Callable[..., LifecycleNode]) -> None:
    created = node("-r", "~/fused/image:=/front/night", "-r", "~/mask/image/compressed:=/ids")
    outputs_of(created)
    topics = {publisher.topic_name for publisher in created.publishers}
    expected = {"/front/night/compressed", "/ids", "/fusion/overlay/image/compressed"}
    assert expected | {"/fusion/mask/autoware"} <= topics


@pytest.mark.parametrize("keep_all", [False, True])
def test_every_image_is_counted(node: Callable[..., LifecycleNode], keep_all: bool) -> None:
    outputs = outputs_of(node())
    assert outputs.wanted() == frozenset()
    assert outputs.finding() == (OK, "no subscriber", {})
    outputs.start(keep_all=keep_all)
    image, labels = smooth_image(240, 320, 1), np.zeros((240, 320), np.uint8)
    for _ in range(100):
        outputs.put("fused", image, HEADER, MFNET, SETTINGS)
    outputs.put("autoware", labels, HEADER, MFNET, SETTINGS)
    outputs.stop(finish=True)
    level, text, values = outputs.finding()
    published, replaced = int(values["fused.published"]), int(values["fused.replaced"])
    assert (level, values["autoware.published"]) == (OK, "1")
    assert published + replaced == 100
    assert replaced == 0 if keep_all else replaced > 0
    assert float(values["fused.encode_ms.median"]) > 0
    assert int(values["fused.bytes.median"]) == len(to_jpeg(image, 95, HEADER).data)
    assert text == f"published: {published} fused, 1 autoware"


def test_image_that_cannot_be_encoded_is_reported_once(
    node: Callable[..., LifecycleNode],
) -> None:
    outputs = outputs_of(node())
    outputs.start(keep_all=True)
    outputs.put("fused", np.zeros((1, 70000, 3), np.uint8), HEADER, MFNET, SETTINGS)
    outputs.put("fused", smooth_image(8, 8, 1), HEADER, MFNET, SETTINGS)
    outputs.stop(finish=True)
    level, text, values = outputs.finding()
    assert (level, values["fused.failed"], values["fused.published"]) == (WARN, "1", "1")
    assert "1 failed: ValueError: image of 70000 x 1" in text
    assert outputs.finding()[0] == OK


@pytest.mark.dds
def test_only_what_has_a_subscriber_is_encoded(
    graph: Graph, tiny_weights: Any, tmp_path: Any
) -> None:
    """Subscribe to compressed topics alone: the raw images are computed, and not published."""
    from harness import write_pairs

    pairs = [(smooth_image(66, 98, n), smooth_image(66, 98, 50 + n)[..., 0]) for n in range(4)]
    bag = write_pairs(tmp_path / "bag", pairs)
    for name in ("fused", "mask"):
        graph.listen(f"/fusion/{name}/image/compressed", CompressedImage)
    graph.start_fusion(tiny_weights, mode="replay")
    graph.play(bag)
    graph.settle(len(pairs))
    assert graph.counts() == (len(pairs), len(pairs), {})
    for name in ("fused", "mask"):
        messages = graph.messages[f"/fusion/{name}/image/compressed"]
        graph.until(lambda messages=messages: len(messages) == len(pairs))
        assert [message.header.frame_id for message in messages] == [f"rgb_{n}" for n in range(4)]
    graph.until(lambda: graph.values("encoded").get("mask.published") == "4")
    assert set(ENCODED) & {key.partition(".")[0] for key in graph.values("encoded")} == {
        "fused", "mask"
    }  # fmt: skip
    graph.listen("/fusion/fused/image", Image)
    listed = graph.node.get_publishers_info_by_topic("/fusion/fused/image/compressed")
    raw = graph.node.get_publishers_info_by_topic("/fusion/fused/image")
    assert [info.qos_profile.reliability for info in listed] == [
        info.qos_profile.reliability for info in raw
    ]
