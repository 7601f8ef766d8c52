"""Pair teachers among those of `ivf train labels`, and all the way from SAM2 to a head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ivf_core.class_sets import FMB, PST900, STREET, UNLABELED, ClassSet
from ivf_core.cli import main
from ivf_core.images.files import list_images, read_infrared, read_labels, read_visible, write_image
from ivf_core.models.checkpoints import load_model
from ivf_core.models.pair_segmenter import PairLogits, PairSegmenter
from ivf_core.training.segmentation.asked_teacher import AskedTeacher
from ivf_core.training.segmentation.fused_labels.campaign import make_labels
from ivf_core.training.segmentation.fused_labels.options import (
    FusionOptions,
    GivenLabels,
    LabelRecipe,
    LabelSet,
)
from ivf_core.training.segmentation.fused_labels.scores import FUSED
from ivf_core.training.segmentation.logit_cache import LogitCache

SIZE = (60, 80)
TEACHER = "sartm:runs/smoke/sartm.safetensors"
RECIPES = Path(__file__).parents[4] / "training"
ROAD, BUILDING, SKY = (STREET.names.index(name) for name in ("road", "building", "sky"))


class _Constant(PairSegmenter):
    """Network whose upper half is of one class, and its lower half of another, as FMB has them."""

    def __init__(self, class_set: ClassSet, upper: str, lower: str) -> None:
        super().__init__(class_set)
        self.ids = [class_set.names.index(name) for name in (upper, lower)]
        self.scale = torch.nn.Parameter(torch.tensor(6.0))

    def segment(self, visible: torch.Tensor, infrared: torch.Tensor) -> PairLogits:
        logits = visible.new_zeros(len(visible), len(self.class_set), *visible.shape[2:])
        half = SIZE[0] // 2
        logits[:, self.ids[0], :half] = self.scale.item()
        logits[:, self.ids[1], half:] = self.scale.item()
        return PairLogits(logits)


def opener(network: PairSegmenter, **notes: str) -> Any:
    def open_teacher(spec: str, root: Path) -> AskedTeacher:
        kind, _, path = spec.partition(":")
        about = {"kind": kind, "sha256": Path(path).stem}
        return AskedTeacher(network, LogitCache.create(root, about, network.class_set, notes))

    return open_teacher


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pairs with labels of one teacher, and a photograph without a thermal image."""
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    labels = np.full(SIZE, SKY, np.uint8)
    labels[30:] = ROAD
    for number in range(4):
        gray = np.random.default_rng(number).integers(60, 90, SIZE).astype(np.uint8)
        write_image(tmp_path / f"pairs/visible/{number}.png", np.repeat(gray[..., None], 3, 2))
        write_image(tmp_path / f"pairs/infrared/{number}.png", gray)
        write_image(tmp_path / f"pairs/one/{number}.png", labels)
    write_image(tmp_path / "photographs/p.png", np.full((*SIZE, 3), 99, np.uint8))
    return tmp_path


def write_points(data: Path, upper: str) -> None:
    rows = [f"pairs,{n},day,uniform,{x},{y},{label}\n" for n in range(4) for x in range(5, 75, 10)
            for y, label in ((10, upper), (50, "road"))]  # fmt: skip
    (data / "points.csv").write_text("set,stem,time,kind,x,y,label\n" + "".join(rows))


def recipe_of(data: Path, **options: Any) -> LabelRecipe:
    given = GivenLabels(name="one", folder="pairs/one", class_set="street")
    pairs = LabelSet(name="pairs", visible=("pairs/visible",), infrared="pairs/infrared",
                     given=(given,))  # fmt: skip
    photographs = LabelSet(name="photographs", visible=("photographs",))
    fields: dict[str, Any] = dict(
        sets=(pairs, photographs), output=str(data / "out"), points="points.csv", sample=1,
        teachers=("sartm:runs/mine.safetensors",), fusion=FusionOptions(edge_radius=0),
    )  # fmt: skip
    return LabelRecipe(**{**fields, **options})


@pytest.mark.parametrize("truth", ["sky", "building"])
def test_a_pair_teacher_counts_by_its_measured_reliability(data: Path, truth: str) -> None:
    """Points decide which of two teachers is believed in the upper half, where they differ."""
    write_points(data, truth)
    open_teacher = opener(_Constant(FMB, "building", "road"), sam2="random weights (x)")
    report = make_labels(recipe_of(data), open_teacher)
    assert report.failed == []
    labels = read_labels(data / "out/pairs/labels/0.png")
    assert (labels[:28] == STREET.names.index(truth)).all()
    assert (labels[34:] == ROAD).all()
    accuracy = {name: report.scores[name].point_row("day", "uniform")["accuracy"]
                for name in ("mine:both", "one", FUSED)}  # fmt: skip
    right = truth == "building"
    assert accuracy == {"mine:both": 0.5 + right / 2, "one": 1 - right / 2, FUSED: 1}
    about = json.loads((data / "out/pairs/sources/0.json").read_text())
    assert about["teachers"] == ["mine:both", "one"]
    # Without a thermal image it is not asked.
    about = json.loads((data / "out/photographs/sources/p.json").read_text())
    assert about["teachers"] == []
    assert (read_labels(data / "out/photographs/labels/p.png") == UNLABELED).all()
    page = (data / "out/index.html").read_text()
    assert page.count("mine:both") >= 2  # a row of the scores, and an image
    assert "teacher mine: sam2 has random weights (x)" in page
    about = json.loads((data / "out/labels.json").read_text())
    assert about["pair_teachers"]["mine"]["sha256"] == "mine"


def test_answers_are_kept_and_other_weights_are_asked_again(data: Path) -> None:
    write_points(data, "sky")
    network = _Constant(FMB, "sky", "road")
    make_labels(recipe_of(data), opener(network))
    network.ids.reverse()  # a kept answer does not change
    again = make_labels(recipe_of(data), opener(network))
    assert (again.made, again.kept) == (0, 5)
    other = recipe_of(data, teachers=("sartm:runs/other.safetensors",))
    report = make_labels(other, opener(network))
    assert (report.made, report.kept) == (5, 0)
    assert report.scores["other:both"].point_row("day", "uniform")["accuracy"] == 0


def test_what_cannot_be_a_teacher(data: Path) -> None:
    write_points(data, "sky")
    with pytest.raises(ValueError, match=r"'sartm:runs/mine\.safe.* of 'pst900', which cannot be"):
        make_labels(recipe_of(data), opener(_Constant(PST900, "backpack", "survivor")))
    for teachers, message in (
        (("sartm:a/x.safetensors", "sartm:b/x.safetensors"), "x: names must differ; rename"),
        (("sartm:",), "'sartm:' names no file"),
        (("cats",), "'cats', known: cityscapes, .*, or KIND:FILE"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_of(data, teachers=teachers)


def test_from_sam2_to_labels_and_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the commands and their recipes: smoke, SARTM, log-probabilities, labels, and a head."""
    for package in ("transformers", "segment_anything"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IVF_DATA", "runs/smoke")
    assert main(["train", "smoke", "--output", "runs/smoke"]) == 0
    scenes = Path("runs/smoke/scenes")
    for number, path in enumerate(list_images(scenes / "visible").values()):
        if number >= 4:  # four are enough
            for kind in ("visible", "infrared", "labels"):
                (scenes / kind / path.name).unlink()
    for command, *changes in (
        ("sartm", "steps=4"), ("logits",), ("labels", "sample=1"), ("head", "steps=2"),
    ):  # fmt: skip
        options = [word for change in changes for word in ("--set", change)]
        config = str(RECIPES / f"{command}_smoke.yaml")
        assert main(["train", command, "--config", config, *options]) == 0
    out = capsys.readouterr().out
    assert "agreement with the teacher (sartm" in out
    assert "IoU on scenes, 2 held-out pairs, against labels" in out
    assert "random weights" in load_model("runs/smoke/head.safetensors").metadata["head_teacher"]
    page = Path("runs/smoke/labels/index.html").read_text()
    assert "sartm:both" in page
    assert "teacher sartm: sam2 has random weights (sam2_tiny)" in page
    # Without `ivf train logits` a head's run asks first.
    options = ["--set", f"teacher_logits='{TEACHER}'", "--set", "output=runs/asked.safetensors"]
    config = str(RECIPES / "head_smoke.yaml")
    assert main(["train", "head", "--config", config, "--set", "steps=2", *options]) == 0
    (of_head,) = Path("runs/asked/logits").glob("sartm-*")
    heads = [load_model(f"runs/{name}.safetensors") for name in ("asked", "smoke/head")]
    assert heads[0].metadata["head_teacher"] == heads[1].metadata["head_teacher"]
    for name, tensor in heads[0].tensors().items():
        assert torch.equal(tensor, heads[1].tensors()[name]), name
    # The labels' run asked the same network about the same pairs: its answers are the same.
    (asked,) = Path("runs/smoke/labels/predictions").glob("sartm-*")
    (cached,) = Path("runs/smoke/logits").glob("sartm-*")
    assert asked.name == cached.name
    stem, path = next(iter(list_images(scenes / "visible").items()))
    pair = read_visible(path), read_infrared(scenes / "infrared" / f"{stem}.png")
    answers = [LogitCache(folder).read(*pair) for folder in (asked, cached, of_head)]
    assert answers[0] is not None
    for answer in answers[1:]:
        np.testing.assert_array_equal(answers[0], answer)
