"""Examples without ROS, on synthetic data."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ivf_core.bags.convert import write_drive_bag
from ivf_core.images.files import read_labels, read_visible, write_image
from ivf_core.scenes import SyntheticDrive

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *words: object) -> str:
    command = [sys.executable, EXAMPLES / name, *words]
    finished = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def drive() -> list:
    return list(SyntheticDrive(seed=2, size=(160, 128), rate_hz=5.0, seconds=0.6))


def test_fuse_a_folder(drive: list, tmp_path: Path) -> None:
    for number, frame in enumerate(drive):
        write_image(tmp_path / "visible" / f"{number}.png", frame.visible)
        write_image(tmp_path / "infrared" / f"{number}.png", frame.infrared)
    assert "0.png: " in run("fuse_folder.py", tmp_path, tmp_path / "out")
    for kind in ("fused", "overlay"):
        images = sorted((tmp_path / "out" / kind).iterdir())
        assert [path.name for path in images] == ["0.png", "1.png", "2.png"]
        assert read_visible(images[0]).shape == (128, 160, 3)


def test_label_a_bag(drive: list, tmp_path: Path) -> None:
    write_drive_bag(tmp_path / "drive", drive, 5.0)
    topics = "/rgb/image_raw", "/thermal/image_raw"
    text = run("label_bag.py", tmp_path / "drive", *topics, tmp_path / "out")
    assert text == "3 pairs; without a partner: {}\n"
    with (tmp_path / "out" / "shares.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    mask = read_labels(tmp_path / "out" / f"{rows[0]['stamp_ns']}.png")
    assert mask.shape == (128, 160)
    assert float(rows[0]["road"]) == pytest.approx(np.mean(mask == 0), abs=1e-3)


def test_examples_are_short() -> None:
    page = (EXAMPLES.parent / "docs/python.md").read_text(encoding="utf-8")
    names = re.findall(r"\(\.\./examples/(\w+\.py)\)", page)
    assert len(names) == 5
    for name in names:
        assert len((EXAMPLES / name).read_text().splitlines()) <= 80, name
