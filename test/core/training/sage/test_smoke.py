"""The smoke recipes, a few steps of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ivf_core.cli import main
from ivf_core.models.checkpoints import load_model

RECIPES = Path(__file__).parents[4] / "training"


@pytest.mark.slow
def test_smoke_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From masks by segment-anything to a student that runs, all by commands."""
    pytest.importorskip("segment_anything")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IVF_DATA", "runs/smoke")
    assert main(["train", "smoke", "--output", "runs/smoke"]) == 0
    for part, changes in {
        "priors": ["points_per_side=4"],
        "teacher": ["steps=2", "score_pairs=1"],
        "distill": ["steps=2", "score_pairs=0"],
    }.items():
        options = [word for change in changes for word in ("--set", change)]
        config = RECIPES / f"{part}_smoke.yaml"
        assert main(["train", part, "--config", str(config), *options]) == 0
    metadata = load_model("runs/smoke/student.safetensors").metadata
    assert metadata["priors_sam_guided"] == metadata["encoder_sam_guided"] == "true"
    assert metadata["segmenter"] == "head:fast"
    assert json.loads(metadata["teacher_recipe"])["steps"] == 2
