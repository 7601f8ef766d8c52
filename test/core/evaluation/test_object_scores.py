"""Tests of scores by boxes and points, of recall at a precision, and of damaged images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from ivf_core.class_sets import CAMVID, MFNET, PST900, STREET, UNLABELED
from ivf_core.cli import main
from ivf_core.data.pairs import PairFiles
from ivf_core.data.points import PointLabel
from ivf_core.evaluation.appearance_scores import AppearanceScorer
from ivf_core.evaluation.box_scores import BoxFiles, BoxScorer
from ivf_core.evaluation.class_matching import (
    check_comparable,
    comparable_ids,
    true_ids,
    void_ids,
)
from ivf_core.evaluation.folders import PairImages
from ivf_core.evaluation.grid import Cell, Grid, Share
from ivf_core.evaluation.methods import Method
from ivf_core.evaluation.operating_points import MarginCounts, logit_function
from ivf_core.evaluation.pair_lists import match_sources, select_pairs, times_of_day
from ivf_core.evaluation.point_scores import PointScorer
from ivf_core.evaluation.stress import CLEAN, CONDITIONS, CameraBoxes, StressScorer
from ivf_core.images.files import write_image
from ivf_core.images.videos import VideoWriter
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.models.checkpoints import load_model

SIZE = (100, 200)
PERSON, BICYCLE, CAR = (STREET.names.index(name) for name in ("person", "bicycle", "car"))
METHOD = Method("net", "net", class_set=STREET)


def pair(name: str) -> PairFiles:
    return PairFiles(name, Path(f"vi/{name}.png"), Path(f"ir/{name}.png"))


def images(size: tuple[int, int] = SIZE) -> PairImages:
    return PairImages(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8))


def yolo(folder: Path, name: str, boxes: Sequence[tuple[int, int, int, int, int]]) -> Path:
    """Write boxes of class, left, top, right and bottom in pixels."""
    lines = [
        f"{kind} {(a + c) / 2 / SIZE[1]} {(b + d) / 2 / SIZE[0]} "
        f"{(c - a) / SIZE[1]} {(d - b) / SIZE[0]}"
        for kind, a, b, c, d in boxes
    ]
    path = folder / f"{name}.txt"
    path.write_text("\n".join(lines))
    return path


def row(grid: Grid, *heads: str) -> dict[str, Cell]:
    titles = [*grid.heads, *grid.columns]
    [found] = [r for r in grid.rows if tuple(r[: len(heads)]) == heads]
    return dict(zip(titles, found, strict=True))


def test_boxes_by_class_size_and_time(tmp_path: Path) -> None:
    files = {
        "1D": yolo(tmp_path, "1D", [(0, 0, 0, 10, 30), (0, 50, 0, 60, 40), (2, 100, 0, 150, 50)]),
        "2N": yolo(tmp_path, "2N", [(0, 0, 10, 20, 91)]),
        "3N": yolo(tmp_path, "3N", []),
    }
    times = times_of_day([*files, "4N"], {})
    scorer = BoxScorer([METHOD], BoxFiles(files), times)
    first = np.full(SIZE, UNLABELED, np.uint8)
    first[0:30, 0:10] = PERSON
    first[0:20, 100:150] = CAR
    second = np.full(SIZE, UNLABELED, np.uint8)
    second[0:10, 0:20] = PERSON  # above the box, in which the next one is
    second[10:20, 0:20] = PERSON  # 200 of 1620 pixels
    third = np.full(SIZE, CAR, np.uint8)
    for name, mask in (("1D", first), ("2N", second), ("3N", third), ("4N", third)):
        scorer.add(pair(name), images(), {"net": mask})
    [grid] = scorer.grids()
    person = row(grid, "net", "person")
    assert person["recall"] == Share(1, 3)
    assert person["under 40 px"] == Share(1, 1)
    assert person["40 to 80 px"] == Share(0, 1)
    assert person["over 80 px"] == Share(0, 1)
    assert (person["day"], person["night"]) == (Share(1, 2), Share(0, 1))
    assert person["precision"] == pytest.approx(500 / 700)
    assert person["false per pair"] == 0
    car = row(grid, "net", "car")
    assert car["recall"] == Share(1, 1)
    assert car["precision"] == pytest.approx(1000 / (1000 + 20000))
    assert car["false per pair"] == pytest.approx(1 / 3)
    # A missed person in the first pair, one in the second, a false car; the fourth has no boxes.
    assert [scorer.errors("net", name) for name in ("1D", "2N", "3N", "4N")] == [1, 1, 1, 0]
    assert "3 pairs have boxes." in grid.notes


def test_classes_map_by_name_and_missing_ones_are_named(tmp_path: Path) -> None:
    files = BoxFiles({"a": yolo(tmp_path, "a", [(1, 0, 0, 50, 50), (2, 100, 0, 150, 50)])})
    mask = np.zeros(SIZE, np.uint8)
    mask[0:50, 0:50] = MFNET.names.index("bike")
    mfnet = Method("net", "net", class_set=MFNET)
    pst900 = Method("other", "other", class_set=PST900)
    scorer = BoxScorer([mfnet, pst900], files, {})
    ids = {"net": mfnet.street_ids(mask), "other": pst900.street_ids(np.zeros(SIZE, np.uint8))}
    scorer.add(pair("a"), images(), ids)
    [grid] = scorer.grids()
    assert row(grid, "net", "bicycle")["recall"] == Share(1, 1)
    assert row(grid, "net", "car")["recall"] == Share(0, 1)
    assert {r[0] for r in grid.rows} == {"net"}
    assert any("'other' has no class person, 'other' has no class bicycle" in n for n in grid.notes)


def test_xml_boxes_of_m3fd(tmp_path: Path) -> None:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>9</xmax>"
        "<ymax>9</ymax></bndbox></object>"
        for name in ("People", "Lamp", "Bus", "Motorcycle")
    )
    (tmp_path / "a.xml").write_text(f"<annotation>{objects}</annotation>")
    boxes = BoxFiles({"a": tmp_path / "a.xml"}).read("a", SIZE)
    assert [box.name for box in boxes] == ["person", "truck", "bicycle"]


def test_points_by_class_kind_and_time() -> None:
    mask = np.full(SIZE, UNLABELED, np.uint8)
    mask[:, :100] = STREET.names.index("road")
    mask[0, 150] = CAR
    points = [PointLabel("day", "uniform", x, 5, "road") for x in range(90, 106)]  # 10 of 16
    points += [PointLabel("day", "uniform", x, 5, "sky") for x in range(14)]
    points += [PointLabel("day", "object", 150, 0, "car"), PointLabel("day", "object", 0, 0, "car")]
    points += [PointLabel("night", "uniform", 0, 0, "other")]
    scorer = PointScorer([METHOD], {"a": points})
    scorer.add(pair("a"), images(), {"net": mask})
    means, classes, confusions = scorer.grids()
    uniform = row(means, "net", "uniform", "day")
    assert uniform["mean over classes"] == pytest.approx(10 / 16)  # the sky has but 14 points
    assert (uniform["classes"], uniform["accuracy"]) == (1, Share(10, 30))
    both = row(means, "net", "both", "day")
    assert both["accuracy"] == Share(11, 32)
    assert row(means, "net", "uniform", "night")["not scored"] == 1
    assert row(classes, "net", "object", "day")["car"] == Share(1, 2)
    assert row(confusions, "net", "sky")["road"] == 14
    assert row(confusions, "net", "road")["none"] == 6
    outside = PointScorer([METHOD], {"a": [PointLabel("day", "uniform", 200, 0, "road")]})
    with pytest.raises(ValueError, match=r"'a': \(200, 0\) is outside the image"):
        outside.add(pair("a"), images(), {"net": mask})


def test_points_of_classes_that_weights_lack() -> None:
    method = Method("net", "net", class_set=MFNET)
    scorer = PointScorer([method], {"a": [PointLabel("day", "uniform", 0, 0, "road")] * 20})
    scorer.add(pair("a"), images(), {"net": method.street_ids(np.zeros(SIZE, np.uint8))})
    means = scorer.grids()[0]
    assert row(means, "net", "uniform", "day")["not scored"] == 20
    assert any("'net' has no class road, building" in note for note in means.notes)


def test_camvid_labels_and_street_masks() -> None:
    """Pole and sign, pedestrian and bicyclist are one class of the street each; void is open."""
    names = ("pole", "sign", "bicyclist", "bicyclist", "pedestrian", "void", "car", "sky")
    labels = np.array([[CAMVID.names.index(name) for name in names]], np.uint8)
    predicted = ("pole", "pole", "person", "bicycle", "bicycle", "road", "truck", None)
    ids = [UNLABELED if n is None else STREET.names.index(n) for n in predicted]
    found = comparable_ids(np.array([ids], np.uint8), labels, CAMVID)
    expected = ("pole", "sign", "bicyclist", "bicyclist", "bicyclist", "road", "car", "void")
    assert [CAMVID.names[i] for i in found[0]] == list(expected)
    matrix = ConfusionMatrix(len(CAMVID), void=void_ids(CAMVID))
    matrix.update(found, true_ids(labels, CAMVID))
    # By class: sky 0/1, pole 1, sign 1, car 1, pedestrian 0/1, bicyclist 2/3.
    assert matrix.mean_iou() == pytest.approx((0 + 1 + 1 + 1 + 0 + 2 / 3) / 6)
    check_comparable("net", STREET, CAMVID)
    with pytest.raises(ValueError, match="'net' has the classes 'mfnet', not 'street'"):
        check_comparable("net", MFNET, STREET)


def test_recall_at_a_precision() -> None:
    margins = np.full((10, 10), -5, np.float32)
    margins[0:4, 0:4] = np.arange(16).reshape(4, 4)  # in the box; the fifth largest is 11
    margins[9, 0:3] = (2.5, 3.5, 20.5)
    counts = MarginCounts()
    counts.add(margins, np.array([[0, 0, 4, 4]], float), "day")
    assert counts.boxes == [("day", 11.0)]
    assert counts.precision(0.0) == pytest.approx(16 / 19)
    # Pixels above 3.5 (offset -3.505): 12 of 13; with 2.5 and 3.5: 13 of 15 and 14 of 16.
    assert counts.offset(12 / 13) == pytest.approx(-3.51)
    assert counts.precision(counts.offset(12 / 13)) >= 12 / 13
    assert counts.recall(-10.99) == Share(1, 1)
    assert counts.recall(-11.0) == Share(0, 1)
    assert counts.recall(0.0, "night") == Share(0, 0)
    assert np.isnan(MarginCounts().offset(0.5))


def test_logits_agree_with_masks(tiny_weights: Path) -> None:
    random = np.random.default_rng(0)
    visible = random.integers(0, 256, (64, 81, 3), np.uint8)
    infrared = random.integers(0, 256, (64, 81), np.uint8)
    pipeline = FusionPipeline(str(tiny_weights), engine="torch", device="cpu", precision="fp32")
    labels = pipeline(ImagePair(visible, infrared)).labels
    logits = logit_function(str(tiny_weights))(visible, infrared)
    assert logits.shape == (len(MFNET), 32, 40)
    np.testing.assert_array_equal(logits.argmax(axis=0), labels)


def test_appearance_by_time_and_of_people(tmp_path: Path) -> None:
    boxes = BoxFiles({"1D": yolo(tmp_path, "1D", [(0, 50, 20, 90, 80)])})
    scorer = AppearanceScorer([METHOD], {"1D": "day", "2N": "night"}, boxes)
    day = images()
    day.visible[20:80, 50:90] = 100
    day.fused["net"] = np.full((*SIZE, 3), 120, np.uint8)
    night = images()
    night.fused["net"] = np.full((*SIZE, 3), 255, np.uint8)
    for name, one in (("1D", day), ("2N", night)):
        scorer.add(pair(name), one, {})
    [grid] = scorer.grids()
    assert row(grid, "net", "day")["contrast kept"] == Share(0, 1)
    assert row(grid, "net", "day")["brighter %"] == 100
    assert row(grid, "net", "all")["burnt %"] == 50
    assert row(grid, "net", "all")["RGB burnt %"] == 0


def test_damages() -> None:
    visible = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    infrared = np.random.default_rng(2).integers(0, 200, SIZE, np.uint8)
    damaged = {
        name: damage(visible, infrared, np.random.default_rng(0))
        for name, damage in CONDITIONS.items()
    }
    assert not damaged["thermal black"][1].any()
    assert (damaged["thermal black-hot"][1].astype(int) + infrared == 255).all()
    shifted = damaged["thermal shifted 24 px"][1]
    np.testing.assert_array_equal(shifted[:, 24:], infrared[:, :-24])
    np.testing.assert_array_equal(shifted[:, :24], np.repeat(infrared[:, :1], 24, axis=1))
    salted = damaged["thermal 10 % salt"][1]
    changed = salted != infrared
    assert (salted[changed] == 255).all()
    assert abs(changed.mean() - 0.1) < 5 * (0.1 * 0.9 / infrared.size) ** 0.5
    assert not damaged["RGB black"][0].any()
    assert (damaged["RGB saturated"][0] == 255).all()
    assert damaged["both half size"][0].shape == (50, 100, 3)
    for name, (first, second) in damaged.items():
        assert first.dtype == second.dtype == np.uint8, name
        if name.startswith("thermal"):
            assert first is visible, name


def test_stress_compares_with_the_clean_mask(tiny_weights: Path, tmp_path: Path) -> None:
    one = images()
    one.visible[:] = np.random.default_rng(3).integers(0, 256, one.visible.shape)
    one.infrared[:] = np.random.default_rng(4).integers(0, 256, SIZE)
    # An untrained network that calls half of the pixels people.
    model, person = load_model(tiny_weights), MFNET.names.index("person")
    assert model.head is not None
    logits = logit_function(str(tiny_weights))(one.visible, one.infrared)
    margins = np.delete(logits, person, axis=0).max(axis=0) - logits[person]
    model.head.raise_class(person, float(np.median(margins)))
    pipeline = FusionPipeline(model, engine="torch", device="cpu", precision="fp32")
    method = Method("net", str(tiny_weights), pipeline=pipeline, class_set=pipeline.class_set)
    boxes = BoxFiles({"a": yolo(tmp_path, "a", [(0, 0, 0, 200, 100)])})
    scorer = StressScorer([method], CameraBoxes(boxes, visible=boxes))

    def mask(damage: str) -> np.ndarray:
        changed = CONDITIONS[damage](one.visible, one.infrared, np.random.default_rng(0))
        labels = pipeline(ImagePair(*changed)).labels
        assert labels is not None
        return method.street_ids(resize_labels(labels, SIZE))

    clean = mask(CLEAN)
    scorer.add(pair("a"), one, {"net": clean})
    [grid] = scorer.grids()
    black = mask("thermal black") == PERSON
    clean_people = clean == PERSON
    assert 0 < clean_people.mean() < 1
    found = row(grid, "net", "thermal black")
    both, either = (black & clean_people).sum(), (black | clean_people).sum()
    assert found["person IoU"] == pytest.approx(both / either)
    assert found["person area"] == pytest.approx(black.sum() / clean_people.sum())
    assert found["RGB's people"] == Share(int(black.mean() > 0.25), 1)
    assert row(grid, "net", CLEAN)["person IoU"] == 1
    assert len(grid.rows) == len(CONDITIONS)


def write_pairs(root: Path, names: Sequence[str]) -> None:
    for seed, name in enumerate(names):
        random = np.random.default_rng(seed)
        smooth = cv2.GaussianBlur(random.integers(0, 256, (*SIZE, 4), np.uint8), (0, 0), 4)
        smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
        write_image(root / f"vi/{name}.png", np.ascontiguousarray(smooth[..., :3]))
        write_image(root / f"ir/{name}.png", np.ascontiguousarray(smooth[..., 3]))


def run(root: Path, *words: object) -> int:
    command = ["evaluate", "--visible", root / "vi", "--output", root / "out", "--metrics"]
    return main([str(word) for word in (*command, "--device", "cpu", *words)])


def summary(root: Path) -> Mapping:
    return json.loads((root / "out/summary.json").read_text())


def test_the_command_writes_every_table(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path, ["1D", "2D", "3N"])
    (tmp_path / "boxes").mkdir()
    for name in ("1D", "3N"):
        yolo(tmp_path / "boxes", name, [(0, 10, 10, 40, 90), (2, 100, 20, 180, 90)])
    (tmp_path / "points.csv").write_text(
        "set,stem,time,kind,x,y,label\ns,1D,day,uniform,3,4,road\ns,3N,dusk,object,9,9,car\n"
    )
    words = (
        "--infrared", tmp_path / "ir", "--boxes", tmp_path / "boxes", "--points",
        tmp_path / "points.csv", "--weights", f"net={tiny_weights}", "--annotated", "--stress",
        "--boxes-visible", tmp_path / "boxes", "--sweep", "person=0.05", "--examples", 2,
    )  # fmt: skip
    assert run(tmp_path, *words) == 0
    written = summary(tmp_path)
    assert written["scored_pairs"] == ["1D", "3N"]
    tables = written["tables"]
    assert {*tables} >= {"boxes", "points", "points_by_class", "operating_points", "stress"}
    person = tables["boxes"]["rows"][0]
    assert (person["class"], person["recall"]["total"]) == ("person", 2)
    # The time of day comes from the points where there are any, else from the name.
    assert (person["day"]["total"], person["dusk"]["total"]) == (1, 1)
    sweep = tables["operating_points"]["rows"][0]
    assert sweep["recall at 0"]["hits"] == person["recall"]["hits"]
    if sweep["precision at 0"] is not None:
        assert sweep["precision at 0"] == pytest.approx(person["precision"], abs=0.02)
    printed = capsys.readouterr().out
    markdown = (tmp_path / "out/tables.md").read_text()
    assert "| method | class | recall |" in markdown
    page = (tmp_path / "out/index.html").read_text()
    for title in ("Boxes: objects found", "Points: accuracy by class", "Damaged images"):
        assert title in page
        assert title in markdown
        assert title in printed
    assert "2 pairs were scored" in page


def test_one_camera_and_camvids_labels(tiny_weights: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a"])
    labels = np.full(SIZE, CAMVID.names.index("car"), np.uint8)
    labels[:50] = CAMVID.names.index("void")
    write_image(tmp_path / "labels/a.png", labels)
    words = (
        "--cameras", "visible", "--labels", tmp_path / "labels", "--classes", "camvid",
        "--weights", f"net={tiny_weights}",
    )  # fmt: skip
    assert run(tmp_path, *words) == 0
    pipeline = FusionPipeline(str(tiny_weights), device="cpu", precision="fp32")
    visible = cv2.cvtColor(cv2.imread(str(tmp_path / "vi/a.png")), cv2.COLOR_BGR2RGB)
    ids = pipeline(ImagePair(visible, np.zeros(SIZE, np.uint8))).labels
    assert ids is not None
    expected = (resize_labels(ids, SIZE)[50:] == MFNET.names.index("car")).mean()
    found = summary(tmp_path)["masks"]["methods"]["net"]
    assert found["classes"]["car"]["accuracy"] == pytest.approx(expected)
    assert found["classes"]["car"]["pixels"] == 50 * SIZE[1]
    assert found["classes"]["void"]["IoU"] is None
    assert run(tmp_path, *words[2:]) == 1


def test_frames_of_videos_and_flicker(tiny_weights: Path, tmp_path: Path) -> None:
    for camera, levels in (("visible", range(6)), ("infrared", range(6))):
        with VideoWriter(tmp_path / f"drive_{camera}.mp4", 25, (64, 96)) as writer:
            for level in levels:
                writer.write(np.full((64, 96, 3), 100 + level, np.uint8))
    sources = [[tmp_path / f"drive_{camera}.mp4"] for camera in ("visible", "infrared")]
    pairs, unmatched = match_sources(*sources)
    assert [pair.name for pair in pairs] == [f"drive_frame{n:03d}" for n in range(6)]
    assert not unmatched
    # In any order, as threads and sheets ask for them.
    levels = {n: int(pairs[n].read_infrared().mean()) for n in (0, 5, 3, 4, 1)}
    assert sorted(levels, key=levels.__getitem__) == [0, 1, 3, 4, 5]
    words = ["evaluate", "--visible", sources[0][0], "--infrared", sources[1][0], "--metrics"]
    words += ["--weights", f"net={tiny_weights}", "--output", tmp_path / "out", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    everything = summary(tmp_path)["tables"]["appearance"]["rows"][0]
    assert everything["pairs"] == 6
    assert everything["noisier source"] == pytest.approx(1, abs=0.5)
    assert everything["flicker ratio"] is not None
    assert main([str(word) for word in (*words, "--every", "2")]) == 0
    assert summary(tmp_path)["tables"]["appearance"]["rows"][0]["flicker ratio"] is None


def test_a_frozen_thermal_camera(tiny_weights: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    with (
        VideoWriter(tmp_path / "a_visible.mp4", 25, (64, 96)) as visible,
        VideoWriter(tmp_path / "a_infrared.mp4", 25, (64, 96)) as infrared,
    ):
        for _ in range(18):
            visible.write(random.integers(0, 256, (64, 96, 3), np.uint8))
            infrared.write(random.integers(0, 256, (64, 96, 3), np.uint8))
    words = ["evaluate", "--visible", tmp_path / "a_visible.mp4", "--infrared"]
    words += [tmp_path / "a_infrared.mp4", "--weights", f"net={tiny_weights}", "--metrics"]
    words += ["--stress", "--every", 8, "--output", tmp_path / "out", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    rows = {row["images"]: row for row in summary(tmp_path)["tables"]["stress"]["rows"]}
    # Of the frames 0, 8 and 16, only the last one has a frame 15 frames before.
    assert rows["clean"]["pairs"] == 3
    assert rows["thermal frozen"]["pairs"] == 1


def test_masks_alone_are_scored(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a"])
    mask = np.zeros(SIZE, np.uint8)
    mask[10:40, 10:40] = PERSON
    write_image(tmp_path / "labels_by_hand/a.png", mask)
    (tmp_path / "boxes").mkdir()
    yolo(tmp_path / "boxes", "a", [(0, 10, 10, 40, 40)])
    words = (
        "--infrared", tmp_path / "ir", "--masks", f"ours={tmp_path / 'labels_by_hand'}",
        "--mask-classes", "street", "--boxes", tmp_path / "boxes",
    )  # fmt: skip
    assert run(tmp_path, *words) == 0
    person = summary(tmp_path)["tables"]["boxes"]["rows"][0]
    assert (person["method"], person["recall"]["share"], person["precision"]) == ("ours", 1, 1)


def test_selection_of_pairs() -> None:
    pairs = [pair(name) for name in "abcdef"]
    assert [p.name for p in select_pairs(pairs, every=3)] == ["a", "d"]
    assert [p.name for p in select_pairs(pairs, stems=["e", "b", "c"], every=2)] == ["b", "e"]
    assert [p.name for p in select_pairs(pairs, annotated={"c", "x"})] == ["c"]
    with pytest.raises(ValueError, match="no pair is named x"):
        select_pairs(pairs, stems=["a", "x"])
    with pytest.raises(ValueError, match="none of 6 pairs remains"):
        select_pairs(pairs, annotated={"x"})


def test_sources_that_do_not_fit(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a"])
    vi, ir = tmp_path / "vi", tmp_path / "ir"
    with pytest.raises(ValueError, match="2 visible and 1 infrared sources"):
        match_sources([vi, vi], [ir])
    with pytest.raises(ValueError, match="need names that differ"):
        match_sources([vi, vi], [ir, ir])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--annotated"], "--annotated: give --boxes or --points"),
        (["--sweep"], "--sweep needs --boxes"),
        (["--boxes", "nowhere"], "boxes 'nowhere': no such folder"),
        (["--points", "nowhere"], "points 'nowhere': cannot be read"),
        (["--pairs", "nowhere"], "names of pairs 'nowhere': cannot be read"),
        (["--stress"], "stress: no method has weights with a head"),
    ],
)
def test_bad_options(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path, ["a"])
    assert run(tmp_path, "--infrared", tmp_path / "ir", "--fused", tmp_path / "vi", *words) == 1
    assert message in capsys.readouterr().err


@pytest.mark.data
def test_msrs_boxes_and_points(data: Path, tmp_path: Path) -> None:
    """The default weights find most large people of the first pairs."""
    words = [
        "evaluate", "--visible", data / "msrs/visible", "--infrared", data / "msrs/infrared",
        "--boxes", data / "msrs/boxes/fusion", "--points", data / "points/points.csv",
        "--weights", "clear", "--every", 28, "--metrics", "--examples", 0,
        "--output", tmp_path / "out", "--device", "cpu",
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    person = summary(tmp_path)["tables"]["boxes"]["rows"][0]
    assert person["class"] == "person"
    assert person["over 80 px"]["share"] > 0.5
    assert person["precision"] > 0.5
