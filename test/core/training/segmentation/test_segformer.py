"""SegFormer on fused images: the data, the structures, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ivf_core.class_sets import FMB, MFNET, PST900
from ivf_core.cli import main
from ivf_core.images.files import write_image
from ivf_core.inference.pipeline import FusionPipeline, ImagePair
from ivf_core.models.checkpoints import load_model
from ivf_core.models.graph import FusionGraph
from ivf_core.training.runs.batches import BatchStream, item_numbers, join
from ivf_core.training.runs.loop import StepError
from ivf_core.training.runs.page import image_files, read_losses
from ivf_core.training.runs.recipe import load_recipe
from ivf_core.training.segmentation import segformer
from ivf_core.training.segmentation.labelled import (
    ColorCrops,
    FusedImages,
    open_labelled_split,
    read_fused_folders,
    replace_by_fused,
)
from ivf_core.training.segmentation.segformer import (
    SEGFORMERS,
    SegformerRecipe,
    build_segformer,
    train_segformer,
)
from ivf_core.training.segmentation.segmenters import open_segmenter, score_segmenter

transformers = pytest.importorskip("transformers")

SIZE = (64, 96)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A car that is blue and a person who is warm, in noise; visible, infrared, ids."""
    random = np.random.default_rng(seed)
    visible = random.integers(60, 120, (*SIZE, 3)).astype(np.uint8)
    infrared = random.integers(20, 60, SIZE).astype(np.uint8)
    labels = np.zeros(SIZE, np.uint8)
    top, left = random.integers(2, 30), random.integers(2, 18)
    place = np.s_[top : top + 28, left : left + 28]
    visible[place], labels[place] = (20, 30, 220), 1
    place = np.s_[top : top + 30, left + 40 : left + 66]
    infrared[place], labels[place] = 250, 2
    labels[:2] = 255
    return visible, infrared, labels


def write_split(root: Path, split: str, seeds: range) -> None:
    """In the layout of MSRS."""
    for seed in seeds:
        planes = zip(("vi", "ir", "Segmentation_labels"), scene(seed), strict=True)
        for folder, plane in planes:
            write_image(root / split / folder / f"{seed:05d}D.png", plane)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_split(root / "MSRS", "train", range(6))
    write_split(root / "MSRS", "test", range(6, 9))
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, dataset: Path) -> SegformerRecipe:
    monkeypatch.setitem(SEGFORMERS, "tiny", ((8, 16, 40, 64), (1, 1, 1, 1), 32))
    monkeypatch.setenv("IVF_DATA", str(dataset))
    return SegformerRecipe(
        output="unused", dataset="MSRS", weights="fast", model="tiny", epochs=1, batch_size=3,
        crop=(64, 64), scales=(0.8, 1.2), learning_rate=2e-3, decoder_lr_mult=1.0,
    )  # fmt: skip


def test_it_learns(small: SegformerRecipe, dataset: Path, tmp_path: Path) -> None:
    """Both things are found in images it has not seen, and what was written opens again."""
    recipe = replace(small, output=str(tmp_path / "out"))
    iou = "IoU on the test split"
    before = train_segformer(recipe)[iou]
    recipe = replace(recipe, epochs=40)
    scores = train_segformer(recipe)
    after = scores[iou]
    assert after["car"] > 0.7
    assert after["person"] > 0.7
    assert after["mean"] > before["mean"] + 0.1
    assert scores["accuracy on the test split"]["car"] > 0.7
    assert scores["accuracy on the test split"]["of all pixels"] > 0.9

    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "model.safetensors", "scores.json"}
    notes = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert notes["test split"] == scores
    saved = tmp_path / "again.yaml"
    saved.write_text(notes["segformer_recipe"])
    assert load_recipe(SegformerRecipe, saved) == recipe
    run = tmp_path / "out.run"
    assert len(read_losses(run)["cross-entropy"][0]) == 80
    assert len(image_files(run)) == 21
    assert json.loads((run / "scores.json").read_text()) == scores
    assert not (run / "checkpoint.pt").exists()

    segmenter = open_segmenter(f"segformer:{recipe.output}", MFNET)
    test = FusedImages(
        open_labelled_split(dataset / "MSRS", 7)[1].files, MFNET, FusionGraph(load_model("fast"))
    )
    again = score_segmenter(segmenter, test, torch.device("cpu"))
    assert again.counts.sum() == 3 * (SIZE[0] - 2) * SIZE[1]  # whole images, labelled pixels
    assert not again.counts[3:].any()
    assert again.iou()[1] == after["car"]
    assert again.mean_iou() == after["mean"]


def test_an_interrupted_run_is_resumed(
    small: SegformerRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit as one that was not, with another number of threads, too."""
    whole = replace(small, output=str(tmp_path / "whole"), epochs=2)
    train_segformer(whole)
    recipe = replace(whole, output=str(tmp_path / "out"), checkpoint_every=2)
    loss, steps = segformer.segmentation_loss, iter((1, 1, 1, float("nan")))
    with monkeypatch.context() as patch:
        patch.setattr(segformer, "segmentation_loss", lambda *batch: loss(*batch) * next(steps))
        with pytest.raises(StepError, match="step 3, cross-entropy: cross-entropy is nan"):
            train_segformer(recipe)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"checkpoint\.pt' is the checkpoint of an int"):
        train_segformer(recipe)
    with pytest.raises(ValueError, match="batch_size was 3 when the run began, is 2 now"):
        train_segformer(replace(recipe, resume=True, batch_size=2))
    train_segformer(replace(recipe, resume=True, workers=1))
    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "out"))
    assert first == second


def test_command(
    small: SegformerRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, on folders of images that are fused already."""
    for split, seeds in (("train", range(3)), ("test", range(3, 5))):
        for seed in seeds:
            visible, _, labels = scene(seed)
            write_image(tmp_path / split / "fused" / f"{seed}.png", visible)
            write_image(tmp_path / split / "labels" / f"{seed}.png", labels)
    config = tmp_path / "recipe.yaml"
    config.write_text(
        f"{{fused: '{tmp_path}/{{split}}/fused', labels: '{tmp_path}/{{split}}/labels', "
        f"class_set: mfnet, model: tiny, epochs: 1, crop: [64, 64], output: '{tmp_path}/out', "
        "ignored_labels: [0]}"
    )
    assert main(["train", "segformer", "--config", str(config)]) == 0
    iou, accuracy = capsys.readouterr().out.split("accuracy on the test split")
    assert "IoU on the test split" in iou
    assert "car" in accuracy
    assert "unlabeled" not in accuracy  # ignored
    assert "bump" not in accuracy
    assert main(["train", "segformer", "--config", str(config), "--set", "fused=none"]) == 1
    assert "none" in capsys.readouterr().err


def test_images_are_those_of_the_node(dataset: Path) -> None:
    train, test = open_labelled_split(dataset / "MSRS", 7)
    assert (len(train), len(test)) == (6, 3)
    model = load_model("fast")
    images = FusedImages(train.files, MFNET, FusionGraph(model), ignored=(2,))
    visible, infrared, labels = scene(0)
    image, ids = images[0]
    pipeline = FusionPipeline(model, engine="torch", device="cpu", precision="fp32")
    fused = pipeline(ImagePair(visible, infrared)).fused
    np.testing.assert_array_equal(image, fused)
    np.testing.assert_array_equal(ids, np.where(labels == 2, 255, labels))


def test_images_that_others_fused(dataset: Path, tmp_path: Path) -> None:
    train, _ = open_labelled_split(dataset / "MSRS", 7)
    for files in train.files:
        write_image(tmp_path / "fused" / f"{files.name}.png", 255 - files.read_visible())
    replaced = FusedImages(tuple(replace_by_fused(train.files, tmp_path / "fused")), MFNET)
    visible, _, labels = scene(1)
    np.testing.assert_array_equal(replaced[1][0], 255 - visible)
    np.testing.assert_array_equal(replaced[1][1], labels)
    folders = read_fused_folders(tmp_path / "fused", dataset / "MSRS/train/Segmentation_labels")
    assert [files.visible for files in folders] == [files.visible for files in replaced.files]

    (tmp_path / "fused" / "00004D.png").unlink()
    with pytest.raises(ValueError, match=r"fused': no image named '00004D'"):
        replace_by_fused(train.files, tmp_path / "fused")
    with pytest.raises(ValueError, match=r"Segmentation_labels': no labels for '.*00000D\.png'"):
        read_fused_folders(tmp_path / "fused", dataset / "MSRS/test/Segmentation_labels")
    write_image(tmp_path / "fused" / "00001D.png", visible[:-1])
    with pytest.raises(ValueError, match=r"00001D\.png' is 96 x 64, but .* is 96 x 63"):
        replaced[1]
    with pytest.raises(ValueError, match=r"00002D\.png': ids 2 are not of 'x'"):
        FusedImages(train.files, replace(PST900, name="x", names=("a",) * 2, colors=((0,) * 3,) * 2))[2]  # noqa: E501  # fmt: skip


def test_splits_of_a_plain_folder(tmp_path: Path) -> None:
    for seed in range(5):
        visible, infrared, labels = scene(seed)
        for folder, plane in (("visible", visible), ("infrared", infrared), ("ids", labels)):
            write_image(tmp_path / folder / f"{seed}.png", plane)
    train, test = open_labelled_split(tmp_path, 3, labels="ids", class_set=MFNET)
    assert [files.name for files in train.files] == ["1", "2", "4"]
    assert [files.name for files in test.files] == ["0", "3"]
    assert train.class_set == test.class_set == MFNET
    with pytest.raises(ValueError, match="folder has no classes of its own"):
        open_labelled_split(tmp_path, 7, labels="ids")
    with pytest.raises(ValueError, match="folder has no labels for '1'"):
        open_labelled_split(tmp_path, 7, class_set=MFNET)
    for folder in ("visible", "infrared", "ids"):
        for seed in range(1, 5):
            (tmp_path / folder / f"{seed}.png").unlink()
    with pytest.raises(ValueError, match="too few pairs to hold out one of 7"):
        open_labelled_split(tmp_path, 7, labels="ids", class_set=MFNET)


def test_crops_move_image_and_labels_together() -> None:
    """Labels are a stretch of the red channel's ramp, and stay so up to the light."""
    ramp = np.tile(np.arange(100, 220, dtype=np.uint8), (80, 1))
    labels = (ramp >= 160).astype(np.uint8)
    labels[:20] = 2
    image = np.dstack([ramp, ramp, ramp])
    image[:20] = 0
    crops = ColorCrops([(image, labels)], (48, 64), scales=(0.7, 1.4), seed=1)
    for number in range(12):
        values, ids = crops.sample(number)
        assert values.shape == (3, 48, 64)
        assert values.dtype == np.float32
        assert ids.dtype == np.int64
        assert 0 <= values.min() <= values.max() <= 1
        assert set(np.unique(ids)) <= {0, 1, 2, 255}
        grey = values.mean(axis=0)
        if (ids == 0).any() and (ids == 1).any() and grey[ids == 1].min() < 1:
            assert grey[ids == 0].mean() < grey[ids == 1].mean()
        assert np.array_equal(crops.sample(number)[0], values)
    assert not np.array_equal(crops.sample(0)[0], crops.sample(1)[0])


def test_crops_of_small_images_have_a_border_without_labels() -> None:
    crops = ColorCrops([(np.full((20, 30, 3), 200, np.uint8), np.ones((20, 30), np.uint8))],
                       (40, 40), scales=(1.0, 1.0))  # fmt: skip
    _, ids = crops.sample(0)
    assert (ids == 1).sum() == 20 * 30
    assert (ids == 255).sum() == 40 * 40 - 20 * 30


def test_crops_avoid_what_is_all_one_class() -> None:
    labels = np.zeros((60, 400), np.uint8)
    labels[:, :40] = 1
    image = np.zeros((60, 400, 3), np.uint8)
    both = [
        len(np.unique(ColorCrops([(image, labels)], (60, 60), scales=(1.0, 1.0)).sample(n)[1]))
        for n in range(20)
    ]
    # At random about one crop in nine has both, and three quarters of it at most the larger.
    assert np.mean(np.equal(both, 2)) > 0.4


def stream_of(crops: ColorCrops, first: int) -> list[tuple[torch.Tensor, ...]]:
    """Batches `first` to 4 of two crops each."""
    named, order = segformer._NamedCrops(crops, "abcde"), item_numbers(2, first=first)
    stream = BatchStream(named, order, torch.device("cpu"), first=first, join=join)
    return [stream[number].tensors for number in range(first, 5)]


def test_batches_are_in_order_and_each_epoch_has_all() -> None:
    images = [(np.full((32, 32, 3), 0, np.uint8), np.full((32, 32), n, np.uint8)) for n in range(5)]
    crops = ColorCrops(images, (32, 32), scales=(1.0, 1.0))
    batches = stream_of(crops, 0)
    drawn = [int(ids[0, 0]) for _, labels in batches for ids in labels]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == [0, 1, 2, 3, 4]
    assert drawn[:5] != drawn[5:]
    assert [tuple(images.shape) for images, _ in batches] == [(2, 3, 32, 32)] * 5
    later = stream_of(crops, 3)
    assert len(later) == 2
    for (a, b), (c, d) in zip(later, batches[3:], strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize(
    ("model", "millions"),
    [("b0", 3.8), ("b1", 13.7), ("b2", 27.5), ("b3", 47.3), ("b4", 64.1), ("b5", 84.7)],
)
def test_structures_have_the_published_size(model: str, millions: float) -> None:
    """Table 1 of SegFormer, encoder and decoder with ADE20K's 150 classes."""
    names = tuple(str(n) for n in range(150))
    with torch.device("meta"):
        network = build_segformer(model, replace(FMB, names=names, colors=((0, 0, 0),) * 150))
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.15)


def test_start_from_other_weights(tmp_path: Path, small: SegformerRecipe) -> None:
    """From a classifier comes the encoder, from other classes all but the last layer."""
    channels, blocks, _ = SEGFORMERS["tiny"]
    shape: dict[str, Any] = dict(hidden_sizes=channels, depths=blocks, decoder_hidden_size=32)
    config = transformers.SegformerConfig(num_labels=7, **shape)
    imagenet = transformers.SegformerForImageClassification(config)
    imagenet.save_pretrained(tmp_path / "imagenet")
    ade = transformers.SegformerForSemanticSegmentation(config)
    ade.save_pretrained(tmp_path / "ade")
    for name, source in (("imagenet", imagenet), ("ade", ade)):
        network = build_segformer("tiny", FMB, tmp_path / name)
        assert network.config.id2label[8] == "person"
        state = source.state_dict()
        equal = {k: torch.equal(v, state[k]) for k, v in network.state_dict().items()
                 if k in state and v.shape == state[k].shape}  # fmt: skip
        assert all(equal.values())
        assert any("block" in key for key in equal)
        assert ("decode_head.linear_fuse.weight" in equal) == (name == "ade")
        assert network(torch.rand(1, 3, 64, 64)).logits.shape == (1, 15, 16, 16)
    message = r"init_from '.*ade': channels \(8, 16, 40, 64\) .* but b0 has \(32, 64"
    with pytest.raises(ValueError, match=message):
        build_segformer("b0", FMB, tmp_path / "ade")
    with pytest.raises(ValueError, match="none': no such directory"):
        train_segformer(replace(small, init_from="none"))


def test_rates_and_decay(small: SegformerRecipe) -> None:
    network = build_segformer("tiny", MFNET)
    recipe = replace(small, learning_rate=1.0, decoder_lr_mult=10.0)
    groups = segformer._optimizer(network, recipe)
    by_name = {
        id(p): (g["lr"], g["weight_decay"]) for g in groups.param_groups for p in g["params"]
    }
    norms = (torch.nn.LayerNorm, torch.nn.BatchNorm2d)
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            rate = 10.0 if name.startswith("decode_head") else 1.0
            decay = 0.0 if isinstance(module, norms) else 0.01
            assert by_name[id(parameter)] == (rate, decay), name
    rates = [segformer._rate(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert np.argmax(rates) == 9
    assert rates[55] == pytest.approx(0.45)
    assert rates[100] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected dataset, or fused with labels and class_set"),
        ({"fused": "a", "labels": "b"}, "expected dataset, or fused with labels and class_set"),
        ({"dataset": "a", "model": "b9"}, "model 'b9', known: b0, b1"),
        ({"dataset": "a", "class_set": "coco"}, "class_set 'coco', known: .*mfnet"),
        ({"dataset": "a", "epochs": 0}, "either epochs or steps must be positive"),
        ({"dataset": "a", "crop": (16, 64)}, "crop must be at least 32"),
        ({"dataset": "a", "scales": (0.0, 1.0)}, "scales must be"),
        ({"dataset": "a", "warmup_ratio": 2.0}, "warmup_ratio must be"),
        ({"dataset": "a", "devices": 3}, "batch_size 8 is no multiple of 3 devices on 1 nodes"),
        ({"dataset": "a", "precision": "16"}, "precision '16', known: fp32, bf16, fp16"),
        ({"dataset": "a", "accelerator": "tpu"}, "accelerator 'tpu', known: auto, cpu, cuda"),
        ({"dataset": "a", "hold_out_every": 1}, "hold_out_every must be at least 2"),
    ],
)
def test_impossible_recipes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegformerRecipe(output="o", **options)
