"""Training of SARTM from recipe to scores, its file, its crops and what stops it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_layouts import write_four_channels
from safetensors.torch import load_file
from small_runs import recipe_of

from ivf_core.class_sets import MFNET
from ivf_core.cli import main
from ivf_core.images.files import write_image
from ivf_core.models.weights_files import WeightsError
from ivf_core.training.runs.page import image_files, read_losses
from ivf_core.training.runs.recipe import load_recipe
from ivf_core.training.sartm.sartm import SartmLoss, SartmRecipe, learning_rate_factor, train_sartm
from ivf_core.training.sartm.smoke import save_tiny_sam2
from ivf_core.training.sartm.weights import load_sartm
from ivf_core.training.segmentation.labelled import check_disjoint, open_labelled_split
from ivf_core.training.segmentation.pair_images import ColorPairCrops, PairImages, score_pairs

pytest.importorskip("transformers")

RECIPES = Path(__file__).parents[4] / "training"


def small(root: Path, **options: Any) -> SartmRecipe:
    recipe = recipe_of("sartm", root, **{"steps": 3, **options})
    assert isinstance(recipe, SartmRecipe)
    return recipe


def test_from_recipe_to_scores(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All losses fall, the file opens again, and its scores are those of the run."""
    recipe = small(root, steps=40, scales=(1.0, 1.0))
    scores = train_sartm(recipe)
    assert "SAM2 has random weights" in caplog.text
    assert "CLIP has random weights" in caplog.text
    run = root / "runs/sartm"
    losses = read_losses(run)
    assert set(losses) == {"main", "auxiliary", "relation", "language"}
    for name in ("main", "auxiliary"):
        _, values = losses[name]
        assert np.mean(values[-5:]) < 0.8 * np.mean(values[:5]), name
    assert len(image_files(run)) == 21
    assert "random weights" in (run / "summary.html").read_text()

    network, metadata = load_sartm(recipe.output)
    assert network.class_set == MFNET
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert metadata["sam2"] == "random weights (sam2_tiny)"
    assert metadata["text"] == "random weights (clip_tiny)"
    assert metadata["source"] == "40 steps on the training split of pairs"
    saved = root / "again.yaml"
    saved.write_text(metadata["sartm_recipe"])
    assert load_recipe(SartmRecipe, saved) == recipe
    _, test = open_labelled_split(root / "pairs", 4, class_set=MFNET)
    matrix = score_pairs(network, PairImages(test.files, MFNET), torch.device("cpu"))
    iou = scores["IoU on the test split"]
    assert iou["car"] == matrix.iou()[1]
    assert iou["mean"] == matrix.mean_iou()
    assert iou["mean without unlabeled"] == np.nanmean(matrix.iou()[1:])
    similarity = root / "text.json"
    similarity.write_text(metadata["text_similarity"])
    train_sartm(small(root, text="text.json", output=str(root / "runs/from_file.safetensors")))


@pytest.mark.parametrize("name", ["main", "auxiliary", "relation", "language"])
def test_terms_of_no_weight_are_not_computed(root: Path, name: str) -> None:
    loss = replace(SartmLoss(), **{name: 0.0})
    if name == "main":
        with pytest.raises(ValueError, match=r"loss\.main must be above 0"):
            small(root, loss=loss)
        return
    recipe = small(root, steps=1, loss=loss, text="" if name == "language" else "clip_tiny")
    train_sartm(recipe)
    assert set(read_losses(root / "runs/sartm")) == {*vars(SartmLoss())} - {name}
    if name == "language":
        assert load_sartm(recipe.output)[1]["text"] == "none: loss.language is 0"


def test_options_reach_the_network(root: Path) -> None:
    options: dict[str, Any] = dict(
        rank=3, decode="each", memory_embedding=False, per_pixel=True, thermal_normalization="none",
        average_heads=True,
    )  # fmt: skip
    recipe = small(root, steps=1, **options)
    train_sartm(recipe)
    network, _ = load_sartm(recipe.output)
    for name, value in options.items():
        if name != "rank":
            assert getattr(network, name) == value
    block: Any = network.sam2.vision_encoder.backbone.blocks[0]
    assert block.attn.qkv.down.shape[2] == 3


def test_sam2_outside_of_the_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen tensors are read from their directory, if its SHA-256 is that of the training."""
    whole, small_one = (
        small(root, steps=1, self_contained=inside, output=str(root / f"runs/{inside}.safetensors"))
        for inside in (True, False)
    )
    train_sartm(whole)
    train_sartm(small_one)
    network, metadata = load_sartm(small_one.output)
    inside, of_whole = load_sartm(whole.output)
    digest = hashlib.sha256((root / "sam2_tiny/model.safetensors").read_bytes()).hexdigest()
    assert metadata["sam2_sha256"] == of_whole["sam2_sha256"] == digest
    assert network.state_dict().keys() == inside.state_dict().keys()
    for name, tensor in inside.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    stored = load_file(small_one.output)
    assert not any("vision_encoder" in name and ".down" not in name and ".up" not in name
                   for name in stored)  # fmt: skip
    assert stored.keys() < load_file(whole.output).keys()
    save_tiny_sam2(root / "sam2_tiny", seed=1)
    load_sartm(whole.output)
    expected = (
        rf"False\.safetensors': does not fit: SAM2 in '.*sam2_tiny' has .*, expected {digest}"
    )
    with pytest.raises(WeightsError, match=expected):
        load_sartm(small_one.output)
    monkeypatch.setenv("IVF_DATA", str(root / "elsewhere"))
    with pytest.raises(WeightsError, match=r"sam2_tiny': no such directory"):
        load_sartm(small_one.output)


def test_files_of_something_else(root: Path) -> None:
    path = root / "none.safetensors"
    with pytest.raises(
        WeightsError, match=r"sartm '.*none\.safetensors': expected a file that ivf"
    ):
        load_sartm(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(
        WeightsError, match=r"sartm '.*none\.safetensors': expected a file that ivf"
    ):
        load_sartm(path)


def test_a_pair_in_both_splits_stops_a_run(root: Path) -> None:
    """Under another name, too; the same visible image with another thermal one is a new pair."""
    pairs = root / "pairs"
    for kind in ("visible", "infrared", "labels"):
        (pairs / kind / "9.png").write_bytes((pairs / kind / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"visible/0\.png' is to be tested on, .*/9\.png', which"):
        train_sartm(small(root))
    assert not (root / "runs").exists()
    files, _ = open_labelled_split(root / "pairs", 2, class_set=MFNET)
    with pytest.raises(ValueError, match="expected splits without a common pair"):
        check_disjoint(files.files, files.files[-1:])
    infrared = np.zeros((48, 56), np.uint8)
    write_image(pairs / "infrared/9.png", infrared)
    open_labelled_split(root / "pairs", 4, class_set=MFNET)


def test_a_list_that_names_a_pair_twice_stops_a_run(root: Path) -> None:
    """MFNet's splits are lists of names in one folder."""
    random = np.random.default_rng(0)
    for name in "abc":
        image = random.integers(0, 255, (48, 56, 4), np.uint8)
        write_four_channels(root / f"MFNet/images/{name}.png", image)
        write_image(root / f"MFNet/labels/{name}.png", (image[..., 0] > 128).astype(np.uint8))
    for split, names in (("train", "ab"), ("val", "b"), ("test", "bc")):
        (root / f"MFNet/{split}.txt").write_text("\n".join(names))
    with pytest.raises(ValueError, match=r"images/b\.png' is to be tested on"):
        train_sartm(small(root, dataset="MFNet", class_set=""))
    (root / "MFNet/test.txt").write_text("c")
    train_sartm(small(root, dataset="MFNet", class_set="", steps=1))


def test_crops_move_all_planes_together() -> None:
    """Thermal images and labels are one ramp, which light and sharpness do not change."""
    ramp = np.tile(np.arange(100, 220, dtype=np.uint8), (80, 1))
    labels = (ramp >= 160).astype(np.uint8)
    image = np.dstack([ramp, ramp, ramp, ramp])
    crops = ColorPairCrops([(image, labels)], ["ramp"], (48, 64), scales=(1.0, 1.0), seed=1)
    varied = 0
    for number in range(40):
        name, (visible, infrared, ids) = crops[number]
        assert name == "ramp"
        assert visible.shape == (3, 48, 64)
        assert infrared.shape == (1, 48, 64)
        assert visible.dtype == infrared.dtype == np.float32
        assert 0 <= visible.min() <= visible.max() <= 1
        assert np.array_equal(ids, (np.round(infrared[0] * 255) >= 160).astype(np.int64))
        varied += not np.array_equal(visible[0], infrared[0])
        assert np.array_equal(crops[number].arrays[0], visible)
    assert 5 <= varied <= 25  # 36 % of 40


def test_crops_of_small_pairs_have_a_border_without_labels() -> None:
    image = np.full((20, 30, 4), 200, np.uint8)
    crops = ColorPairCrops([(image, np.ones((20, 30), np.uint8))], "a", (64, 64), scales=(1.0, 1.0))
    _, (_, infrared, ids) = crops[0]
    assert (ids == 1).sum() == 20 * 30
    assert (ids == 255).sum() == 64 * 64 - 20 * 30
    np.testing.assert_allclose(infrared[0][ids == 255], 127 / 255, atol=1e-6)


def test_learning_rate() -> None:
    """Linear from a tenth in the first tenth, then (1 - t)^0.9 to zero."""
    factor = learning_rate_factor(100, 0.1, 0.9)
    assert factor(0) == pytest.approx(0.1)
    assert factor(5) == pytest.approx(0.55)
    assert factor(10) == 1
    assert factor(55) == pytest.approx(0.5**0.9)
    assert factor(100) == 0
    assert learning_rate_factor(5, 0.0, 0.9)(0) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ""}, r"loss\.language needs text"),
        ({"crop": (60, 64)}, "crop must be at least 32 and a multiple of 32"),
        ({"sam2": ""}, "sam2 must not be empty"),
        ({"decode": "both"}, "decode 'both', known: fused, each"),
        ({"class_set": "coco"}, "class_set 'coco', known"),
    ],
)
def test_impossible_recipes(options: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"dataset": "d", "output": "o", "sam2": "s", "text": "t", **options}
    with pytest.raises(ValueError, match=message):
        SartmRecipe(**fields)


@pytest.mark.parametrize(
    ("name", "crop"), [("fmb", (800, 800)), ("mfnet", (800, 800)), ("pst900", (1280, 1280))]
)
def test_recipes_in_published_sizes(name: str, crop: tuple[int, int]) -> None:
    recipe = load_recipe(SartmRecipe, RECIPES / f"sartm_{name}.yaml")
    assert (recipe.epochs, recipe.batch_size, recipe.crop) == (500, 8, crop)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.power) == (1e-4, 0.01, 0.9)
    assert (recipe.rank, recipe.warmup_ratio * recipe.epochs) == (16, 10)


def test_smoke_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("segment_anything")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IVF_DATA", "runs/smoke")
    assert main(["train", "smoke", "--output", "runs/smoke"]) == 0
    config = str(RECIPES / "sartm_smoke.yaml")
    assert main(["train", "sartm", "--config", config, "--set", "steps=2"]) == 0
    assert load_sartm("runs/smoke/sartm.safetensors")[1]["sam2"].startswith("random weights")
