"""Parameters, files, signals and requests that the fusion node survives."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from harness import Graph, smooth_image, stop, write_pairs
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from ivf_ros.transport import environment

pytestmark = pytest.mark.dds

NODE = [sys.executable, "-m", "ivf_ros.fusion_node"]
NOT_USABLE = ("~nouser/x", "~nouser/" + "y" * 20, "x" * 300, "/tmp/" + "z" * 300, "a/../" * 900)


def test_paths_that_cannot_be_are_rejected_and_the_node_continues(
    graph: Graph, tiny_weights: Path
) -> None:
    graph.start_fusion(tiny_weights)
    for path in NOT_USABLE:
        (result,) = graph.set(weights=path)
        assert not result.successful
        assert "weights" in result.reason
        assert len(result.reason) < 400
    (result,) = graph.set(snapshot_directory="~nouser/x")
    assert not result.successful
    assert "~nouser/x" in result.reason
    assert "without ~" in result.reason
    assert graph.state() == "active"


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
def test_sigterm_while_weights_are_loaded(graph: Graph, tiny_weights: Path, seconds: float) -> None:
    process = graph.start_fusion(tiny_weights)
    client = graph.node.create_client(Trigger, "/fusion/reload_weights")
    assert client.wait_for_service(30)
    client.call_async(Trigger.Request())
    graph.spin(seconds)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 2.0])
def test_interrupt_during_the_start_prints_no_traceback(tiny_weights: Path, seconds: float) -> None:
    process = subprocess.Popen(
        [*NODE, "--ros-args", "-p", f"weights:={tiny_weights}"],
        env=environment(), stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 30
    while "numpy" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)  # Python itself starts: what it prints then is not ours
    time.sleep(seconds)
    output = stop(process)
    assert "Traceback" not in output
    assert process.returncode in (0, -signal.SIGINT)


@pytest.mark.parametrize("text", ["a: [", "/**:\n  ros__parameters: 5\n", "\0\0", None])
def test_bad_parameter_file_ends_in_one_line(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "bad.yaml"
    if text is not None:
        file.write_text(text)
    command = [
        sys.executable,
        "-m",
        "ivf_ros.fusion_node",
        "--ros-args",
        "--params-file",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("fusion_node: ")]


def test_no_home_ends_in_one_line() -> None:
    variables = {
        name: value
        for name, value in environment().items()
        if name not in ("HOME", "ROS_HOME", "ROS_LOG_DIR")
    }
    done = subprocess.run(NODE, capture_output=True, text=True, env=variables, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_pixels_without_scene_are_counted(graph: Graph, tiny_weights: Path, tmp_path: Path) -> None:
    graph.listen("/fusion/fused/image", Image)
    infrared = 7000 + 5 * smooth_image(66, 98, 2)[..., 0].astype(np.uint16)
    infrared[:, :20] = 0
    process = graph.start_fusion(tiny_weights, mode="replay")
    graph.play(
        write_pairs(tmp_path / "bag", [(smooth_image(66, 98, 1), infrared)], encoding="mono16")
    )
    graph.settle(1)
    graph.until(lambda: graph.values()["thermal_frames_with_fill"] == "1")
    assert f"{66 * 20} pixels look like no scene" in stop(process)
