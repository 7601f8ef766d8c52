"""Tests of 8-bit convolutions: ranges, rounding, export and engines."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ivf_core.class_sets import MFNET
from ivf_core.cli import main
from ivf_core.images.files import list_images, read_infrared, read_visible, write_image
from ivf_core.inference.engine import create_engine
from ivf_core.inference.export import export_onnx
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.graph import FusionGraph
from ivf_core.models.quantization import (
    QuantizedConv2d,
    observe_ranges,
    quantize_convolutions,
)
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.student import FastStudent, MergeUp


def random_pair(seed: int, size: tuple[int, int] = (64, 96)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, size, np.uint8), random.integers(0, 256, size, np.uint8)


@pytest.fixture(scope="module")
def model() -> FusionModel:
    """Build a model just wide enough for convolutions in 8 bits."""
    torch.manual_seed(0)
    student = FastStudent((16, 16, 16), (1, 1, 1, 1, 1))
    for decoder in student.decoders:
        nn.init.normal_(decoder.weight, std=0.1)  # type: ignore[arg-type]
    head = SegmentationHead(len(MFNET), student.feature_channels, (16, 16, 16), student.layout)
    for network in (student, head):
        network.eval().requires_grad_(False)
    model = FusionModel(student, head, MFNET, name="narrow")
    return replace(model, ranges=observe_ranges(student, head, map(random_pair, range(3))))


def test_ranges_are_those_of_the_inputs(model: FusionModel) -> None:
    student, head = model.student, model.head
    assert isinstance(student, FastStudent)
    assert head is not None
    merges = {m[0] for network in (student, head) for m in network.modules() if type(m) is MergeUp}
    names = {
        f"{prefix}.{name}"
        for prefix, network in (("student", student), ("head", head))
        for name, conv in network.named_modules()
        if isinstance(conv, nn.Conv2d)
        and min(conv.in_channels, conv.out_channels) >= 16
        and conv not in merges  # which call functions on their weights
    }
    assert set(model.ranges) == names
    halves = []
    for seed in range(3):
        planes = (torch.from_numpy(p)[None, None].float() / 255 for p in random_pair(seed))
        halves.append(student.fold(nn.functional.pixel_unshuffle(torch.cat(tuple(planes), 1), 2)))
    low, high = model.ranges["student.stages.0.0"]
    assert low == pytest.approx(min(float(half.min()) for half in halves))
    assert high == pytest.approx(max(float(half.max()) for half in halves))


def test_rounding_against_numpy() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1)
    scale = np.float32(3.5 / 255)
    zero = round(1.5 / (3.5 / 255))
    # Well away from the middle between two levels, where the last bit decides; some clipped.
    random = np.random.default_rng(0)
    levels = random.integers(-20, 276, (1, 16, 9, 11))
    offsets = random.uniform(-0.4, 0.4, levels.shape)
    x = torch.from_numpy((levels - zero + offsets) * scale).float()
    found = QuantizedConv2d(conv, -1.5, 2.0)(x)

    levels = levels.clip(0, 255)
    weight = conv.weight.detach().numpy()
    scales = np.abs(weight).max((1, 2, 3), keepdims=True) / np.float32(127)
    rounded = np.rint(weight / scales) * scales
    assert conv.bias is not None
    terms = (
        torch.from_numpy((levels - zero) * np.float64(scale)),
        torch.from_numpy(rounded).double(),
        conv.bias.double(),
    )
    expected = nn.functional.conv2d(*terms, padding=1)
    # Each of n products and sums in float32 rounds by at most half an eps of the magnitude.
    magnitude = nn.functional.conv2d(*(term.abs() for term in terms), padding=1)
    n = weight[0].size + 4
    assert ((found - expected).abs() <= n * torch.finfo(torch.float32).eps * magnitude).all()
    assert (found - conv(x.clamp(-1.5, 2.0))).abs().max() > 1e-3  # rounding has an effect


def test_a_range_holds_the_zero_of_the_padding() -> None:
    conv = nn.Conv2d(16, 16, 3)
    assert QuantizedConv2d(conv, 1.0, 3.0).zero_point == 0
    assert QuantizedConv2d(conv, -3.0, -1.0).zero_point == 255
    for low, high in ((0.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="expected finite, not empty"):
            QuantizedConv2d(conv, low, high)


def test_ranges_of_other_weights(model: FusionModel) -> None:
    with pytest.raises(ValueError, match=r"'student\.neck', which is no convolution"):
        quantize_convolutions(FusionGraph(model), {"student.neck": (0.0, 1.0)})
    with pytest.raises(ValueError, match="at least one pair"):
        observe_ranges(model.student, model.head, [])


def test_a_convolution_of_zeros_has_no_range(model: FusionModel) -> None:
    student = copy.deepcopy(model.student)
    assert isinstance(student, FastStudent)
    stage = student.stages[0]
    assert isinstance(stage, nn.Sequential)
    nn.init.zeros_(stage[1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(stage[1].bias)  # type: ignore[arg-type]
    ranges = observe_ranges(student, None, [random_pair(0)])
    assert "student.stages.0.0" in ranges
    assert "student.stages.1.0" not in ranges


def test_weights_keep_their_ranges(model: FusionModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "w.safetensors")
    assert load_model(tmp_path / "w.safetensors").ranges == model.ranges


def test_export_says_which_convolutions_are_in_8_bits(model: FusionModel) -> None:
    def operators(content: bytes) -> list[str]:
        return [node.op_type for node in onnx.load_model_from_string(content).graph.node]

    quantized = operators(export_onnx(model, int8=True))
    assert quantized.count("QuantizeLinear") == 2 * len(model.ranges)  # inputs and weights
    assert "QuantizeLinear" not in operators(export_onnx(model))


def test_export_in_8_bits_runs_elsewhere(model: FusionModel, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    save_model(model, tmp_path / "w.safetensors")
    path = tmp_path / "w.onnx"
    command = ["export", "--weights", str(tmp_path / "w.safetensors"), "--output", str(path)]
    assert main([*command, "--int8"]) == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    luma, infrared = random_pair(5)
    visible = cv2.merge([luma] * 3)
    fused, labels = session.run(None, {"visible": visible[None], "infrared": infrared[None]})
    expected = FusionGraph(model, int8=True)(
        torch.from_numpy(visible)[None], torch.from_numpy(infrared)[None]
    )
    assert cv2.absdiff(fused[0], expected[0][0].numpy()).max() <= 1
    assert np.mean(labels[0] == expected[1][0].numpy()) > 0.95


def test_openvino_computes_in_8_bits(model: FusionModel) -> None:
    """Compare OpenVINO with the simulated rounding, as closely as fp32 arithmetic allows."""
    pytest.importorskip("openvino")
    engine = create_engine(model, engine="openvino", device="cpu", precision="int8")
    assert engine.precision == "int8"
    simulated = FusionGraph(model, int8=True)
    luma, infrared = random_pair(5)
    visible = cv2.merge([luma] * 3)
    fused, labels = engine(visible, infrared)
    expected = simulated(torch.from_numpy(visible)[None], torch.from_numpy(infrared)[None])
    assert fused is not None
    assert cv2.absdiff(fused, expected[0][0].numpy()).max() <= 3  # the rest is in bf16
    assert np.mean(labels == expected[1][0].numpy()) > 0.95
    plain = create_engine(model, engine="openvino", device="cpu", precision="fp32")
    assert np.any(fused != plain(visible, infrared)[0])


def test_auto_precision_keeps_real_images_in_8_bits(data: Path) -> None:
    """Test on images that differ from those that the ranges were observed on."""
    pytest.importorskip("openvino")
    model = load_model("fast")
    engine, reference = (
        create_engine(model, engine="openvino", device="cpu", precision=precision)
        for precision in ("int8", "fp32")
    )
    for folder, step in (("msrs", 70), ("roadscene", 35), ("tno", 7)):
        visible = list_images(data / folder / "visible")
        infrared = list_images(data / folder / "infrared")
        for name in list(visible)[::step]:
            pair = read_visible(visible[name]), read_infrared(infrared[name])
            difference = cv2.absdiff(engine(*pair)[0], reference(*pair)[0])
            assert np.percentile(difference, 99.9) <= 2, (folder, name)


def test_engines_and_weights_that_have_no_8_bits(
    model: FusionModel, tiny_model: FusionModel
) -> None:
    with pytest.raises(ValueError, match="PyTorch has fp32 and bf16 on a CPU"):
        create_engine(model, engine="torch", device="cpu", precision="int8")
    pytest.importorskip("openvino")
    with pytest.raises(ValueError, match=r"weights 'tiny' are not calibrated \(ivf calibrate\)"):
        create_engine(tiny_model, engine="openvino", device="cpu", precision="int8")


def test_calibrate_command(
    model: FusionModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        luma, infrared = random_pair(seed)
        write_image(tmp_path / "pairs" / "visible" / f"{seed}.png", cv2.merge([luma] * 3))
        write_image(tmp_path / "pairs" / "infrared" / f"{seed}.png", infrared)
    save_model(replace(model, ranges={}), tmp_path / "w.safetensors")
    command = ["calibrate", "--weights", str(tmp_path / "w.safetensors"), "--pairs",
               str(tmp_path / "pairs"), "--output", str(tmp_path / "c.safetensors")]  # fmt: skip
    assert main(command) == 0
    assert f"{len(model.ranges)} convolutions in 8 bits" in capsys.readouterr().out
    assert load_model(tmp_path / "c.safetensors").ranges == model.ranges
    assert main([*command[:-3], str(tmp_path / "none"), *command[-2:]]) == 1
    assert "no such folder" in capsys.readouterr().err
