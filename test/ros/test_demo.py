"""The demo, start to end, on a short drive."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ivf_core.data.rosbag import bag_info
from ivf_core.images.files import read_visible

pytestmark = pytest.mark.dds


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
    assert summary["engine"].startswith("torch")
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
