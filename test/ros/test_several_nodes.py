"""Several nodes together: two rigs in namespaces, and a user's node in the process of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness import START_SECONDS, Graph, smooth_image, stop, write_pairs
from sensor_msgs.msg import Image

from ivf_ros.transport import environment

pytestmark = pytest.mark.dds

ROOT = Path(__file__).resolve().parents[2]
RIGS = {"front": 3, "rear": 5}  # with the number of their pairs


def drive(folder: Path, pairs: int, start: int = 0) -> Path:
    """Write a bag whose frame ids begin with a number."""
    images = [(smooth_image(48, 64, n), smooth_image(48, 64, 50 + n)[..., 0]) for n in range(pairs)]
    return write_pairs(folder, images, start=start)


def test_two_rigs_do_not_hear_each_other(graph: Graph, tiny_weights: Path, tmp_path: Path) -> None:
    """Give both one parameter file, whose last section that matches decides."""
    file = tmp_path / "rigs.yaml"
    file.write_text(
        "/*/fusion: {ros__parameters: {mask_size: model, mask_interval: 2}}\n"
        "/rear/fusion: {ros__parameters: {mask_interval: 1}}\n"
    )
    for rig in RIGS:
        graph.name = f"{rig}/fusion"
        for name in ("fused", "mask"):
            graph.listen(f"/{rig}/fusion/{name}/image", Image)
        graph.start_fusion(
            tiny_weights, "--params-file", str(file), "-r", f"__ns:=/{rig}", mode="replay"
        )
    players = [
        graph.start(
            "player_node",
            "-r",
            f"__ns:=/{rig}",
            bag=str(drive(tmp_path / rig, pairs, start=100 * pairs)),
        )
        for rig, pairs in RIGS.items()
    ]
    graph.until(lambda: all(player.poll() is not None for player in players), START_SECONDS)
    for rig, pairs in RIGS.items():
        graph.name = f"{rig}/fusion"
        graph.settle(pairs)
        assert graph.counts() == (pairs, pairs, {})
        assert graph.values("settings")["mask_size"] == "model"
        step = {"front": 2, "rear": 1}[rig]
        masks = graph.messages[f"/{rig}/fusion/mask/image"]
        expected = [f"rgb_{100 * pairs + n}" for n in range(0, pairs, step)]
        graph.until(lambda masks=masks, expected=expected: len(masks) == len(expected))
        assert [mask.header.frame_id for mask in masks] == expected
        assert graph.status("graph").message == "one node of this name"


def test_node_beside_another_in_one_process(
    graph: Graph, tiny_weights: Path, tmp_path: Path
) -> None:
    """Run examples/one_process.py: its own node logs each mask."""
    values = {"weights": tiny_weights, "engine": "torch", "device": "cpu", "precision": "fp32",
              "mode": "replay", "diagnostics_period_seconds": 0.2}  # fmt: skip
    parameters = [
        word for key, value in values.items() for word in ("-p", f"fusion:{key}:={value}")
    ]
    process = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "one_process.py", "--ros-args", *parameters],
        env={**environment(), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        graph.until(lambda: graph.values().get("state") == "active", START_SECONDS)
        assert "mask_watcher" in graph.node.get_node_names()
        graph.play(drive(tmp_path / "bag", 3))
        graph.settle(3)
        assert graph.counts() == (3, 3, {})
        graph.spin(0.5)
    finally:
        output = stop(process)
    assert process.returncode == 0, output
    for frame in range(3):
        assert output.count(f"mask of rgb_{frame}: ") == 1
    assert "Traceback" not in output
