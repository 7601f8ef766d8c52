"""Comparison of the live graph in replay mode with the offline replay of the same bag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import START_NS, Graph, stop

from ivf_core.bags.convert import RGB_TOPIC, THERMAL_TOPIC
from ivf_core.bags.reader import BagReader
from ivf_core.bags.writer import BagWriter
from ivf_core.defaults import DEFAULT_WEIGHTS
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings
from ivf_core.scenes import SyntheticDrive

pytestmark = pytest.mark.dds

IMAGE_TOPICS = [f"/fusion/{kind}/image" for kind in ("fused", "mask", "overlay")]
RATE_HZ = 15.0
GAIN: dict[str, Any] = {"low_percentile": 2.0, "gain_smoothing_seconds": 0.3}
MS = 1_000_000


def write_drive(path: Path) -> Path:
    """Write twenty frames: one of each camera lost, varying shutter delays, drifting counts."""
    drive = SyntheticDrive(size=(192, 160), rate_hz=RATE_HZ, seconds=20 / RATE_HZ)
    with BagWriter(path) as bag:
        for k, frame in enumerate(drive):
            stamp = START_NS + round(k * 1e9 / RATE_HZ)
            if k != 12:
                bag.write_image(RGB_TOPIC, stamp, frame.visible, "rgb8", f"rgb_{k}")
            if k != 7:
                # 16 bits, so that the gain control follows from frame to frame.
                counts = (20_000 + 12 * frame.infrared.astype(np.uint16) + 90 * k).astype(np.uint16)
                moved = stamp + (3 + 2 * (k % 3)) * MS
                bag.write_image(THERMAL_TOPIC, moved, counts, "mono16", "thermal")
    return path


def record_live(graph: Graph, bag: Path, output: Path, weights: str, **engine: Any) -> None:
    """Play every pair of the bag into the node, as fast as it can, and record the results."""
    graph.start_fusion(Path(weights), mode="replay", **GAIN, **engine)
    recorder = graph.start("recorder_node", output=str(output))
    graph.until(lambda: all(graph.node.count_subscribers(topic) for topic in IMAGE_TOPICS))
    graph.play(bag, as_fast_as_taken=True, wait_for_subscribers_seconds=60.0)
    graph.settle(18)
    graph.spin(1.0)  # for messages on their way, and another report of the node
    text = stop(recorder)
    assert recorder.returncode == 0, text


def images(bag: Path) -> dict[tuple[str, int], Any]:
    """Return all results by topic and stamp."""
    found = {}
    with BagReader(bag) as reader:
        for topic, _, _, message in reader.messages(IMAGE_TOPICS):
            key = topic, message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert key not in found
            found[key] = message
    return found


@pytest.mark.parametrize(
    "engine",
    [
        {"engine": "torch", "device": "cpu", "precision": "fp32", "threads": 1},
        {"engine": "auto", "device": "auto", "precision": "auto", "threads": 1},
    ],
    ids=lambda engine: engine["engine"],
)
def test_live_and_offline_results_are_bit_identical(
    graph: Graph, tmp_path: Path, tiny_weights: Path, engine: dict[str, Any]
) -> None:
    weights = str(tiny_weights) if engine["engine"] == "torch" else DEFAULT_WEIGHTS
    bag = write_drive(tmp_path / "drive")
    live, offline = tmp_path / "live", tmp_path / "offline"
    record_live(graph, bag, live / "bag", weights, **engine)
    replay_bag(bag, offline, ReplaySettings(weights=weights, **GAIN, **engine))
    ours, theirs = images(live / "bag"), images(offline / "bag")
    assert len(theirs) == 3 * 18
    assert ours.keys() == theirs.keys()
    for key, message in theirs.items():
        assert ours[key].header.frame_id == message.header.frame_id
        for name in ("height", "width", "step", "encoding", "is_bigendian"):
            assert getattr(ours[key], name) == getattr(message, name), key
        np.testing.assert_array_equal(ours[key].data, message.data, str(key))

    # The recording is scored like the offline results, and contains the node's diagnostics.
    summary = replay_bag(bag, live, ReplaySettings(recorded=str(live / "bag")))
    assert (live / "frames.csv").read_bytes() == (offline / "frames.csv").read_bytes()
    assert not summary["failed"]
    assert summary["settings"]["weights"] == weights
    assert (live / "bag").is_dir()
    report = summary["live"]
    assert report["mode"] == "replay"
    assert (report["pairs_in"], report["pairs_out"], report["dropped"]) == (18, 18, {})
    assert report["images_received"] == {"rgb": 19, "thermal": 19}
    assert report["frames_without_pair"] == {"unmatched_infrared": 1, "unmatched_visible": 1}
    assert report["latency_from"] == "arrival"
    assert 0 < report["latency_ms"]["median"] <= report["latency_ms"]["p99"]
    assert report["rate_hz"] > 0
    assert report["processor"]["node_cores"] > 0
    assert report["memory_mib"] > 10
