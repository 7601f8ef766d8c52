"""Test sources of masks, the cache, and runs that make masks and are killed."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sam_models import random_image

from ivf_core.cli import main
from ivf_core.images.files import read_infrared, read_visible, write_image
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.system.atomic import atomic_path
from ivf_core.system.revision import git_revision
from ivf_core.training.masks.cache import MaskCache, MaskCacheError
from ivf_core.training.masks.priors import (
    PriorRecipe,
    make_priors,
    open_priors,
    pair_masks,
    prior_metadata,
)
from ivf_core.training.masks.sources import CropMasks, LabelMasks, SuperpixelMasks
from ivf_core.training.runs.recipe import load_recipe
from ivf_core.training.sage.smoke import save_tiny_sam

ROOT = Path(__file__).parents[4]
SETTINGS = {"source": "crops", "count": 4}


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write three pairs with labels to a data directory, and return their folder."""
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    for number in range(3):
        name = f"{number}.png"
        image = random_image(number)
        write_image(tmp_path / "pairs/visible" / name, image)
        write_image(tmp_path / "pairs/infrared" / name, 255 - image[..., 0])
        write_image(tmp_path / "pairs/labels" / name, image[..., 1] // 100)
    return tmp_path / "pairs"


def recipe_of(tmp_path: Path, **options: Any) -> PriorRecipe:
    fields = dict(folders=("pairs",), output=str(tmp_path / "priors"), source="crops", count=4)
    return PriorRecipe(**{**fields, **options})  # type: ignore[arg-type]


def sam_recipe(tmp_path: Path, **options: Any) -> PriorRecipe:
    fields = dict(source="sam", checkpoint="sam.pth", model="any", points_per_side=4,
                  pred_iou_thresh=0.0, stability_score_thresh=0.0, min_mask_region_area=20,
                  devices=("cpu",))  # fmt: skip
    return recipe_of(tmp_path, **{**fields, **options})


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("[!.]*.npz")}


# Sources


def test_crops_are_rectangles_of_the_requested_sizes() -> None:
    source = CropMasks(6, (0.25, 0.5), seed=3)
    masks = source.masks(random_image(1, (40, 80)))
    assert masks.shape == (6, 40, 80)
    areas = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width
        assert 10 <= height <= 20
        assert 20 <= width <= 40
        areas.append(mask.sum())
    assert areas == sorted(areas, reverse=True)
    np.testing.assert_array_equal(masks, source.masks(random_image(1, (40, 80))))
    assert (masks != source.masks(random_image(2, (40, 80)))).any()
    assert (masks != CropMasks(6, (0.25, 0.5), seed=4).masks(random_image(1, (40, 80)))).any()


def test_label_masks_are_the_regions_of_classes() -> None:
    labels = np.array(
        [[1, 1, 1, 0, 2, 2],
         [1, 1, 0, 0, 2, 2],
         [0, 0, 1, 0, 0, 0],
         [255, 255, 255, 0, 1, 1],
         [255, 255, 255, 0, 1, 3]],
        np.uint8,
    )  # fmt: skip
    one, two, other_one = (np.zeros(labels.shape, bool) for _ in range(3))
    one[:3, :3] = labels[:3, :3] == 1  # connected at a corner
    two[:2, 4:] = True
    other_one[3:, 4:] = labels[3:, 4:] == 1
    masks = LabelMasks(10, minimum_area=3, ignored=[0]).masks(labels)
    np.testing.assert_array_equal(masks, [one, two, other_one])
    np.testing.assert_array_equal(LabelMasks(1, 3, [0]).masks(labels), [one])
    assert LabelMasks(10, 3).masks(labels)[0].sum() == (labels == 0).sum()
    assert LabelMasks(10, 100).masks(labels).shape == (0, 5, 6)


def test_superpixels_follow_the_edges_of_an_image() -> None:
    pytest.importorskip("skimage")
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 22:] = 200
    masks = SuperpixelMasks(1000, segments=12, compactness=1.0).masks(image)
    assert (masks.sum(axis=0) == 1).all()
    assert not any(mask[:, :22].any() and mask[:, 22:].any() for mask in masks)
    areas = masks.sum(axis=(1, 2)).tolist()
    assert len(areas) > 4
    assert areas == sorted(areas, reverse=True)
    few = SuperpixelMasks(2, segments=12, compactness=1.0).masks(image)
    np.testing.assert_array_equal(few, masks[:2])


def test_superpixels_without_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ValueError, match=r"extra 'training'.*pip install scikit-image"):
        SuperpixelMasks(1, 10, 1.0)


# Cache


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_cache_returns_what_was_written(tmp_path: Path, count: int, size: tuple[int, int]) -> None:
    content = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)
    masks = np.random.default_rng(0).random((count, *size)) < 0.5
    cache = MaskCache.create(tmp_path, SETTINGS, {"note": "x"})
    assert cache.read(content) is None
    cache.write(content, masks)
    found = MaskCache(cache.directory).read(content)
    assert found is not None
    assert found.dtype == bool
    np.testing.assert_array_equal(found, masks)
    assert MaskCache(cache.directory).notes == {"note": "x"}


def test_cache_is_compressed(tmp_path: Path) -> None:
    cache = MaskCache.create(tmp_path, {**SETTINGS, "count": 20})
    content = np.zeros((480, 640), np.uint8)
    masks = CropMasks(20, (0.25, 0.75), 0).masks(content)
    cache.write(content, masks)
    assert cache.path(content).stat().st_size < masks.size / 8 / 10


def test_cache_is_found_by_content_and_settings(tmp_path: Path) -> None:
    content = np.zeros((8, 8), np.uint8)
    cache = MaskCache.create(tmp_path, SETTINGS)
    assert cache.path(content) == cache.path(content.copy(order="F"))
    for other in (content + 1, content.reshape(4, 16), content.view(np.int8), content[..., None]):
        assert cache.path(other) != cache.path(content)
    assert MaskCache.create(tmp_path, dict(reversed(SETTINGS.items()))).directory == cache.directory
    assert MaskCache.create(tmp_path, {**SETTINGS, "count": 5}).directory != cache.directory


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_damaged_and_foreign_files_are_rejected(tmp_path: Path) -> None:
    cache = MaskCache.create(tmp_path, SETTINGS)
    content, other = np.zeros((8, 8), np.uint8), np.ones((8, 8), np.uint8)
    masks = np.ones((2, 8, 8), bool)
    for array in (content, other):
        cache.write(array, masks)
    path = cache.path(content)
    whole = path.read_bytes()
    with np.load(path) as arrays:
        key = arrays["key"]
    shape = np.array([2, 8, 8])
    flipped = bytearray(whole)
    flipped[whole.index(b"packed.npy") + 60] ^= 1
    bad = {
        "empty": b"",
        "cut": whole[:-30],
        "flipped": bytes(flipped),
        "of another image": cache.path(other).read_bytes(),
        "objects": npz(packed=np.array([{}, {}]), shape=shape, key=key),
        "lacks an array": npz(packed=np.zeros((2, 8), np.uint8), shape=shape),
        "another shape": npz(packed=np.zeros((2, 8), np.uint8), shape=shape + 1, key=key),
        "too short": npz(packed=np.zeros((2, 7), np.uint8), shape=shape, key=key),
        "no npz": b"masks",
    }
    for name, data in bad.items():
        path.write_bytes(data)
        with pytest.raises(MaskCacheError, match="damaged"):
            pytest.fail(f"{name}: read as {cache.read(content)}")
    # A small file that would unpack to a large one is rejected before that.
    path.write_bytes(npz(packed=np.zeros((2, 1 << 20), np.uint8), shape=shape, key=key))
    assert path.stat().st_size < 4096
    with pytest.raises(MaskCacheError, match=r"holds \d{7} bytes, expected at most \d{4}$"):
        cache.read(content)
    path.write_bytes(whole)
    np.testing.assert_array_equal(cache.read(content), masks)


@pytest.mark.parametrize(
    "masks",
    [np.ones((5, 8, 8), bool), np.ones((2, 8, 9), bool), np.ones((2, 8, 8), np.uint8)],
)
def test_masks_of_wrong_shape_or_dtype_are_not_written(tmp_path: Path, masks: np.ndarray) -> None:
    cache = MaskCache.create(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="expected at most 4 x 8 x 8 bool"):
        cache.write(np.zeros((8, 8), np.uint8), masks)


def test_folders_that_are_no_cache(tmp_path: Path) -> None:
    with pytest.raises(MaskCacheError, match="expected a folder that ivf train priors made"):
        MaskCache(tmp_path)
    (tmp_path / "settings.json").write_text('{"format": "ivf-masks-0"}')
    with pytest.raises(MaskCacheError, match="expected format 'ivf-masks-1'"):
        MaskCache(tmp_path)
    (tmp_path / "settings.json").write_text('{"format": "ivf-masks-1", "settings": {"count": 3}}')
    with pytest.raises(MaskCacheError, match="expected settings with source and count"):
        MaskCache(tmp_path)


def test_temporary_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    directory = MaskCache.create(tmp_path, SETTINGS).directory
    ours = directory / f".{'0' * 64}.abcdefgh.npz"
    others = [directory / name for name in (".notes.original.npz", f"{'0' * 64}.old.npz")]
    for path in (ours, *others):
        path.touch()
    with atomic_path(directory / f"{'1' * 64}.npz") as temporary:
        MaskCache.create(tmp_path, SETTINGS)
        assert temporary.exists()
    assert not ours.exists()
    assert all(path.exists() for path in others)


# Recipes and runs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "sam2"}, "source 'sam2', known: sam, crops"),
        ({"source": "sam"}, "needs a checkpoint.*set source to crops"),
        ({"folders": ()}, "folders"),
        ({"model": "vit_g"}, "model 'vit_g', known: vit_b"),
        ({"count": 0}, "count must be at least 1"),
        ({"min_mask_region_area": -1}, "min_mask_region_area must be at least 0"),
        ({"crop_n_layers": 8}, "none are left in crop layer 8"),
        ({"stability_score_thresh": 1.5}, r"stability_score_thresh must be in \[0, 1\]"),
        (
            {"crop_sides": (0.5, 0.25)},
            "crop_sides must be at most 1 and above 0 and in ascending order",
        ),
        ({"compactness": 0.0}, "compactness must be above 0"),
    ],
)
def test_impossible_recipes(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_of(tmp_path, **options)


def test_sam_end_to_end(pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Masks equal the package's, are made once, and depend on SAM's weights."""
    pytest.importorskip("segment_anything")
    from ivf_core.training.masks.sam import SamMasks, load_sam

    save_tiny_sam(tmp_path / "sam.pth")
    report = make_priors(sam_recipe(tmp_path))
    assert (report.made, report.kept, report.failed) == (6, 0, [])
    assert not caplog.records  # no warnings
    cache = open_priors(report.directory)
    assert cache.settings["predicted_iou"] == 0.0
    sam = SamMasks(load_sam(tmp_path / "sam.pth"), 4, points_per_side=4, pred_iou_thresh=0.0,
                   stability_score_thresh=0.0, crop_n_layers=1, crop_n_points_downscale_factor=2,
                   min_mask_region_area=20)  # fmt: skip
    total = 0
    for number in range(3):
        visible = read_visible(pairs / f"visible/{number}.png")
        infrared = read_infrared(pairs / f"infrared/{number}.png")
        of_visible, of_infrared = pair_masks(cache, visible, infrared)
        np.testing.assert_array_equal(of_visible, sam.masks(visible))
        np.testing.assert_array_equal(of_infrared, sam.masks(np.dstack([infrared] * 3)))
        total += len(of_visible) + len(of_infrared)
    assert report.masks == total > 6
    again = make_priors(sam_recipe(tmp_path, points_per_batch=3))  # changes memory, not masks
    assert (again.directory, again.made, again.kept) == (report.directory, 0, 6)
    # The content of the weights counts, not the name of the file.
    (tmp_path / "sam.pth").rename(tmp_path / "moved.pth")
    moved = make_priors(sam_recipe(tmp_path, checkpoint="moved.pth"))
    assert (moved.directory, moved.made) == (report.directory, 0)
    save_tiny_sam(tmp_path / "sam.pth", seed=1)
    other = make_priors(sam_recipe(tmp_path))
    assert (other.made, other.kept) == (6, 0)
    assert other.directory != report.directory
    with pytest.raises(ValueError, match="expected model vit_b"):
        make_priors(sam_recipe(tmp_path, model="vit_b", count=3))


def test_published_settings_are_the_defaults(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, source="sam", checkpoint="x", count=PriorRecipe.count)
    assert (recipe.model, recipe.count, recipe.points_per_side) == ("vit_b", 20, 128)
    assert (recipe.pred_iou_thresh, recipe.stability_score_thresh) == (0.86, 0.92)
    assert recipe.min_mask_region_area == 100
    assert (recipe.crop_n_layers, recipe.crop_n_points_downscale_factor) == (1, 2)


@pytest.mark.parametrize("source", ["crops", "labels", "superpixels"])
def test_priors_without_sam_say_so(
    source: str,
    pairs: Path,
    tmp_path: Path,
    tiny_model: FusionModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says it when priors are made and when they are used, and so do the weights."""
    if source == "superpixels":
        pytest.importorskip("skimage")
    recipe = recipe_of(tmp_path, source=source, min_mask_region_area=5)
    report = make_priors(recipe)
    assert report.made == (3 if source == "labels" else 6)
    cache = open_priors(report.directory)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert all("are not SAM-guided" in record.getMessage() for record in caplog.records)

    labels = read_infrared(pairs / "labels/1.png")
    visible, infrared = pair_masks(
        cache, read_visible(pairs / "visible/1.png"), read_infrared(pairs / "infrared/1.png"),
        labels,
    )  # fmt: skip
    assert len(visible)
    assert visible.shape[1:] == infrared.shape[1:] == labels.shape
    assert np.array_equal(visible, infrared) == (source == "labels")

    save_model(tiny_model, tmp_path / "made.safetensors", **prior_metadata(cache))
    metadata = load_model(tmp_path / "made.safetensors").metadata
    assert metadata["priors"].endswith("not SAM-guided")
    assert metadata["priors_sam_guided"] == "false"
    assert metadata["priors_revision"] == git_revision()
    saved = tmp_path / "saved.yaml"
    saved.write_text(metadata["priors_recipe"])
    assert load_recipe(PriorRecipe, saved) == recipe


def test_weights_made_with_sam_name_its_weights(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("segment_anything")
    import hashlib

    save_tiny_sam(tmp_path / "sam.pth")
    metadata = prior_metadata(open_priors(make_priors(sam_recipe(tmp_path)).directory))
    assert metadata["priors"] == "SAM's automatic masks"
    assert metadata["priors_sam_guided"] == "true"
    digest = hashlib.sha256((tmp_path / "sam.pth").read_bytes()).hexdigest()
    assert digest in metadata["priors_settings"]


def test_damaged_masks_are_made_again(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of(tmp_path)
    directory = make_priors(recipe).directory
    whole = files(directory)
    victim = sorted(whole)[2]
    (directory / victim).write_bytes(whole[victim][:100])
    caplog.clear()
    report = make_priors(recipe)
    assert (report.made, report.kept, len(report.damaged)) == (1, 5, 1)
    assert any(victim in r.getMessage() and "made again" in r.getMessage() for r in caplog.records)
    assert files(directory) == whole


def test_masks_are_never_replaced_by_something_else(pairs: Path, tmp_path: Path) -> None:
    cache = open_priors(make_priors(recipe_of(tmp_path)).directory)
    visible, infrared = random_image(0), 255 - random_image(0)[..., 0]
    assert len(pair_masks(cache, visible, infrared)[0]) == 4
    with pytest.raises(ValueError, match=r"none of this image .*ivf train priors"):
        pair_masks(cache, random_image(9), infrared)
    with pytest.raises(ValueError, match="infrared is uint16, expected uint8"):
        pair_masks(cache, visible, infrared.astype(np.uint16))
    with pytest.raises(ValueError, match="but infrared"):
        pair_masks(cache, visible, infrared[1:])
    cache.path(visible).write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        pair_masks(cache, visible, infrared)


def test_command_leaves_out_what_it_cannot_read(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pairs / "visible/1.png").write_bytes(b"no image")
    config = tmp_path / "priors.yaml"
    config.write_text(f"{{source: crops, folders: [pairs], output: {tmp_path / 'out'}}}")
    assert main(["train", "priors", "--config", str(config), "--set", "count=3"]) == 1
    out, err = capsys.readouterr()
    assert "masks of 4 images made, of 0 images found, 3.0 per image" in out
    assert "left out" in err
    assert "visible/1.png" in err
    assert main(["train", "priors", "--config", str(config), "--set", "folders=[none]"]) == 1
    assert "none': no such folder" in capsys.readouterr().err


def test_files_that_are_missing(pairs: Path, tmp_path: Path) -> None:
    (pairs / "infrared/1.png").unlink()
    with pytest.raises(ValueError, match=r"missing: .*infrared/1\.png"):
        make_priors(recipe_of(tmp_path))
    write_image(pairs / "infrared/1.png", np.zeros((40, 56), np.uint8))
    for path in (pairs / "labels").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="labels"):
        make_priors(recipe_of(tmp_path, source="labels"))


def test_devices_that_do_not_exist(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source 'crops' runs on cpu only, got cuda:0"):
        make_priors(recipe_of(tmp_path, devices=("cpu", "cuda:0")))
    with pytest.raises(ValueError, match="devices: 'cuda:99' does not exist, expected cpu"):
        make_priors(sam_recipe(tmp_path, devices=("cuda:99",)))
    with pytest.raises(ValueError, match=r"sam\.pth': No such file.*set source to crops"):
        make_priors(sam_recipe(tmp_path))


# Killed runs


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_worker(pid: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("victim", ["run", "worker"])
def test_killed_runs_are_resumed(
    victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILL, masks in the cache are kept and the others are as in a run without it."""
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    for number in range(60):
        for name, value in (("visible", number), ("infrared", 128 + number)):
            gray = np.full((480, 640), value, np.uint8)
            path = tmp_path / "pairs" / name / f"{number:02d}.png"
            write_image(path, np.dstack([gray] * 3) if name == "visible" else gray)
    config = tmp_path / "priors.yaml"
    output = tmp_path / "priors"
    config.write_text(f"{{source: crops, folders: [pairs], output: {output}, devices: [cpu, cpu]}}")
    process = subprocess.Popen(
        [sys.executable, "-m", "ivf_core.cli", "train", "priors", "--config", str(config)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: len(list(output.glob("*/[!.]*.npz"))) >= 5)
        family = children(process.pid)
        workers = [pid for pid in family if is_worker(pid)]
        assert len(workers) == 2
        os.kill(process.pid if victim == "run" else workers[0], signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        wait_until(lambda: all(has_ended(pid) for pid in family))  # no process waits forever
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if victim == "run":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 1
        assert "ivf: a worker process ended abruptly" in said

    (directory,) = output.iterdir()
    before = files(directory)
    assert 5 <= len(before) < 120
    recipe = load_recipe(PriorRecipe, config, ["devices=[]"])
    report = make_priors(recipe)
    assert (report.directory, report.damaged, report.failed) == (directory, [], [])
    assert (report.kept, report.made) == (len(before), 120 - len(before))
    clean = make_priors(load_recipe(PriorRecipe, config, ["devices=[]", f"output={tmp_path}/new"]))
    assert clean.made == 120
    assert files(directory) == files(clean.directory)
    assert zipfile.is_zipfile(next(directory.glob("[!.]*.npz")))
