"""Tests of absent cameras: how they are found, and the offsets that a head adds for them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import small_head, small_student

from ivf_core.class_sets import STREET
from ivf_core.inference.engine import create_engine
from ivf_core.inference.export import export_onnx
from ivf_core.models.absent_cameras import ABSENCES, absent_cameras
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.graph import FusionGraph
from ivf_core.models.quantization import observe_ranges
from ivf_core.models.street import StreetHead
from ivf_core.models.weights_files import open_weights

SIZE = (49, 66)
DAY, NIGHT, RGB = range(len(ABSENCES))
CLASSES = (8, 3, 5)  # what wins in each of `ABSENCES` under the offsets below


@pytest.fixture(scope="module")
def plain() -> FusionModel:
    """Model of the architecture `street` with random weights, without offsets."""
    torch.manual_seed(1)
    student = small_student("street", 16)
    head = small_head("street", student, len(STREET), 16)
    for network in (student, head):
        network.eval().requires_grad_(False)
    return FusionModel(student, head, STREET, name="plain")


@pytest.fixture(scope="module")
def model(plain: FusionModel) -> FusionModel:
    """The same with offsets so large that one class wins everywhere."""
    head = copy.deepcopy(plain.head)
    assert isinstance(head, StreetHead)
    head.absent_offsets = torch.zeros(len(ABSENCES), len(STREET))
    for row, class_id in enumerate(CLASSES):
        head.absent_offsets[row, class_id] = 1000.0
    return replace(plain, head=head)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Make a batch: both cameras, without thermal by day and by night, without RGB, neither."""
    random = np.random.default_rng(0)
    visible = random.integers(40, 256, (5, *SIZE, 3), np.uint8)
    infrared = random.integers(1, 256, (5, *SIZE), np.uint8)
    infrared[[1, 2, 4]] = 0
    visible[2] //= 8
    visible[[3, 4]] = 0
    return visible, infrared


def weights(luma: np.ndarray, infrared: np.ndarray) -> list[float]:
    planes = (torch.from_numpy(x)[None, None].float() / 255 for x in (luma, infrared))
    return absent_cameras(*planes)[0].tolist()


def test_one_pixel_makes_a_camera_present() -> None:
    day, black = np.full((480, 640), 128, np.uint8), np.zeros((480, 640), np.uint8)
    assert weights(day, day) == [0, 0, 0]
    assert weights(day, black) == [1, 0, 0]
    assert weights(day // 8, black) == [0, 1, 0]
    assert weights(black, day) == [0, 0, 1]
    assert weights(black, black) == [0, 0, 0]
    spark = black.copy()
    spark[-1, -1] = 1
    assert weights(day, spark) == [0, 0, 0]
    assert weights(spark, day) == [0, 0, 0]
    assert weights(spark, black) == [0, 1, 0]


def test_dusk_is_between_day_and_night() -> None:
    black = np.zeros((48, 64), np.uint8)
    rows = [weights(np.full_like(black, grey), black) for grey in range(30, 90)]
    assert all(sum(row) == pytest.approx(1) for row in rows)
    day = [row[DAY] for row in rows]
    assert day == sorted(day)
    assert 0 < day[25] < 1
    assert max(np.diff(day)) < 0.06


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("torch", "fp32"),
        ("torch", "bf16"),
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
        ("openvino", "int8"),
    ],
)
def test_every_engine_adds_the_offsets(
    name: str, precision: str, plain: FusionModel, model: FusionModel
) -> None:
    pytest.importorskip(name)
    if precision == "int8":
        grey = pairs()[1]
        ranges = observe_ranges(plain.student, plain.head, [(grey[0], grey[3])])
        plain, model = replace(plain, ranges=ranges), replace(model, ranges=ranges)
    engines = [
        create_engine(m, engine=name, device="cpu", precision=precision) for m in (plain, model)
    ]
    for index, (visible, infrared) in enumerate(zip(*pairs(), strict=True)):
        old, new = (e(visible, infrared, confidence=True) for e in engines)
        assert old.labels is not None
        assert new.labels is not None
        np.testing.assert_array_equal(new.fused, old.fused)
        if index in (0, 4):
            np.testing.assert_array_equal(new.labels, old.labels)
            np.testing.assert_array_equal(new.confidence, old.confidence)
        else:
            assert (new.labels == CLASSES[index - 1]).all(), ABSENCES[index - 1]
            assert new.confidence is not None
            assert (new.confidence == 255).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_pair_of_a_batch_by_itself(
    dtype: torch.dtype, plain: FusionModel, model: FusionModel
) -> None:
    images = [torch.from_numpy(x) for x in pairs()]
    labels, old = (FusionGraph(m, dtype)(*images)[1] for m in (model, plain))
    for index, class_id in enumerate(CLASSES, start=1):
        assert (labels[index] == class_id).all()
        assert not (old[index] == class_id).all()
    for index in (0, 4):
        assert torch.equal(labels[index], old[index])


def test_exported_batch(model: FusionModel) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(export_onnx(model), providers=["CPUExecutionProvider"])
    visible, infrared = pairs()
    [labels] = session.run(["labels"], {"visible": visible, "infrared": infrared})
    found = [np.unique(mask).tolist() for mask in labels[1:4]]
    assert found == [[class_id] for class_id in CLASSES]
    assert len(np.unique(labels[0])) > 1


def test_offsets_travel_with_the_weights(
    plain: FusionModel, model: FusionModel, tmp_path: Path
) -> None:
    """Files without offsets stay as they were, and a graph of other offsets is not used."""
    for name, one in (("plain", plain), ("offsets", model)):
        save_model(one, tmp_path / f"{name}.safetensors")
        file = open_weights(tmp_path / f"{name}.safetensors")
        assert file.digest == one.digest()
        assert ("head.absent_offsets" in file.arrays()) == (name == "offsets")
        assert ("absent_offsets" in file.entries["ivf_head"]) == (name == "offsets")
        loaded = load_model(file)
        assert isinstance(loaded.head, StreetHead)
        assert isinstance(one.head, StreetHead)
        if one.head.absent_offsets is None:
            assert loaded.head.absent_offsets is None
        else:
            assert loaded.head.absent_offsets is not None
            assert torch.equal(loaded.head.absent_offsets, one.head.absent_offsets)
    assert plain.digest() != model.digest()
    (tmp_path / "offsets.onnx").write_bytes(export_onnx(plain))
    assert open_weights(tmp_path / "offsets.safetensors").read_graph() is None
    (tmp_path / "offsets.onnx").write_bytes(export_onnx(model))
    assert open_weights(tmp_path / "offsets.safetensors").read_graph() is not None


def test_shipped_offsets_are_those_of_the_metadata() -> None:
    model = load_model("street")
    assert isinstance(model.head, StreetHead)
    assert model.head.absent_offsets is not None
    chosen = json.loads(model.metadata["absent_offsets"])
    expected = torch.zeros(len(ABSENCES), len(STREET))
    for name, value in chosen["offsets"].items():
        absence, kind = name.rsplit(", ", 1)
        expected[ABSENCES.index(absence), STREET.names.index(kind)] = value
    assert torch.equal(model.head.absent_offsets, expected)
    assert expected[DAY, STREET.names.index("person")] > 0
