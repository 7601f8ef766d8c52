"""Training of FusionSAM and its tokenizers from recipe to scores, and what stops it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import recipe_of

from ivf_core.class_sets import MFNET
from ivf_core.cli import main
from ivf_core.models.weights_files import WeightsError
from ivf_core.training.fusionsam.fusionsam import FusionSamLoss, FusionSamRecipe, train_fusionsam
from ivf_core.training.fusionsam.tokens import TokensRecipe, train_tokens
from ivf_core.training.fusionsam.weights import load_fusionsam, load_tokens
from ivf_core.training.masks.sam import SamError, load_class_sam, load_sam
from ivf_core.training.runs.page import image_files, read_losses
from ivf_core.training.runs.recipe import load_recipe
from ivf_core.training.sage.smoke import save_tiny_sam
from ivf_core.training.segmentation.labelled import open_labelled_split
from ivf_core.training.segmentation.pair_images import PairImages, score_pairs
from ivf_core.training.segmentation.segmenters import SegmenterError, open_segmenter
from ivf_core.training.teacher_logits import LogitRecipe, make_logits

pytest.importorskip("segment_anything")

RECIPES = Path(__file__).parents[4] / "training"


def tokens(root: Path, **options: Any) -> TokensRecipe:
    recipe = recipe_of("tokens", root, **{"steps": 3, **options})
    assert isinstance(recipe, TokensRecipe)
    return recipe


def small(root: Path, **options: Any) -> FusionSamRecipe:
    recipe = recipe_of("fusionsam", root, **{"steps": 3, **options})
    assert isinstance(recipe, FusionSamRecipe)
    return recipe


def test_tokenizers_from_recipe_to_scores(root: Path) -> None:
    """Reconstructions become better, and the record shows both cameras and their codes."""
    options: dict[str, Any] = dict(width=8, latent=8, codes=16, learning_rate=2e-3)
    recipe = tokens(root, steps=40, adversarial_from=0.9, **options)
    scores = train_tokens(recipe)
    losses = read_losses(root / "runs/tokens")
    terms = ("reconstruction", "commitment", "perceptual", "adversarial", "discriminator",
             "perplexity", "restarted")  # fmt: skip
    assert set(losses) == {f"{name}/{term}" for name in ("visible", "infrared") for term in terms}
    for name in ("visible", "infrared"):
        _, values = losses[f"{name}/reconstruction"]
        assert np.median(values[20:36]) < 0.5 * np.median(values[:5]), name
        steps, _ = losses[f"{name}/discriminator"]
        assert steps[0] == 36
        found = scores[f"{name}, held-out pairs"]
        assert found["PSNR in dB"] > 10
        assert 1 < found["perplexity"] <= 16
        assert 0 < found["share of codes used"] <= 1
    assert len(image_files(root / "runs/tokens")) == 21
    page = (root / "runs/tokens/summary.html").read_text()
    assert "perplexity" in page
    tokenizers, metadata = load_tokens(recipe.output)
    assert all(t.codebook.started for t in tokenizers)  # type: ignore[union-attr]
    assert len(json.loads(metadata["pairs"])) == 4  # of six, two are held out
    assert metadata["source"] == "40 steps on pairs"
    saved = root / "again.yaml"
    saved.write_text(metadata["tokens_recipe"])
    assert load_recipe(TokensRecipe, saved) == recipe


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"adversarial": 0.0}, {"adversarial"}),
        (
            {"perceptual": 0.0, "adversarial": 0.0},
            {"perceptual", "adversarial", "discriminator"},
        ),
    ],
)
def test_terms_of_tokens_without_weight(
    root: Path, options: dict[str, float], absent: set[str]
) -> None:
    train_tokens(tokens(root, steps=1, adversarial_from=0.0, **options))
    terms = {name.split("/")[1] for name in read_losses(root / "runs/tokens")}
    assert {"perceptual", "adversarial", "discriminator"} - terms == absent


def test_from_recipe_to_scores(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Losses fall, the file opens again, and its scores are those of the run."""
    train_tokens(tokens(root, output=str(root / "tokens.safetensors")))
    save_tiny_sam(root / "sam_tiny.pth")
    recipe = small(root, steps=40, scales=(1.0, 1.0), schedule="cosine")
    scores = train_fusionsam(recipe)
    assert "SAM has random weights" in caplog.text
    losses = read_losses(root / "runs/fusionsam")
    assert set(losses) == {"main", "fusion"}
    for name, (_, values) in losses.items():
        assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5]), name
    assert len(image_files(root / "runs/fusionsam")) == 21
    assert "random weights" in (root / "runs/fusionsam/summary.html").read_text()

    network, metadata = load_fusionsam(recipe.output)
    assert network.class_set == MFNET
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert metadata["sam"] == "random weights (sam_tiny.pth)"
    assert metadata["tokens"].startswith("tokens.safetensors (SHA-256 ")
    assert metadata["tokens"].endswith(", 3 steps on pairs")
    trained, _ = load_tokens(recipe.tokens)
    for name, value in trained.state_dict().items():
        assert torch.equal(network.tokenizers.state_dict()[name], value)
    saved = root / "again.yaml"
    saved.write_text(metadata["fusionsam_recipe"])
    assert load_recipe(FusionSamRecipe, saved) == recipe
    _, test = open_labelled_split(root / "pairs", 4, class_set=MFNET)
    matrix = score_pairs(network, PairImages(test.files, MFNET), torch.device("cpu"))
    assert scores["IoU on the test split"]["car"] == matrix.iou()[1]
    assert scores["IoU on the test split"]["mean"] == matrix.mean_iou()

    report = make_logits(
        LogitRecipe(
            teacher=f"fusionsam:{recipe.output}", folders=("pairs",), output=str(root / "logits")
        )
    )
    assert (report.made, report.failed) == (6, [])
    assert "sam has random weights" in caplog.text
    with pytest.raises(SegmenterError, match="fusionsam segments pairs of images"):
        open_segmenter(f"fusionsam:{recipe.output}", MFNET)


def test_options_reach_the_network(root: Path) -> None:
    options: dict[str, Any] = dict(points=3, box=True, quantized=False, through_encoder=True)
    sizes: dict[str, Any] = dict(channels=6, heads=3, depth=2, window=4)
    recipe = small(root, steps=1, train_tokens=True, **options, **sizes)
    train_fusionsam(recipe)
    names = {"reconstruction", "commitment", "perplexity", "restarted"}
    assert set(read_losses(root / "runs/fusionsam")) == {
        "main", "fusion", *(f"{c} {n}" for c in ("visible", "infrared") for n in names)
    }  # fmt: skip
    network, _ = load_fusionsam(recipe.output)
    assert network.train_tokens
    for name, value in options.items():
        assert getattr(network, name) == value
    prompt = network.prompt
    assert (prompt.output.out_channels, prompt.attention.heads) == (6, 3)
    assert (prompt.depth, prompt.attention.window) == (2, 4)
    start, _ = load_tokens(recipe.tokens)
    for old, new in zip(start, network.tokenizers, strict=True):
        assert not torch.equal(old.codebook.count, new.codebook.count)  # type: ignore[union-attr, arg-type]
        assert not torch.equal(old.to_latent.weight, new.to_latent.weight)  # type: ignore[union-attr, arg-type]
        assert torch.equal(old.codebook.started, new.codebook.started)  # type: ignore[union-attr, arg-type]


def test_a_pair_in_both_splits_stops_a_run(root: Path) -> None:
    """Tokenizers check their splits like FusionSAM, under another name, too."""
    recipe = small(root)  # writes the networks
    pairs = root / "pairs"
    for kind in ("visible", "infrared", "labels"):
        (pairs / kind / "9.png").write_bytes((pairs / kind / "0.png").read_bytes())
    message = r"visible/0\.png' is to be tested on, .*/9\.png', which is trained on"
    with pytest.raises(ValueError, match=message):
        train_fusionsam(recipe)
    with pytest.raises(ValueError, match=message):
        train_tokens(tokens(root))
    assert not (root / "runs").exists()


def test_tokenizers_that_know_the_test_pairs_stop_a_run(root: Path) -> None:
    """Tokenizers of another split of the same pairs saw the pair that is held out here."""
    output = str(root / "tokens.safetensors")
    train_tokens(tokens(root, steps=1, hold_out_every=3, output=output))
    save_tiny_sam(root / "sam_tiny.pth")
    with pytest.raises(ValueError, match=r"tokens '.*' was trained on '.*', which is to be tested"):
        train_fusionsam(small(root, hold_out_every=4))
    tensors = load_file(output)
    save_file(tensors, output, {"ivf_format": "ivf-tokens-1",
                                "ivf_tokens": '{"width": 4, "latent": 4, "codes": 8}'})  # fmt: skip
    with pytest.raises(ValueError, match="metadata do not say which pairs it was trained on"):
        train_fusionsam(small(root))


def test_files_of_something_else(root: Path) -> None:
    recipe = small(root)
    for load, kind in ((load_tokens, "tokens"), (load_fusionsam, "fusionsam")):
        path = root / "none.safetensors"
        path.unlink(missing_ok=True)
        message = rf"{kind} '.*none\.safetensors': expected a file that ivf train {kind}"
        with pytest.raises(WeightsError, match=message):
            load(path)
        path.write_bytes(b"no tensors")
        with pytest.raises(WeightsError, match=message):
            load(path)
    with pytest.raises(WeightsError, match="ivf_format is 'ivf-tokens-1', expected 'ivf-fusionsa"):
        load_fusionsam(recipe.tokens)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("sam", {"blocks": 10**9}),
        ("sam", {"channels": 2**40}),
        ("sam", {"heads": 0}),
        ("sam", {"grid": 60_000, "channels": 60_000}),
        ("sam", {"global_blocks": 1}),
        ("sam", {"outputs": 3}),
        ("sam", {"patch": [16]}),
        ("prompt", {"depth": -1}),
        ("prompt", {"window": 16}),
        ("prompt", {"heads": 3}),
        ("prompt", {"channels": "8"}),
        ("prompt", {"more": 1}),
        ("tokens", {"codes": 65_536, "latent": 65_536}),
        ("tokens", {"width": True}),
        ("", {"points": None}),
        ("", {"box": "yes"}),
        ("", {"class_set": "{}"}),
        ("", {"class_set": 5}),
        ("", {"sam": []}),
        ("", {"unknown": True}),
    ],
)
def test_files_that_claim_other_sizes(
    root_of_a_file: Path, part: str, change: dict[str, Any]
) -> None:
    """An error that names the file, at once and without the memory that is claimed."""
    tensors, options = load_file(root_of_a_file), json.loads(FILE_OPTIONS[0])
    (options[part] if part else options).update(change)
    path = root_of_a_file.with_name("hostile.safetensors")
    save_file(tensors, path, {"ivf_format": "ivf-fusionsam-1",
                              "ivf_fusionsam": json.dumps(options)})  # fmt: skip
    with pytest.raises(WeightsError, match=r"fusionsam '.*hostile\..*': does not fit: ") as error:
        load_fusionsam(path)
    assert len(str(error.value)) < 2000


FILE_OPTIONS: list[str] = []


@pytest.fixture(scope="module")
def root_of_a_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FusionSAM's file of random weights, whose options are in `FILE_OPTIONS`."""
    from safetensors import safe_open
    from small_runs import write_fusionsam_parts

    from ivf_core.models.fusion_prompt import FusionPrompt
    from ivf_core.models.fusionsam import FusionSam
    from ivf_core.training.fusionsam.weights import save_fusionsam

    root = tmp_path_factory.mktemp("file")
    write_fusionsam_parts(root)
    parts: Any = tuple(load_tokens(root / "tokens.safetensors")[0])
    sam, _ = load_class_sam(root / "sam_tiny.pth", 9)
    path = root / "fusionsam.safetensors"
    save_fusionsam(FusionSam(parts, FusionPrompt(4, 8, 2, 1, 8), sam, MFNET), path)
    load_fusionsam(path)
    with safe_open(path, framework="pt") as file:
        FILE_OPTIONS[:] = [file.metadata()["ivf_fusionsam"]]
    return path


def test_sam_with_a_mask_for_each_class(tmp_path: Path) -> None:
    """Everything is loaded but what depends on the number of masks."""
    path = tmp_path / "sam.pth"
    source = save_tiny_sam(path).state_dict()
    sam, random = load_class_sam(path, 9)
    assert random
    assert sam.mask_decoder.num_multimask_outputs == 9
    renewed = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head.layers.1")
    for name, value in sam.state_dict().items():
        if not any(part in name for part in renewed):
            assert torch.equal(value, source[name]), name
    state = load_sam(path).state_dict()
    torch.save(dict(state), path)
    assert not load_class_sam(path, 9)[1]
    with pytest.raises(SamError, match=r"none\.pth': no such file"):
        load_class_sam(tmp_path / "none.pth", 9)
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, path)
    with pytest.raises(SamError, match="does not fit SAM"):
        load_class_sam(path, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": FusionSamLoss(main=0.0)}, r"loss\.main must be above 0"),
        ({"crop": (60, 64)}, "crop must be at least 32 and a multiple of 32"),
        ({"heads": 7}, "channels 60 is no multiple of 7 heads"),
        ({"window": 6}, "window 6: expected 0, 1, 2, 4 or 8"),
        ({"schedule": "poly"}, "schedule 'poly', known: constant, cosine"),
        ({"tokens": ""}, "tokens must not be empty"),
    ],
)
def test_impossible_recipes(options: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"dataset": "d", "output": "o", "sam_checkpoint": "s", "tokens": "t"}
    with pytest.raises(ValueError, match=message):
        FusionSamRecipe(**{**fields, **options})


@pytest.mark.parametrize(
    ("name", "crop"), [("fmb", (608, 800)), ("mfnet", (480, 640)), ("pst900", (736, 1280))]
)
def test_recipes_in_published_sizes(name: str, crop: tuple[int, int]) -> None:
    recipe = load_recipe(FusionSamRecipe, RECIPES / f"fusionsam_{name}.yaml")
    assert (recipe.epochs, recipe.batch_size, recipe.crop) == (100, 4, crop)
    assert (recipe.learning_rate, recipe.weight_decay) == (1e-4, 1e-3)
    assert (recipe.channels, recipe.heads, recipe.depth, recipe.window) == (60, 6, 6, 8)
    of_tokens = load_recipe(TokensRecipe, RECIPES / f"tokens_{name}.yaml")
    assert recipe.tokens == of_tokens.output
    assert of_tokens.folders == (recipe.dataset,)
    assert (of_tokens.width, of_tokens.latent, of_tokens.codes) == (32, 64, 1024)
    assert (of_tokens.batch_size, of_tokens.crop) == (8, (256, 256))


def run(command: str, name: str, changes: list[str]) -> None:
    """Run a recipe that ships by its command, with changes."""
    options = [word for change in changes for word in ("--set", change)]
    config = str(RECIPES / f"{command}_{name}.yaml")
    assert main(["train", command, "--config", config, *options]) == 0


@pytest.mark.slow
def test_smoke_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizers, FusionSAM and its logits, one after the other as docs/training.md has them."""
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IVF_DATA", "runs/smoke")
    assert main(["train", "smoke", "--output", "runs/smoke"]) == 0
    run("tokens", "smoke", ["steps=2"])
    run("fusionsam", "smoke", ["steps=2"])
    assert load_fusionsam("runs/smoke/fusionsam.safetensors")[1]["sam"].startswith("random")
    shutil.rmtree("runs/smoke/scenes/labels")
    run("logits", "smoke", ["teacher=fusionsam:runs/smoke/fusionsam.safetensors"])
