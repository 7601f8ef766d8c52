"""Heads: a student that learns, too, a segmenter to learn from, data sets as published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ivf_core.class_sets import FMB, MFNET
from ivf_core.data.pairs import read_pair_folder
from ivf_core.images.files import read_visible, write_image
from ivf_core.models.checkpoints import FusionModel, load_model
from ivf_core.models.graph import FusionGraph
from ivf_core.training.losses import logit_distillation_loss
from ivf_core.training.segmentation import head as segmentation
from ivf_core.training.segmentation.head import HeadRecipe, train_head
from ivf_core.training.segmentation.segmenters import Segmenter, SegmenterError, open_segmenter

SIZE = (48, 64)


def write_pairs(
    folder: Path, names: dict[str, str], classes: int, count: int = 3, seed: int = 0
) -> None:
    """Blocks of colour, each with its class."""
    random = np.random.default_rng(seed)
    for number in range(count):
        cells = random.integers(0, classes, (3, 4)).astype(np.uint8)
        labels = cv2.resize(cells, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        colors = random.integers(0, 256, (classes, 3), np.uint8)
        planes = {"visible": colors[labels], "infrared": colors[labels][..., 0], "labels": labels}
        for kind, name in names.items():
            write_image(folder / name / f"{number:05d}.png", planes[kind])


@pytest.fixture
def recipe(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> HeadRecipe:
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    write_pairs(tmp_path / "pairs", {k: k for k in ("visible", "infrared", "labels")}, 9)
    return HeadRecipe(
        student=str(tiny_weights), output=str(tmp_path / "out.safetensors"), folder="pairs",
        labels="labels", confidence="", hold_out_every=3, scenes=0, held_out_scenes=0,
        widths=(16, 16, 16), crop=(32, 32), steps=2, precision="fp32",
    )  # fmt: skip


def fused_luma(model: FusionModel, pairs: Path) -> torch.Tensor:
    pair = read_pair_folder(pairs)[0]
    planes = (torch.from_numpy(p)[None, None].float() / 255 for p in (pair.luma, pair.infrared))
    with torch.no_grad():
        return model.student(*planes).fused


def test_data_set_as_published(recipe: HeadRecipe, tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        names = {"visible": "Visible", "infrared": "Infrared", "labels": "Label"}
        write_pairs(tmp_path / "FMB" / split, names, 15, seed=seed)
    recipe = replace(recipe, dataset="FMB", class_set="fmb")
    (title,) = train_head(recipe)
    assert title == "IoU on FMB, 3 pairs of its test split"
    model = load_model(recipe.output)
    assert model.class_set == FMB
    assert model.metadata["head_source"] == "2 steps on FMB and 0 synthetic scenes"
    with pytest.raises(ValueError, match="'FMB': has the classes of 'fmb', but class_set is 'mf"):
        train_head(replace(recipe, class_set="mfnet"))
    with pytest.raises(ValueError, match="pairs': folder has no classes of its own"):
        train_head(replace(recipe, dataset="pairs"))


def test_student_that_learns_is_held_to_what_it_fused(recipe: HeadRecipe, tmp_path: Path) -> None:
    before = load_model(recipe.student)
    recipe = replace(recipe, train_student=True, student_learning_rate=1e-3, steps=20,
                     ema_decay=0.5)  # fmt: skip
    drift = {}
    for weight in (0.0, 100.0):
        train_head(replace(recipe, fused_weight=weight))
        after = load_model(recipe.output)
        changed = {
            key
            for key, value in after.student.state_dict().items()
            if not torch.equal(value, before.student.state_dict()[key])
        }
        assert "stages.0.0.weight" in changed
        assert not any("running" in key for key in changed)
        images = (fused_luma(model, tmp_path / "pairs") for model in (before, after))
        drift[weight] = F.l1_loss(*images).item()
    assert drift[100.0] < 0.5 * drift[0.0]
    assert not any(p.requires_grad for p in after.student.parameters())


def test_head_learns_from_a_segmenter_alone(recipe: HeadRecipe, tmp_path: Path) -> None:
    """Without one label, the head comes to say what the segmenter says."""
    pytest.importorskip("transformers")
    from segmenter_models import save_segformer

    network = save_segformer(tmp_path / "segformer", MFNET.names)
    with torch.no_grad():
        network.decode_head.classifier.weight.mul_(30)  # so that it has opinions
    network.save_pretrained(tmp_path / "segformer")
    for path in (tmp_path / "pairs" / "labels").iterdir():
        write_image(path, np.full(SIZE, 255, np.uint8))
    spec = f"segformer:{tmp_path / 'segformer'}"
    divergence = []
    for steps in (1, 60):
        train_head(replace(recipe, teacher_segmenter=spec, steps=steps, ema_decay=0.5))
        model = load_model(recipe.output)
        image = read_visible(tmp_path / "pairs" / "visible" / "00001.png")
        pair = read_pair_folder(tmp_path / "pairs")[1]
        planes = [torch.from_numpy(np.ascontiguousarray(p))[None] for p in (image, pair.infrared)]
        fused = FusionGraph(model)(*planes)[0]
        assert fused is not None
        with torch.no_grad():
            wanted = open_segmenter(spec, MFNET)(fused.permute(0, 3, 1, 2).float() / 255)
            luma, infrared = (
                torch.from_numpy(p)[None, None] / 255 for p in (pair.luma, pair.infrared)
            )
            assert model.head is not None
            ours = model.head(model.student(luma, infrared).features)
        divergence.append(logit_distillation_loss(ours, wanted).item())
    assert divergence[1] < 0.5 * divergence[0]


class _Remembers(Segmenter):
    """Keeps what it was shown."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return images.new_zeros(len(images), len(self.class_set), 4, 4)


def test_segmenter_sees_colour(recipe: HeadRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The segmenter sees the crops in the colours that the node publishes: reds stay red."""
    root = Path(recipe.output).parent / "pairs"
    for path in (root / "visible").iterdir():
        write_image(path, np.full((*SIZE, 3), (200, 40, 60), np.uint8))
    segmenter = _Remembers(MFNET)
    monkeypatch.setattr(segmentation, "open_segmenter", lambda *_: segmenter)
    train_head(replace(recipe, teacher_segmenter="head:x", steps=1))
    assert segmenter.seen.shape == (3, 3, 32, 32)
    assert 0 <= segmenter.seen.min() <= segmenter.seen.max() <= 1
    red, green, blue = segmenter.seen.mean(dim=(0, 2, 3)).tolist()
    assert red > green + 0.2
    assert red > blue + 0.2
    pair = read_pair_folder(root, color=True)[0]
    assert pair.chroma is not None
    expected = cv2.cvtColor(read_visible(root / "visible" / "00000.png"), cv2.COLOR_RGB2YCrCb)
    np.testing.assert_array_equal(pair.chroma, np.moveaxis(expected[..., 1:], 2, 0))


def test_segmenter_of_other_classes(recipe: HeadRecipe) -> None:
    with pytest.raises(SegmenterError, match="segmenter 'head:fast': it has 9 classes"):
        train_head(replace(recipe, teacher_segmenter="head:fast", class_set="pst900"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"student_learning_rate": -1.0}, "student_learning_rate must be above 0"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadRecipe(student="s", output="o", **options)
