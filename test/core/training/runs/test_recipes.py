"""Recipes parse strictly, train what they say, and the ones that ship are sound."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ivf_core.class_sets import STREET
from ivf_core.data.pairs import (
    CropSampler,
    Pair,
    hold_out,
    read_pair_folder,
    read_pair_videos,
)
from ivf_core.images.files import ImageFileError, write_image
from ivf_core.images.videos import VideoWriter
from ivf_core.models.architectures import STUDENTS
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.student import FusionStudent
from ivf_core.models.weights_files import shipped_weights
from ivf_core.system.revision import git_revision
from ivf_core.training.fusionsam.fusionsam import FusionSamRecipe
from ivf_core.training.fusionsam.tokens import TokensRecipe
from ivf_core.training.joint.joint import JointRecipe
from ivf_core.training.masks.priors import PriorRecipe
from ivf_core.training.runs.page import image_files, read_losses
from ivf_core.training.runs.recipe import RecipeError, bounds_of, load_recipe
from ivf_core.training.sage.distill import DistillRecipe
from ivf_core.training.sage.encoder import EncoderRecipe
from ivf_core.training.sage.teacher import TeacherRecipe
from ivf_core.training.sartm.sartm import SartmRecipe
from ivf_core.training.segmentation.fused_labels.options import LabelRecipe
from ivf_core.training.segmentation.head import HeadRecipe, train_head
from ivf_core.training.segmentation.head_scores import class_weights
from ivf_core.training.segmentation.segformer import SegformerRecipe
from ivf_core.training.students.student import (
    StudentRecipe,
    layerwise_loss,
    train_student,
)
from ivf_core.training.students.unsupervised import UnsupervisedRecipe
from ivf_core.training.teacher_logits import LogitRecipe

RECIPES = Path(__file__).parents[4] / "training"
KINDS: dict[str, Any] = {
    "student": StudentRecipe,
    "head": HeadRecipe,
    "priors": PriorRecipe,
    "segformer": SegformerRecipe,
    "teacher": TeacherRecipe,
    "distill": DistillRecipe,
    "encoder": EncoderRecipe,
    "unsupervised": UnsupervisedRecipe,
    "joint": JointRecipe,
    "labels": LabelRecipe,
    "sartm": SartmRecipe,
    "tokens": TokensRecipe,
    "fusionsam": FusionSamRecipe,
    "logits": LogitRecipe,
}


def write_folder(root: Path, count: int = 4) -> None:
    random = np.random.default_rng(0)
    for number in range(count):
        name = f"{number:02d}.png"
        write_image(root / "visible" / name, random.integers(0, 256, (40, 56, 3), np.uint8))
        write_image(root / "infrared" / name, random.integers(0, 256, (40, 56), np.uint8))
        write_image(root / "labels" / name, random.integers(0, 9, (40, 56)).astype(np.uint8))
        write_image(root / "sure" / name, np.full((40, 56), 60 * number, np.uint8))


def test_recipes_that_ship_are_sound() -> None:
    paths = sorted(RECIPES.glob("*.yaml"))
    assert paths
    for path in paths:
        load_recipe(KINDS[path.stem.split("_")[0]], path)


def recipe_of_kind(kind: str) -> Any:
    """Build a recipe that is sound."""
    path = next(RECIPES.glob(f"{kind}_*.yaml"))
    return load_recipe(KINDS[kind], path)


def numeric_options() -> list[tuple[str, str]]:
    bounded = ("minimum", "maximum", "above", "below")
    return [
        (kind, entry.name)
        for kind, recipe in KINDS.items()
        for entry in dataclasses.fields(recipe)
        if any(getattr(bounds_of(entry), name) is not None for name in bounded)
    ]


@pytest.mark.parametrize(("kind", "name"), numeric_options())
def test_numbers_out_of_bounds(kind: str, name: str) -> None:
    """Just below the minimum and just above the maximum; the error names option and value."""
    recipe = recipe_of_kind(kind)
    (entry,) = (entry for entry in dataclasses.fields(recipe) if entry.name == name)
    bounds, value = bounds_of(entry), getattr(recipe, name)
    step = 1e-6 if "float" in str(entry.type) or dataclasses.is_dataclass(value) else 1
    bad = [
        *([] if bounds.minimum is None else [bounds.minimum - step]),
        *([] if bounds.maximum is None else [bounds.maximum + step]),
        *(limit for limit in (bounds.above, bounds.below) if limit is not None),
    ]
    assert bad
    for number in bad:
        if dataclasses.is_dataclass(value):
            name = f"{entry.name}.{dataclasses.fields(value)[0].name}"
            changed = dataclasses.replace(value, **{name.split(".")[1]: number})  # type: ignore[type-var]
        else:
            changed = (number,) * max(1, len(value)) if isinstance(value, tuple) else number
        with pytest.raises(
            ValueError, match=rf"^{re.escape(name)} must be .*{re.escape(str(number))}"
        ):
            dataclasses.replace(recipe, **{entry.name: changed})


def test_recipes_of_shipped_weights_load_without_loss(tmp_path: Path) -> None:
    """Each option that they name is in the recipe of today, with its value."""
    for name in shipped_weights():
        metadata = load_model(name).metadata
        parts = [key.removesuffix("_recipe") for key in metadata if key.endswith("_recipe")]
        assert parts, name
        for part in parts:
            options = json.loads(metadata[f"{part}_recipe"])
            kind = KINDS["unsupervised" if "start" in options else part.split("_")[0]]
            path = tmp_path / "recipe.json"
            path.write_text(metadata[f"{part}_recipe"])
            recipe = load_recipe(kind, path)
            today = {
                old: entry.name
                for entry in dataclasses.fields(kind)
                for old in (entry.name, bounds_of(entry).former)
            }
            for key, value in options.items():
                found = getattr(recipe, today[key])
                if key == "bfloat16":
                    assert found == ("bf16" if value else "fp32")
                else:
                    assert found == (tuple(value) if isinstance(value, list) else value), key


def test_names_of_earlier_releases(tmp_path: Path) -> None:
    """In the file and in changes, mixed with those of today; twice is an error."""
    path = tmp_path / "recipe.yaml"
    path.write_text("{start: fast, folders: [a], output: o, edges: 3, bfloat16: false}")
    recipe = load_recipe(UnsupervisedRecipe, path, ["qabf_weight=4", "noise=0.5"])
    assert (recipe.init_from, recipe.qabf_weight, recipe.noise_probability) == ("fast", 4.0, 0.5)
    assert recipe.precision == "fp32"
    assert load_recipe(UnsupervisedRecipe, path, ["edges=5"]).qabf_weight == 5.0
    with pytest.raises(RecipeError, match="qabf_weight is given twice: qabf_weight"):
        load_recipe(UnsupervisedRecipe, path, ["edges=5", "qabf_weight=4"])
    path.write_text("{dataset: a, output: o, threads: 2, precision: bf16-mixed, warmup: 0.2}")
    segformer = load_recipe(SegformerRecipe, path)
    assert (segformer.workers, segformer.precision, segformer.warmup_ratio) == (2, "bf16", 0.2)


def test_precision_of_a_student_follows_its_architecture() -> None:
    options: dict[str, Any] = {"teacher": "a", "folders": ("b",), "output": "c"}
    assert StudentRecipe(**options).precision == "fp32"
    assert StudentRecipe(**options, architecture="fast").precision == "bf16"
    assert StudentRecipe(**options, architecture="fast", precision="fp32").precision == "fp32"


def test_half_precision_needs_a_gpu() -> None:
    recipe = StudentRecipe(
        teacher="a", folders=("b",), output="c", precision="fp16", accelerator="cpu"
    )
    with pytest.raises(ValueError, match="precision 'fp16' needs a GPU, expected fp32 or bf16"):
        train_student(recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "unknown option stepz; known: .*steps"),
        ("teacher: a", "missing"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "while parsing"),
        (
            "{teacher: a, folders: [b], output: c, steps: 0}",
            "either epochs or steps must be positive",
        ),
        ("{teacher: a, folders: [b], output: c, layerwise_ratio: 2}", "layerwise_ratio must be in"),
        ("{teacher: a, folders: [b], output: c, crop: [8, 32]}", "crop must be at least 16"),
        ("{1: 2, x: 3}", "unknown option 1, x"),
        ("'': 3", "unknown option ; known"),
        (
            "{teacher: a, folders: [b], output: c, steps: 0, epochs: 2, videos: [d]}",
            "epochs and videos exclude each other",
        ),
        ("teacher: 2026-13-01", "month must be"),
        ("steps: " + "[" * 1000 + "]" * 1000, "nested too deeply"),
        ("steps: " + "x" * 10**5, r"steps: expected int, got 'x+\.\.\.x+'$"),
        ("steps: '1e3'", "steps: expected int, got '1e3'"),
        ("steps: 1.5", "steps: expected int"),
        ("steps: true", "steps: expected int, got True"),
        ("learning_rate: quick", "learning_rate: expected float, got 'quick'"),
        ("learning_rate: .nan", "learning_rate: expected float"),
        ("learning_rate: true", "learning_rate: expected float"),
        ("output: 3", "output: expected str, got 3"),
        ("folders: msrs", r"folders: expected tuple\[str, ...\], got 'msrs'"),
        ("folders: [a, 1]", "folders: expected str, got 1"),
        ("crop: [32]", r"crop: expected tuple\[int, int\], got \[32\]"),
        ("crop: 32", r"crop: expected tuple\[int, int\], got 32"),
        ("crop: [32, 32.5]", "crop: expected int, got 32.5"),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=f"(?s)bad.yaml: .*{message}"):
        load_recipe(StudentRecipe, path)


def test_recipe_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"bad\.yaml"):
        load_recipe(StudentRecipe, path)


def test_numbers_that_yaml_takes_for_text(tmp_path: Path) -> None:
    path = tmp_path / "head.yaml"
    path.write_text(
        "{student: s, output: o, learning_rate: 3e-3, foreground_probability: 1, "
        "scales: [1, 2e0], bfloat16: no}"
    )
    recipe = load_recipe(HeadRecipe, path)
    assert recipe == HeadRecipe(
        student="s",
        output="o",
        learning_rate=3e-3,
        foreground_probability=1.0,
        scales=(1.0, 2.0),
        precision="fp32",
    )
    assert isinstance(recipe.foreground_probability, float)
    with pytest.raises(RecipeError, match="precision 'maybe', known: fp32"):
        load_recipe(HeadRecipe, path, ["bfloat16=maybe"])
    with pytest.raises(RecipeError, match=r"(?s)--set steps=\[: while parsing"):
        load_recipe(HeadRecipe, path, ["steps=["])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (33, 64)}, "crop must be at least 32 and a multiple of 2"),
        ({"crop": (64, 16)}, "crop must be at least 32"),
        ({"real_per_batch": 0, "synthetic_per_batch": 0}, "nothing to train on"),
        ({"real_per_batch": 0, "scenes": 0}, "nothing to train on"),
        ({"folder": "", "synthetic_per_batch": 0}, "nothing to train on"),
        ({"synthetic_per_batch": -1}, "synthetic_per_batch must be at least 0"),
        ({"steps": 0}, "either epochs or steps must be positive"),
        ({"scales": (2.0, 1.0)}, "scales must be"),
        ({"class_set": "fmb"}, "mfnet's classes only"),
        ({"class_set": "fmb", "scenes": 0}, "mfnet's classes only"),
        ({"class_set": "coco"}, "class_set 'coco', known: mfnet"),
    ],
)
def test_impossible_heads(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadRecipe(student="s", output="o", **options)


def test_changes_to_a_recipe() -> None:
    path = RECIPES / "student_sage.yaml"
    recipe = load_recipe(StudentRecipe, path, ["steps=7", "crop=[32, 48]"])
    assert (recipe.steps, recipe.crop) == (7, (32, 48))
    with pytest.raises(RecipeError, match="expected key=value"):
        load_recipe(StudentRecipe, path, ["steps"])


def test_pair_folder_and_split(tmp_path: Path) -> None:
    write_folder(tmp_path)
    pairs = read_pair_folder(tmp_path, labels="labels", confidence="sure", minimum_confidence=0.5)
    doubtful = [bool((pair.labels == 255).all()) for pair in pairs if pair.labels is not None]
    assert doubtful == [True, True, True, False]  # 0, 60, 120, 180 of 255
    train, held_out = hold_out(pairs, 3)
    assert [pair.name for pair in train] == ["01", "02"]
    assert [pair.name for pair in held_out] == ["00", "03"]
    (tmp_path / "infrared" / "02.png").unlink()
    with pytest.raises(ValueError, match=r"infrared: no partner for .*02\.png"):
        read_pair_folder(tmp_path)


def test_crops_move_images_and_labels_together() -> None:
    """All three planes are one ramp, so that a crop of one tells where it was cut."""
    ramp = np.arange(60 * 70).reshape(60, 70)
    luma, labels = (ramp % 251).astype(np.uint8), (ramp % 251).astype(np.uint8)
    sampler = CropSampler([Pair("ramp", luma, luma, labels)], (20, 30), seed=3)
    flipped = 0
    for luma_crop, infrared, ids in (next(sampler.batches(1)) for _ in range(30)):
        if not np.array_equal(luma_crop[0, 0], (ids[0] / 255).astype(np.float32)):
            continue  # this one's light was varied
        np.testing.assert_array_equal(
            np.diff(ids[0][:, :2])[0] % 251, [(ids[0][0, 1] - ids[0][0, 0]) % 251]
        )
        flipped += (int(ids[0][0, 1]) - int(ids[0][0, 0])) % 251 == 250
        assert infrared.shape == (1, 1, 20, 30)
    assert flipped


def test_crops_never_invent_classes_and_find_objects() -> None:
    labels = np.zeros((80, 90), np.uint8)
    labels[70:73, 80:84] = 7
    labels[0, 0] = 255
    pair = Pair("x", np.zeros((80, 90), np.uint8), np.zeros((80, 90), np.uint8), labels)
    sampler = CropSampler([pair], (16, 16), scales=(0.5, 1.7), focus=1.0, seed=1)
    _, _, ids = next(sampler.batches(20))
    assert set(np.unique(ids)) <= {0, 7, 255}
    assert (ids == 7).any((1, 2)).all()
    # What is an object depends on the class set: there is no background among those of a street.
    labels[labels == 0] = STREET.names.index("sky")
    labels[75:78, 5:9] = STREET.names.index("road")
    labels[70:73, 80:84] = STREET.names.index("person")
    sampler = CropSampler([pair], (16, 16), focus=1.0, stuff=STREET.stuff, seed=1)
    _, _, ids = next(sampler.batches(20))
    assert (ids == STREET.names.index("person")).any((1, 2)).all()


def test_smoke_veils_the_visible_camera_only() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 80), np.uint8)
    pair = Pair("x", image, image)
    for seed in range(8):
        clear, veiled = (
            next(CropSampler([pair], (48, 64), smoke=smoke, seed=seed).batches(1))
            for smoke in (0.0, 1.0)
        )
        np.testing.assert_array_equal(veiled[1], clear[1])
        assert 0 <= veiled[0].min() <= veiled[0].max() <= 1
        assert veiled[0].std() < 0.97 * clear[0].std()
        assert veiled[0].dtype == np.float32


def test_frames_of_videos(tmp_path: Path) -> None:
    for name in ("visible", "infrared"):
        with VideoWriter(tmp_path / f"{name}.mp4", 20.0, (48, 64)) as video:
            for level in range(0, 200, 20):
                video.write(np.full((48, 64, 3), level + (name == "infrared") * 40, np.uint8))
    pairs = read_pair_videos(tmp_path / "visible.mp4", tmp_path / "infrared.mp4", 4)
    assert [pair.name for pair in pairs] == ["000000", "000004", "000008"]
    for pair, level in zip(pairs, (0, 80, 160), strict=True):
        assert pair.luma.shape == pair.infrared.shape == (48, 64)
        assert pair.luma.mean() == pytest.approx(level, abs=4)
        assert pair.infrared.mean() == pytest.approx(level + 40, abs=4)
    with pytest.raises(ImageFileError, match="none_visible"):
        read_pair_videos(tmp_path / "none_visible.mp4", tmp_path / "infrared.mp4", 4)


def test_small_pairs_grow() -> None:
    small = np.zeros((10, 12), np.uint8)
    luma, _, ids = next(CropSampler([Pair("x", small, small)], (32, 32)).batches(2))
    assert luma.shape == (2, 1, 32, 32)
    assert (ids == 255).all()


def test_each_convolution_learns_its_twin() -> None:
    """Alone, the problem of each convolution is convex: it is solved where the twin is copied."""
    torch.manual_seed(0)
    teacher, student = FusionStudent(4).eval(), FusionStudent(4).eval()
    images = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)
    far = layerwise_loss(student, teacher, *images)
    far.loss.backward()
    assert all(p.grad is not None for p in student.parameters())
    student.load_state_dict(teacher.state_dict())
    near = layerwise_loss(student, teacher, *images).parts["units"]
    assert near == 0 < far.parts["units"]
    assert not any(p.grad is not None for p in teacher.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("structure", sorted(STUDENTS.keys() - {"street"}))
def test_student_and_head_train(
    structure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both recipes end to end on a few small pairs: better than before, and loadable."""
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    write_folder(tmp_path / "pairs")
    reference = FusionStudent().eval()
    torch.nn.init.constant_(reference.decoder.bias, 0.5)  # type: ignore[arg-type]
    save_model(FusionModel(reference), tmp_path / "reference.safetensors")
    fields = dict(folders=("pairs",), teacher="reference.safetensors", hold_out_every=4,
                  crop=(32, 32), batch_size=2, architecture=structure, pool_size=8,
                  learning_rate=2e-2 if structure == "fast" else 2e-3)  # fmt: skip
    scores = []
    for steps in (1, 40):
        recipe = StudentRecipe(output=str(tmp_path / "student.safetensors"), steps=steps, **fields)  # type: ignore[arg-type]
        (by_folder,) = train_student(recipe).values()
        scores.append(by_folder["pairs"])
    assert scores[1] > scores[0] + 3
    run = tmp_path / "student"  # beside student.safetensors
    losses = read_losses(run)
    expected = {"units": 30, "features": 10, "output": 10} if structure == "sage" else {"psnr": 40}
    assert {name: len(steps) for name, (steps, _) in losses.items()} == expected
    assert list(image_files(run)) == [*range(0, 40, 2), 39]
    assert load_recipe(StudentRecipe, run / "recipe.yaml") == recipe
    assert f"{scores[1]:.4g}" in (run / "summary.html").read_text()
    head_recipe = HeadRecipe(
        student=str(tmp_path / "student.safetensors"), output=str(tmp_path / "all.safetensors"),
        folder="pairs", labels="labels", confidence="", hold_out_every=4,
        scenes=0, held_out_scenes=1, steps=2, crop=(32, 32),
    )  # fmt: skip
    head_scores = train_head(head_recipe)
    assert len(head_scores) == 2
    assert set(read_losses(tmp_path / "all")) == {"cross-entropy", "dice"}
    assert list(image_files(tmp_path / "all")) == [0, 1]
    assert all(0 <= value <= 1 for table in head_scores.values() for value in table.values())
    model = load_model(tmp_path / "all.safetensors")
    assert model.architecture == structure
    assert model.class_set is not None
    assert model.class_set.name == "mfnet"
    for key, value in load_model(tmp_path / "student.safetensors").student.state_dict().items():
        assert torch.equal(model.student.state_dict()[key], value), key
    assert model.metadata["source"] == "distilled from reference.safetensors in 40 steps"
    for part, used in (("student", recipe), ("head", head_recipe)):
        saved = tmp_path / f"{part}.yaml"
        saved.write_text(model.metadata[f"{part}_recipe"])
        assert load_recipe(type(used), saved) == used
        assert model.metadata[f"{part}_revision"] == git_revision()


def test_head_without_a_pair_to_learn_from(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    write_folder(tmp_path / "pairs", count=1)
    recipe = HeadRecipe(
        student=str(tiny_weights), output=str(tmp_path / "o.safetensors"), folder="pairs",
        labels="labels", confidence="", scenes=0, held_out_scenes=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="'pairs': all of its pairs are held out"):
        train_head(recipe)


def test_class_weights_favour_rare_classes() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[0, :2] = 1
    labels[1] = 255
    weights = class_weights([Pair("x", labels, labels, labels)], 3)
    assert weights[2] > weights[1] > weights[0]
    assert weights.mean().item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="labels have ids 1, expected 0 to 0"):
        class_weights([Pair("x", labels, labels, labels)], 1)
