"""Scores of teachers and of fused labels on points and on published boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ivf_core.class_sets import STREET, UNLABELED
from ivf_core.training.segmentation.fused_labels.networks import Boxes
from ivf_core.training.segmentation.fused_labels.reliability import Point, overlaps
from ivf_core.training.segmentation.fused_labels.seeds import box_slices

__all__ = ["FUSED", "LabelReport", "LabelScores"]

FUSED = "fused"
"""Name of the fused labels among those of teachers."""

_OBJECTS = {STREET.names.index(name): name for name in ("person", "bicycle", "car")}
_FOUND = 0.25
_MATCH = 0.4
_SCORE = 0.35


@dataclass
class LabelScores:
    """Sums of the scores of one teacher, or of the fused labels.

    Attributes:
        points: by (time, kind): pairs of the true label and the label given, 255 for none.
        boxes: by (time, class): boxes, boxes found, pixels or boxes said, those that are right.
    """

    points: dict[tuple[str, str], list[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    boxes: dict[tuple[str, str], np.ndarray] = field(
        default_factory=lambda: defaultdict(lambda: np.zeros(4))
    )

    def add_labels(
        self, labels: np.ndarray, points: Sequence[Point], published: Boxes | None, night: bool
    ) -> None:
        """Add the labels of an image.

        A box is found where over 25 % of it carry its class; precision is the share of the
        pixels of a class that are in boxes of this class.

        Args:
            labels: H x W uint8.
            points: points of the image.
            published: its published boxes, or None.
            night: whether the image is of the night, for the boxes.
        """
        for point in points:
            time = "night" if point.night else "day"
            self.points[time, point.kind].append((point.label, int(labels[point.y, point.x])))
        if published is None:
            return
        time = "night" if night else "day"
        for index, name in _OBJECTS.items():
            said = labels == index
            inside = np.zeros_like(said)
            sums = self.boxes[time, name]
            for corners in published.corners[published.classes == index]:
                place = box_slices(corners, said.shape)
                inside[place] = True
                sums[:2] += 1, said[place].mean() > _FOUND
            sums[2:] += np.count_nonzero(said), np.count_nonzero(said & inside)

    def add_boxes(self, boxes: Boxes, published: Boxes | None, night: bool) -> None:
        """Add the boxes of a detector; boxes match from an intersection over union of 0.4."""
        if published is None:
            return
        boxes = boxes.select(boxes.scores >= _SCORE)
        shared = overlaps(boxes, published)
        found, right = shared.max(0, initial=0) >= _MATCH, shared.max(1, initial=0) >= _MATCH
        time = "night" if night else "day"
        for index, name in _OBJECTS.items():
            mine, others = (np.equal(part.classes, index) for part in (boxes, published))
            self.boxes[time, name] += (
                others.sum(), found[others].sum(), mine.sum(), right[mine].sum()
            )  # fmt: skip

    def point_row(self, time: str, kind: str, minimum: int = 15) -> dict[str, float]:
        """Return number, coverage, accuracy where labelled, and the mean over classes.

        Args:
            time: day or night.
            kind: uniform, object or all.
            minimum: classes with fewer points are left out of the mean over classes.
        """
        kinds = ("uniform", "object") if kind == "all" else (kind,)
        pairs = np.array(
            [pair for one in kinds for pair in self.points.get((time, one), ())], int
        ).reshape(-1, 2)
        truth, said = pairs.T
        labelled, right = np.not_equal(said, UNLABELED), np.equal(truth, said)
        classes = [c for c in range(len(STREET)) if np.count_nonzero(truth == c) >= minimum]
        recalls = [right[np.equal(truth, c) & labelled] for c in classes]
        means = [values.mean() if len(values) else 0.0 for values in recalls]
        return {
            "points": len(truth),
            "coverage": float(labelled.mean()) if len(truth) else np.nan,
            "accuracy": float(right[labelled].mean()) if labelled.any() else np.nan,
            "mean over classes": float(np.mean(means)) if means else np.nan,
        }

    def box_row(self, time: str, name: str) -> dict[str, float]:
        """Return the number of boxes, recall and precision; nan where there are none.

        Args:
            time: day, night or all.
            name: person, bicycle or car.
        """
        times = ("day", "night") if time == "all" else (time,)
        number, found, said, right = sum(
            (self.boxes.get((one, name), np.zeros(4)) for one in times), np.zeros(4)
        )
        return {
            "boxes": number,
            "recall": found / number if number else np.nan,
            "precision": right / said if said else np.nan,
        }


@dataclass
class LabelReport:
    """Result of a run that labels images.

    Attributes:
        directory: folder of the labels.
        made: number of images that were labelled.
        kept: number of images whose labels were there already.
        coverage: share of pixels with a label by set.
        scores: by teacher, and of the fused labels.
        failed: a line for each image that could not be read.
        warnings: a line for each part of a teacher that has random weights.
    """

    directory: Path
    made: int = 0
    kept: int = 0
    coverage: dict[str, float] = field(default_factory=dict)
    scores: dict[str, LabelScores] = field(default_factory=lambda: defaultdict(LabelScores))
    failed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
