"""Tests of the class set `street` and of the mappings of other sets onto it."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.class_sets import (
    CAMVID,
    CITYSCAPES,
    FMB,
    MFNET,
    PST900,
    STREET,
    STREET_MAPPINGS,
    UNLABELED,
    ClassMapping,
    ClassSet,
)

ROAD, SIDEWALK, BUILDING, BARRIER, POLE, VEGETATION, TERRAIN, SKY = range(8)
PERSON, BICYCLE, CAR, TRUCK, OBSTACLE = range(8, 13)


def test_street_has_its_ids_in_order() -> None:
    assert STREET.names == (
        "road", "sidewalk", "building", "barrier", "pole", "vegetation", "terrain", "sky",
        "person", "bicycle", "car", "truck", "obstacle",
    )  # fmt: skip
    of_cityscapes = dict(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True))
    shared = [name for name in STREET.names if name in of_cityscapes]
    assert len(shared) == 11  # barrier and obstacle have no class of that name there
    for name in shared:
        assert STREET.colors[STREET.names.index(name)] == of_cityscapes[name]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CITYSCAPES, [ROAD, SIDEWALK, BUILDING, BARRIER, BARRIER, POLE, POLE, POLE, VEGETATION,
                      TERRAIN, SKY, PERSON, PERSON, CAR, TRUCK, TRUCK, TRUCK, BICYCLE, BICYCLE]),
        (MFNET, [255, CAR, PERSON, BICYCLE, SIDEWALK, OBSTACLE, BARRIER, OBSTACLE, OBSTACLE]),
        (FMB, [255, ROAD, SIDEWALK, BUILDING, POLE, POLE, VEGETATION, SKY, PERSON, CAR, TRUCK,
               TRUCK, BICYCLE, BICYCLE, POLE]),
        (CAMVID, [SKY, BUILDING, POLE, ROAD, SIDEWALK, VEGETATION, POLE, BARRIER, CAR, PERSON,
                  PERSON, 255]),
        (STREET, list(range(13))),
    ],
    ids=lambda value: value.name if isinstance(value, ClassSet) else "",
)  # fmt: skip
def test_ids_become_those_of_street(source: ClassSet, expected: list[int]) -> None:
    mapping = STREET_MAPPINGS[source.name]
    labels = np.arange(len(source), dtype=np.uint8).reshape(1, -1)
    np.testing.assert_array_equal(mapping.apply(labels), [expected])
    assert mapping.apply(labels).dtype == np.uint8
    assert mapping.apply(np.array([UNLABELED], np.uint8)) == UNLABELED


def test_background_and_stuff() -> None:
    assert (MFNET.background, PST900.background, STREET.background) == (0, 0, None)
    assert MFNET.stuff == PST900.stuff == (0,)
    assert [STREET.names[i] for i in range(13) if i not in STREET.stuff] == [
        "pole", "person", "bicycle", "car", "truck", "obstacle",
    ]  # fmt: skip
    things = {CITYSCAPES.names[i] for i in range(19) if i not in CITYSCAPES.stuff}
    assert things >= {"person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"}


def test_ids_that_the_source_lacks_are_named() -> None:
    labels = np.array([[0, 9, 255], [1, 200, 9]], np.uint8)
    with pytest.raises(ValueError, match=r"a\.png: ids 9, 200 are not of 'mfnet'.*0 to 8"):
        STREET_MAPPINGS["mfnet"].apply(labels, "a.png")
    with pytest.raises(ValueError, match="int64, expected uint8"):
        STREET_MAPPINGS["mfnet"].apply(labels.astype(np.int64))


def test_tables_name_each_class_of_the_source_and_only_classes_of_the_target() -> None:
    source = ClassSet("two", ("a", "b"), ((0, 0, 0), (1, 1, 1)))
    with pytest.raises(ValueError, match="missing or unknown: b, c"):
        ClassMapping(source, STREET, {"a": "road", "c": None})
    with pytest.raises(ValueError, match="'street' has no class lane"):
        ClassMapping(source, STREET, {"a": "road", "b": "lane"})
