"""Tests of the check of a GPU, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ivf_core.inference import gpu_check

_BARE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ImportError(name)

sys.meta_path.insert(0, Missing())
from ivf_core.inference.gpu_check import main
sys.exit(main(["--device", "cpu", "--quick", "--output", sys.argv[1]]))
"""
_NAMES = {"rclpy", "openvino", "rosbags", "safetensors", "lightning_fabric", "yaml", "tqdm", "lz4"}


def test_runs_to_the_end_where_only_pytorch_is_installed(tmp_path: Path) -> None:
    script = _BARE.format(names=_NAMES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, check=True, env=environment)
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert list(results["parts"]) == list(gpu_check.PARTS)
    assert results["broken"] == []
    fp32, *_ = results["parts"]["equality"]["rows"]
    assert (fp32["precision"], fp32["max_diff_255"], fp32["equal_labels"]) == ("fp32", 0, 1.0)
    for name in ("speed", "several pairs"):
        for row in results["parts"][name]["rows"]:
            assert 0 < row["median_ms"] <= row["p99_ms"]
    assert "published student" in (tmp_path / "gpu.md").read_text()


def test_plain_kernels_give_the_images_of_the_engine() -> None:
    settings = gpu_check.Settings("cpu", "sage", quick=True)
    images = gpu_check._pair((64, 48))
    expected = settings.engine("fp32")(*images)
    for part, other in zip(gpu_check._plain(settings, "fp32", [images])(), expected, strict=True):
        np.testing.assert_array_equal(part[0].numpy(), other)


def test_a_difference_breaks_the_bound_and_a_failed_part_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(settings: gpu_check.Settings) -> list[gpu_check.Results]:
        raise RuntimeError("out of memory")

    def differ(settings: gpu_check.Settings) -> list[gpu_check.Results]:
        return [{"precision": "fp32", "max_diff_255": 2}]

    parts = {"speed": fail, "equality": differ}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    arguments = ["--device", "cpu", "--quick", "--output", str(tmp_path)]
    assert gpu_check.main(arguments) == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["parts"]["speed"] == {"error": "RuntimeError: out of memory"}
    assert results["broken"] == ["fp32 differs by 2 grey levels"]


def test_parts_without_time_left_are_listed() -> None:
    settings = gpu_check.Settings("cpu", "sage", quick=True)
    results = gpu_check.check(settings, seconds=-1)
    assert all(part == {"not_run": "the time was up"} for part in results["parts"].values())
