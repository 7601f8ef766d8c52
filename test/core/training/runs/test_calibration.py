"""Tests of the choice of 8-bit convolutions by the deviation that they cause."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from ivf_core.class_sets import MFNET
from ivf_core.cli import main
from ivf_core.data.pairs import Pair, luma_of
from ivf_core.images.files import write_image
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.student import FastStudent
from ivf_core.scenes import random_scene
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.sensitivity import (
    Bound,
    Deviation,
    Layer,
    choose_layers,
    deviation_meter,
)

SENSITIVE = "student.stages.3.0"


def random_pairs(count: int, first: int = 0) -> list[Pair]:
    pairs = []
    for seed in range(first, first + count):
        random = np.random.default_rng(seed)
        luma, infrared = random.integers(0, 256, (2, 64, 96), np.uint8)
        pairs.append(Pair(str(seed), luma, infrared))
    return pairs


def build(outlier: float) -> FusionModel:
    """Build a model in which one convolution has an input channel of this value.

    Its weights for this channel are zero, so that the channel has no effect on the images
    except that it makes the levels of all others coarse.
    """
    torch.manual_seed(0)
    student = FastStudent((16, 16, 16), (1, 1, 1, 1, 0))
    for decoder in student.decoders:
        nn.init.normal_(decoder.weight, std=0.1)  # type: ignore[arg-type]
    merge, stage = student.merges[0], student.stages[3]
    assert isinstance(merge, nn.Sequential)
    assert isinstance(stage, nn.Sequential)
    with torch.no_grad():
        merge[0].weight[0] = 0  # type: ignore[index, operator]
        merge[0].bias[0] = outlier  # type: ignore[index, operator]
        stage[0].weight[:, 0] = 0  # type: ignore[index, operator]
    head = SegmentationHead(len(MFNET), student.feature_channels, (16, 16, 16), student.layout)
    for network in (student, head):
        network.eval().requires_grad_(False)
    return FusionModel(student, head, MFNET, name="narrow")


def test_a_sensitive_convolution_stays_in_floating_point() -> None:
    even = calibrate(build(0.0), random_pairs(4), Bound(1.5, 1.0))
    assert SENSITIVE in even.model.ranges
    assert len(even.model.ranges) == len(even.layers)

    found = calibrate(build(3000.0), random_pairs(4), Bound(1.5, 1.0))
    names = [layer.name for layer in found.layers]
    assert list(found.model.ranges) == [name for name in names if name != SENSITIVE]
    assert found.deviation.fused <= 1.5
    alone = next(layer.alone for layer in found.layers if layer.name == SENSITIVE)
    assert alone.fused > 1.5
    assert f"floating point: {SENSITIVE}, alone fused p99.9 {alone.fused:.2f}" in found.summary()


def test_a_bound_that_cannot_be_met_leaves_all_in_floating_point() -> None:
    student = replace(build(0.0), head=None, class_set=None)
    found = calibrate(student, random_pairs(3), Bound(0.0, 0.0))
    assert found.layers
    assert found.model.ranges == {}
    assert "no choice is within the bound: all stay in floating point" in found.summary()
    for bounds in ((-1.0, 0.1), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="expected at least 0"):
            Bound(*bounds)


def test_the_choice_is_repeatable_and_changes_no_tensor() -> None:
    model = build(3000.0)
    before = copy.deepcopy(model.student.state_dict())
    first, second = (calibrate(model, random_pairs(20)) for _ in range(2))
    assert first.model.ranges == second.model.ranges
    assert first.layers == second.layers
    assert first.deviation == second.deviation
    after = model.student.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_cheapest_deviation_returns_first() -> None:
    """The order is that of the deviation per multiply-accumulate, not of the deviation."""
    layers = [
        Layer("wide", 10.0, Deviation(2.0, 2.0, 0.0)),
        Layer("thin", 1.0, Deviation(1.0, 1.0, 0.0)),
        Layer("head", 1.0, Deviation(0.0, 0.0, 0.5)),
        Layer("same", 1.0, Deviation(0.0, 0.0, 0.5)),
    ]
    alone = {layer.name: layer.alone for layer in layers}

    def measure(names: object) -> Deviation:
        return Deviation(*(sum(v) for v in zip(*(alone[n] for n in names), strict=True)))  # type: ignore[attr-defined]

    assert choose_layers(layers, measure, Bound(2.5, 1.0))[0] == ["wide", "head", "same"]
    assert choose_layers(layers, measure, Bound(2.5, 0.5))[0] == ["wide", "same"]
    assert choose_layers(layers, measure, Bound(1.0, 0.0))[0] == []


def test_calibrate_command_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for pair in random_pairs(3):
        visible = cv2.merge([pair.luma] * 3)
        write_image(tmp_path / "pairs" / "visible" / f"{pair.name}.png", visible)
        write_image(tmp_path / "pairs" / "infrared" / f"{pair.name}.png", pair.infrared)
    save_model(build(3000.0), tmp_path / "w.safetensors")
    command = ["calibrate", "--weights", str(tmp_path / "w.safetensors"), "--pairs",
               str(tmp_path / "pairs"), "--output", str(tmp_path / "c.safetensors")]  # fmt: skip
    assert main([*command, "--min-label-agreement", "0"]) == 0
    assert f"floating point: {SENSITIVE}, alone" in capsys.readouterr().out
    assert SENSITIVE not in load_model(tmp_path / "c.safetensors").ranges
    assert main([*command, "--max-deviation", "inf", "--min-label-agreement", "0"]) == 0
    assert SENSITIVE in load_model(tmp_path / "c.safetensors").ranges
    assert main([*command, "--max-deviation", "-1"]) == 1
    assert "expected at least 0" in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["clear"])
def test_shipped_weights_in_8_bits_on_scenes(weights: str) -> None:
    """Test on images that gave neither the ranges nor the choice, in simulated rounding.

    The tolerance is what engines accept: 2 grey levels of the rounded image, so 2.5 before.
    """
    model = load_model(weights)
    pairs = []
    for seed in range(4):
        scene = random_scene(seed, (320, 240))
        pairs.append(Pair(str(seed), luma_of(scene.visible), scene.infrared))
    found = deviation_meter(model, pairs)(model.ranges)
    assert 0 < found.fused < 2.5
    assert found.labels <= 0.02
