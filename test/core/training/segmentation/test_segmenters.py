"""Test segmenters with networks of few channels from local directories."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ivf_core.class_sets import FMB, MFNET, PST900
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.training.losses import segmentation_loss
from ivf_core.training.segmentation.segmenters import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClipsegSegmenter,
    SegmenterError,
    luma,
    open_segmenter,
)

pytest.importorskip("transformers")

from segmenter_models import save_clipseg, save_segformer


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("segformer")
    # Other authors may write class names in this form.
    names = tuple(name.replace("_", " ").title() for name in MFNET.names)
    return directory, save_segformer(directory, names)


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    directory = tmp_path_factory.mktemp("clipseg")
    return directory, *save_clipseg(directory)


def normalized(images: torch.Tensor) -> torch.Tensor:
    mean, std = (
        torch.tensor(x, dtype=images.dtype)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean) / std


def test_segformer_equals_that_of_the_package(segformer: tuple[Path, Any]) -> None:
    directory, network = segformer
    segmenter = open_segmenter(f"segformer:{directory}", MFNET)
    assert segmenter.class_set == MFNET
    segmenter, network = segmenter.double(), copy.deepcopy(network).double()
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    logits = segmenter(images)
    assert logits.shape == (2, 9, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(logits, network(normalized(images)).logits)


def test_clipseg_equals_that_of_the_package(clipseg: tuple[Path, Any, Any]) -> None:
    """Logits of each class are the package's; that of the background is 0."""
    _, network, tokenizer = clipseg
    network = copy.deepcopy(network).double()
    segmenter = ClipsegSegmenter(network, tokenizer, PST900)
    images = torch.rand(2, 3, 48, 80, dtype=torch.float64)
    logits = segmenter(images)
    assert logits.shape == (2, 5, 352, 352)
    assert not logits[:, 0].any()
    square = F.interpolate(images, (352, 352), mode="bilinear", antialias=True)
    prompts = ["fire extinguisher", "backpack", "hand drill", "survivor"]
    tokens = tokenizer([f"a photo of a {p}" for p in prompts], padding=True, return_tensors="pt")
    for index in range(len(prompts)):
        words = {name: ids[[index, index]] for name, ids in tokens.items()}
        with torch.no_grad():
            expected = network(pixel_values=normalized(square), **words).logits
        torch.testing.assert_close(logits[:, 1 + index], expected)
    assert (logits[:, 1] - logits[:, 2]).abs().max() > 1e-3  # prompts matter


def test_head_gets_the_luma_as_both_inputs(tiny_weights: Path) -> None:
    segmenter = open_segmenter(f"head:{tiny_weights}", MFNET).double()
    model = load_model(tiny_weights)
    images = torch.rand(1, 3, 47, 64, dtype=torch.float64)
    red, green, blue = images.unbind(dim=1)
    plane = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
    torch.testing.assert_close(luma(images), plane)
    assert model.head is not None
    expected = model.head.double()(model.student.double()(plane, plane).features)
    torch.testing.assert_close(segmenter(images), expected)


@pytest.fixture(params=["head", "segformer", "clipseg"])
def spec(request: pytest.FixtureRequest, tiny_weights: Path) -> str:
    if request.param == "head":
        return f"head:{tiny_weights}"
    return f"{request.param}:{request.getfixturevalue(request.param)[0]}"


def test_gradient_reaches_only_the_images(spec: str) -> None:
    """Steps on the images lower the loss, and the network does not change."""
    segmenter = open_segmenter(spec, MFNET)
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    segmenter.train()
    assert not any(module.training for module in segmenter.modules())
    assert not any(parameter.requires_grad for parameter in segmenter.parameters())
    torch.manual_seed(0)
    images = torch.rand(1, 3, 48, 64, requires_grad=True)
    labels = torch.full((1, 48, 64), 3)
    labels[:, :8] = 255
    losses = []
    for _ in range(3):
        loss = segmentation_loss(segmenter(images), labels)
        losses.append(loss.item())
        (slope,) = torch.autograd.grad(loss, images)
        assert (slope.abs().sum(dim=(1, 2, 3)) > 0).all()
        with torch.no_grad():
            images -= 0.02 * slope.sign()
    assert losses == sorted(losses, reverse=True)
    for key, value in segmenter.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_other_classes(spec: str) -> None:
    if spec.startswith("clipseg"):
        assert open_segmenter(spec, FMB)(torch.rand(1, 3, 32, 32)).shape[1] == len(FMB)
        return
    with pytest.raises(SegmenterError, match="it has 9 classes, class set 'fmb' has 15"):
        open_segmenter(spec, FMB)


def test_other_names(tmp_path: Path) -> None:
    save_segformer(tmp_path, ("background", "backpack", "fire_extinguisher", "a", "b"))
    message = "its class 1 is 'backpack', that of class set 'pst900' 'fire_extinguisher'"
    with pytest.raises(SegmenterError, match=message):
        open_segmenter(f"segformer:{tmp_path}", PST900)
    save_segformer(tmp_path, tuple(f"LABEL_{n}" for n in range(5)))
    open_segmenter(f"segformer:{tmp_path}", PST900)


@pytest.mark.parametrize("spec", ["", "segformer", "segformer:", "sam:x", "x"])
def test_unknown_specs(spec: str) -> None:
    with pytest.raises(SegmenterError, match=f"'{spec}': expected head:WEIGHTS, segformer:DIR"):
        open_segmenter(spec, MFNET)


def test_a_segmenter_of_pairs_is_none_of_fused_images() -> None:
    with pytest.raises(SegmenterError, match="'sartm:x': sartm segments pairs of images, not the"):
        open_segmenter("sartm:x", MFNET)


def test_weights_without_a_head(tmp_path: Path, tiny_model: FusionModel) -> None:
    path = tmp_path / "student.safetensors"
    save_model(FusionModel(tiny_model.student), path)
    with pytest.raises(SegmenterError, match=r"student\.safetensors' have no head"):
        open_segmenter(f"head:{path}", MFNET)


def _pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def _damage(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"no tensors")


def _rename(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))


def _shrink(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "depths": [2, 1, 1, 1]}))


def _widen(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "decoder_hidden_size": 24}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "no such directory; expected config.json of model_type 'segformer' and"),
        (lambda d: (d / "config.json").unlink(), "expected config.json .*No such file"),
        (lambda d: (d / "config.json").write_text("{"), "expected config.json of"),
        (lambda d: (d / "config.json").write_text("[1]"), "model_type is None; expected"),
        (_rename, "model_type is 'bert'; expected config.json of model_type 'segformer'"),
        (_pickle, r"and \*\.safetensors; pytorch_model\.bin is pickled, and not read"),
        (_damage, "not a SegformerForSemanticSegmentation: "),
        (_shrink, "does not fit SegformerForSemanticSegmentation: .* tensors missing, first"),
        (_widen, "not a SegformerForSemanticSegmentation: |does not fit"),
    ],
)
def test_directories_without_a_segformer(
    harm: Callable[[Path], object], message: str, segformer: tuple[Path, Any], tmp_path: Path
) -> None:
    directory = tmp_path / "harmed"
    shutil.copytree(segformer[0], directory)
    harm(directory)
    with pytest.raises(SegmenterError, match=f"(?s)segformer:.*harmed': .*{message}"):
        open_segmenter(f"segformer:{directory}", MFNET)


def test_clipseg_without_a_tokenizer(clipseg: tuple[Path, Any, Any], tmp_path: Path) -> None:
    directory = tmp_path / "harmed"
    shutil.copytree(clipseg[0], directory)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(SegmenterError, match=r"expected tokenizer\.json, or vocab\.json and"):
        open_segmenter(f"clipseg:{directory}", MFNET)
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(SegmenterError, match="not a CLIPTokenizer"):
        open_segmenter(f"clipseg:{directory}", MFNET)
