"""Recipes of SARTM and FusionSAM in published sizes run on folders in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_layouts import write_published

from ivf_core.class_sets import CLASS_SETS
from ivf_core.cli import main
from ivf_core.training.sage.smoke import save_tiny_sam
from ivf_core.training.sartm.smoke import save_tiny_clip, save_tiny_sam2
from ivf_core.training.teacher_logits import open_pair_teacher

RECIPES = Path(__file__).parents[4] / "training"
SHORT = ["steps=1", "epochs=0", "crop=[64, 64]", "batch_size=2", "workers=0"]
TINY = {
    "tokens": ["width=4", "latent=4", "codes=8", "discriminator_width=4"],
    "fusionsam": ["sam_checkpoint=sam_tiny.pth", "channels=8", "heads=2", "depth=1"],
    "sartm": ["sam2=sam2_tiny", "text=clip_tiny", "rank=4"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three data sets, and tiny SAM, SAM2 and CLIP of random weights."""
    pytest.importorskip("segment_anything")
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("published")
    write_published(root)
    save_tiny_sam(root / "sam_tiny.pth")
    save_tiny_sam2(root / "sam2_tiny")
    save_tiny_clip(root / "clip_tiny")
    return root


@pytest.mark.parametrize("name", ["fmb", "mfnet", "pst900"])
@pytest.mark.parametrize("commands", [("sartm",), ("tokens", "fusionsam")], ids="/".join)
def test_published_recipes_run(
    commands: tuple[str, ...],
    name: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the commands, with fewer and smaller crops and tiny networks; the weights open again."""
    monkeypatch.setenv("IVF_DATA", str(data))
    monkeypatch.chdir(data)
    for command in commands:
        options = [word for change in SHORT + TINY[command] for word in ("--set", change)]
        config = str(RECIPES / f"{command}_{name}.yaml")
        assert main(["train", command, "--config", config, *options]) == 0
    assert "IoU on the test split" in capsys.readouterr().out
    kind = commands[-1]
    network, metadata, _ = open_pair_teacher(f"{kind}:runs/{kind}_{name}.safetensors")
    assert network.class_set == CLASS_SETS[name]
    assert json.loads(metadata[f"{kind}_recipe"])["crop"] == [64, 64]
