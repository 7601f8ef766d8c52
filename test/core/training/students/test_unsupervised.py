"""Training on pairs alone: its losses, and that it makes a student better by the metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ivf_core.data.pairs import CropSampler, Pair, add_smoke, hold_out, luma_of
from ivf_core.images.files import write_image
from ivf_core.metrics.edges import qabf
from ivf_core.metrics.fusion import fusion_metrics
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.student import FastStudent
from ivf_core.scenes import random_scene
from ivf_core.training.runs.recipe import RecipeError, load_recipe
from ivf_core.training.students.source_losses import darkening, edge_preservation, scd, vif
from ivf_core.training.students.unsupervised import (
    UnsupervisedRecipe,
    score_student,
    train_unsupervised,
)


def _scene(number: int) -> Pair:
    scene = random_scene(np.random.default_rng(number))
    return Pair(str(number), luma_of(scene.visible), scene.infrared, scene.labels)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [_scene(number) for number in range(4)]


def test_edge_preservation_is_qabf(pairs: list[Pair]) -> None:
    for pair in pairs[:2]:
        visible, infrared = (
            torch.from_numpy(plane)[None, None].float() for plane in (pair.luma, pair.infrared)
        )
        for share in (0.0, 0.3, 1.0):
            fused = share * visible + (1 - share) * infrared
            kept = edge_preservation(visible, infrared, fused).item()
            # Borders differ, and the floor moves the edges of flat regions.
            expected = qabf(pair.luma, pair.infrared, fused[0, 0].numpy())
            assert kept == pytest.approx(expected, abs=0.04)


def test_losses_of_information_and_differences_are_the_metrics(pairs: list[Pair]) -> None:
    visible, infrared = (
        np.stack(planes)[:, None].astype(np.float64)
        for planes in ([pair.luma for pair in pairs[:2]], [pair.infrared for pair in pairs[:2]])
    )
    noise = np.random.default_rng(0).uniform(-9, 9, visible.shape)
    fused = np.clip(0.6 * visible + 0.3 * infrared + noise, 0, 255)
    tensors = [torch.from_numpy(x) for x in (visible, infrared, fused)]
    expected = [
        fusion_metrics(*(x[n, 0] for x in (visible, infrared, fused)), ["VIF", "SCD"])
        for n in range(2)
    ]
    for name, loss in (("VIF", vif), ("SCD", scd)):
        mean = sum(values[name] for values in expected) / 2
        assert loss(*tensors).item() == pytest.approx(mean, rel=1e-8), name


def test_losses_of_information_and_differences_have_the_gradient_of_their_value() -> None:
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 1, 41, 43, generator=random, dtype=torch.float64) for _ in range(3)]
    visible, infrared, fused = (255 * image for image in images)
    step = torch.rand(fused.shape, generator=random, dtype=torch.float64) - 0.5
    for loss in (vif, scd):
        moving = fused.clone().requires_grad_(True)
        loss(visible, infrared, moving).backward()
        assert moving.grad is not None
        slope = (moving.grad * step).sum().item()
        ends = [loss(visible, infrared, fused + h * step).item() for h in (1e-4, -1e-4)]
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)


def test_edge_preservation_has_a_gradient_where_images_are_flat() -> None:
    flat = torch.zeros(1, 1, 16, 16)
    fused = torch.zeros(1, 1, 16, 16, requires_grad=True)
    edge_preservation(flat, flat, fused).backward()
    assert fused.grad is not None
    assert fused.grad.isfinite().all()


def test_darkening_counts_only_what_is_darker() -> None:
    visible = torch.full((1, 1, 40, 40), 100.0, dtype=torch.float64)
    assert darkening(visible + 30, visible).item() == 0
    assert darkening(visible - 30, visible).item() == pytest.approx(30)
    # One dark pixel in a neighbourhood of 289 is no darkening to speak of.
    spot = visible.clone()
    spot[..., 20, 20] -= 28.9
    assert darkening(spot, visible).item() == pytest.approx(0.1 * 289 / 1600)


def test_smoke_veils_towards_one_grey() -> None:
    stripes = np.tile(np.array([0, 1], np.float32), (64, 32))
    veiled = add_smoke(stripes, np.random.default_rng(0))
    assert veiled.dtype == np.float32
    assert veiled.shape == stripes.shape
    assert veiled.min() >= 0
    assert veiled.max() <= 1
    assert veiled.std() < stripes.std()


def test_noise_can_be_left_out() -> None:
    grey = Pair("grey", np.full((64, 64), 128, np.uint8), np.full((64, 64), 90, np.uint8))
    quiet = CropSampler([grey], (32, 32), noise=0)
    assert all(crop.luma.std() < 1e-6 for crop in (quiet.crop() for _ in range(20)))
    noisy = CropSampler([grey], (32, 32))
    assert any(crop.luma.std() > 1e-3 for crop in (noisy.crop() for _ in range(20)))


def test_it_makes_a_student_better(
    pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    for pair in pairs:
        write_image(tmp_path / "set" / "visible" / f"{pair.name}.png", pair.luma)
        write_image(tmp_path / "set" / "infrared" / f"{pair.name}.png", pair.infrared)
    torch.manual_seed(0)
    start = FastStudent(widths=(16, 16, 16), convolutions=(0, 1, 1, 0, 0)).eval()
    save_model(FusionModel(start), tmp_path / "start.safetensors")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"init_from: {tmp_path}/start.safetensors\nfolders: [set]\n"
        f"output: {tmp_path}/trained.safetensors\n"
        "crop: [64, 64]\nsteps: 80\nhold_out_every: 4\nbatch_size: 2\n"
        "scd_weight: 0\nmax_intensity_weight: 0\nsmoke_probability: 0\nnoise_probability: 0\n"
        "precision: fp32\n"
    )
    scores = train_unsupervised(load_recipe(UnsupervisedRecipe, recipe))["set"]
    trained = load_model(tmp_path / "trained.safetensors")
    _, held_out = hold_out(pairs, 4)
    before = score_student(start, held_out, torch.device("cpu"))
    for name in ("VIF", "Qabf"):
        assert scores[name] > before[name] + 0.02
    assert scores == score_student(trained.student, held_out, torch.device("cpu"))
    assert "on pairs alone" in trained.metadata["source"]


@pytest.mark.parametrize(
    "option", ["crop=[32, 32]", "smoke_probability=2", "qabf_weight=-1", "steps=0"]
)
def test_impossible_options_are_rejected(tmp_path: Path, option: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("init_from: fast\nfolders: [msrs]\noutput: x.safetensors\n")
    with pytest.raises(RecipeError, match=option.partition("=")[0]):
        load_recipe(UnsupervisedRecipe, recipe, [option])
