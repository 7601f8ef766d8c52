"""The demo, start to end, on a short drive."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from std_msgs.msg import Int64MultiArray

from ivf_core.data.rosbag import RGB_TOPIC, START_NS, THERMAL_TOPIC, BagWriter, bag_info
from ivf_core.defaults import ENGINES
from ivf_core.images.files import read_visible
from ivf_ros.demo_results import write_pictures

pytestmark = pytest.mark.dds

MS = 1_000_000
RESTAMPED_BY = 5 * 10**9


def run_demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ivf_ros.demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_demo(tmp_path: Path, tiny_weights: Path) -> None:
    output = tmp_path / "out"
    done = run_demo("--output", output, "--seconds", 2, "--weights", tiny_weights)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((output / "summary.json").read_text())
    assert summary["pairs_in"] == summary["pairs_out"] + sum(summary["dropped"].values())
    assert 0 < summary["pairs_out"] <= summary["pairs_in"] <= 60
    assert summary["images"]["rgb"]["published"] == 60
    for name in ("latency_ms", "overhead_ms"):
        values = summary[name]
        assert 0 < values["median"] <= values["p95"] <= values["p99"]
    assert 0 < summary["model_ms"] < summary["latency_ms"]["p99"]
    assert summary["size"] == [640, 480]
    assert summary["throughput_hz"] > 0
    assert summary["engine"].split()[0] in ENGINES
    assert summary["weights"] == str(tiny_weights)
    assert summary["pictures"]
    for path in summary["pictures"]:
        picture = read_visible(path)
        assert picture.shape[1] > 4 * 600  # four panels side by side
    counts = {topic.name: topic.count for topic in bag_info(output / "bag").topics}
    assert counts["/fusion/fused/image"] == summary["pairs_out"]
    assert counts["/fusion/mask/image"] == summary["pairs_out"]
    assert (output / "side_by_side.mp4").stat().st_size > 1000
    assert not list(output.glob(".input-*"))
    assert "pairs a second" in done.stdout


def test_demo_refuses_half_a_pair_of_videos(tmp_path: Path) -> None:
    done = run_demo("--output", tmp_path / "out", "--visible", "rgb.mp4")
    assert done.returncode == 1
    assert "VISIBLE and INFRARED go together" in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_on_a_bag_that_is_not_there(tmp_path: Path) -> None:
    done = run_demo("--output", tmp_path / "out", "--bag", tmp_path / "none")
    assert done.returncode == 1
    assert "demo: " in done.stderr
    assert str(tmp_path / "none") in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_demo_and_its_processes(tmp_path: Path, tiny_weights: Path) -> None:
    command = [sys.executable, "-m", "ivf_ros.demo", "--output", str(tmp_path / "out")]
    demo = subprocess.Popen(
        [*command, "--seconds", "20", "--rate", "0.1", "--weights", str(tiny_weights)],
        stderr=subprocess.PIPE,
        text=True,
    )
    children: list[str] = []
    deadline = time.monotonic() + 120
    while len(children) < 3:  # node, recorder, player
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    time.sleep(2)  # the player is up
    demo.send_signal(signal.SIGINT)
    try:
        errors = demo.communicate(timeout=60)[1]
    finally:
        demo.terminate()  # leave nothing behind where Ctrl-C has failed
    assert demo.returncode == 130, errors
    assert "Traceback" not in errors
    assert not [pid for pid in children if Path("/proc", pid).exists()]
    assert not list((tmp_path / "out").glob(".input-*"))


def frame(k: int, height: int = 24) -> np.ndarray:
    return np.full((height, 32, 3), 10 * k, np.uint8)


def write_input(path: Path, rgb: Sequence[int], thermal_ms: Sequence[int]) -> Path:
    """RGB frames k at 33 k ms, and thermal frames at the given times."""
    images = [(33 * k, RGB_TOPIC, frame(k), "rgb8") for k in rgb]
    images += [(ms, THERMAL_TOPIC, frame(0)[..., 0], "mono8") for ms in thermal_ms]
    with BagWriter(path) as bag:
        for ms, topic, image, encoding in sorted(images, key=lambda entry: entry[0]):
            bag.write_image(topic, START_NS + ms * MS, np.ascontiguousarray(image), encoding, "c")
    return path


def write_output(path: Path, restamped: Sequence[int], results: Sequence[int]) -> Path:
    """What is recorded when the node makes results of the RGB frames k."""
    with BagWriter(path) as bag:
        for k in restamped:
            stamp = START_NS + 33 * k * MS
            data = serialize_message(Int64MultiArray(data=[stamp, stamp + RESTAMPED_BY]))
            bag.write("/player/restamped_ns", "std_msgs/msg/Int64MultiArray", START_NS, data)
        for k in results:
            stamp = START_NS + 33 * k * MS + RESTAMPED_BY
            for topic in ("/fusion/fused/image", "/fusion/overlay/image"):
                bag.write_image(topic, stamp, frame(k), "rgb8", "c")
    return path


class TestPictures:
    def shown(self, tmp_path: Path, source: Path, results: Path) -> list[np.ndarray]:
        files, size = write_pictures(
            tmp_path, bag_info(source), (RGB_TOPIC, THERMAL_TOPIC), results
        )
        assert size == [32, 24]
        assert (tmp_path / "side_by_side.mp4").stat().st_size > 0
        return [read_visible(file) for file in files]

    def test_lost_results_gaps_and_a_slower_camera(self, tmp_path: Path) -> None:
        rgb = [0, 1, 2, 3, 20, 21, 22, 23, 24]
        source = write_input(tmp_path / "in", rgb, [10, 110, 670, 770])
        results = write_output(tmp_path / "out", rgb[:6] + rgb[7:], [0, 3, 20, 23])
        pictures = self.shown(tmp_path, source, results)
        assert len(pictures) == 4
        for picture, k in zip(pictures, (0, 3, 20, 23), strict=True):
            for panel in (0, 2, 3):  # RGB, fused, overlay
                column = picture[-12:, panel * 32 : (panel + 1) * 32]
                assert np.abs(column.astype(int) - 10 * k).max() <= 2, (panel, k)

    def test_results_without_inputs_are_left_out(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = write_input(tmp_path / "in", [0, 1, 2, 3, 20], [0, 33, 99])  # none near 20
        results = write_output(tmp_path / "out", [0, 1, 3, 20], [0, 1, 2, 3, 20])  # 2 not told
        assert len(self.shown(tmp_path, source, results)) == 3
        assert "2 of 5 results are not shown" in capsys.readouterr().out

    def test_size_that_changes(self, tmp_path: Path) -> None:
        source = tmp_path / "in"
        with BagWriter(source) as bag:
            for k, height in enumerate((24, 40)):
                stamp = START_NS + 33 * k * MS
                bag.write_image(RGB_TOPIC, stamp, frame(k, height), "rgb8", "c")
                bag.write_image(THERMAL_TOPIC, stamp, frame(k)[..., 0].copy(), "mono8", "c")
        pictures = self.shown(tmp_path, source, write_output(tmp_path / "out", [0, 1], [0, 1]))
        assert pictures[0].shape != pictures[1].shape

    @pytest.mark.parametrize("told", [[0, 1], []])
    def test_nothing_to_show(self, tmp_path: Path, told: list[int]) -> None:
        source = write_input(tmp_path / "in", [0, 1], [0, 33])
        results = write_output(tmp_path / "out", told, [] if told else [0])
        message = "no fused image" if told else "no result belongs to a pair"
        with pytest.raises(ValueError, match=message):
            write_pictures(tmp_path, bag_info(source), (RGB_TOPIC, THERMAL_TOPIC), results)
