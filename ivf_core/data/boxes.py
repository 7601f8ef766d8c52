"""Boxes around objects: XML in the format of Pascal VOC, which M3FD uses, and YOLO's text lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

__all__ = [
    "M3FD_OBJECTS",
    "STREET_OBJECTS",
    "Box",
    "find_box_files",
    "read_boxes",
    "read_yolo_boxes",
]

M3FD_OBJECTS = ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")
"""Object names in M3FD's Annotation (Liu et al., CVPR 2022), in the order of TarDAL's ids."""

STREET_OBJECTS = ("person", "bicycle", "car")
"""Object names of the boxes published for MSRS, in the order of their ids."""

_SUFFIXES = (".txt", ".xml")


class Box(NamedTuple):
    """Box around one object, with the file's coordinates in pixels."""

    name: str
    left: float
    top: float
    right: float
    bottom: float


def find_box_files(folder: Path, stems: Iterable[str]) -> dict[str, Path]:
    """Find the files of boxes of some images, `STEM.txt` (YOLO) or `STEM.xml` (Pascal VOC).

    Args:
        folder: folder of the files.
        stems: names of the images.

    Returns:
        Paths by stem, of the images that have one.

    Raises:
        ValueError: no such folder, no file in it is named as an image, or an image has two.
    """
    if not folder.is_dir():
        raise ValueError(f"boxes '{folder}': no such folder")
    found: dict[str, Path] = {}
    for stem in stems:
        paths = [path for s in _SUFFIXES if (path := folder / f"{stem}{s}").is_file()]
        if len(paths) > 1:
            raise ValueError(f"boxes '{folder}': {paths[0].name} and {paths[1].name} share a stem")
        if paths:
            found[stem] = paths[0]
    if not found:
        raise ValueError(f"boxes '{folder}': no file is named as an image, NAME.txt or NAME.xml")
    return found


def read_yolo_boxes(path: Path, names: Sequence[str], size: tuple[int, int]) -> list[Box]:
    """Read the objects of one image from lines `class cx cy width height`, relative to its size.

    Args:
        path: text file; an empty one has no boxes.
        names: names by class id.
        size: height and width of the image in pixels.

    Returns:
        The boxes, in the order of the file, cut off at the borders of the image.

    Raises:
        ValueError: a line of another format, an id without a name, or a box without a pixel
            in the image; the message names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"boxes '{path}': cannot be read: {error}") from error
    height, width = size
    boxes = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"boxes '{path}', line {number}"
        try:
            class_id, x, y, w, h = int(line.split()[0]), *map(float, line.split()[1:])
        except ValueError as error:
            raise ValueError(f"{place}: '{line}', expected an id and four numbers") from error
        if not 0 <= class_id < len(names):
            raise ValueError(f"{place}: id {class_id}, expected 0 to {len(names) - 1}")
        box = Box(
            names[class_id],
            max(0.0, (x - w / 2) * width),
            max(0.0, (y - h / 2) * height),
            min(float(width), (x + w / 2) * width),
            min(float(height), (y + h / 2) * height),
        )
        if not (box.left < box.right and box.top < box.bottom):
            raise ValueError(f"{place}: '{line}' has no pixel in the image")
        boxes.append(box)
    return boxes


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
