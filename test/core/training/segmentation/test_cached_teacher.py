"""Heads that learn from the cached answers of a pair teacher, and what stops them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ivf_core.class_sets import MFNET, PST900, STREET, UNLABELED, ClassSet
from ivf_core.data.pairs import (
    CropSampler,
    CropWindow,
    Pair,
    PairFiles,
    list_pair_files,
    read_pair_folder,
)
from ivf_core.images.files import write_image
from ivf_core.models.checkpoints import load_model
from ivf_core.training.joint.joint import JointRecipe, train_joint
from ivf_core.training.losses import logit_distillation_loss, soft_label_loss
from ivf_core.training.runs.page import read_losses
from ivf_core.training.runs.record import run_directory
from ivf_core.training.segmentation.cached_teacher import (
    CachedTeacher,
    agreement,
    answer_labels,
    cut_shares,
)
from ivf_core.training.segmentation.head import HeadRecipe, train_head
from ivf_core.training.segmentation.head_scores import predict_labels
from ivf_core.training.segmentation.logit_cache import LogitCache, LogitCacheError

SIZE = (48, 64)
TEACHER = {"kind": "sartm", "sha256": "0123456789abcdef"}
NONE = 255


def answer_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """An answer that is sure of labels, which are the same in all pixels of a cell."""
    cells = labels[::4, ::4]
    return np.where(np.arange(classes)[:, None, None] == cells, 0, NONE).astype(np.uint8)


def blocks(seed: int, classes: int = 5, side: int = 8) -> np.ndarray:
    random = np.random.default_rng(seed)
    cells = random.integers(0, classes, (SIZE[0] // side, SIZE[1] // side)).astype(np.uint8)
    return cv2.resize(cells, SIZE[::-1], interpolation=cv2.INTER_NEAREST)


# Crops of answers


def test_a_crop_at_the_cells_is_a_slice() -> None:
    answer = np.random.default_rng(0).integers(0, 40, (3, 12, 16), np.uint8)
    shares = np.exp(answer / -16.0)
    for mirrored, step in ((False, 1), (True, -1)):
        cut = cut_shares(answer, CropWindow(8, 4, 32, 40, mirrored), (32, 40))
        np.testing.assert_allclose(cut, shares[:, 2:10, 1:11][:, :, ::step], rtol=1e-6)
    # Half a cell further, a crop's cells lie between those of the answer.
    cut = cut_shares(answer, CropWindow(8, 2, 32, 40, False), (32, 40))
    np.testing.assert_allclose(cut, (shares[:, 2:10, :10] + shares[:, 2:10, 1:11]) / 2, rtol=1e-5)
    # Twice as large, each cell is the mean of four; what is beyond the border is mirrored.
    cut = cut_shares(answer, CropWindow(0, 0, 48, 128, False), (24, 64))
    whole = np.concatenate((shares, shares[:, :, ::-1]), 2).reshape(3, 6, 2, 16, 2)
    np.testing.assert_allclose(cut, whole.mean((2, 4)), rtol=1e-5)


def test_crops_of_answers_are_where_crops_of_labels_are() -> None:
    """Scaled and mirrored as the sampler draws them, also of a pair smaller than a crop."""
    for size, scales in (((32, 40), (0.6, 1.2)), ((60, 80), (1.0, 1.0))):
        equal, mirrored = [], set()
        for seed in range(12):
            labels = blocks(seed)
            plane = np.zeros(SIZE, np.uint8)
            crop = CropSampler([Pair("a", plane, plane, labels)], size, scales=scales, seed=seed)
            drawn = crop.crop()
            assert drawn.window is not None
            mirrored.add(drawn.window.mirrored)
            ids = cut_shares(answer_of(labels, 5), drawn.window, size).argmax(0)
            equal.append((ids == drawn.labels[2::4, 2::4]).mean())
        assert mirrored == {True, False}
        assert np.mean(equal) > 0.85  # cells at the borders of blocks may have either class
        flat = np.zeros((5, 12, 16), np.uint8)
        assert (cut_shares(flat, drawn.window, size) == 1).all()


def test_labels_of_an_answer() -> None:
    labels = blocks(0)
    answer = answer_of(labels, 5)
    np.testing.assert_array_equal(answer_labels(answer, SIZE)[2::4, 2::4], labels[2::4, 2::4])
    assert (answer_labels(np.full_like(answer, 60), SIZE) == UNLABELED).all()


# The loss


def test_soft_labels_are_those_of_logits_where_they_are_whole() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 4, 6, 8).double(), torch.randn(2, 4, 3, 4).double()
    shares = torch.nn.functional.interpolate(targets.softmax(1), (6, 8), mode="bilinear")
    expected = logit_distillation_loss(logits, shares.log(), temperature=2.0)
    found = soft_label_loss(logits, targets.softmax(1), temperature=2.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_pixels_count_as_much_as_the_teacher_says() -> None:
    """By hand, of two pixels, one of which has a weight of a quarter."""
    logits = torch.tensor([[[[0.0, 0.0]], [[0.0, np.log(3.0)]]]], requires_grad=True)
    shares = torch.tensor([[[[0.2, 0.25]], [[0.8, 0.0]]]])
    first = 0.2 * np.log(0.2 / 0.5) + 0.8 * np.log(0.8 / 0.5)
    second = np.log(1 / 0.25)
    expected = (first + 0.25 * second) / 1.25
    assert soft_label_loss(logits, shares).item() == pytest.approx(expected, rel=1e-4)
    silent = soft_label_loss(logits, torch.zeros_like(shares))
    silent.backward()  # type: ignore[no-untyped-call]
    assert silent.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


# Classes


def cache_of(root: Path, class_set: ClassSet, **options: Any) -> LogitCache:
    return LogitCache.create(root / "logits", TEACHER, class_set, **options)


def pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (*SIZE, 3), np.uint8), random.integers(0, 256, SIZE, np.uint8)


def test_classes_are_mapped(tmp_path: Path) -> None:
    """Car to car; what MFNet calls unlabeled may be anything, and is left out."""
    cache = cache_of(tmp_path, MFNET, notes={"sam2": "random weights (x)"})
    probabilities = torch.full((9,), 1e-6)
    for name, value in (("car", 0.5), ("color_cone", 0.125), ("bump", 0.125), ("unlabeled", 0.25)):
        probabilities[MFNET.names.index(name)] = value
    cache.write(*pair(), probabilities.log().view(9, 1, 1).expand(9, *SIZE))
    teacher = CachedTeacher(str(cache.directory), STREET)
    assert teacher.origin == f"sartm (SHA-256 {TEACHER['sha256']}); sam2: random weights (x)"
    shares = cut_shares(teacher.answer(*pair(), "a"), CropWindow(0, 0, *SIZE, False), SIZE)[:, 3, 3]
    named = {name: p for name, p in zip(STREET.names, shares, strict=True) if p > 1e-3}
    assert named == {"car": pytest.approx(0.5, abs=0.03), "obstacle": pytest.approx(0.25, abs=0.02)}
    unsure = CachedTeacher(str(cache.directory), STREET, confidence_threshold=0.6)
    assert (unsure.answer(*pair(), "a") == NONE).all()


def test_other_classes_are_rejected(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, PST900)
    for target in (STREET, MFNET):
        with pytest.raises(LogitCacheError, match=r"'pst900', which cannot be mapped onto '"):
            CachedTeacher(str(cache.directory), target)


def test_agreement_by_hand() -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 32:] = 1
    answer = answer_of(labels, 9)
    predicted = np.zeros(SIZE, np.uint8)
    said = answer_labels(answer, SIZE)
    scores = agreement([(predicted, answer)], MFNET)
    share = (said == 0).mean()
    assert scores == {"unlabeled": share, "car": 0, "mean": share / 2, "equal pixels": share}


# Heads


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HeadRecipe:
    """Three pairs with labels, of which one is held out, and a cache that knows the truth."""
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    write_folder(tmp_path / "pairs", 0)
    cache = cache_of(tmp_path, MFNET, notes={"sam2": "random weights (tiny)"})
    teach(cache, tmp_path / "pairs")
    return HeadRecipe(
        student="fast", output=str(tmp_path / "out.safetensors"), folder="pairs",
        labels="labels", confidence="", hold_out_every=3, scenes=0, held_out_scenes=0,
        widths=(16, 16, 16), crop=(32, 32), steps=2, precision="fp32",
        learning_rate=5e-2, temperature=1.0, ema_decay=0.5,
        teacher_logits=str(tmp_path / "logits/sartm-*"),
    )  # fmt: skip


def write_folder(folder: Path, seed: int, count: int = 3, only: Sequence[int] = ()) -> None:
    """Pairs whose texture shows their classes: class 1 has stripes.

    There are two classes in each, or the one of `only`.
    """
    random = np.random.default_rng(seed)
    for number in range(count):
        labels = blocks(seed + number, classes=2, side=24)
        labels = np.full(SIZE, only[number], np.uint8) if only else labels
        name = f"{number:05d}.png"
        stripes = np.arange(SIZE[1], dtype=np.uint8) // 4 % 2
        gray = 60 + 150 * stripes * (labels == 1)
        visible = gray[..., None] + random.integers(0, 9, (*SIZE, 3)).astype(np.uint8)
        write_image(folder / "visible" / name, visible)
        write_image(folder / "infrared" / name, gray)
        write_image(folder / "labels" / name, labels)


def teach(cache: LogitCache, folder: Path) -> None:
    for files in list_pair_files(folder, "labels"):
        labels = files.read_labels()
        assert labels is not None
        logits = 8 * torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), 9)
        cache.write(files.read_visible(), files.read_infrared(), logits.movedim(-1, 0).float())


def forget_labels(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        write_image(path, np.full(SIZE, UNLABELED, np.uint8))


def agreed(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    (title,) = (title for title in scores if title.startswith("agreement"))
    assert title == "agreement with the teacher (sartm 01234567), not accuracy, 1 held-out pairs"
    return scores[title]


def test_a_head_learns_from_answers_alone(recipe: HeadRecipe, tmp_path: Path) -> None:
    """Without one label: its divergence falls, and it says of a new pair what the teacher says."""
    forget_labels(tmp_path / "pairs")
    scores = train_head(replace(recipe, steps=30))
    _, losses = read_losses(run_directory(recipe.output))["distillation"]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    assert agreed(scores)["equal pixels"] > 0.8
    assert load_model(recipe.output).metadata["head_teacher"].startswith("sartm (SHA-256 0123")


def test_scores_and_agreement_are_apart(
    recipe: HeadRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the scores, on the page, and by their values: here the teacher is always wrong."""
    write_folder(tmp_path / "pairs", 0, only=(0, 0, 0))
    cache = LogitCache.find(recipe.teacher_logits)
    for files in list_pair_files(tmp_path / "pairs", "labels"):
        logits = torch.zeros(9, *SIZE)
        logits[8] = 9
        cache.write(files.read_visible(), files.read_infrared(), logits)
    scores = train_head(replace(recipe, steps=15, distillation_weight=0.0))
    assert agreed(scores)["equal pixels"] < 0.1
    assert scores["IoU on pairs, 1 held-out pairs, against labels"]["mean"] > 0.3
    page = (run_directory(recipe.output) / "summary.html").read_text()
    for title in scores:
        assert title in page
    assert "sam2 of the teacher: random weights (tiny)" in caplog.text
    assert "sam2 of the teacher: random weights (tiny)" in page


def test_pairs_without_labels_teach(recipe: HeadRecipe, tmp_path: Path) -> None:
    """A class that no labelled pair shows is learned from others, whose labels are not read."""
    for folder, only in (("pairs", (2, 2, 2)), ("more", (1, 1, 1))):
        write_folder(tmp_path / folder, 0, only=only)
        teach(LogitCache.find(recipe.teacher_logits), tmp_path / folder)
    forget_labels(tmp_path / "more")
    cars = {}
    for unlabelled in ((), ("more",)):
        train_head(replace(recipe, steps=30, unlabelled=unlabelled))
        model = load_model(recipe.output)
        pair = read_pair_folder(tmp_path / "more")[0]
        assert model.head is not None
        ids = predict_labels(model.student, model.head, pair, torch.device("cpu"))
        cars[unlabelled] = (ids == 1).mean()
    assert cars[()] < 0.1
    assert cars["more",] > 0.9
    assert "and on more without labels" in load_model(recipe.output).metadata["head_source"]
    assert train_head(replace(recipe, folder="", unlabelled=("more",), steps=1)) == {}


def test_a_pair_that_is_scored_stops_a_run(recipe: HeadRecipe) -> None:
    with pytest.raises(ValueError, match=r"00000\.png' is to be tested on"):
        train_head(replace(recipe, unlabelled=("pairs",)))


def test_missing_and_stale_answers_are_named(recipe: HeadRecipe, tmp_path: Path) -> None:
    """With the file and the remedy, before a step is taken."""
    cache = LogitCache.find(recipe.teacher_logits)
    files = list_pair_files(tmp_path / "pairs")[1]
    path = cache.path(files.read_visible(), files.read_infrared())
    whole = path.read_bytes()
    remedy = "run ivf train logits"
    other = LogitCache.create(tmp_path / "other", {**TEACHER, "sha256": "f"}, MFNET)
    teach(other, tmp_path / "pairs")
    foreign = other.directory / path.name
    for content, message in (
        (b"PK", rf"{path.name}': damaged: .*{remedy} again"),
        (whole[:200], rf"{path.name}': damaged: .*{remedy} again"),
        (foreign.read_bytes(), rf"{path.name}': damaged: made of another .*{remedy} again"),
        (None, rf"{path.name}': no such file for '{files.visible}', .*{remedy} on its folder"),
    ):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(LogitCacheError, match=message):
            train_head(replace(recipe, teacher_logits=str(cache.directory)))
    path.write_bytes(whole)
    write_image(files.infrared, 255 - files.read_infrared())  # another image
    with pytest.raises(LogitCacheError, match=r"no longer those that the teacher saw"):
        train_head(recipe)


def test_folders_of_something_else(recipe: HeadRecipe, tmp_path: Path) -> None:
    with pytest.raises(LogitCacheError, match=r"none': expected one folder .*, found none"):
        train_head(replace(recipe, teacher_logits=str(tmp_path / "none")))
    LogitCache.create(tmp_path / "logits", {**TEACHER, "sha256": "1"}, MFNET)
    with pytest.raises(LogitCacheError, match=r"expected one folder .*, found .*sartm.*, .*sartm"):
        train_head(recipe)


def test_held_out_pairs_need_no_answer(recipe: HeadRecipe, tmp_path: Path) -> None:
    files = list_pair_files(tmp_path / "pairs")[0]
    cache = LogitCache.find(recipe.teacher_logits)
    cache.path(files.read_visible(), files.read_infrared()).unlink()
    assert list(train_head(recipe)) == ["IoU on pairs, 1 held-out pairs, against labels"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_segmenter": "head:fast"}, "exclude each other"),
        ({"crop": (32, 34)}, "multiples of 4"),
        ({"teacher_logits": "", "unlabelled": ("a",)}, "unlabelled needs teacher_logits or"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"student": "s", "output": "o", "teacher_logits": "d", **options}
    with pytest.raises(ValueError, match=message):
        HeadRecipe(**fields)


# Student and head together


@pytest.fixture
def joint(recipe: HeadRecipe, tmp_path: Path, quick_calibration: None) -> JointRecipe:
    write_folder(tmp_path / "more", 10)
    for folder in ("pairs", "more"):
        for path in (tmp_path / folder).rglob("*.png"):
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
            assert cv2.imwrite(str(path), large)
        teach(LogitCache.find(recipe.teacher_logits), tmp_path / folder)
    (tmp_path / "points.csv").write_text("set,stem\npairs,00000\nmore,00001\n")
    return JointRecipe(
        sets=("pairs",), label_sets=("pairs",), shares=(1.0,), labels=str(tmp_path),
        points="points.csv", class_set="mfnet", crop=(64, 96), batch_size=2, steps=2,
        precision="fp32", teacher_logits=recipe.teacher_logits, unlabelled=("more",),
        output=str(tmp_path / "joint.safetensors"),
    )  # fmt: skip


def test_street_learns_from_answers(joint: JointRecipe) -> None:
    """Pairs without labels join the training, but for those that have points."""
    scores = train_joint(joint)
    agreement_title = "agreement with the teacher (sartm 01234567), not accuracy, "
    titles = {"IoU against the labels of pairs", f"{agreement_title}1 held-out pairs of pairs"}
    assert set(scores) == titles
    _, losses = read_losses(run_directory(joint.output))["distillation"]
    assert len(losses) == 2
    assert np.all(losses > 0)
    assert load_model(joint.output).metadata["head_teacher"].startswith("sartm")
    metadata = json.loads((run_directory(joint.output) / "metadata.json").read_text())
    assert any("random weights (tiny)" in line for line in metadata["warnings"])


def test_street_rejects_held_out_pairs_and_missing_answers(
    joint: JointRecipe, tmp_path: Path
) -> None:
    twin, pairs = tmp_path / "twin", tmp_path / "pairs"
    for kind in ("visible", "infrared"):
        (twin / kind).mkdir(parents=True)
        (twin / kind / "x.png").write_bytes((pairs / kind / "00000.png").read_bytes())
    with pytest.raises(ValueError, match=r"'twin': 'twin/x' is the held-out pair 'pairs/00000'"):
        train_joint(replace(joint, unlabelled=("twin",)))
    write_image(tmp_path / "more/infrared/00002.png", np.full((96, 128), 7, np.uint8))
    with pytest.raises(LogitCacheError, match="no such file for 'more/00002'"):
        train_joint(joint)
    for options, message in (
        ({"teacher_logits": ""}, "unlabelled needs teacher_logits"),
        ({"part": "fusion", "init_from": "a"}, "part fusion trains no masks"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(joint, **options)  # type: ignore[arg-type]


def test_files_are_read_as_the_teacher_saw_them(tmp_path: Path) -> None:
    """An answer is found by the images alone, under whatever name they are."""
    write_folder(tmp_path / "pairs", 0, count=1)
    cache = cache_of(tmp_path, MFNET)
    teach(cache, tmp_path / "pairs")
    (files,) = list_pair_files(tmp_path / "pairs")
    visible, infrared = tmp_path / "v.png", tmp_path / "i.png"
    moved = PairFiles("other", files.visible.rename(visible), files.infrared.rename(infrared))
    teacher = CachedTeacher(str(cache.directory), MFNET)
    assert list(teacher.read_all([moved])) == ["other"]
    assert list(teacher.find_all([moved])) == ["other"]
