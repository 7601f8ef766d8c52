"""Cached log-probabilities of a pair teacher: as fresh ones, made once, by content."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from small_runs import recipe_of, run, write_networks, write_pairs, write_recipe

from ivf_core.class_sets import MFNET, PST900
from ivf_core.cli import main
from ivf_core.data.datasets import open_dataset
from ivf_core.images.files import read_labels, write_image
from ivf_core.models.checkpoints import load_model
from ivf_core.models.sartm import Sartm
from ivf_core.training.runs.record import run_directory
from ivf_core.training.runs.weights_origin import file_digest
from ivf_core.training.sartm.sam2 import TINY_SAM2, build_sam2
from ivf_core.training.sartm.weights import save_sartm
from ivf_core.training.segmentation.fused_labels.options import GivenLabels, LabelSet
from ivf_core.training.segmentation.fused_labels.sources import list_sources
from ivf_core.training.segmentation.logit_cache import LogitCache, LogitCacheError
from ivf_core.training.teacher_logits import LogitRecipe, make_logits, open_pair_teacher

ROOT = Path(__file__).parents[3]
TEACHER = {"kind": "sartm", "sha256": "0"}


def pair(seed: int = 0, size: tuple[int, int] = (30, 41)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (*size, 3), np.uint8), random.integers(0, 256, size, np.uint8)


def test_values_are_those_of_cells(tmp_path: Path) -> None:
    """Within half a step of a sixteenth nat, where the probability is not too small to hold."""
    cache = LogitCache.create(tmp_path, TEACHER, PST900)
    visible, infrared = pair()
    torch.manual_seed(0)
    logits = F.interpolate(3 * torch.randn(1, 5, 8, 11), (32, 44), mode="nearest")[0, :, :30, :41]
    assert cache.read(visible, infrared) is None
    cache.write(visible, infrared, logits)
    found = cache.read(visible, infrared)
    assert found is not None
    assert found.shape == (5, 8, 11)
    assert found.dtype == np.float32
    expected = logits.log_softmax(0)[:, ::4, ::4].numpy()
    held = expected > -15
    # Half a step, and as much again by which a cell's probabilities missed a sum of one.
    assert np.abs(found - expected)[held].max() <= 1 / 16
    np.testing.assert_allclose(np.exp(found).sum(0), 1, rtol=1e-5)
    assert LogitCache(cache.directory).class_set == PST900


def test_files_are_of_one_pair_and_one_teacher(tmp_path: Path) -> None:
    cache = LogitCache.create(tmp_path, TEACHER, PST900)
    visible, infrared = pair()
    cache.write(visible, infrared, torch.zeros(5, 30, 41))
    assert cache.read(visible, infrared[:, ::-1]) is None
    other = LogitCache.create(tmp_path, {**TEACHER, "sha256": "1"}, PST900)
    assert other.directory != cache.directory
    assert other.read(visible, infrared) is None
    other.path(visible, infrared).write_bytes(cache.path(visible, infrared).read_bytes())
    with pytest.raises(LogitCacheError, match="damaged: made of another pair or by another"):
        other.read(visible, infrared)
    cache.path(visible, infrared).write_bytes(b"PK")
    with pytest.raises(LogitCacheError, match=r"logits '.*\.npz': damaged"):
        cache.read(visible, infrared)
    with pytest.raises(LogitCacheError, match="expected a folder that ivf train logits made"):
        LogitCache(tmp_path)
    for logits in (torch.zeros(4, 30, 41), torch.full((5, 30, 41), torch.nan)):
        with pytest.raises(
            ValueError, match=r"logits are .*, expected finite ones of \(5, 30, 41\)"
        ):
            cache.write(visible, infrared, logits)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("transformers")
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    write_pairs(tmp_path, count=3)
    torch.manual_seed(0)
    network = Sartm(build_sam2(TINY_SAM2, 9), MFNET, rank=2)
    with torch.no_grad():
        network.sam2.mask_decoder.upscale_conv2.weight.mul_(300)  # logits that differ
    save_sartm(network, tmp_path / "sartm.safetensors", sam2="random weights (x)")
    return tmp_path


def test_a_run_continues(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Answers are as fresh ones, and only what is missing or damaged is made again."""
    recipe = LogitRecipe(
        teacher=f"sartm:{root}/sartm.safetensors", folders=("pairs",), output=str(root / "logits")
    )
    report = make_logits(recipe)
    assert (report.made, report.kept, report.failed) == (3, 0, [])
    assert "sam2 has random weights (x)" in caplog.text
    network, _, _ = open_pair_teacher(recipe.teacher)
    cache = LogitCache(report.directory)
    files = open_dataset(root / "pairs").files
    visible, infrared = files[0].read_visible(), files[0].read_infrared()
    with torch.no_grad():
        planes = torch.from_numpy(np.dstack((visible, infrared))).permute(2, 0, 1)[None] / 255
        logits = network(planes[:, :3], planes[:, 3:]).main
    fresh = F.avg_pool2d(logits.softmax(1), 4).log()[0].numpy()
    found = cache.read(visible, infrared)
    assert found is not None
    assert np.ptp(fresh) > 0.5
    assert np.abs(found - fresh).max() <= 1 / 16

    ids = read_labels(report.directory / "labels/pairs/0.png")
    sure = read_labels(report.directory / "confidence/pairs/0.png")
    assert ids.shape == sure.shape == infrared.shape
    means = F.avg_pool2d(logits.softmax(1), 4)
    smooth = F.interpolate(means, ids.shape, mode="bilinear", align_corners=False)[0]
    first, second = smooth.topk(2, dim=0).values.numpy()
    clear = first - second > 1 / 8  # more than the steps of 1/16 nat of both
    assert clear.mean() > 0.1
    assert (ids == smooth.argmax(0).numpy())[clear].all()
    assert np.abs(sure - 255 * first).max() <= 255 / 16 + 0.5

    cache.path(visible, infrared).write_bytes(b"PK")
    leftovers = [
        report.directory / name
        for name in (
            ".settings.abcdefgh.json", f".{'0' * 64}.abcdefgh.npz", "labels/pairs/.0.abcdefgh.png",
            "confidence/pairs/.2.abcdefgh.png",
        )
    ]  # fmt: skip
    others = [report.directory / name for name in (".a.npz", "labels/pairs/.0.original.xcf")]
    for path in (*leftovers, *others):
        path.touch()
    write_image(root / "pairs/infrared/1.png", np.zeros((8, 8), np.uint8))
    report = make_logits(recipe)
    assert (report.made, report.kept) == (1, 1)
    assert len(report.failed) == 1
    assert "1.png" in report.failed[0]
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in others)


def test_labels_are_a_teacher_of_train_labels(root: Path) -> None:
    """Written for each pair under the names that `given` looks for."""
    report = make_logits(
        LogitRecipe(
            teacher=f"sartm:{root}/sartm.safetensors", folders=("pairs",), output=str(root / "out")
        )
    )
    folder = str(report.directory)
    given = GivenLabels(
        name="sartm", folder=f"{folder}/labels/pairs", confidence=f"{folder}/confidence/pairs"
    )
    entry = LabelSet(
        name="pairs", visible=("pairs/visible",), infrared="pairs/infrared", given=(given,)
    )
    sources = list_sources(entry, root, root / "labels")
    assert [source.stem for source in sources] == ["0", "1", "2"]
    for source in sources:
        _, ids, sure = source.given["sartm"]
        assert ids.is_file()
        assert sure is not None
        assert sure.is_file()


def test_a_head_asks_its_teacher_first(root: Path) -> None:
    """`ivf train head` with a file learns what it learns from the folder of its answers."""
    write_networks(root)
    teacher = root / "sartm.safetensors"
    recipe = recipe_of("head", root, teacher_logits=f"sartm:{teacher}", steps=1, hold_out_every=3)
    assert main(["train", "head", "--config", str(write_recipe(root, recipe))]) == 0
    (folder,) = (run_directory(recipe.output) / "logits").iterdir()
    assert len(list(folder.glob("*.npz"))) == 3
    asked, model = load_file(recipe.output), load_model(recipe.output)
    assert file_digest(teacher) in model.metadata["head_teacher"]
    run("head", recipe_of("head", root, teacher_logits=str(folder), steps=1, hold_out_every=3))
    read = load_file(recipe.output)
    assert asked.keys() == read.keys()
    for name, tensor in asked.items():
        assert torch.equal(tensor, read[name]), name


def test_processes_share_the_pairs(root: Path) -> None:
    """Under torchrun: each asks about its own first, and at most one pair is asked about twice."""
    write_networks(root)
    write_pairs(root, count=7)
    recipe = recipe_of(
        "head", root, teacher_logits=f"sartm:{root}/sartm.safetensors", steps=1, devices=2,
        accelerator="cpu",
    )  # fmt: skip
    script = ROOT / "test/helpers/counted_teacher.py"
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "IVF_DATA": str(root)}
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), "train", "head", "--config", str(write_recipe(root, recipe))],
        check=True, timeout=400, env={**os.environ, **environment, "ASKED": str(root)},
    )  # fmt: skip
    asked = [(root / f"{rank}.txt").read_text().split() for rank in range(2)]
    assert asked[0][0] != asked[1][0]
    assert len({*asked[0], *asked[1]}) == 7
    assert len(asked[0]) + len(asked[1]) <= 8
    (folder,) = (run_directory(recipe.output) / "logits").iterdir()
    assert len(list(folder.glob("[!.]*.npz"))) == 7
    assert Path(recipe.output).is_file()


def test_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = root / "recipe.yaml"
    teacher = f"sartm:{root}/sartm.safetensors"
    config.write_text(
        yaml.safe_dump(
            {"teacher": teacher, "folders": ["pairs"], "output": str(root / "o"), "labels": False}
        )
    )
    assert main(["train", "logits", "--config", str(config)]) == 0
    assert "of 3 pairs made, of 0 pairs found" in capsys.readouterr().out
    assert not list((root / "o").glob("*/labels"))
    for teacher, message in (
        ("head:fast", "teacher 'head:fast': expected sartm:FILE"),
        (f"sartm:{root}/none", "expected a file that ivf train sartm wrote"),
    ):
        options = ["--set", f"teacher='{teacher}'"]
        assert main(["train", "logits", "--config", str(config), *options]) == 1
        assert message in capsys.readouterr().err
