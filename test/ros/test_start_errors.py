"""Arguments with which rcl cannot start: one line, whichever node it is."""

from __future__ import annotations

import subprocess
import sys

import pytest

NODES = ["fusion_node", "player_node", "recorder_node", "view_node"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-p", "x:=[1"], "x:=[1"),
        (["-r", "__node:=1x"], "__node:=1x"),
        (["--params-file", "/nowhere/fusion.yaml"], "/nowhere/fusion.yaml"),
        (["--wrong"], "unknown arguments after --ros-args: ['--wrong']"),
    ],
    ids=["parameter", "name", "file", "unknown"],
)
def test_each_node_names_the_argument_in_one_line(arguments: list[str], named: str) -> None:
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", f"ivf_ros.{name}", "--ros-args", *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in NODES
    }
    for name, process in processes.items():
        text = process.communicate(timeout=120)[1]
        own = [line for line in text.splitlines() if line.startswith(f"{name}: ")]
        assert process.returncode == 1, text
        assert len(own) == 1, text
        assert named in own[0], text
        assert "Traceback" not in text
