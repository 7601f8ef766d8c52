"""Tests of labels of several teachers: votes, boxes, seeds, fusion, and the run that writes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ivf_core.class_sets import STREET, UNLABELED
from ivf_core.images.files import read_labels, write_image
from ivf_core.training.runs.recipe import load_recipe
from ivf_core.training.segmentation.fused_labels.campaign import make_labels
from ivf_core.training.segmentation.fused_labels.cold_sky import find_cold_sky
from ivf_core.training.segmentation.fused_labels.evidence import Evidence, vote_labels
from ivf_core.training.segmentation.fused_labels.flow import vote_along_flow
from ivf_core.training.segmentation.fused_labels.fusion import agreed_boxes, fuse
from ivf_core.training.segmentation.fused_labels.networks import (
    Boxes,
    NetworkError,
    keep_best_boxes,
    open_network,
)
from ivf_core.training.segmentation.fused_labels.options import (
    FusionOptions,
    GivenLabels,
    LabelRecipe,
    LabelSet,
)
from ivf_core.training.segmentation.fused_labels.reliability import (
    OTHER,
    Counts,
    Point,
    count,
    read_points,
)
from ivf_core.training.segmentation.fused_labels.scores import FUSED, LabelScores
from ivf_core.training.segmentation.fused_labels.seeds import grow_seed, warm_region
from ivf_core.training.segmentation.fused_labels.sources import (
    LabelSource,
    Truth,
    brighten,
    is_night,
    read_published_boxes,
)

ROOT = Path(__file__).parents[4]
DATA = Path(os.environ.get("IVF_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "teachers").is_dir(), reason=f"no real data at {DATA} (set IVF_DATA)"
)
ROAD, BUILDING, SKY = (STREET.names.index(name) for name in ("road", "building", "sky"))
PERSON, BICYCLE, CAR, TRUCK = (
    STREET.names.index(name) for name in ("person", "bicycle", "car", "truck")
)
SIZE = (60, 80)


def boxes_of(*entries: tuple[float, float, float, float, float, int]) -> Boxes:
    table = np.array(entries, np.float32).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].astype(np.uint8))


def street_scene() -> np.ndarray:
    """Return labels of a sky above a road."""
    labels = np.full(SIZE, SKY, np.uint8)
    labels[30:] = ROAD
    return labels


def evidence_of(**fields: Any) -> Evidence:
    visible = np.zeros((*SIZE, 3), np.uint8)
    visible[30:] = 120
    return Evidence(**{"visible": visible, "infrared": None, "night": False, **fields})


def trusted(*teachers: str, rate: float = 0.95, night: bool = False) -> Counts:
    """Return counts of teachers that are right at a rate, for all classes and scores."""
    counts = Counts()
    for teacher in teachers:
        counts.votes[teacher][int(night)] = (1000 * rate, 1000)
        counts.boxes[teacher][int(night)] = (1000 * rate, 1000)
    return counts


def fused_of(evidence: Evidence, counts: Counts, **options: Any) -> np.ndarray:
    fused = fuse(
        evidence, counts.vote_rates(), counts.box_rates(), FusionOptions(edge_radius=0, **options)
    )
    assert not fused.confidence[fused.labels == UNLABELED].any()
    return fused.labels


# Votes


def test_the_more_reliable_teacher_wins_and_rates_are_by_class_and_time() -> None:
    good, bad = street_scene(), np.full(SIZE, BUILDING, np.uint8)
    counts = trusted("good", rate=0.9)
    counts.add(trusted("bad", rate=0.3))
    counts.add(trusted("bad", rate=0.99, night=True))
    votes = {"good": vote_labels(good), "bad": vote_labels(bad)}
    np.testing.assert_array_equal(fused_of(evidence_of(votes=votes), counts), good)
    by_night = fused_of(evidence_of(votes=votes, night=True), counts)
    assert (by_night == BUILDING).all()
    counts.votes["good"][0, SKY] = (100, 1000)  # poor for the sky alone
    counts.votes["bad"][0, BUILDING] = (700, 1000)
    by_class = fused_of(evidence_of(votes=votes), counts)
    assert (by_class[:30] == BUILDING).all()
    assert (by_class[30:] == ROAD).all()


def test_pixels_without_votes_or_with_equal_ones_are_ignored() -> None:
    labels = street_scene()
    labels[:, :10] = UNLABELED
    votes = {"one": vote_labels(labels), "other": vote_labels(np.full(SIZE, ROAD, np.uint8))}
    votes["other"][:, :, :10] = 0
    fused = fused_of(evidence_of(votes=votes), trusted("one", "other"), minimum=0.6)
    assert (fused[:, :10] == UNLABELED).all()
    assert (fused[:30, 10:] == UNLABELED).all()
    assert (fused[30:, 10:] == ROAD).all()


def test_absent_classes_give_way_to_the_next() -> None:
    votes = {"one": vote_labels(street_scene()), "other": vote_labels(np.full(SIZE, 1, np.uint8))}
    counts = trusted("one", rate=0.95)
    counts.add(trusted("other", rate=0.8))
    fused = fused_of(evidence_of(votes=votes, absent=(ROAD,)), counts)
    assert (fused[30:] == 1).all()
    assert (fused[:30] == SKY).all()


def test_small_counts_shrink_towards_the_mean_of_the_teacher() -> None:
    counts = trusted("a", rate=0.9)
    counts.votes["a"][0, ROAD] = (0, 1)
    counts.votes["a"][0, SKY] = (0, 1000)
    rates = counts.vote_rates().of("a", night=False)
    assert 0.7 < rates[ROAD] < 0.9
    assert rates[SKY] < 0.05
    assert counts.vote_rates().of("unknown", night=False).tolist() == [0.6] * len(STREET)


def test_counts_of_points_and_boxes_by_hand_and_taken_away_again() -> None:
    labels = street_scene()
    labels[40:50, 20:40] = CAR
    evidence = evidence_of(
        votes={"a": vote_labels(labels)},
        boxes={"d": boxes_of((20, 40, 40, 50, 0.9, CAR), (60, 40, 70, 50, 0.3, CAR))},
        published=boxes_of((20, 40, 30, 50, 1, CAR), (22, 40, 40, 50, 1, CAR)),
    )
    points = [Point(False, "uniform", 5, 5, SKY), Point(False, "uniform", 5, 40, SKY),
              Point(False, "uniform", 8, 40, OTHER)]  # fmt: skip
    counts = count(evidence, points)
    assert counts.votes["a"][0, SKY].tolist() == [1, 1]
    assert counts.votes["a"][0, ROAD].tolist() == [0, 2]
    assert counts.votes["a"][0, CAR].tolist() == [3, 3]  # one image weighs three points
    assert counts.boxes["d"][0, CAR].sum(0).tolist() == [1, 2]
    total = trusted("a", "d")
    before = total.votes["a"].copy()
    total.add(counts)
    total.add(counts, -1.0)
    np.testing.assert_allclose(total.votes["a"], before)


# Boxes


def test_no_object_outside_of_published_boxes_and_one_inside_each() -> None:
    labels = street_scene()
    labels[35:45, 5:25] = CAR  # published, below
    labels[35:45, 55:75] = CAR  # a false one
    published = boxes_of((5, 35, 25, 45, 1, CAR), (40, 10, 48, 40, 1, PERSON))
    evidence = evidence_of(votes={"a": vote_labels(labels)}, published=published)
    fused = fused_of(evidence, trusted("a"))
    assert (fused[35:45, 5:25] == CAR).mean() > 0.9
    assert not (fused[:, 50:] == CAR).any()
    person = fused[10:40, 40:48] == PERSON
    assert 0.3 < person.mean() < 0.9
    assert np.count_nonzero(fused == PERSON) == np.count_nonzero(person)


def test_a_car_needs_two_networks_and_votes() -> None:
    labels = street_scene()
    labels[35:50, 10:40] = CAR
    box = boxes_of((10, 35, 40, 50, 0.9, CAR))
    votes = {"a": vote_labels(labels)}
    counts = trusted("a", "x:visible", "x:infrared", "y:visible")

    def cars(**fields: Any) -> int:
        return np.count_nonzero(fused_of(evidence_of(**fields), counts) == CAR)

    assert cars(votes=votes, boxes={"x:visible": box, "y:visible": box}) > 300
    assert not cars(votes=votes, boxes={"x:visible": box})
    # One network on two cameras is one network.
    assert not cars(votes=votes, boxes={"x:visible": box, "x:infrared": box})
    without = {"a": vote_labels(street_scene())}
    assert not cars(votes=without, boxes={"x:visible": box, "y:visible": box})
    both = {"x:visible": box, "y:visible": box}
    assert not cars(votes=votes, boxes=both, absent=(CAR,))


def test_boxes_of_no_plausible_size_or_shape_are_no_objects() -> None:
    counts = trusted("a", "x:visible", "y:visible")
    for box, index in (((0, 5, 80, 60), CAR), ((20, 40, 50, 55), PERSON)):
        labels = street_scene()
        left, top, right, bottom = box
        labels[top:bottom, left:right] = index
        found = boxes_of((*box, 0.9, index))
        evidence = evidence_of(
            votes={"a": vote_labels(labels)}, boxes={"x:visible": found, "y:visible": found}
        )
        assert not (fused_of(evidence, counts) == index).any()


def test_boxes_that_agree_are_joined_and_doubtful_ones_are_not_objects() -> None:
    counts = trusted("x:visible", "y:visible", rate=0.95)
    counts.add(trusted("z:infrared", rate=0.5))
    evidence = evidence_of(boxes={
        "x:visible": boxes_of((10, 10, 30, 30, 0.9, CAR)),
        "y:visible": boxes_of((12, 10, 32, 30, 0.9, TRUCK), (50, 10, 60, 30, 0.4, PERSON)),
        "z:infrared": boxes_of((10, 40, 20, 58, 0.4, PERSON)),
    })  # fmt: skip
    sure, doubtful = agreed_boxes(evidence, counts.box_rates(), FusionOptions())
    np.testing.assert_allclose(sure.corners[sure.classes != PERSON], [[11, 10, 31, 30]])
    assert (sure.classes == PERSON).sum() == 1  # one reliable network is enough for a person
    np.testing.assert_allclose(doubtful.corners, [[10, 40, 20, 58]])


def test_the_better_of_overlapping_boxes_of_a_class_stays() -> None:
    boxes = boxes_of(
        (0, 0, 10, 10, 0.5, CAR), (1, 0, 11, 10, 0.8, CAR), (0, 0, 10, 10, 0.4, PERSON),
        (5, 5, 5.5, 9, 0.9, CAR),
    )  # fmt: skip
    kept = keep_best_boxes(boxes)
    assert kept.classes.tolist() == [CAR, PERSON]
    np.testing.assert_array_equal(kept.scores, np.array([0.8, 0.4], np.float32))
    assert not len(keep_best_boxes(Boxes.empty()).scores)


def test_published_boxes_become_pixels_and_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("0 0.5 0.5 0.25 0.5\n\n2 0.125 0.25 0.25 0.5\n")
    boxes = read_published_boxes(path, SIZE)
    np.testing.assert_allclose(boxes.corners, [[30, 15, 50, 45], [0, 0, 20, 30]])
    assert boxes.classes.tolist() == [PERSON, CAR]
    path.write_text("")
    assert not len(read_published_boxes(path, SIZE).scores)
    path.write_text("0 0.5 0.5 0.25 0.5\n3 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ValueError, match=r"a\.txt', line 2: '3 0.5.*expected class 0, 1 or 2"):
        read_published_boxes(path, SIZE)


# Seeds


def test_a_warm_region_is_the_person_in_its_box() -> None:
    infrared = np.full(SIZE, 60, np.uint8)
    infrared[12:42, 32:40] = 140
    infrared[0:10, 0:10] = 250  # something hot elsewhere
    box = np.array((30, 10, 42, 44), np.float32)
    truth = infrared == 140
    warm = warm_region(infrared, box)
    assert warm is not None
    assert (warm & truth).sum() / (warm | truth).sum() > 0.85
    none = np.zeros(SIZE, np.float32)
    seed = grow_seed(box, PERSON, none, np.zeros((*SIZE, 3), np.uint8), infrared)
    np.testing.assert_array_equal(seed.mask, warm)
    assert warm_region(np.full(SIZE, 60, np.uint8), box) is None


def test_segmented_and_warm_parts_of_a_person_are_joined() -> None:
    infrared = np.full(SIZE, 60, np.uint8)
    infrared[12:30, 32:40] = 140  # the upper body is warm
    votes = np.zeros(SIZE, np.float32)
    votes[28:44, 32:40] = 0.9  # the legs are seen
    box = np.array((30, 10, 42, 44), np.float32)
    seed = grow_seed(box, PERSON, votes, np.zeros((*SIZE, 3), np.uint8), infrared)
    assert seed.mask[14:28, 33:39].all()
    assert seed.mask[30:42, 33:39].all()
    assert not seed.mask[:, :30].any()


@pytest.mark.parametrize(("index", "share"), [(CAR, (0.7, 0.95)), (BICYCLE, (0.5, 0.85))])
def test_without_votes_the_core_of_a_box_is_the_object(
    index: int, share: tuple[float, float]
) -> None:
    box = np.array((20, 15, 60, 45), np.float32)
    image = np.full((*SIZE, 3), 90, np.uint8)
    seed = grow_seed(box, index, np.zeros(SIZE, np.float32), image, None)
    inside = seed.mask[15:45, 20:60]
    assert share[0] < inside.mean() < share[1]
    assert seed.mask.sum() == inside.sum()
    assert seed.doubt[15:45, 20:60].all()  # the corners are ignored


def test_boxes_at_the_border_and_of_no_size_do_no_harm() -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    for corners in ((-5, -5, 3, 3), (78, 58, 90, 90), (10, 10, 10, 10), (0, 0, 80, 60)):
        for index in (PERSON, BICYCLE, CAR):
            seed = grow_seed(np.array(corners, np.float32), index, np.zeros(SIZE, np.float32),
                             image, image[..., 0])  # fmt: skip
            assert seed.mask.shape == SIZE


# Labels by hand, flow, light


def test_classes_that_labels_by_hand_merge_are_told_apart() -> None:
    labels = street_scene()
    riders, vehicles = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    riders[20:40, 30:40] = True
    vehicles[20:45, 50:75] = True
    labels[riders], labels[vehicles] = PERSON, CAR
    seen = np.full(SIZE, PERSON, np.uint8)
    seen[34:40] = BICYCLE
    seen[:, 60:75] = TRUCK
    truth = Truth(labels, riders, vehicles)
    votes = {"cityscapes:visible": vote_labels(seen)}
    fused = fused_of(evidence_of(truth=truth, votes=votes), Counts())
    assert (fused[20:31, 30:40] == PERSON).all()
    assert (fused[31:34, 30:40] == UNLABELED).all()
    assert (fused[34:40, 30:40] == BICYCLE).all()
    assert (fused[22:43, 62:73] == TRUCK).all()
    assert (fused[22:43, 51:58] == CAR).all()
    rest = ~riders & ~vehicles
    np.testing.assert_array_equal(fused[rest], labels[rest])
    # Without votes, labels stay as they are.
    np.testing.assert_array_equal(fused_of(evidence_of(truth=truth), Counts()), labels)


def test_merged_classes_of_camvid_are_read(tmp_path: Path) -> None:
    ids = np.array([[0, 8, 10], [9, 11, 255]], np.uint8)
    write_image(tmp_path / "a.png", ids)
    source = LabelSource("s", "a", tmp_path / "v.png", truth=("camvid", tmp_path / "a.png"))
    truth = source.read_truth()
    assert truth is not None
    assert truth.labels.tolist() == [[SKY, CAR, PERSON], [PERSON, 255, 255]]
    assert truth.riders.tolist() == [[False, False, True], [False] * 3]
    assert truth.vehicles.tolist() == [[False, True, False], [False] * 3]
    write_image(tmp_path / "b.png", np.array([[8]], np.uint8))
    other = LabelSource("s", "b", tmp_path / "v.png", truth=("street", tmp_path / "b.png"))
    read = other.read_truth()
    assert read is not None
    assert not read.ambiguous


def test_labels_move_with_the_image_and_neighbours_outvote_a_single_frame() -> None:
    texture = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (96, 160)).astype(np.uint8), (0, 0), 1.5
    )
    guides, labels, sure = [], [], []
    for frame in range(5):
        guides.append(np.roll(texture, 3 * frame, axis=1))
        ids = np.full(texture.shape, ROAD, np.uint8)
        ids[30:60, 40 + 3 * frame : 80 + 3 * frame] = CAR if frame != 2 else BUILDING
        labels.append(ids)
        sure.append(np.full(texture.shape, 200 if frame != 2 else 120, np.uint8))
    voted, confidence = vote_along_flow(guides, labels, sure)[2]
    inside = voted[35:55, 52:80]
    assert (inside == CAR).mean() > 0.95
    assert (voted[70:90, 30:120] == ROAD).all()
    assert confidence[70:90, 30:120].min() > 0
    # A frame alone keeps its labels.
    alone, _ = vote_along_flow(guides[:1], labels[:1], sure[:1])[0]
    np.testing.assert_array_equal(alone, labels[0])


def test_a_cold_sky_reaches_the_upper_border() -> None:
    infrared = np.full((120, 160), 150, np.uint8)
    infrared[:40] = 20
    infrared[10:30, 60:70] = 150  # a tree before the sky
    infrared[50:80, 20:60] = 20  # a cold window
    sky = find_cold_sky(infrared)
    truth = np.zeros((120, 160), bool)
    truth[:40] = True
    truth[10:30, 60:70] = False
    assert (sky & truth).sum() / (sky | truth).sum() > 0.6
    assert not (sky & ~truth).any()
    assert not find_cold_sky(infrared[::-1].copy())[:60].any()


def test_night_is_told_by_the_upper_third_and_dark_images_are_brightened() -> None:
    image = np.full((60, 80, 3), 20, np.uint8)
    assert is_night(image, 30)
    assert not is_night(image, 20)
    image[:20] = 200
    assert not is_night(image, 30)
    bright = brighten(np.full((60, 80, 3), 20, np.uint8))
    assert bright is not None
    assert 70 < bright.mean() < 110
    assert brighten(np.full((60, 80, 3), 120, np.uint8)) is None


# Scores


def test_scores_by_hand() -> None:
    scores = LabelScores()
    labels = street_scene()
    labels[40:50, 20:40] = CAR
    labels[50:60, 60:] = UNLABELED
    points = [
        Point(False, "uniform", 5, 5, SKY),
        Point(False, "uniform", 5, 40, BUILDING),
        Point(False, "uniform", 70, 55, ROAD),
        Point(True, "object", 30, 45, CAR),
    ]
    published = boxes_of((20, 40, 30, 50, 1, CAR), (60, 0, 80, 20, 1, CAR))
    scores.add_labels(labels, points, published, night=False)
    row = scores.point_row("day", "uniform", minimum=1)
    assert row["points"] == 3
    assert row["coverage"] == pytest.approx(2 / 3)
    assert row["accuracy"] == pytest.approx(1 / 2)
    assert row["mean over classes"] == pytest.approx(1 / 3)
    assert scores.point_row("night", "object")["accuracy"] == 1
    row = scores.box_row("day", "car")
    assert (row["boxes"], row["recall"], row["precision"]) == (2, 0.5, 0.5)
    assert np.isnan(scores.box_row("night", "car")["recall"])


def test_points_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    head = "set,stem,time,kind,x,y,label\n"
    path.write_text(head + "a,1,dusk,uniform,3,4,sky\na,1,night,object,5,6,other\n"
                           "a,2,day,uniform,0,0,unsure\n")  # fmt: skip
    assert read_points(path) == {
        ("a", "1"): [Point(False, "uniform", 3, 4, SKY), Point(True, "object", 5, 6, OTHER)]
    }
    path.write_text(head + "a,1,day,uniform,3,4,skye\n")
    with pytest.raises(ValueError, match=r"points\.csv'.*line 2: label 'skye'"):
        read_points(path)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="expected set, stem, time"):
        read_points(path)


# Runs


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write five pairs, labels of two teachers, boxes, points, and a network of a few nodes."""
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    random = np.random.default_rng(0)
    for number in range(5):
        name = f"{number}.png"
        image = random.integers(60, 90, (*SIZE, 3)).astype(np.uint8)
        image[30:] += 100
        write_image(tmp_path / "pairs/visible" / name, image)
        write_image(tmp_path / "pairs/infrared" / name, image[..., 0])
        labels = street_scene()
        write_image(tmp_path / "pairs/one" / name, labels)
        labels[:30, :20] = BUILDING
        write_image(tmp_path / "pairs/other" / name, labels)
        boxes = tmp_path / "pairs/boxes" / f"{number}.txt"
        boxes.parent.mkdir(exist_ok=True)
        boxes.write_text("2 0.5 0.75 0.25 0.25\n")
    (tmp_path / "points.csv").write_text(
        "set,stem,time,kind,x,y,label\n" + "".join(
            f"pairs,{n},day,uniform,5,5,sky\npairs,{n},day,uniform,5,50,road\n" for n in range(4)
        )
    )  # fmt: skip
    save_road_network(tmp_path / "networks")
    return tmp_path


def save_road_network(folder: Path) -> None:
    """Save a network in OpenVINO's format that calls what is bright road."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    image = ops.parameter((1, 3, *SIZE), np.float32)
    mean = ops.reduce_mean(image, ops.constant([1], dtype=np.int64), keep_dims=True)
    road = ops.clamp(
        ops.divide(
            ops.subtract(mean, ops.constant(np.float32(120))), ops.constant(np.float32(10))
        ),
        0.0, 1.0,
    )  # fmt: skip
    nothing = ops.multiply(road, ops.constant(np.float32(0)))
    planes = ops.concat([nothing, road, nothing, nothing], 1)
    folder.mkdir()
    model = openvino.Model([planes], [image])
    openvino.save_model(model, str(folder / "road-segmentation-adas-0001.xml"))


def recipe_of(data: Path, **options: Any) -> LabelRecipe:
    entry = LabelSet(
        name="pairs", visible=("pairs/visible",), infrared="pairs/infrared", boxes="pairs/boxes",
        given=(GivenLabels(name="one", folder="pairs/one", class_set="street"),
               GivenLabels(name="other", folder="pairs/other", class_set="street")),
    )  # fmt: skip
    fields = dict(sets=(entry,), output=str(data / "out"), networks="networks",
                  teachers=("road",), points="points.csv", sample=2)  # fmt: skip
    return LabelRecipe(**{**fields, **options})  # type: ignore[arg-type]


def written(data: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(data)): path.read_bytes()
        for kind in ("labels", "confidence", "sources")
        for path in (data / "out/pairs" / kind).glob("[!.]*")
    }


def test_a_run_labels_measures_and_keeps_what_it_made(data: Path) -> None:
    report = make_labels(recipe_of(data))
    assert (report.made, report.kept, report.failed) == (5, 0, [])
    labels = read_labels(data / "out/pairs/labels/0.png")
    confidence = read_labels(data / "out/pairs/confidence/0.png")
    assert (labels[50:, :20] == ROAD).all()
    assert (labels[:25, 40:] == SKY).all()
    assert (labels[38:52, 31:49] == CAR).mean() > 0.8  # the published box
    np.testing.assert_array_equal(confidence == 0, labels == UNLABELED)
    about = json.loads((data / "out/pairs/sources/0.json").read_text())
    assert about["teachers"] == ["road:visible", "one", "other"]
    row = report.scores[FUSED].box_row("day", "car")
    assert (row["boxes"], row["recall"], row["precision"]) == (5, 1, 1)
    assert report.scores["other"].point_row("day", "uniform")["accuracy"] == pytest.approx(0.5)
    page = (data / "out/index.html").read_text()
    for text in ("road:visible", "fused labels", "Published boxes", "pairs 4"):
        assert text in page
    before = written(data)
    again = make_labels(recipe_of(data))
    assert (again.made, again.kept) == (0, 5)
    assert written(data) == before
    assert again.scores[FUSED].box_row("day", "car") == row


def test_damaged_files_and_other_options_are_made_again(data: Path) -> None:
    make_labels(recipe_of(data, sample=0))
    before = written(data)
    (data / "out/pairs/labels/1.png").write_bytes(b"no image")
    (data / "out/pairs/sources/2.json").unlink()
    write_image(data / "out/pairs/confidence/3.png", np.zeros(SIZE, np.uint8))
    report = make_labels(recipe_of(data, sample=0))
    assert (report.made, report.kept) == (3, 2)
    assert written(data) == before
    for path in (data / "out/predictions").glob("road-*/*.npz"):
        path.write_bytes(path.read_bytes()[:40])
    other = recipe_of(data, sample=0, fusion=FusionOptions(minimum=0.99))
    assert make_labels(other).made == 5
    assert written(data) != before


@pytest.mark.parametrize("boxes", ["pairs/boxes", ""])
def test_broken_images_are_left_out_and_named(data: Path, boxes: str) -> None:
    write_image(data / "pairs/infrared/2.png", np.zeros((5, 5), np.uint8))
    write_image(data / "pairs/one/3.png", np.full(SIZE, 77, np.uint8))
    recipe = recipe_of(data, points="")
    entry = dataclasses.replace(recipe.sets[0], boxes=boxes)
    report = make_labels(dataclasses.replace(recipe, sets=(entry,)))
    assert report.made == 3
    assert len(report.failed) == 2
    assert "pairs 2" in report.failed[0]
    assert "5 x 5" in report.failed[0]
    assert "3.png': ids 77 are not of 'street'" in report.failed[1]
    assert sorted(path.stem for path in (data / "out/pairs/labels").iterdir()) == ["0", "1", "4"]


def test_a_killed_run_continues(data: Path) -> None:
    recipe = recipe_of(data, sample=0)
    make_labels(recipe)
    whole = written(data)
    for path in (data / "out/pairs").glob("*/*"):
        path.unlink()
    lines = (
        "import sys; from pathlib import Path; import test_fused_labels as t; "
        "t.make_labels(t.recipe_of(Path(sys.argv[1]), sample=0))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", lines, str(data)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
        stderr=subprocess.DEVNULL,
    )
    first = data / "out/pairs/sources"
    while process.poll() is None and not list(first.glob("[!.]*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (name, *_) = first.glob("[!.]*")
    (network, *_) = (data / "out/predictions").iterdir()
    leftovers = [
        first / f".{name.stem}.abcdefgh.json",
        data / f"out/pairs/labels/.{name.stem}.abcdefgh.png",
        network / f".{'0' * 64}.abcdefgh.npz",
    ]
    for path in leftovers:
        path.touch()
    report = make_labels(recipe)
    assert report.made + report.kept == 5
    assert report.kept >= 1
    assert not any(path.exists() for path in leftovers)
    assert written(data) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": ("cats",)}, "teachers: 'cats', known: cityscapes"),
        ({"sets": (LabelSet(name="a", visible=("x",)),) * 2}, "names must differ"),
    ],
)
def test_options_that_do_not_fit_are_named(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_of(tmp_path, **options)


def test_sets_and_networks_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for fields, message in (
        ({"visible": ("a",), "videos": "b"}, "either visible or videos"),
        ({"visible": ("a",), "truth": ("b", "c")}, "one folder of truth for each"),
        ({"visible": ("a",), "absent": ("x:cat",)}, "absent 'x:cat' is no class"),
        ({"visible": ("a",), "every": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelSet(name="s", **fields)  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match=r"yolox_nano\.onnx': no such file"):
        open_network("yolox", tmp_path)
    (tmp_path / "yolox_nano.onnx").write_bytes(b"no network")
    pytest.importorskip("openvino")
    with pytest.raises(NetworkError, match="OpenVINO cannot read it"):
        open_network("yolox", tmp_path).boxes(np.zeros((*SIZE, 3), np.uint8))


def test_the_recipe_that_ships_can_be_read() -> None:
    recipe = load_recipe(LabelRecipe, ROOT / "training/labels_street.yaml", ["fusion={temper: 1}"])
    assert [entry.name for entry in recipe.sets] == ["msrs", "roadscene", "tno", "camvid", "m3svd"]
    assert recipe.fusion.temper == 1


# Real networks on real images


@pytest.mark.data
@needs_data
def test_published_networks_find_the_people_and_the_road_of_a_day() -> None:
    pytest.importorskip("openvino")
    path = next((DATA / "msrs/visible").glob("00345D.*"))
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    published = read_published_boxes(DATA / "msrs/boxes/fusion/00345D.txt", image.shape[:2])
    people = published.corners[published.classes == PERSON]
    large = people[(people[:, 3] - people[:, 1]) > 100]
    assert len(large) >= 3
    for name in ("yolox", "nanodet", "person_vehicle_bike"):
        found = open_network(name, DATA / "teachers").boxes(image)
        centers = (found.corners[:, :2] + found.corners[:, 2:]) / 2
        for left, top, right, bottom in large:
            inside = ((centers > (left, top)) & (centers < (right, bottom))).all(1)
            assert (found.classes[inside] == PERSON).any(), name
    votes = open_network("road", DATA / "teachers").votes(image)
    assert votes[ROAD, 400:, 200:400].mean() > 128


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("name", ["cityscapes", "ade20k"])
def test_published_segmenters_see_road_people_and_vegetation(name: str) -> None:
    pytest.importorskip("ai_edge_litert")
    path = next((DATA / "msrs/visible").glob("00345D.*"))
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    best = open_network(name, DATA / "teachers").votes(image).argmax(0)
    assert best[253, 374] == PERSON
    assert best[120, 550] == STREET.names.index("vegetation")
    if name == "cityscapes":
        assert best[420, 320] == ROAD
