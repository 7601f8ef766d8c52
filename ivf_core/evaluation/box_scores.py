"""Scores of masks by boxes around objects: recall, precision of pixels, false objects."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivf_core.class_sets import STREET
from ivf_core.data.boxes import M3FD_OBJECTS, STREET_OBJECTS, Box, read_boxes, read_yolo_boxes
from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.folders import PairImages
from ivf_core.evaluation.grid import Grid, Share
from ivf_core.evaluation.methods import Method
from ivf_core.metrics.detection import (
    FOUND_SHARE,
    MINIMUM_FALSE_PIXELS,
    DetectionCounts,
    count_detections,
)

__all__ = ["HEIGHTS", "BoxFiles", "BoxScorer", "box_array"]

HEIGHTS: Mapping[str, tuple[float, float]] = {
    "under 40 px": (0, 40),
    "40 to 80 px": (40, math.nextafter(80, math.inf)),
    "over 80 px": (math.nextafter(80, math.inf), math.inf),
}
"""Ranges of the heights of boxes in pixels: from, below."""

TIMES = ("day", "dusk", "night")

_STREET_NAMES = {
    "People": "person",
    "Car": "car",
    "Bus": "truck",
    "Motorcycle": "bicycle",
    "Truck": "truck",
    **{name: name for name in (*STREET_OBJECTS, "truck")},
}
# Classes of `STREET` by the names in files; boxes of other names, such as M3FD's lamps, are unused.


class BoxFiles:
    """Boxes of some images, read when they are asked for.

    Args:
        files: files of boxes by the name of the image.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def read(self, name: str, size: tuple[int, ...]) -> list[Box]:
        """Read the boxes of an image, named by classes of `STREET`.

        Args:
            name: name of the image.
            size: height and width of the image.

        Raises:
            ValueError: see `read_boxes` and `read_yolo_boxes`.
        """
        path = self.files[name]
        if path.suffix == ".txt":
            boxes = read_yolo_boxes(path, STREET_OBJECTS, (size[0], size[1]))
        else:
            boxes = read_boxes(path, (*M3FD_OBJECTS, *STREET_OBJECTS, "truck"))
        return [
            box._replace(name=_STREET_NAMES[box.name]) for box in boxes if box.name in _STREET_NAMES
        ]


def box_array(boxes: Iterable[Box], keep: Callable[[Box], bool]) -> np.ndarray:
    """Return the corners of some of the boxes, N x 4 float64."""
    return np.array([box[1:] for box in boxes if keep(box)], float).reshape(-1, 4)


class _ScoredBox(NamedTuple):
    time: str
    height: float
    found: bool


class BoxScorer:
    """Scorer of the masks of several methods by boxes.

    Args:
        methods: methods with masks; others have no rows.
        boxes: boxes of the pairs; pairs without a file are not scored.
        times: time of day by pair, one of `TIMES`, where it is known.
        minimum_false_pixels: smallest connected component that counts as a false object.
    """

    needs_masks = True

    def __init__(
        self,
        methods: Sequence[Method],
        boxes: BoxFiles,
        times: Mapping[str, str],
        minimum_false_pixels: int = MINIMUM_FALSE_PIXELS,
    ) -> None:
        self.boxes = boxes
        self._methods = [method for method in methods if method.street is not None]
        self._times = times
        self._minimum = minimum_false_pixels
        self._boxes: dict[tuple[str, str], list[_ScoredBox]] = defaultdict(list)
        self._counts: dict[tuple[str, str], dict[str, DetectionCounts]] = defaultdict(dict)

    def add(self, files: PairFiles, images: PairImages, masks: Mapping[str, np.ndarray]) -> None:
        """Score the masks of a pair; see `PairScorer`."""
        name, size = files.name, images.visible.shape[:2]
        if name not in self.boxes:
            return
        boxes = self.boxes.read(name, size)
        for method in self._methods:
            mask = masks.get(method.name)
            if mask is None:
                continue
            for kind in (*STREET_OBJECTS, "truck"):
                if kind not in method.street_names:
                    continue
                own = [box for box in boxes if box.name == kind]
                counts = count_detections(
                    mask == STREET.names.index(kind),
                    box_array(own, lambda _: True),
                    box_array(boxes, lambda box, kind=kind: box.name != kind),  # type: ignore[misc]
                    minimum_false_pixels=self._minimum,
                )
                self._counts[method.name, kind][name] = counts
                self._boxes[method.name, kind] += [
                    _ScoredBox(self._times.get(name, ""), box.bottom - box.top, bool(found))
                    for box, found in zip(own, counts.found, strict=True)
                ]

    def errors(self, method: str, name: str) -> int:
        """Return the number of missed boxes and false objects of a method in a pair."""
        found = [c[name] for (m, _), c in self._counts.items() if m == method and name in c]
        return sum(int((~counts.found).sum()) + counts.false_objects for counts in found)

    def recall(self, method: str, kind: str) -> Share:
        """Return the share of a class's boxes that a method found."""
        return _recall(self._boxes[method, kind])

    def grids(self) -> list[Grid]:
        """Return the table, a row for each method and class."""
        times = [
            t for t in TIMES if any(b.time == t for boxes in self._boxes.values() for b in boxes)
        ]
        grid = Grid(
            "boxes",
            "Boxes: objects found in the masks",
            ("method", "class"),
            ("recall", *HEIGHTS, *times, "precision", "in other boxes", "false per pair"),
            notes=[
                f"A box is found if more than {FOUND_SHARE:.0%} of its pixels carry its class.",
                "Precision is the share of the class's pixels that are in a box of the class; "
                "in other boxes: the share outside these that is in a box of another class.",
                f"A false object is a connected component of {self._minimum} pixels or more that "
                "touches no box of its class.",
            ],
        )
        for (method, kind), counts in self._counts.items():
            boxes = self._boxes[method, kind]
            if kind not in STREET_OBJECTS and not boxes:
                continue  # YOLO files have no trucks
            predicted = sum(c.predicted for c in counts.values())
            grid.rows.append(
                (
                    method,
                    kind,
                    _recall(boxes),
                    *(
                        _recall(b for b in boxes if low <= b.height < high)
                        for low, high in HEIGHTS.values()
                    ),
                    *(_recall(b for b in boxes if b.time == time) for time in times),
                    _ratio(sum(c.inside for c in counts.values()), predicted),
                    _ratio(sum(c.inside_other for c in counts.values()), predicted),
                    _ratio(sum(c.false_objects for c in counts.values()), len(counts)),
                )
            )
        grid.rows.sort(key=lambda row: [m.name for m in self._methods].index(str(row[0])))
        pairs = {name for counts in self._counts.values() for name in counts}
        grid.notes.append(f"{len(pairs)} pairs have boxes.")
        missing = [
            f"'{method.name}' has no class {kind}"
            for method in self._methods
            for kind in STREET_OBJECTS
            if kind not in method.street_names
        ]
        if missing:
            grid.notes.append(f"Not scored: {', '.join(missing)}.")
        return [grid]


def _recall(boxes: Iterable[_ScoredBox]) -> Share:
    boxes = list(boxes)
    return Share(sum(box.found for box in boxes), len(boxes))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
