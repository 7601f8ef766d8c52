"""Fusion node and player in processes of their own, the subscriber here, over DDS."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from harness import PERIOD_NS, SECONDS, START_NS, Graph, smooth_image, stop, write_pairs
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64, String, UInt64
from std_srvs.srv import Trigger

from ivf_core.bags.writer import BagWriter
from ivf_core.class_sets import MFNET
from ivf_core.defaults import ENGINES
from ivf_core.images.files import list_images, read_infrared, read_visible
from ivf_core.images.object_boxes import find_objects
from ivf_core.images.overlay import draw_overlay
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_ros.compat import Detection2DArray
from ivf_ros.conversions import to_infrared, to_visible
from ivf_ros.object_messages import to_json

pytestmark = pytest.mark.dds

FUSED, MASK, OVERLAY = "/fusion/fused/image", "/fusion/mask/image", "/fusion/overlay/image"
CONFIDENCE = "/fusion/confidence/image"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (smooth_image(66, 98, n), smooth_image(66, 98, 100 + n)[..., 0].copy()) for n in range(6)
    ]


@pytest.fixture
def bag(tmp_path: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Path:
    return write_pairs(tmp_path / "bag", pairs)


def listen_to_images(graph: Graph) -> None:
    for topic in (FUSED, MASK, OVERLAY):
        graph.listen(topic, Image)


def received(graph: Graph, topic: str, count: int) -> list[Any]:
    graph.until(lambda: len(graph.messages[topic]) >= count)
    return graph.messages[topic]


def quick_pipeline(weights: Path) -> FusionPipeline:
    """Return the pipeline that the tests' node runs."""
    return FusionPipeline(load_model(weights), engine="torch", device="cpu", precision="fp32")


def test_pixels_headers_and_counts(
    graph: Graph, tiny_weights: Path, bag: Path, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    listen_to_images(graph)
    graph.listen("/fusion/latency_ms", Float64)
    graph.start_fusion(tiny_weights, mode="replay")
    graph.play(bag)
    graph.settle(len(pairs))
    assert graph.counts() == (len(pairs), len(pairs), {})

    pipeline = quick_pipeline(tiny_weights)
    outputs = [received(graph, topic, len(pairs)) for topic in (FUSED, MASK, OVERLAY)]
    for index, (given, fused, mask, overlay) in enumerate(zip(pairs, *outputs, strict=True)):
        stamp = START_NS + index * PERIOD_NS
        expected = pipeline(ImagePair(*given, stamp / 1e9))
        assert expected.fused is not None
        assert expected.labels is not None
        labels = resize_labels(expected.labels, given[1].shape)
        for message in (fused, mask, overlay):
            header = message.header
            assert header.stamp.sec * 10**9 + header.stamp.nanosec == stamp
            assert header.frame_id == f"rgb_{index}"
        assert (fused.encoding, mask.encoding) == ("rgb8", "mono8")
        np.testing.assert_array_equal(to_visible(fused), expected.fused)
        np.testing.assert_array_equal(to_infrared(mask), labels)
        np.testing.assert_array_equal(
            to_visible(overlay), draw_overlay(expected.fused, labels, MFNET, 0.5)
        )
    assert len(received(graph, "/fusion/latency_ms", len(pairs))) == len(pairs)


def test_live_mode_counts_the_pairs_that_it_replaces(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    visible, infrared = smooth_image(480, 640, 1), smooth_image(480, 640, 2)[..., 0].copy()
    bag = write_pairs(tmp_path / "fast", [(visible, infrared)] * 60)
    graph.listen(FUSED, Image)
    graph.start_fusion(tiny_weights)
    graph.play(bag, rate=20.0)
    graph.until(lambda: graph.counts()[0] > 0 and graph.values()["pairs_pending"] == "0")
    graph.spin(1.0)
    came_in, out, dropped = graph.counts()
    assert came_in == out + sum(dropped.values())
    assert dropped.get("replaced_by_newer", 0) > 0
    assert set(dropped) == {"replaced_by_newer"}
    assert len(graph.messages[FUSED]) == out


def test_real_pair_with_the_shipped_weights(graph: Graph, tmp_path: Path, data: Path) -> None:
    name, path = next(iter(list_images(data / "msrs" / "visible").items()))
    visible = read_visible(path)
    infrared = read_infrared(list_images(data / "msrs" / "infrared")[name])
    listen_to_images(graph)
    graph.start_fusion(Path("sage"), mode="replay", engine="auto", precision="auto")
    graph.play(write_pairs(tmp_path / "real", [(visible, infrared)]))
    (fused,) = received(graph, FUSED, 1)
    expected = FusionPipeline(load_model("sage"), device="cpu")(ImagePair(visible, infrared))
    np.testing.assert_array_equal(to_visible(fused), expected.fused)


def test_sixteen_bit_compressed_thermal(graph: Graph, tiny_weights: Path, tmp_path: Path) -> None:
    visible = smooth_image(64, 80, 3)
    counts = (7000 + 20 * smooth_image(64, 80, 4)[..., 0].astype(np.uint16)).astype(np.uint16)
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_image("/rgb/image_raw", START_NS, visible, "rgb8", "rgb")
        bag.write_compressed(
            "/thermal/image_raw/compressed", START_NS, counts, "mono16", "thermal", "png"
        )
    graph.listen(FUSED, Image)
    graph.start_fusion(tiny_weights, mode="replay", thermal_transport="compressed")
    graph.play(tmp_path / "bag")
    (fused,) = received(graph, FUSED, 1)
    expected = quick_pipeline(tiny_weights)(ImagePair(visible, counts))
    np.testing.assert_array_equal(to_visible(fused), expected.fused)


@pytest.fixture
def weights_with_persons(
    tiny_model: FusionModel, pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path
) -> Path:
    """Return the path of weights that see persons in about half of the images."""
    visible, infrared = pairs[0]
    planes = cv2.cvtColor(visible, cv2.COLOR_RGB2YCrCb)[..., 0], infrared
    person, head = MFNET.names.index("person"), copy.deepcopy(tiny_model.head)
    assert head is not None
    luma, thermal = (torch.from_numpy(plane.copy())[None, None] / 255 for plane in planes)
    logits = head(tiny_model.student(luma, thermal).features)
    head.raise_class(person, (logits.amax(1) - logits[:, person]).median().item())
    save_model(replace(tiny_model, head=head), tmp_path / "persons.safetensors")
    return tmp_path / "persons.safetensors"


@pytest.mark.parametrize("mask_size", ["image", "model"])
def test_confidence_and_boxes(
    graph: Graph,
    weights_with_persons: Path,
    bag: Path,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    mask_size: str,
) -> None:
    graph.listen(CONFIDENCE, Image)
    graph.listen("/fusion/detections_json", String)
    if Detection2DArray is not None:
        graph.listen("/fusion/detections", Detection2DArray)
    graph.start_fusion(
        weights_with_persons, mode="replay", mask_size=mask_size, detection_minimum_pixels=30
    )
    graph.play(bag)
    graph.settle(len(pairs))
    assert graph.counts() == (len(pairs), len(pairs), {})
    assert graph.values()["masks_out"] == str(len(pairs))

    pipeline = quick_pipeline(weights_with_persons)
    confidences = received(graph, CONFIDENCE, len(pairs))
    texts = received(graph, "/fusion/detections_json", len(pairs))
    counts = []
    for index, (given, confidence, text) in enumerate(zip(pairs, confidences, texts, strict=True)):
        stamp = START_NS + index * PERIOD_NS
        expected = pipeline(ImagePair(*given, stamp / 1e9), confidence=True)
        assert expected.labels is not None
        assert expected.confidence is not None
        plane, size = expected.confidence, given[1].shape
        if mask_size == "image":
            plane = resize_labels(plane, size)
        assert confidence.encoding == "mono8"
        assert confidence.header.frame_id == f"rgb_{index}"
        np.testing.assert_array_equal(to_infrared(confidence), plane)
        boxes = find_objects(expected.labels, expected.confidence, MFNET, size, minimum_pixels=30)
        assert json.loads(text.data) == json.loads(to_json(boxes, confidence.header, size))
        counts.append(len(boxes))
    assert sum(counts) > 0
    if Detection2DArray is not None:
        messages = received(graph, "/fusion/detections", len(pairs))
        assert [len(message.detections) for message in messages] == counts


def test_camera_info_labels_and_model_sized_mask(
    graph: Graph, tiny_weights: Path, tmp_path: Path, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    visible, infrared = pairs[0]
    publisher = graph.node.create_publisher(CameraInfo, "/rgb/camera_info", 10)
    graph.listen("/fusion/fused/camera_info", CameraInfo)
    graph.listen("/fusion/mask/camera_info", CameraInfo)
    graph.listen("/fusion/labels", String, LATCHED)
    listen_to_images(graph)
    graph.start_fusion(tiny_weights, mode="replay", mask_size="model")
    graph.until(lambda: publisher.get_subscription_count() > 0)
    info = CameraInfo(width=98, height=66, distortion_model="plumb_bob")
    info.header.stamp.sec, info.header.stamp.nanosec = divmod(START_NS, 10**9)
    info.k = np.array([90.0, 0, 48, 0, 91, 32, 0, 0, 1])
    publisher.publish(info)
    graph.spin(0.5)
    graph.play(write_pairs(tmp_path / "bag", [(visible, infrared)]))
    (mask,) = received(graph, MASK, 1)
    assert (mask.height, mask.width) == (33, 49)
    (got,) = received(graph, "/fusion/fused/camera_info", 1)
    assert got.distortion_model == "plumb_bob"
    assert list(got.k) == list(info.k)
    assert got.header.frame_id == "rgb_0"
    (half,) = received(graph, "/fusion/mask/camera_info", 1)
    assert half.header == got.header
    assert (half.height, half.width) == (mask.height, mask.width)
    assert list(half.k) == [45.0, 0, 23.75, 0, 45.5, 15.75, 0, 0, 1]
    (labels,) = received(graph, "/fusion/labels", 1)
    assert json.loads(labels.data)["names"] == list(MFNET.names)


def test_nothing_is_computed_without_a_subscriber(
    graph: Graph, tiny_weights: Path, bag: Path, pairs: list[Any]
) -> None:
    graph.start_fusion(tiny_weights, mode="replay")
    graph.play(bag)
    graph.settle(len(pairs))
    assert graph.counts() == (len(pairs), 0, {"no_subscriber": len(pairs)})
    assert not [key for key in graph.values() if key.startswith("model_ms")]


def test_lifecycle(graph: Graph, tiny_weights: Path, bag: Path, pairs: list[Any]) -> None:
    graph.listen(FUSED, Image)
    graph.start("fusion_node", weights=str(tiny_weights), mode="replay", autostart=False)
    assert graph.state() == "unconfigured"
    assert not graph.trigger("reload_weights").success
    assert graph.change_state(Transition.TRANSITION_CONFIGURE)
    assert graph.state() == "inactive"
    assert "not active" in graph.trigger("save_snapshot").message
    assert graph.change_state(Transition.TRANSITION_ACTIVATE)
    graph.play(bag)
    received(graph, FUSED, len(pairs))
    assert graph.change_state(Transition.TRANSITION_DEACTIVATE)
    graph.until(lambda: graph.values()["state"] == "inactive")
    graph.play(bag, wait_for_subscribers_seconds=0.0)  # without a subscriber
    assert graph.change_state(Transition.TRANSITION_ACTIVATE)
    graph.play(bag)
    received(graph, FUSED, 2 * len(pairs))
    graph.settle(len(pairs))
    assert graph.counts() == (len(pairs), len(pairs), {}), "counted again since the activation"
    assert not graph.change_state(Transition.TRANSITION_ACTIVATE), "it is active"
    assert graph.change_state(Transition.TRANSITION_DEACTIVATE)
    assert graph.change_state(Transition.TRANSITION_CLEANUP)
    assert graph.state() == "unconfigured"


@pytest.mark.parametrize("engine", ENGINES)
def test_node_ends_in_order_with_every_engine(
    engine: str, graph: Graph, tiny_weights: Path, bag: Path, pairs: list[Any]
) -> None:
    """End the node after its model was freed: OpenVINO had also freed the stack of signals."""
    pytest.importorskip(engine)
    listen_to_images(graph)
    process = graph.start_fusion(tiny_weights, mode="replay", engine=engine)
    graph.play(bag)
    graph.settle(len(pairs))
    assert graph.change_state(Transition.TRANSITION_DEACTIVATE)
    stop(process)
    assert process.returncode == 0


def test_publisher_with_the_wrong_qos_is_reported(
    graph: Graph, tiny_weights: Path, bag: Path
) -> None:
    process = graph.start_fusion(tiny_weights, mode="replay", timeout_seconds=0.5)
    player = graph.start(
        "player_node", bag=str(bag), qos_reliability="sensor_data", loop=True,
        wait_for_subscribers_seconds=1.0,
    )  # fmt: skip
    graph.until(lambda: "player offers a QoS on /rgb" in graph.status("rgb camera").message)
    assert graph.status("rgb camera").level == DiagnosticStatus.ERROR
    stop(player)
    graph.until(lambda: "no publisher" in graph.status("rgb camera").message)
    assert "/rgb/image_raw: a publisher offers a QoS that does not match" in stop(process)


def test_malformed_messages_are_counted_and_the_node_continues(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    visible, infrared = smooth_image(48, 64, 5), smooth_image(48, 64, 6)[..., 0].copy()
    good = dict(height=48, width=64, encoding="rgb8", step=192, data=visible)
    gray = dict(height=48, width=64, encoding="mono8", step=64, data=infrared)
    hot = np.full((48, 64), 300.0, np.float32)
    hot[::2] = 310
    spotted, blind = hot.copy(), np.full_like(hot, np.nan)
    spotted[3:5, 3:5] = np.nan
    large = dict(height=96, width=64, encoding="rgb8", step=192, data=np.vstack([visible] * 2))
    counts = dict(height=48, width=64, encoding="32FC1", step=256)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (good, gray),
        ({**good, "step": 100}, gray),
        ({**good, "data": visible[:20]}, gray),
        ({**good, "encoding": "rgb9"}, gray),
        ({**good, "width": 0}, gray),
        (good, {**gray, "step": 3}),
        (good, {**counts, "data": blind}),
        (good, {**counts, "data": spotted}),
        (good, gray),
        (large, gray),  # the size changes mid-stream
        (good, gray),
    ]
    with BagWriter(tmp_path / "bag") as bag:
        for index, pair in enumerate(cases):
            stamp = START_NS + index * PERIOD_NS
            for topic, fields in zip(("/rgb/image_raw", "/thermal/image_raw"), pair, strict=True):
                write_raw(bag, topic, stamp, **fields)
    graph.listen(FUSED, Image)
    process = graph.start_fusion(tiny_weights, mode="replay")
    graph.play(tmp_path / "bag")
    graph.settle(len(cases))
    assert graph.counts() == (
        len(cases),
        5,
        {
            "rgb_bad_step": 1,
            "rgb_short_data": 1,
            "rgb_unknown_encoding": 1,
            "rgb_zero_size": 1,
            "thermal_bad_step": 1,
            "unusable_pair": 1,
        },
    )
    assert graph.values()["repaired_thermal_frames"] == "1"
    assert [message.height for message in received(graph, FUSED, 5)] == [48, 48, 48, 96, 48]
    log = stop(process)
    assert process.returncode == 0
    assert log.count("rgb9") == 1
    assert "Traceback" not in log


def write_raw(bag: BagWriter, topic: str, stamp: int, **fields: Any) -> None:
    """Write an Image with the given fields, which may be malformed."""
    data = np.ascontiguousarray(fields.pop("data")).reshape(-1).view(np.uint8)
    message = Image(**fields)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    message.data = data.tobytes()
    bag.write(topic, "sensor_msgs/msg/Image", stamp, serialize(message))


def serialize(message: Any) -> bytes:
    from rclpy.serialization import serialize_message

    return serialize_message(message)


def test_camera_that_stops_is_reported(graph: Graph, tiny_weights: Path, tmp_path: Path) -> None:
    visible, infrared = smooth_image(48, 64, 5), smooth_image(48, 64, 6)[..., 0].copy()
    with BagWriter(tmp_path / "bag") as bag:
        for index in range(30):
            stamp = START_NS + index * PERIOD_NS
            bag.write_image("/rgb/image_raw", stamp, visible, "rgb8", "rgb")
            if index < 5:
                bag.write_image("/thermal/image_raw", stamp, infrared, "mono8", "thermal")
    graph.listen(FUSED, Image)
    graph.start_fusion(tiny_weights, mode="replay", timeout_seconds=0.5, queue_size=10)
    graph.play(tmp_path / "bag", rate=10.0)
    received(graph, FUSED, 5)
    graph.until(lambda: "no image" in graph.status("thermal camera").message
                or "no publisher" in graph.status("thermal camera").message)  # fmt: skip
    graph.until(lambda: graph.values("rgb camera")["received"] == "30")
    graph.until(lambda: int(graph.values().get("frames.queue_full_visible", 0)) == 15)
    assert graph.counts() == (5, 5, {})


def test_parameters(graph: Graph, tiny_weights: Path, bag: Path, pairs: list[Any]) -> None:
    graph.listen(OVERLAY, Image)
    graph.start_fusion(tiny_weights, mode="replay")
    rejected = {
        "overlay_opacity": (2.0, "overlay_opacity"),
        "palette": ("sepia", "expected one of natural"),
        "low_percentile": (99.9, "must be below"),
        "tolerance_seconds": (-0.1, "tolerance_seconds"),
        "mode": ("live", "read-only"),
        "class_names": (["a"], "read only"),
        "thermal_mode": ("celsius", "expected one of auto"),
        "weights": ("nowhere", "no such file"),
    }
    for name, (value, reason) in rejected.items():
        (result,) = graph.set(**{name: value})
        assert not result.successful, name
        assert reason in result.reason, result.reason
    accepted = graph.set(palette="inferno", overlay_opacity=0.0, tolerance_seconds=0.001)
    assert [result.successful for result in accepted] == [True] * 3
    graph.play(bag)
    overlays = received(graph, OVERLAY, len(pairs))
    pipeline = quick_pipeline(tiny_weights)
    for given, overlay in zip(pairs, overlays, strict=True):
        result = pipeline(ImagePair(*given))
        assert result.fused is not None
        labels = np.zeros(given[1].shape, np.uint8)
        np.testing.assert_array_equal(
            to_visible(overlay), draw_overlay(result.fused, labels, MFNET, 0.0, "inferno")
        )


def test_services(graph: Graph, tiny_weights: Path, bag: Path, tmp_path: Path) -> None:
    graph.start_fusion(tiny_weights, mode="replay", snapshot_directory=str(tmp_path / "shots"))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(tiny_weights.read_bytes()[:500])
    assert graph.set(weights=str(damaged))[0].successful
    response = graph.trigger("reload_weights")
    assert not response.success
    assert "damaged.safetensors" in response.message
    assert "the old weights stay" in response.message
    assert graph.set(weights=str(tiny_weights))[0].successful
    assert graph.trigger("reload_weights").success

    player = graph.start("player_node", bag=str(bag), loop=True)
    response = graph.trigger("save_snapshot")  # although there is no subscriber
    stop(player)
    assert response.success, response.message
    written = {path.name.rsplit("_")[-1] for path in (tmp_path / "shots").iterdir()}
    assert written == {"visible.png", "infrared.png", "fused.png", "mask.png", "overlay.png"}


@pytest.mark.parametrize("clients", [1, 50])
def test_fifty_callers_at_once_are_all_answered(
    graph: Graph, tiny_weights: Path, tmp_path: Path, clients: int
) -> None:
    """By default ten requests wait, and a client keeps ten answers: the others would be lost."""
    process = graph.start_fusion(tiny_weights, snapshot_directory=str(tmp_path))
    for service in ("reload_weights", "save_snapshot"):
        callers = [graph.node.create_client(Trigger, f"/fusion/{service}") for _ in range(clients)]
        for caller in callers:
            assert caller.wait_for_service(SECONDS)
        # A test that does not run for 100 ms loses answers itself, and asks again. From a node that
        # answers all at once, every burst loses most.
        for _ in range(3):
            futures = [callers[n % clients].call_async(Trigger.Request()) for n in range(50)]
            if graph.comes_true(lambda futures=futures: all(f.done() for f in futures), 20):
                break
        assert all(future.done() for future in futures)
        messages = {future.result().message for future in futures}
        for caller in callers:
            graph.node.destroy_client(caller)
        if service == "reload_weights":
            assert messages == {
                f"loaded '{tiny_weights}'",
                "an earlier request is loading the weights; ask again when it is answered",
            }
        else:
            assert messages == {
                "no pair was fused within 10 s", "8 snapshots wait for a pair already"
            }  # fmt: skip
    assert graph.trigger("reload_weights").success
    assert process.poll() is None


def test_missing_weights_are_named(graph: Graph) -> None:
    process = graph.start("fusion_node", weights="nowhere.safetensors")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "weights 'nowhere.safetensors': no such file" in output
    assert "Traceback" not in output


def test_parameter_rejected_at_the_start(graph: Graph, tiny_weights: Path) -> None:
    process = graph.start("fusion_node", weights=str(tiny_weights), mode="fast")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "mode is 'fast', expected one of live, replay" in output
    assert "Traceback" not in output


def test_deactivating_under_traffic(graph: Graph, tiny_weights: Path, bag: Path) -> None:
    """Destroy and create subscriptions while images arrive: nothing may crash or be uncounted."""
    graph.listen(FUSED, Image)
    process = graph.start_fusion(tiny_weights)
    graph.start("player_node", bag=str(bag), loop=True, rate=10.0)
    for _ in range(15):
        graph.spin(0.1)
        assert graph.change_state(Transition.TRANSITION_DEACTIVATE)
        assert graph.change_state(Transition.TRANSITION_ACTIVATE)
    seen = len(graph.messages[FUSED])
    graph.until(lambda: len(graph.messages[FUSED]) > seen + 5)
    assert process.poll() is None
    assert "Traceback" not in stop(process)
    assert process.returncode == 0


def test_qos_override_applies_to_its_topic_only(
    graph: Graph, tiny_weights: Path, bag: Path
) -> None:
    """Check that a reliable RGB subscription does not make the thermal one reliable as well."""
    graph.start_fusion(
        tiny_weights, **{"qos_overrides./rgb/image_raw.subscription.reliability": "reliable"}
    )
    offers = {}
    for camera in ("rgb", "thermal"):
        (info,) = graph.node.get_subscriptions_info_by_topic(f"/{camera}/image_raw")
        offers[camera] = info.qos_profile.reliability
    assert offers == {
        "rgb": ReliabilityPolicy.RELIABLE,
        "thermal": ReliabilityPolicy.BEST_EFFORT,
    }


def test_last_inexact_pair_of_a_replay_is_published(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    visible, infrared = smooth_image(48, 64, 5), smooth_image(48, 64, 6)[..., 0].copy()
    with BagWriter(tmp_path / "bag") as bag:
        for index in range(4):
            stamp = START_NS + index * PERIOD_NS
            bag.write_image("/rgb/image_raw", stamp, visible, "rgb8", "rgb")
            bag.write_image("/thermal/image_raw", stamp + 12_000_000, infrared, "mono8", "thermal")
    graph.listen(FUSED, Image)
    graph.listen("/fusion/rgb_frames_done", UInt64, LATCHED)
    graph.start_fusion(tiny_weights, mode="replay", timeout_seconds=0.5)
    graph.play(tmp_path / "bag")
    received(graph, FUSED, 4)
    graph.until(lambda: graph.messages["/fusion/rgb_frames_done"][-1].data == 4)


def test_masks_without_a_head_are_counted(
    graph: Graph, tiny_model: FusionModel, tmp_path: Path, bag: Path, pairs: list[Any]
) -> None:
    """Count masks that are subscribed to and cannot be computed, instead of omitting them."""
    save_model(FusionModel(tiny_model.student), tmp_path / "student.safetensors")
    graph.listen(MASK, Image)
    graph.start_fusion(tmp_path / "student.safetensors", mode="replay")
    graph.play(bag)
    graph.settle(len(pairs))
    assert graph.counts() == (len(pairs), 0, {"no_head": len(pairs)})
