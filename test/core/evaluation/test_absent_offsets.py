"""Tests of `ivf offsets`: offsets for absent cameras, chosen on pairs with boxes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import small_head, small_student

pytest.importorskip("matplotlib")

from ivf_core.class_sets import STREET
from ivf_core.cli import main
from ivf_core.evaluation.absent_offsets import AbsentOffset
from ivf_core.evaluation.operating_points import logit_function
from ivf_core.images.files import read_visible, write_image
from ivf_core.models.absent_cameras import ABSENCES
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.street import StreetHead

SIZE = (64, 96)
PERSON = STREET.names.index("person")
TRAINED, HELD_OUT, POINTED = ("b", "d"), ("a", "c"), ("e", "f")
HALF = "0 0.25 0.5 0.5 1"  # a person in the left half


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs by day and by night with boxes; what is left out has boxes that cannot be read."""
    random = np.random.default_rng(0)
    for number, name in enumerate(sorted(TRAINED + HELD_OUT + POINTED)):
        # The left half is brighter on the whole, not in each pixel.
        noise = random.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 4), np.uint8)
        image = 40 + cv2.resize(noise, SIZE[::-1]) // 2
        image[:, : SIZE[1] // 2] += 60
        visible = image[..., :3] // (8 if name == "d" else 1)
        write_image(tmp_path / f"visible/{name}.png", np.ascontiguousarray(visible))
        write_image(tmp_path / f"infrared/{name}.png", np.ascontiguousarray(image[..., 3]))
        boxes = tmp_path / f"boxes/{name}.txt"
        boxes.parent.mkdir(exist_ok=True)
        boxes.write_text(HALF if name in TRAINED else f"no box {number}")
    (tmp_path / "points.csv").write_text(
        "set,stem,time,kind,x,y,label\n"
        + "".join(f"mine,{name},day,uniform,1,1,road\n" for name in POINTED)
    )
    return tmp_path


@pytest.fixture
def model(folder: Path) -> FusionModel:
    """Model with random weights that calls about a quarter of a day's pixels people."""
    torch.manual_seed(3)
    student = small_student("street", 8)
    head = small_head("street", student, len(STREET), 16)
    for network in (student, head):
        network.eval().requires_grad_(False)
    assert isinstance(head, StreetHead)
    model = FusionModel(student, head, STREET, name="mine")
    visible = read_visible(folder / "visible/b.png")
    logits = logit_function(model)(visible, np.zeros(SIZE, np.uint8))
    margins = logits[PERSON] - np.delete(logits, PERSON, axis=0).max(axis=0)
    head.raise_class(PERSON, -float(np.quantile(margins, 0.75)))
    for parameter in head.classify.parameters():
        parameter.mul_(1 / float(margins.std()))
    head.absent_offsets = torch.full((len(ABSENCES), len(STREET)), 7.0)  # of earlier logits
    return model


def run(model: FusionModel, folder: Path, *options: str) -> FusionModel:
    save_model(model, folder / "in.safetensors")
    words = [
        "offsets", "--weights", str(folder / "in.safetensors"), "--pairs", str(folder),
        "--boxes", str(folder / "boxes"), "--points", str(folder / "points.csv"),
        "--hold-out-every", "2", "--output", str(folder / "out.safetensors"), *options,
    ]  # fmt: skip
    assert main(words) == 0
    return load_model(folder / "out.safetensors")


def test_largest_offset_with_the_precision() -> None:
    """Margins -2.005 and -1.005 in the box, -1.505 beside it: raising by 2 adds what is false."""
    one = AbsentOffset(ABSENCES[0], "person")
    margins = np.full((10, 40), -9.0, np.float32)
    margins[:, :10], margins[:, 10:20], margins[:, 20:30] = -1.005, -2.005, -1.505
    box = np.array([[0, 0, 20, 10]], float)
    one.add(margins, box, box)
    for target, expected in ((0.9, 1.5), (0.6, 3.0), (0.4, 3.0)):
        one.choose(target, 3.0)
        assert one.value == pytest.approx(expected, abs=0.011), target
    one.choose(0.6, 2.5)
    assert one.value == 2.5
    assert one.recall(0.0).hits == 0
    assert one.recall(1.1).hits == 1
    assert one.precision(2.2) == pytest.approx(2 / 3)


def test_bounds(model: FusionModel, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A low target raises as far as allowed, one that is not reached leaves the class alone."""
    for target, expected in ("0", 1.5), ("1", 0.0):
        found = run(model, folder, "--min-precision", target, "--max-offset", "1.5")
        assert isinstance(found.head, StreetHead)
        assert found.head.absent_offsets is not None
        if target == "0":
            assert found.head.absent_offsets[:, PERSON].tolist() == [expected] * 3
            others = found.head.absent_offsets.clone()
            others[:, PERSON] = 0
            assert not others.any(), "other classes are not raised, and earlier offsets are gone"
            origin = json.loads(found.metadata["absent_offsets"])
            assert origin["offsets"]["thermal absent by day, person"] == 1.5
            assert origin["chosen_on"].startswith("2 pairs of ")
            text = capsys.readouterr().out
            assert "thermal absent by day, person, 1 pairs: +1.50; recall" in text
            assert "thermal absent by night, person, 1 pairs: +1.50" in text
            assert "RGB absent, person, 2 pairs: +1.50" in text
        else:
            assert float(found.head.absent_offsets[:, PERSON].max()) < 1.5


def test_what_cannot_be_raised_is_named(
    model: FusionModel, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(model, folder / "in.safetensors")
    words = ["offsets", "--pairs", str(folder), "--boxes", str(folder / "boxes"), "--output",
             str(folder / "out.safetensors"), "--weights"]  # fmt: skip
    assert main([*words, "clear"]) == 1
    assert "weights 'clear': architecture 'fast', expected 'street'" in capsys.readouterr().err
    assert main([*words, str(folder / "in.safetensors"), "--classes", "tram"]) == 1
    assert "classes tram: expected some of person, bicycle, car" in capsys.readouterr().err
    assert not (folder / "out.safetensors").exists()
