"""Class sets of segmentation heads: names and display colours by class id."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

__all__ = ["CLASS_SETS", "FMB", "MFNET", "PST900", "UNLABELED", "ClassSet", "unknown_ids"]

UNLABELED = 255
"""Label of pixels without a class, which losses and metrics ignore."""


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
        if len(self.colors) != len(self.names):
            raise ValueError(
                f"class set '{self.name}': {len(self.names)} names but {len(self.colors)} colors"
            )

    def __len__(self) -> int:
        return len(self.names)

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
            tuple((int(r), int(g), int(b)) for r, g, b in fields["colors"]),
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

CLASS_SETS = {class_set.name: class_set for class_set in (MFNET, FMB, PST900)}


def unknown_ids(counts: np.ndarray, num_classes: int) -> list[int]:
    """Return the ids that occur but are neither a class nor `UNLABELED`.

    Args:
        counts: number of pixels of each id from 0 to 255.
        num_classes: number of classes.
    """
    return (num_classes + np.flatnonzero(counts[num_classes:UNLABELED])).tolist()
