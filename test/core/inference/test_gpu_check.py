"""Tests of the check of a GPU, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ivf_core.defaults import DEFAULT_WEIGHTS
from ivf_core.inference import gpu_check, gpu_measurements
from ivf_core.inference.gpu_check import PARTS, Part
from ivf_core.inference.gpu_measurements import Settings
from ivf_core.models.checkpoints import load_model, save_model

_QUICK = ["--device", "cpu", "--quick", "--output"]
_MISSING = (
    "rclpy", "openvino", "rosbags", "safetensors", "lightning_fabric", "yaml", "tqdm", "lz4",
)  # fmt: skip


def test_runs_to_the_end_where_only_pytorch_is_installed(tmp_path: Path) -> None:
    # Python imports sitecustomize at its start, in each child process as well.
    hide = f"import sys; sys.modules.update(dict.fromkeys({_MISSING}))\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")]), str(Path.cwd())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "ivf_core.inference.gpu_check", *_QUICK, str(tmp_path)]
    subprocess.run(command, check=True, env=environment)
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert list(results["parts"]) == list(PARTS)
    assert [part["note"] for part in results["parts"].values()] == [""] * len(PARTS)
    assert results["broken"] == []
    rows = {name: part["rows"] for name, part in results["parts"].items()}
    fp32, *_ = rows["equality"]
    assert (fp32["precision"], fp32["max_diff_255"], fp32["equal_labels"]) == ("fp32", 0, 1.0)
    assert fp32["pairs"] == 3
    training = rows.pop("training")
    assert {(row["network"], row["precision"]) for row in training} == {
        (network, precision) for network in ("student", "teacher") for precision in ("fp32", "bf16")
    }
    for row in training:
        assert ("note" in row) == (row["loop"] == "ivf train")
    for row in [*rows["speed"], *rows["several pairs"], *training]:
        assert "note" in row or 0 < row["median_ms"] <= row["p99_ms"]
    markdown = (tmp_path / "gpu.md").read_text()
    assert "published student" in markdown
    assert "import of lightning_fabric halted" in markdown


def test_plain_kernels_give_the_images_of_the_engine() -> None:
    settings = Settings("cpu", quick=True)
    images = gpu_measurements._pair((64, 48))
    expected = settings.engine("fp32")(*images)[:2]
    found = gpu_measurements._plain(settings, "fp32", [images])()
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part[0], other)


def test_weights_that_deviate_end_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(DEFAULT_WEIGHTS)
    with torch.no_grad():
        model.student.offsets.bias += 0.02  # five grey levels
    save_model(model, tmp_path / "other.safetensors")
    monkeypatch.setattr(gpu_check, "PARTS", {"equality": PARTS["equality"]})
    reference = ["--reference", str(tmp_path / "other.safetensors")]
    assert gpu_check.main([*_QUICK, str(tmp_path), *reference]) == 1
    (broken,) = json.loads((tmp_path / "gpu.json").read_text())["broken"]
    assert "128x96, engine: fp32 differs by" in broken
    assert broken in capsys.readouterr().err
    assert broken in (tmp_path / "gpu.md").read_text()


def test_a_failed_part_stops_no_other_and_a_slow_one_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "waits_forever.py"
    module.write_text("import time\ntime.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path.cwd())]))
    parts = {
        "slow": Part("Slow", "", "waits_forever", 1.0),
        "late": Part("Late", "", "waits_forever", 0.0),
        "missing": Part("Missing", "", "no_such_module", 100.0),
        "equality": PARTS["equality"],
    }
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    results = gpu_check.check(Settings("cpu", quick=True), tmp_path)
    assert {name: part["note"] for name, part in results["parts"].items()} == {
        "slow": "stopped: its time was up, further rows were not measured",
        "late": "not run: the time was up",
        "missing": "failed: missing: its process ended early",
        "equality": "",
    }
    assert results["broken"] == []
    assert json.loads((tmp_path / "gpu.json").read_text()) == results


def test_equality_that_was_not_measured_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gpu_check, "PARTS", {"equality": Part("Equality", "", "no_such_module", 60)}
    )
    assert gpu_check.main([*_QUICK, str(tmp_path)]) == 1


def test_all_parts_end_within_eight_minutes() -> None:
    # Ten seconds more for the end of the last child process, see `Child`.
    assert sum(part.seconds for part in PARTS.values()) <= 8 * 60 - 10
