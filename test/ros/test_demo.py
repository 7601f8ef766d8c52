"""Demo on a short drive, from start to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from networks import tiny_with

from ivf_core.bags.convert import START_NS
from ivf_core.bags.reader import bag_info
from ivf_core.class_sets import STREET
from ivf_core.defaults import ENGINES
from ivf_core.models.checkpoints import FusionModel

pytestmark = pytest.mark.dds


def run_demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ivf_ros.demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_demo(tmp_path: Path, tiny_model: FusionModel) -> None:
    output = tmp_path / "out"
    weights = tiny_with(STREET, tiny_model, tmp_path / "street.safetensors")
    done = run_demo("--output", output, "--seconds", 2, "--weights", weights)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[ERROR]" not in done.stderr, "the player comes after the node, and ends before it"
    summary = json.loads((output / "summary.json").read_text())
    live = summary["live"]
    assert live["mode"] == "live"
    assert live["pairs_in"] == live["pairs_out"] + sum(live["dropped"].values())
    assert 0 < live["pairs_out"] <= live["pairs_in"] <= 60
    assert summary["pairing"]["received"] == {"rgb": 60, "thermal": 60}
    assert 0 < live["latency_ms"]["median"] <= live["latency_ms"]["p99"]
    assert live["latency_from"] == "stamp"
    assert 0 < live["timings_ms"]["model"]["median"] < live["latency_ms"]["p99"]
    assert live["rate_hz"] > 0
    assert summary["settings"]["engine"].split()[0] in ENGINES
    assert summary["settings"]["weights"] == str(weights)
    # The drive's true class ids are MFNet's; what has none of them is not compared.
    assert summary["segmentation"] is not None, (summary["classes"], summary["left_out"], live)
    accuracy = summary["segmentation"]["accuracy"]
    assert accuracy.keys() == set(STREET.names)
    assert accuracy["car"] is not None
    assert [accuracy[name] for name in ("road", "building", "sky")] == [None] * 3
    counts = {topic.name: topic.count for topic in bag_info(output / "bag").topics}
    assert counts["/fusion/fused/image"] == live["pairs_out"]
    assert counts["/fusion/mask/image"] == live["pairs_out"]
    # The scored frames are those that were played, although the player had moved their stamps.
    stamps = {START_NS + round(k * 1e9 / 30) for k in range(60)}
    rows = (output / "frames.csv").read_text().splitlines()[1:]
    assert len(rows) == live["pairs_out"]
    assert {int(row.split(",")[1]) for row in rows} <= stamps
    assert list((output / "images").glob("*_overlay.jpg"))
    assert (output / "side_by_side.mp4").stat().st_size > 1000
    assert not list(output.glob(".input-*"))
    assert "pairs a second" in done.stdout
    assert str(output / "report.html") in done.stdout
    assert "The live graph" in (output / "report.html").read_text()


def test_demo_rejects_a_single_video(tmp_path: Path) -> None:
    done = run_demo("--output", tmp_path / "out", "--visible", "rgb.mp4")
    assert done.returncode == 1
    assert "VISIBLE and INFRARED go together" in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_names_a_missing_bag(tmp_path: Path) -> None:
    done = run_demo("--output", tmp_path / "out", "--bag", tmp_path / "none")
    assert done.returncode == 1
    assert "demo: " in done.stderr
    assert str(tmp_path / "none") in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_demo_and_its_processes(tmp_path: Path, tiny_weights: Path) -> None:
    command = [sys.executable, "-m", "ivf_ros.demo", "--output", str(tmp_path / "out")]
    demo = subprocess.Popen(
        [*command, "--seconds", "2", "--rate", "0.01", "--weights", str(tiny_weights)],
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
        demo.terminate()  # leave nothing behind if Ctrl-C has failed
    assert demo.returncode == 130, errors
    assert "Traceback" not in errors
    assert not [pid for pid in children if Path("/proc", pid).exists()]
    assert not list((tmp_path / "out").glob(".input-*"))
