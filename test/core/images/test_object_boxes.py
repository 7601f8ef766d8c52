"""Tests of boxes around the objects in masks, on masks made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.class_sets import CLASS_SETS, FMB, MFNET, PST900, STREET, ClassSet
from ivf_core.images.object_boxes import OBJECT_NAMES, ObjectBox, find_objects

ROAD, PERSON, CAR = (STREET.names.index(name) for name in ("road", "person", "car"))


def mask(height: int = 24, width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Make a mask of road, of which nothing is certain."""
    return np.full((height, width), ROAD, np.uint8), np.full((height, width), 51, np.uint8)


def find(labels: np.ndarray, confidence: np.ndarray, minimum_pixels: float = 0) -> list[ObjectBox]:
    """Find objects of an image as large as the mask."""
    height, width = labels.shape
    return find_objects(labels, confidence, STREET, (height, width), minimum_pixels=minimum_pixels)


def bounds(boxes: list[ObjectBox]) -> list[tuple[str, float, float, float, float]]:
    return [(b.name, b.left, b.top, b.width, b.height) for b in boxes]


def test_box_name_id_and_mean_confidence() -> None:
    labels, confidence = mask()
    labels[4:10, 6:9] = PERSON
    confidence[4:10, 6:9] = 204
    confidence[4:7, 6:9] = 102
    (box,) = find(labels, confidence)
    assert box == ObjectBox(PERSON, "person", 0.6, 6, 4, 3, 6)


def test_pixels_of_the_image_and_those_of_a_half_as_large_mask() -> None:
    labels, confidence = mask(24, 32)
    labels[4:10, 6:9] = CAR
    (box,) = find_objects(labels, confidence, STREET, (48, 64), minimum_pixels=72)
    assert bounds([box]) == [("car", 12, 8, 6, 12)]
    assert not find_objects(labels, confidence, STREET, (48, 64), minimum_pixels=73)


def test_objects_of_one_class_are_told_apart_and_the_surest_comes_first() -> None:
    labels, confidence = mask()
    for left, certainty in ((2, 100), (8, 250), (20, 180)):
        labels[5:9, left : left + 3] = CAR
        confidence[5:9, left : left + 3] = certainty
    assert bounds(find(labels, confidence)) == [
        ("car", 8, 5, 3, 4), ("car", 20, 5, 3, 4), ("car", 2, 5, 3, 4),
    ]  # fmt: skip


@pytest.mark.parametrize(("gap", "count"), [(0, 1), (1, 1), (2, 1), (3, 2)])
def test_small_gaps_are_closed(gap: int, count: int) -> None:
    """A thing as thin as a pole divides no object; its pixels count neither for the score."""
    labels, confidence = mask()
    labels[2:8, 10:14] = labels[2:8, 14 + gap : 18 + gap] = PERSON
    confidence[labels == PERSON] = 255
    boxes = find(labels, confidence)
    assert len(boxes) == count
    assert all(box.score == 1 for box in boxes)
    if count == 1:
        assert bounds(boxes) == [("person", 10, 2, 8 + gap, 6)]


def test_pixels_that_touch_at_a_corner_are_one_object() -> None:
    labels, confidence = mask()
    np.fill_diagonal(labels[3:9, 3:9], PERSON)
    assert bounds(find(labels, confidence)) == [("person", 3, 3, 6, 6)]


def test_objects_at_the_edges_of_the_image() -> None:
    """Closing gaps adds no pixel at an edge."""
    labels, confidence = mask(24, 32)
    labels[:3, :2] = labels[1:20, 30] = labels[23, 10:20] = CAR
    found = bounds(find(labels, confidence))
    assert sorted(found) == [
        ("car", 0, 0, 2, 3), ("car", 10, 23, 10, 1), ("car", 30, 1, 1, 19),
    ]  # fmt: skip
    labels[:] = CAR
    assert bounds(find(labels, confidence)) == [("car", 0, 0, 32, 24)]


def test_objects_below_the_smallest_area_are_left_out() -> None:
    labels, confidence = mask()
    labels[2:5, 2:5] = labels[10:14, 10:14] = PERSON
    assert len(find(labels, confidence, 9)) == 2
    assert bounds(find(labels, confidence, 9.5)) == [("person", 10, 10, 4, 4)]
    assert not find(labels, confidence, 17)


def test_neighbours_of_different_classes_stay_apart() -> None:
    labels, confidence = mask()
    labels[4:10, 6:9], labels[4:10, 9:14] = PERSON, CAR
    assert sorted(bounds(find(labels, confidence))) == [
        ("car", 9, 4, 5, 6), ("person", 6, 4, 3, 6),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("class_set", "expected"),
    [
        (STREET, {"person": "person", "bicycle": "bicycle", "car": "car", "truck": "truck"}),
        (MFNET, {"car": "car", "person": "person", "bike": "bicycle"}),
        (
            FMB,
            {
                "person": "person", "car": "car", "truck": "truck", "bus": "truck",
                "motorcycle": "bicycle", "bicycle": "bicycle",
            },
        ),
        (PST900, {}),
    ],
    ids=lambda value: value.name if isinstance(value, ClassSet) else "",
)  # fmt: skip
def test_classes_of_every_class_set(class_set: ClassSet, expected: dict[str, str]) -> None:
    labels = np.full((8, 8 * len(class_set)), 255, np.uint8)
    for class_id in range(len(class_set)):
        labels[:4, 8 * class_id : 8 * class_id + 4] = class_id
    boxes = find_objects(labels, labels, class_set, (8, labels.shape[1]), minimum_pixels=1)
    assert {class_set.names[box.class_id]: box.name for box in boxes} == expected
    assert class_set in CLASS_SETS.values()
    assert set(OBJECT_NAMES.values()) == {"person", "bicycle", "car", "truck"}


def test_boxes_hold_all_pixels_of_their_class() -> None:
    """Compare with the definition, pixel by pixel, on random masks."""
    random = np.random.default_rng(0)
    labels = random.choice([ROAD, CAR], (40, 50), p=[0.97, 0.03]).astype(np.uint8)
    confidence = random.integers(0, 256, labels.shape, np.uint8)
    groups: list[list[tuple[int, int]]] = []
    for pixel in zip(*map(np.ndarray.tolist, np.nonzero(labels == CAR)), strict=True):
        near = [
            g for g in groups if any(max(abs(y - pixel[0]), abs(x - pixel[1])) <= 3 for y, x in g)
        ]
        groups = [g for g in groups if g not in near] + [[pixel, *(p for g in near for p in g)]]
    expected = []
    for group in groups:
        rows, columns = np.array(group).T
        score = confidence[rows, columns].mean() / 255
        size = float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)
        expected.append((pytest.approx(score), columns.min(), rows.min(), *size))
    found = [(b.score, b.left, b.top, b.width, b.height) for b in find(labels, confidence)]
    assert len(found) > 5
    assert sorted(found, key=lambda b: b[1:]) == sorted(expected, key=lambda b: b[1:])


def test_wrong_images_are_named() -> None:
    labels, confidence = mask()
    with pytest.raises(ValueError, match=r"labels are \(24, 32\) int64, expected H x W uint8"):
        find(labels.astype(np.int64), confidence)
    with pytest.raises(ValueError, match=r"confidence is \(12, 16\) uint8, expected \(24, 32\)"):
        find(labels, confidence[::2, ::2])
