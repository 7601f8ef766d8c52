"""Tests of `ivf evaluate`: values of metrics, means over common pairs, and errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from ivf_core.class_sets import MFNET
from ivf_core.cli import main
from ivf_core.evaluation.folders import to_grey
from ivf_core.evaluation.methods import split_name
from ivf_core.evaluation.scores import Metric, Scores, common_pairs, find_metrics, statistics
from ivf_core.images.files import read_infrared, read_visible, write_image
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.metrics.fusion import FUSION_METRICS, fusion_metrics
from ivf_core.metrics.no_reference import (
    NO_REFERENCE_METRICS,
    no_reference_metrics,
    weights_directory,
)
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.models.checkpoints import load_model

SIZE = (164, 180)
NAMES = ("a", "b", "c")
QUICK = ("--metrics", "EN", "Qabf", "Nabf")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def smooth(seed: int, channels: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return an image of soft blobs, for which every metric has a value."""
    rough = np.random.default_rng(seed).normal(size=(*size, channels))
    for axis in (0, 1):
        kernel = np.hanning(17) / np.hanning(17).sum()
        rough = np.apply_along_axis(np.convolve, axis, rough, kernel, mode="same")
    rough = (rough - rough.min()) / np.ptp(rough) * 255
    return rough.round().astype(np.uint8).squeeze()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs with labels, and methods: the average of both images, the visible image."""
    root = tmp_path_factory.mktemp("pairs")
    for seed, name in enumerate(NAMES):
        visible, infrared = smooth(seed, 3), smooth(seed + 10, 1)
        write_image(root / f"vi/{name}.png", visible)
        write_image(root / f"ir/{name}.png", infrared)
        average = (to_grey(visible, "pil").astype(int) + infrared) // 2
        write_image(root / f"average/{name}.png", average.astype(np.uint8))
        write_image(root / f"copy/{name}.png", visible)
        labels = (smooth(seed + 20, 1) // 60).astype(np.uint8)
        labels[:20] = 255
        write_image(root / f"labels/{name}.png", labels)
    return root


def run(folders: Path, output: Path, *words: object) -> int:
    command = ["evaluate", "--visible", folders / "vi", "--infrared", folders / "ir", *words]
    return main([str(word) for word in (*command, "--output", output, "--device", "cpu")])


def rows(output: Path) -> list[dict[str, str]]:
    with open(output / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_two_folders_by_every_metric(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    status = run(
        folders, output, "--fused", folders / "average", "--fused", f"its copy={folders / 'copy'}"
    )
    assert status == 0
    table = rows(output)
    assert [(row["pair"], row["method"]) for row in table] == [
        (name, method) for name in NAMES for method in ("average", "its copy")
    ]
    summary = json.loads((output / "summary.json").read_text())
    expected = {"average": [], "its copy": []}
    for row in table:
        images = (
            to_grey(read_visible(folders / f"vi/{row['pair']}.png"), "pil"),
            read_infrared(folders / f"ir/{row['pair']}.png"),
            to_grey(
                read_visible(folders / row["method"].replace("its ", "") / f"{row['pair']}.png"),
                "pil",
            ),
        )
        values = fusion_metrics(*images)
        for name, value in values.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), name
        expected[row["method"]].append([*values.values()])
    for method, values in expected.items():
        means = [summary["methods"][method]["scores"][name]["mean"] for name in FUSION_METRICS]
        np.testing.assert_allclose(
            np.array(means, float), np.mean(values, axis=0), rtol=1e-4, atol=1e-6
        )
    shown = capsys.readouterr()
    assert "Nabf ↓" in shown.out
    assert "EN ↑" in shown.out
    # The visible image minus its copy is constant.
    assert "SCD: no value for 3 of 3 images of 'its copy' (0/0, or" in shown.err
    page = (output / "index.html").read_text()
    assert "its copy" in page
    assert "<script" not in page
    assert "default-src 'none'" in page, "the browser blocks requests as well"
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    for name in ("violins.png", "violins.svg", "best_average.jpg", "worst_its_copy.jpg"):
        assert (output / name).stat().st_size > 1000, name
    # A copy of the visible image has its edges: it is better by Qabf than the average.
    scores = [summary["methods"][method]["scores"]["Qabf"]["mean"] for method in expected]
    assert scores[0] < scores[1]


def test_the_same_input_gives_the_same_bytes(folders: Path, tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 3)):
        words = ("--fused", folders / "average", *QUICK, "--workers", workers, "--examples", 1)
        assert run(folders, tmp_path / name, *words) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    second = {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert first == second


def test_means_are_over_pairs_that_all_have(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    for name in ("b", "elsewhere"):
        write_image(part / f"{name}.png", read_visible(folders / "copy/b.png"))
    output = tmp_path / "out"
    words = ("--fused", folders / "average", "--fused", part, *QUICK, "--examples", 0)
    assert run(folders, output, *words) == 0
    table = rows(output)
    assert [row["pair"] for row in table if row["method"] == "part"] == ["b"]
    assert len(table) == 4
    summary = json.loads((output / "summary.json").read_text())
    assert summary["pairs"]["common"] == 1
    assert [summary["methods"][m]["pairs"] for m in ("average", "part")] == [3, 1]
    of_b = next(row for row in table if (row["pair"], row["method"]) == ("b", "average"))
    mean = summary["methods"]["average"]["scores"]["EN"]["mean"]
    assert mean == pytest.approx(float(of_b["EN"]), rel=1e-5)
    shown = capsys.readouterr()
    assert "the 1 pairs that all methods have" in shown.out
    assert "elsewhere.png: no pair of that name" in shown.err
    assert "1 of 3 pairs" in (output / "index.html").read_text()
    assert not list(output.glob("*.jpg"))


def test_a_damaged_image_is_left_out_and_counted(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        (tmp_path / "mine").mkdir(exist_ok=True)
        data = (folders / f"average/{name}.png").read_bytes()
        (tmp_path / f"mine/{name}.png").write_bytes(data if name != "a" else data[:40])
    output = tmp_path / "out"
    assert run(folders, output, "--fused", tmp_path / "mine", *QUICK, "--examples", 1) == 1
    assert [row["pair"] for row in rows(output)] == ["b", "c"]
    shown = capsys.readouterr()
    assert f"'{tmp_path / 'mine/a.png'}': damaged" in shown.err
    assert "1 left out" in shown.out
    assert "damaged" in (output / "index.html").read_text()


def test_images_of_another_size_are_rejected(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "mine/b.png", smooth(1, 1, (90, 100)))
    assert run(folders, tmp_path / "out", "--fused", tmp_path / "mine", *QUICK) == 1
    message = capsys.readouterr().err
    assert f"'{tmp_path / 'mine/b.png'}' is 100 x 90" in message
    assert f"'{folders / 'vi/b.png'}' is 180 x 164" in message
    assert not (tmp_path / "out").exists()


def test_small_images_have_no_value_of_some_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, channels in (("vi", 3), ("ir", 1)):
        write_image(tmp_path / folder / "x.png", smooth(channels, channels, (60, 60)))
    words = ("--fused", tmp_path / "vi", "--metrics", "SSIM", "MS-SSIM", "--examples", 0)
    assert run(tmp_path, tmp_path / "out", *words) == 0
    assert (
        "MS-SSIM: no value for 1 of 1 images of 'vi' (0/0, or a side of less than 161 pixels)"
        in capsys.readouterr().err
    )
    [row] = rows(tmp_path / "out")
    assert row["MS-SSIM"] == "nan"
    assert 0 < float(row["SSIM"]) < 1
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["methods"]["vi"]["scores"]["MS-SSIM"]["mean"] is None


@pytest.fixture(scope="module")
def with_masks(
    folders: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Folder of masks that are right except in a corner, and an evaluation of it and weights."""
    masks = tmp_path_factory.mktemp("masks")
    for name in NAMES:
        ids = read_infrared(folders / f"labels/{name}.png")
        ids[ids == 255] = 0
        ids[-30:, -40:] = 8
        write_image(masks / f"{name}.png", ids)
    output = tmp_path_factory.mktemp("masked") / "out"
    status = run(
        folders, output, "--weights", f"net={tiny_weights}", "--masks", f"corner={masks}",
        "--labels", folders / "labels", "--labels-are", "pseudo", *QUICK, "--examples", 1,
    )  # fmt: skip
    assert status == 0
    return masks, output


def test_masks_of_weights_and_folders(
    folders: Path, tiny_weights: Path, with_masks: tuple[Path, Path]
) -> None:
    masks, output = with_masks
    pipeline = FusionPipeline(load_model(tiny_weights), device="cpu", precision="fp32")
    matrices = {"net": ConfusionMatrix(len(MFNET)), "corner": ConfusionMatrix(len(MFNET))}
    for name in NAMES:
        truth = read_infrared(folders / f"labels/{name}.png")
        pair = ImagePair(
            read_visible(folders / f"vi/{name}.png"), read_infrared(folders / f"ir/{name}.png")
        )
        labels = pipeline(pair).labels
        assert labels is not None
        matrices["net"].update(resize_labels(labels, SIZE), truth)
        matrices["corner"].update(read_infrared(masks / f"{name}.png"), truth)
    summary = json.loads((output / "summary.json").read_text())["masks"]
    assert (summary["class_set"], summary["pairs"]) == ("mfnet", 3)
    for name, matrix in matrices.items():
        found = summary["methods"][name]
        assert found["mIoU"] == pytest.approx(matrix.mean_iou())
        assert found["accuracy"] == pytest.approx(np.trace(matrix.counts) / matrix.counts.sum())
        ious = [found["classes"][c]["IoU"] for c in MFNET.names]
        np.testing.assert_allclose(np.array(ious, float), matrix.iou())
    assert summary["methods"]["corner"]["classes"]["bike"]["accuracy"] > 0.9
    # Only the weights have fused images; the folder's rows have masks alone.
    table = rows(output)
    assert {row["method"]: row["EN"] == "nan" for row in table} == {"net": False, "corner": True}


def test_pseudo_labels_are_named_in_every_file(with_masks: tuple[Path, Path]) -> None:
    _, output = with_masks
    assert "mIoU (pseudo-labels)" in (output / "scores.csv").read_text().splitlines()[0]
    assert "not ground truth" in (output / "index.html").read_text()
    assert "not ground truth" in (output / "summary.json").read_text()


def test_masks_with_other_ids_are_rejected(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "mine/b.png", np.full(SIZE, 9, np.uint8))
    words = ("--masks", tmp_path / "mine", "--fused", folders / "copy", *QUICK)
    labels = ("--labels", folders / "labels")
    assert run(folders, tmp_path / "out", *words, *labels, "--classes", "mfnet") == 1
    message = capsys.readouterr().err
    assert f"'{tmp_path / 'mine/b.png'}': ids 9 are not of 'mfnet'" in message
    assert run(folders, tmp_path / "out", *words, *labels, "--classes", "pst900") == 1
    assert run(folders, tmp_path / "out", *words, *labels) == 1
    assert "--classes is missing" in capsys.readouterr().err
    assert run(folders, tmp_path / "out", *words) == 1
    assert "--labels, --boxes or --points: all are missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to evaluate"),
        (["--fused", "copy", "--fused", "copy=average"], "'copy' and 'copy' need names that"),
        (["--fused", "a b=copy", "--fused", "A_b=copy"], "'a b' and 'A_b' need names that"),
        (["--fused", "."], "no images in it"),
        (["--fused", "copy", "--metrics", "EN", "XY"], "metric XY is unknown; known: EN"),
        (["--fused", "copy", "--metrics", "EN", "EN"], "one is given twice"),
        (["--fused", "nowhere"], "no such folder"),
        (["--fused", "copy", "--metrics", "EN", "--rank-by", "SD"], "rank by SD: not among"),
    ],
)
def test_bad_options(
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folders)
    assert run(folders, tmp_path / "out", *words) == 1
    assert message in capsys.readouterr().err


def test_folders_without_common_names(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "mine/other.png", smooth(1, 1))
    assert run(folders, tmp_path / "out", "--fused", tmp_path / "mine") == 1
    assert "none is named as a pair, such as 'a'" in capsys.readouterr().err
    for name, method in (("a", "first"), ("b", "second")):
        write_image(tmp_path / method / f"{name}.png", smooth(1, 1))
    words = ("--fused", tmp_path / "first", "--fused", tmp_path / "second", *QUICK)
    assert run(folders, tmp_path / "out", *words) == 1
    assert "image of every method: first 1, second 1" in capsys.readouterr().err


def test_grey_equals_that_of_pil() -> None:
    image = pytest.importorskip("PIL.Image")
    colours = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    expected = np.array(image.fromarray(colours).convert("L"))
    np.testing.assert_array_equal(to_grey(colours, "pil"), expected)
    assert (to_grey(colours, "opencv") != expected).any()
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    np.testing.assert_array_equal(to_grey(grey, "pil"), grey[..., 0])


def test_names_of_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_name("SeAFusion=out/sea") == ("SeAFusion", "out/sea")
    assert split_name("out/sea") == (None, "out/sea")
    (tmp_path / "lr=0.1").mkdir()
    assert split_name("lr=0.1") == (None, "lr=0.1")
    with pytest.raises(ValueError, match="expected NAME=PATH"):
        split_name("=out")


def table(values: list[list[list[float]]]) -> Scores:
    """Return scores from M x P x 2 values: of one metric higher is better, of the other lower."""
    metrics = [Metric(name, name == "high", lambda *_: _[0]) for name in ("high", "low")]
    array = np.array(values, float)
    scores = Scores.empty("pqrst"[: array.shape[1]], "AB"[: len(array)], metrics)
    scores.values[:] = array
    scores.present[:] = ~np.isnan(array).all(axis=2)
    return scores


def test_means_and_best_by_hand() -> None:
    none = [np.nan, np.nan]
    scores = table([[[1, 5], [3, np.nan], none], [[2, 7], [6, 1], [100, 100]]])
    assert scores.common.tolist() == [True, True, False]
    np.testing.assert_allclose(scores.means(), [[2, 5], [4, 4]])
    assert scores.best().tolist() == [[False, False], [True, True]]
    summary = scores.summary(0)
    assert summary["low"]["undefined"] == 1
    assert summary["high"] == statistics(np.array([1.0, 3.0]))
    assert table([[[1, 5]]]).best().tolist() == [[False, False]]


def test_ranks_by_hand() -> None:
    scores = table([[[4, 1], [2, 1], [2, 3], [1, np.nan], [np.nan, np.nan]]])
    # high: 4 is first, the two 2s share ranks 2 and 3, 1 is last; low: the 1s share 1 and 2.
    np.testing.assert_allclose(scores.ranks(0, [0]), [0, 0.5, 0.5, 1, np.nan])
    np.testing.assert_allclose(scores.ranks(0, [1]), [0.25, 0.25, 1, np.nan, np.nan])
    np.testing.assert_allclose(scores.ranks(0), [0.125, 0.375, 0.75, 1, np.nan])


def test_a_method_without_images_does_not_count() -> None:
    present = np.array([[True, True, False], [False, False, False], [True, False, True]])
    assert common_pairs(present).tolist() == [True, False, False]


def test_statistics_by_hand() -> None:
    summary = statistics(np.array([1.0, 2.0, 3.0, 6.0, np.inf, np.nan]))
    assert (summary["mean"], summary["median"]) == (3, 2.5)
    assert summary["sd"] == pytest.approx((14 / 3) ** 0.5)
    assert (summary["values"], summary["undefined"]) == (4, 2)
    assert summary["p25"] == pytest.approx(1.75)
    assert statistics(np.array([2.0]))["sd"] is None
    assert statistics(np.array([np.nan]))["mean"] is None


def test_ivif_zoos_convention_is_passed_on() -> None:
    images = [smooth(s, 1) for s in range(3)]
    for convention in ("sum", "ivif_zoo"):
        [metric] = find_metrics(["VIF"], convention)
        expected = fusion_metrics(*images, ["VIF"], convention=convention)["VIF"]
        assert metric.score(*images, images[2]) == expected
        assert find_metrics(["VIF"])[0].score(*images, images[2]) != expected


def test_metrics_without_references(
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pyiqa")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    words = ("--fused", folders / "copy", "--metrics", "BRISQUE", "EN", "--examples", 0)
    assert run(folders, tmp_path / "out", *words) == 1
    assert "metric 'BRISQUE': no weights at" in capsys.readouterr().err
    weights = weights_directory() / NO_REFERENCE_METRICS["BRISQUE"].weights
    weights.parent.mkdir(parents=True)
    torch.save((torch.rand(5), torch.rand(5, 36)), weights)  # of the shapes of the true weights
    assert run(folders, tmp_path / "out", *words) == 0
    for row in rows(tmp_path / "out"):
        color = read_visible(folders / f"copy/{row['pair']}.png")
        expected = no_reference_metrics(color, ["BRISQUE"], weights=weights.parent)
        assert float(row["BRISQUE"]) == pytest.approx(expected["BRISQUE"], rel=1e-4)
    assert "BRISQUE ↓" in capsys.readouterr().out
