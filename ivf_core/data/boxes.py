"""Boxes around objects from XML files in the format of Pascal VOC, which M3FD uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

__all__ = ["M3FD_OBJECTS", "Box", "read_boxes"]

M3FD_OBJECTS = ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")
"""Object names in M3FD's Annotation (Liu et al., CVPR 2022), in the order of TarDAL's ids."""


class Box(NamedTuple):
    """Box around one object, with the file's coordinates in pixels."""

    name: str
    left: float
    top: float
    right: float
    bottom: float


def read_boxes(path: Path, names: Sequence[str]) -> list[Box]:
    """Read the objects of one image.

    Args:
        path: XML file with `object/name` and `object/bndbox/{xmin,ymin,xmax,ymax}`.
        names: names that objects may have.

    Returns:
        The boxes, in the order of the file.

    Raises:
        ValueError: a damaged file, a name that is not in `names`, or an empty box; the
            message names the file.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except (ElementTree.ParseError, OSError) as error:
        raise ValueError(f"boxes '{path}': cannot be read: {error}") from error
    boxes = []
    for item in objects:
        name = item.findtext("name", "").strip()
        if name not in names:
            raise ValueError(f"boxes '{path}': object '{name}', expected {', '.join(names)}")
        corners = [item.findtext(f"bndbox/{key}", "") for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            box = Box(name, *map(float, corners))
        except ValueError as error:
            raise ValueError(f"boxes '{path}': corners {corners}, expected four numbers") from error
        if not (box.left < box.right and box.top < box.bottom):
            raise ValueError(f"boxes '{path}': the box of a {name} is empty: {tuple(box[1:])}")
        boxes.append(box)
    return boxes
