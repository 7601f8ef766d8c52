"""Snippets of docs/python.md, run one after another as a reader would."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ivf_core.bags.convert import write_drive_bag
from ivf_core.cli import main
from ivf_core.images.files import write_image
from ivf_core.scenes import SyntheticDrive

ROOT = Path(__file__).parents[2]
_RIG = """\
homography: [[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
thermal_size: [96, 80]
rgb_size: [96, 80]
"""


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "onnxruntime", "onnx"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    frames = list(SyntheticDrive(seed=4, size=(96, 80), rate_hz=5.0, seconds=0.4))
    write_image(tmp_path / "rgb.png", frames[0].visible)
    write_image(tmp_path / "thermal.png", frames[0].infrared)
    write_drive_bag(tmp_path / "drive", frames, 5.0)
    (tmp_path / "rig.yaml").write_text(_RIG)
    for block in blocks("python.md", "bash"):
        assert main(shlex.split(block)[1:]) == 0
    names: dict[str, object] = {"repository": str(ROOT)}
    for block in blocks("python.md", "python"):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (tmp_path / "overlay.png").is_file()
    assert names["labels"].shape == (4, 40, 48)  # type: ignore[attr-defined]
    assert names["image"].shape == (80, 96, 3)  # type: ignore[attr-defined]


def test_keys_of_the_view_page_are_those_of_the_help() -> None:
    page = (ROOT / "docs/view.md").read_text(encoding="utf-8")
    template = (ROOT / "ivf_core/html/templates/view.html.j2").read_text(encoding="utf-8")
    helped = template.partition('id="help"')[2]
    for key in ("space", "home", "end", "shift", "F", "S", "L"):
        assert f"<kbd>{key}</kbd>" in helped
        assert re.search(rf"^\|.*\b{key}\b.*\|", page, re.MULTILINE)
