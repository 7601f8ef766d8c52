"""Training of `street`: damage, losses for driving, synthetic nights, and the backbone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from small_runs import recipe_of, write_pairs
from torch import nn

from ivf_core.class_sets import STREET
from ivf_core.models.checkpoints import load_model
from ivf_core.models.street import StreetHead, StreetStudent
from ivf_core.scenes import random_scene
from ivf_core.training.joint.backbone import load_backbone, standardize_norms
from ivf_core.training.joint.degradations import BLINDING, DAMAGE, LARGEST_SHIFT, warp
from ivf_core.training.joint.fusion_losses import (
    invented_light,
    local_contrast,
    lost_contrast,
    sky_texture,
)
from ivf_core.training.joint.images import (
    BOTH,
    INFRARED_ONLY,
    VISIBLE_ONLY,
    DamagedCrops,
    LabelledImage,
)
from ivf_core.training.joint.joint import JointRecipe, train_joint

DATA = Path(os.environ.get("IVF_DATA", "../shared/data"))


@pytest.fixture(scope="module")
def items() -> list[LabelledImage]:
    """A pair, and a photograph of the same scene."""
    scene = random_scene(np.random.default_rng(3))
    labels = np.where(scene.labels == 2, STREET.names.index("person"), 0).astype(np.uint8)
    sure = np.full_like(labels, 255)
    pair = LabelledImage("pair", scene.visible, scene.infrared, labels, sure, False)
    return [pair, LabelledImage("photograph", scene.visible, None, labels, sure, False)]


@pytest.mark.parametrize("name", [*BLINDING, *DAMAGE])
def test_damage_keeps_the_kind_of_image(name: str, items: list[LabelledImage]) -> None:
    kind = (BLINDING | DAMAGE)[name][1]
    for image in (items[0].visible, items[0].infrared):
        assert image is not None
        before = image.copy()
        damaged = kind(image, np.random.default_rng(5))
        assert damaged.shape == image.shape
        assert damaged.dtype == np.uint8
        assert np.array_equal(image, before)
        assert not np.array_equal(damaged, image)
        assert np.array_equal(damaged, kind(image, np.random.default_rng(5)))


def test_a_warp_moves_at_most_its_largest_shift() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None], 200, axis=0)
    moved = [
        np.abs(warp(ramp, np.random.default_rng(n)).astype(int) - ramp)[60:140, 60:-60].max()
        for n in range(40)
    ]
    assert 5 < max(moved) <= LARGEST_SHIFT * 1.2 + 1


def test_crops_depend_on_seed_and_number_alone(items: list[LabelledImage]) -> None:
    crops = [DamagedCrops([[i] for i in items], [1, 1], (64, 96), seed=1) for _ in range(2)]
    for number in (7, 3):
        first, second = (c[number] for c in crops)
        assert first.name == second.name
        for a, b in zip(first.arrays, second.arrays, strict=True):
            np.testing.assert_array_equal(a, b)


def test_crops_have_what_the_networks_take(items: list[LabelledImage]) -> None:
    """Shapes, ranges, and cameras that agree with what is shown."""
    crops = DamagedCrops([items], [1], (64, 96), seed=0, blind=0.5)
    found = set()
    for number in range(60):
        *planes, chroma, labels, sure, cameras, shares = crops[number].arrays
        _, _, seen_visible, seen_infrared = planes
        assert shares.shape == (0, 16, 24)
        for plane in planes:
            assert plane.shape == (1, 64, 96)
            assert plane.min() >= 0
            assert plane.max() <= 1
        assert chroma.shape == (2, 16, 24)
        assert np.abs(chroma).max() <= 0.51
        assert labels.shape == sure.shape == (32, 48)
        found.add(int(cameras[0]))
        if cameras[0] == VISIBLE_ONLY:
            assert np.ptp(seen_infrared) == 0
        if cameras[0] == INFRARED_ONLY:
            assert np.ptp(seen_visible) == 0
            assert np.abs(chroma).max() < 0.01
    assert found == {BOTH, VISIBLE_ONLY, INFRARED_ONLY}


def test_labels_stay_on_their_objects(items: list[LabelledImage]) -> None:
    """A crop of a scene whose labels are its brightness: both move together."""
    labels = (items[0].visible[..., 1] > 127).astype(np.uint8)
    gray = np.repeat(labels[..., None] * 255, 3, axis=2)
    item = LabelledImage("x", gray, gray[..., 0], labels, np.full_like(labels, 255), True)
    crops = DamagedCrops([[item]], [1], (64, 64), seed=2, blind=0, damage=0, smoke=0, night=0)
    for number in range(20):
        visible, *_, ids, _, _ = crops[number].arrays
        small = cv2.resize(visible[0], (32, 32), interpolation=cv2.INTER_AREA)
        middle = (small.max() + small.min()) / 2
        if ids.min() == ids.max():
            continue
        assert ((small > middle) == (ids == 1)).mean() > 0.85


def _blob(background: float, body: float) -> torch.Tensor:
    image = torch.full((1, 1, 128, 128), float(background))
    image[..., 56:72, 60:68] = body
    return image


def test_lost_contrast_knows_polarity() -> None:
    """Dark clothes on a pale wall: nothing is lost as long as they stay dark."""
    visible, infrared = _blob(200, 40), _blob(100, 140)
    weights = torch.ones_like(visible)
    assert local_contrast(visible, 4)[0, 0, 16, 16] < -100
    kept, flipped, gray = (
        lost_contrast(visible, infrared, fused, weights).item()
        for fused in (visible, _blob(150, 250), _blob(150, 150))
    )
    assert kept == 0
    assert 0 < gray < flipped
    people = lost_contrast(visible, infrared, _blob(150, 150), 3 * weights).item()
    assert people == pytest.approx(3 * gray)


def test_light_between_the_sources_is_not_invented() -> None:
    visible, infrared = torch.full((1, 1, 8, 8), 50.0), torch.full((1, 1, 8, 8), 90.0)
    for value, expected in ((50, 0), (70, 0), (92, 0), (102, 10), (48, 0), (40, 8)):
        fused = torch.full((1, 1, 8, 8), float(value))
        assert invented_light(visible, infrared, fused).item() == pytest.approx(expected)


def test_texture_counts_in_the_sky_only() -> None:
    visible = torch.full((1, 1, 16, 16), 200.0)
    fused = visible.clone()
    fused[..., 2:4, :] += 8
    sky = torch.zeros_like(visible)
    assert sky_texture(visible, fused, sky).item() == 0
    sky[..., :8, :] = 1
    assert sky_texture(visible, fused, sky).item() == pytest.approx(8 * 2 / 15)
    assert sky_texture(visible, visible + 9, sky).item() == 0


def test_backbone_is_yolox(tmp_path: Path) -> None:
    """Features at 1/8 of a grey image resemble those of the detector that runs in ONNX Runtime.

    They are not equal: the detector's activation is SiLU, ours its piecewise form.
    """
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = DATA / "teachers/yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"no real data at {DATA} (set IVF_DATA)")
    gray = cv2.cvtColor(random_scene(np.random.default_rng(1)).visible, cv2.COLOR_RGB2GRAY)
    gray = cv2.resize(gray, (416, 416))
    student, head = StreetStudent().eval(), StreetHead(3).eval()
    loaded = load_backbone(path, student, head, seed=0)
    image = torch.from_numpy(gray)[None, None].float() / 255
    seen: dict[str, np.ndarray] = {}
    head.stage8.register_forward_hook(lambda *call: seen.update(ours=call[2].numpy()))

    def run() -> None:
        head(student(image, image).features)

    standardize_norms(nn.ModuleList([student, head]), run, loaded)
    with torch.inference_mode():
        head(student(image, image).features)
    model = onnx.load(path)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    output = convolutions[22].output[0]  # the last one of the stage at 1/8
    activated = [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Mul" and output in node.input
    ]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(activated[0]))
    session = runtime.InferenceSession(model.SerializeToString())
    planes = np.repeat(gray[None, None].astype(np.float32), 3, axis=1)
    theirs = session.run(None, {"images": planes})[1]
    assert theirs.shape == seen["ours"].shape
    assert np.corrcoef(theirs.ravel(), seen["ours"].ravel())[0, 1] > 0.7


def test_another_file_is_no_backbone(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"x\.onnx': (cannot be read|is not YOLOX)"):
        load_backbone(path, StreetStudent(), StreetHead(3), seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, quick_calibration: None) -> JointRecipe:
    """Recipe of a run of two steps, from which other runs start."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IVF_DATA", str(folder))
        write_pairs(folder)
        recipe = cast(JointRecipe, recipe_of("joint", folder, steps=2))
        train_joint(recipe)
    return recipe


@pytest.fixture
def first(trained: JointRecipe, monkeypatch: pytest.MonkeyPatch) -> JointRecipe:
    """The same recipe, with its data in use."""
    monkeypatch.setenv("IVF_DATA", trained.labels)
    return trained


@pytest.mark.parametrize("widths", [(24, 8), (16, 12)])
def test_fusion_alone_leaves_the_masks(
    widths: tuple[int, int], first: JointRecipe, tmp_path: Path
) -> None:
    """The second run changes the student's later layers, and nothing that the masks read."""
    second = replace(
        first,
        init_from=first.output,
        part="fusion",
        decoder_widths=widths,
        output=str(tmp_path / "runs/second.safetensors"),
    )
    train_joint(second)
    before, after = load_model(first.output), load_model(second.output)
    assert isinstance(after.student, StreetStudent)
    assert after.student.decoder_widths == widths
    changed = {
        name
        for name, tensor in before.tensors().items()
        if not torch.equal(tensor, after.tensors()[name])
    }
    assert changed
    kept = ("head.", "student.stem.", "student.down4.")
    assert not [name for name in changed if name.startswith(kept)]
    assert any(name.startswith("student.gains") for name in changed)


def test_masks_alone_leave_the_fused_image(first: JointRecipe, tmp_path: Path) -> None:
    output = str(tmp_path / "runs/second.safetensors")
    train_joint(replace(first, init_from=first.output, part="masks", output=output))
    before, after = load_model(first.output).tensors(), load_model(output).tensors()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert any(name.startswith("head.classify") for name in changed)
    assert not [name for name in changed if name.startswith("student.")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": (1.0, 1.0)}, "as many of each"),
        ({"crop": (64, 70)}, "multiples of 32"),
        ({"part": "masks"}, "needs init_from"),
        ({"backbone": "a.onnx", "init_from": "b"}, "exclude each other"),
    ],
)
def test_recipes_that_cannot_be(options: dict[str, object], message: str, tmp_path: Path) -> None:
    recipe = cast(Any, recipe_of("joint", tmp_path))
    with pytest.raises(ValueError, match=message):
        replace(recipe, **options)
