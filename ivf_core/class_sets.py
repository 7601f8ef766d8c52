"""Class sets: names and display colours by class id, and mappings of one set onto another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "CLASS_SETS",
    "FMB",
    "MFNET",
    "PST900",
    "STREET",
    "STREET_MAPPINGS",
    "UNLABELED",
    "ClassMapping",
    "ClassSet",
    "mapping_between",
    "unknown_ids",
]

UNLABELED = 255
"""Label of pixels without a class, which losses and metrics ignore."""

_BACKGROUND = ("unlabeled", "background")
_STUFF = frozenset(
    (
        *_BACKGROUND, "void", "road", "sidewalk", "pavement", "building", "wall", "fence",
        "barrier", "vegetation", "tree", "terrain", "sky",
    )
)  # fmt: skip


@dataclass(frozen=True)
class ClassSet:
    """Names and colours of classes; the position is the class id.

    Attributes:
        name: short name, such as "mfnet".
        names: one name per class, 2 to 255.
        colors: one (R, G, B) per class, 0..255.

    Raises:
        ValueError: too few or too many classes, or not one colour per class.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= UNLABELED:
            raise ValueError(f"class set '{self.name}': needs 2 to 255 classes")
        for name in self.names:
            if not isinstance(name, str) or not name or not name.isprintable():
                raise ValueError(
                    f"class set '{self.name}': names must be printable text, got {name!r:.80}"
                )
        for color in self.colors:
            if len(color) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in color):
                raise ValueError(
                    f"class set '{self.name}': colors must be three whole numbers of 0 to 255, "
                    f"got {color!r:.80}"
                )
        if len(self.colors) != len(self.names):
            raise ValueError(
                f"class set '{self.name}': {len(self.names)} names but {len(self.colors)} colors"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def background(self) -> int | None:
        """Id of the class for everything else, or None in a set without one."""
        return next((i for i, name in enumerate(self.names) if name in _BACKGROUND), None)

    @property
    def stuff(self) -> tuple[int, ...]:
        """Ids of the classes without instances: background, road, sky and the like.

        Stuff and things are the terms of Kirillov et al., "Panoptic Segmentation" (CVPR 2019).
        """
        return tuple(i for i, name in enumerate(self.names) if name in _STUFF)

    def lookup_table(self) -> np.ndarray:
        """Return colours by class id, 256 x 3 uint8 RGB, black for ids without a class."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colors
        return table

    def to_json(self) -> str:
        """Return the class set as JSON text."""
        return json.dumps({"name": self.name, "names": self.names, "colors": self.colors})

    @classmethod
    def from_json(cls, text: str) -> ClassSet:
        """Create a class set from the text that `to_json` returns."""
        fields = json.loads(text)
        return cls(
            fields["name"],
            tuple(fields["names"]),
            tuple((r, g, b) for r, g, b in fields["colors"]),
        )


MFNET = ClassSet(
    "mfnet",
    ("unlabeled", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump"),
    (
        (0, 0, 0),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
        (0, 0, 192),
        (128, 128, 0),
        (64, 64, 128),
        (192, 128, 128),
        (192, 64, 0),
    ),
)
"""MFNet (Ha et al., IROS 2017) with the published colours; class 0 is everything else."""

FMB = ClassSet(
    "fmb",
    (
        "unlabeled", "road", "sidewalk", "building", "lamp", "sign", "vegetation", "sky",
        "person", "car", "truck", "bus", "motorcycle", "bicycle", "pole",
    ),
    (
        (0, 0, 0), (179, 228, 228), (181, 57, 133), (67, 162, 177), (200, 178, 50),
        (132, 45, 199), (66, 172, 84), (179, 73, 79), (76, 99, 166), (66, 121, 253),
        (137, 165, 91), (155, 97, 152), (105, 153, 140), (222, 215, 158), (135, 113, 90),
    ),
)  # fmt: skip
"""FMB (Liu et al., ICCV 2023), 14 classes and unlabeled."""

PST900 = ClassSet(
    "pst900",
    ("background", "fire_extinguisher", "backpack", "hand_drill", "survivor"),
    ((0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)),
)
"""PST900 (Shivakumar et al., ICRA 2020)."""

STREET = ClassSet(
    "street",
    (
        "road", "sidewalk", "building", "barrier", "pole", "vegetation", "terrain", "sky",
        "person", "bicycle", "car", "truck", "obstacle",
    ),
    (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (190, 153, 153), (153, 153, 153),
        (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (119, 11, 32),
        (0, 0, 142), (0, 0, 70), (255, 140, 0),
    ),
)  # fmt: skip
"""Classes of a street for a vehicle: those of Cityscapes in groups, in Cityscapes' colours.

A person includes a rider, a bicycle a motorcycle, a car a van, a truck a bus and a train, a
sidewalk its kerb; an obstacle is a small thing on the road, such as a cone.
"""

CITYSCAPES = ClassSet(
    "cityscapes",
    (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    ),
    (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
        (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
        (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
        (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip
"""Cityscapes (Cordts et al., CVPR 2016): its 19 trainIds."""

CAMVID = ClassSet(
    "camvid",
    (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
        "pedestrian", "bicyclist", "void",
    ),
    (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
        (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
        (0, 0, 0),
    ),
)  # fmt: skip
"""CamVid (Brostow et al., 2009) with the 11 classes of SegNet, and void."""

CLASS_SETS = {class_set.name: class_set for class_set in (MFNET, FMB, PST900, STREET)}
"""Class sets that a head can have, by name."""


@dataclass(frozen=True)
class ClassMapping:
    """Mapping of the class ids of one set onto those of another.

    Attributes:
        source: class set of the labels to map.
        target: class set of the result.
        names: for each name of `source` a name of `target`, or None for pixels to ignore.

    Raises:
        ValueError: a name is missing or unknown; the message lists it.
    """

    source: ClassSet
    target: ClassSet
    names: Mapping[str, str | None]

    def __post_init__(self) -> None:
        where = f"mapping of '{self.source.name}' onto '{self.target.name}'"
        if wrong := sorted(set(self.names) ^ set(self.source.names)):
            raise ValueError(
                f"{where}: expected one entry for each class of '{self.source.name}'; "
                f"missing or unknown: {', '.join(wrong)}"
            )
        if wrong := sorted({n for n in self.names.values() if n} - set(self.target.names)):
            raise ValueError(f"{where}: '{self.target.name}' has no class {', '.join(wrong)}")

    @cached_property
    def table(self) -> np.ndarray:
        """Ids of the target by id of the source, 256 uint8, `UNLABELED` for ignored ids."""
        table = np.full(256, UNLABELED, np.uint8)
        for index, name in enumerate(self.source.names):
            target = self.names[name]
            if target is not None:
                table[index] = self.target.names.index(target)
        return table

    def apply(self, labels: np.ndarray, where: str = "labels") -> np.ndarray:
        """Map class ids; `UNLABELED` stays.

        Args:
            labels: uint8 class ids of `source`, any shape.
            where: name of the labels in errors, such as their file.

        Returns:
            uint8 class ids of `target` of the same shape.

        Raises:
            ValueError: another dtype, or ids that are not of `source`; the message lists them.
        """
        if labels.dtype != np.uint8:
            raise ValueError(f"{where}: {labels.dtype}, expected uint8 class ids")
        counts = np.bincount(labels.ravel(), minlength=256)
        if unknown := unknown_ids(counts, len(self.source)):
            raise ValueError(
                f"{where}: ids {', '.join(map(str, unknown))} are not of '{self.source.name}', "
                f"expected 0 to {len(self.source) - 1}, or {UNLABELED} for none"
            )
        return self.table[labels]


STREET_MAPPINGS = {
    "cityscapes": ClassMapping(CITYSCAPES, STREET, {
        "road": "road", "sidewalk": "sidewalk", "building": "building", "wall": "barrier",
        "fence": "barrier", "pole": "pole", "traffic light": "pole", "traffic sign": "pole",
        "vegetation": "vegetation", "terrain": "terrain", "sky": "sky", "person": "person",
        "rider": "person", "car": "car", "truck": "truck", "bus": "truck", "train": "truck",
        "motorcycle": "bicycle", "bicycle": "bicycle",
    }),
    # A curve is a kerb. What has no class in MFNet or FMB may be anything.
    "mfnet": ClassMapping(MFNET, STREET, {
        "unlabeled": None, "car": "car", "person": "person", "bike": "bicycle",
        "curve": "sidewalk", "car_stop": "obstacle", "guardrail": "barrier",
        "color_cone": "obstacle", "bump": "obstacle",
    }),
    "fmb": ClassMapping(FMB, STREET, {
        "unlabeled": None, "road": "road", "sidewalk": "sidewalk", "building": "building",
        "lamp": "pole", "sign": "pole", "vegetation": "vegetation", "sky": "sky",
        "person": "person", "car": "car", "truck": "truck", "bus": "truck",
        "motorcycle": "bicycle", "bicycle": "bicycle", "pole": "pole",
    }),
    # A bicyclist is one region of rider and bicycle, of which the rider is the larger part.
    "camvid": ClassMapping(CAMVID, STREET, {
        "sky": "sky", "building": "building", "pole": "pole", "road": "road",
        "pavement": "sidewalk", "tree": "vegetation", "sign": "pole", "fence": "barrier",
        "car": "car", "pedestrian": "person", "bicyclist": "person", "void": None,
    }),
    "street": ClassMapping(STREET, STREET, {name: name for name in STREET.names}),
}  # fmt: skip
"""Mappings of class sets onto `STREET`, by the name of the source."""


def mapping_between(source: ClassSet, target: ClassSet) -> ClassMapping | None:
    """Return the mapping of labels of one set onto the ids of another, None if they are the same.

    Raises:
        ValueError: there is no mapping between the two.
    """
    if source.names == target.names:
        return None
    mapping = STREET_MAPPINGS.get(source.name)
    if mapping is None or mapping.target.names != target.names:
        raise ValueError(
            f"labels of '{source.name}' cannot be compared with masks of '{target.name}': "
            f"expected masks of '{source.name}' or '{STREET.name}'"
        )
    return mapping


def unknown_ids(counts: np.ndarray, num_classes: int) -> list[int]:
    """Return the ids that occur but are neither a class nor `UNLABELED`.

    Args:
        counts: number of pixels of each id from 0 to 255.
        num_classes: number of classes.
    """
    return (num_classes + np.flatnonzero(counts[num_classes:UNLABELED])).tolist()
