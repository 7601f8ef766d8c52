"""Reliability of teachers, measured on points and on published boxes, by class, day and night.

A segmenter's reliability for a class is the share of its pixels of this class that are right;
a detector's is the share of its boxes of a score that meet a published box. Small counts shrink
towards the mean of the teacher.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivf_core.class_sets import STREET, UNLABELED
from ivf_core.training.segmentation.fused_labels.evidence import Evidence
from ivf_core.training.segmentation.fused_labels.networks import Boxes
from ivf_core.training.segmentation.fused_labels.seeds import box_slices

__all__ = ["OTHER", "BoxRates", "Counts", "Point", "VoteRates", "count", "overlaps", "read_points"]

OTHER = 254
"""Label of points that are seen well and have no class of `STREET`."""

_SHRINK = 8.0  # points
_SCORES = np.array((0.25, 0.35, 0.5, 0.65, 0.8, 1.01))
_OBJECTS = tuple(STREET.names.index(name) for name in ("person", "bicycle", "car"))
_BOX_POINTS = 3.0  # weight of an image's pixels of a class in boxes, in points
_MATCH = 0.4


class Point(NamedTuple):
    """Point label.

    Attributes:
        night: whether its time is night; dusk counts as day.
        kind: "uniform" or "object".
        x: column in pixels.
        y: row in pixels.
        label: id of `STREET`, or `OTHER`.
    """

    night: bool
    kind: str
    x: int
    y: int
    label: int


def read_points(path: Path) -> dict[tuple[str, str], list[Point]]:
    """Read points by set and stem; those that are unsure are left out.

    Args:
        path: CSV file with the columns set, stem, time, kind, x, y and label.

    Raises:
        ValueError: a file without these columns, or a label that is no class; names the line.
    """
    points: dict[tuple[str, str], list[Point]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                if row["label"] == "unsure":
                    continue
                if row["label"] not in (*STREET.names, "other"):
                    raise ValueError(f"line {number}: label '{row['label']}'")
                named = row["label"] in STREET.names
                label = STREET.names.index(row["label"]) if named else OTHER
                points[row["set"], row["stem"]].append(
                    Point(row["time"] == "night", row["kind"], int(row["x"]), int(row["y"]), label)
                )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"points '{path}': expected set, stem, time, kind, x, y and label: {error}"
        ) from error
    return dict(points)


class Counts:
    """Counts of right and of all statements of teachers, which can be added and taken away.

    Attributes:
        votes: by teacher, 2 x C x 2 float64: day and night, class, right and all.
        boxes: by teacher, 2 x C x S x 2 float64: day and night, class, score, right and all.
    """

    def __init__(self) -> None:
        classes = len(STREET)
        self.votes: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((2, classes, 2)))
        self.boxes: dict[str, np.ndarray] = defaultdict(
            lambda: np.zeros((2, classes, len(_SCORES) - 1, 2))
        )

    def add(self, other: Counts, factor: float = 1.0) -> None:
        """Add the counts of another, or take them away with a factor of -1."""
        for mine, others in ((self.votes, other.votes), (self.boxes, other.boxes)):
            for teacher, values in others.items():
                mine[teacher] += factor * values

    def vote_rates(self) -> VoteRates:
        """Return how often votes are right."""
        return VoteRates(self.votes)

    def box_rates(self) -> BoxRates:
        """Return how often boxes are right."""
        return BoxRates(self.boxes)


def count(evidence: Evidence, points: Sequence[Point]) -> Counts:
    """Count the statements of an image's teachers that points and published boxes judge.

    Args:
        evidence: the image.
        points: its points, which may be none.
    """
    counts = Counts()
    night = int(evidence.night)
    for teacher, votes in evidence.votes.items():
        table = counts.votes[teacher]
        for point in points:
            said = votes[:, point.y, point.x]
            best = int(said.argmax())
            if said[best] >= 128:
                table[night, best] += (best == point.label, 1)
        if evidence.published is not None:
            table[night] += _pixels_in_boxes(votes, evidence.published)
    if evidence.published is not None:
        for teacher, boxes in evidence.boxes.items():
            met = overlaps(boxes, evidence.published).max(1, initial=0) >= _MATCH
            places = np.digitize(boxes.scores, _SCORES) - 1
            np.add.at(
                counts.boxes[teacher][night],
                (boxes.classes, places),
                np.stack((met, np.ones_like(met)), 1).astype(float),
            )
    return counts


def _pixels_in_boxes(votes: np.ndarray, published: Boxes) -> np.ndarray:
    """Return the right and all pixels of object classes, C x 2, in units of points."""
    table = np.zeros((len(STREET), 2))
    best = np.where(votes.max(0) >= 128, votes.argmax(0), UNLABELED)
    for index in _OBJECTS:
        said = best == index
        if total := np.count_nonzero(said):
            inside = np.zeros_like(said)
            for corners in published.corners[published.classes == index]:
                inside[box_slices(corners, said.shape)] = True
            table[index] = _BOX_POINTS * np.array((np.count_nonzero(said & inside) / total, 1))
    return table


def overlaps(first: Boxes, second: Boxes, *, any_class: bool = False) -> np.ndarray:
    """Return the intersection over union of boxes of the same class, N x M.

    Args:
        first: N boxes.
        second: M boxes.
        any_class: compare boxes of different classes, too.
    """
    a, b = first.corners[:, None].astype(np.float64), second.corners[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    found = shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)
    return found if any_class else found * (first.classes[:, None] == second.classes[None])


class VoteRates:
    """Shares of right votes by teacher, day and night, and class.

    Args:
        counts: see `Counts.votes`.
    """

    def __init__(self, counts: Mapping[str, np.ndarray]) -> None:
        self._rates = {}
        for teacher, table in counts.items():
            right, said = table.sum((0, 1))
            mean = (right + 0.6 * _SHRINK) / (said + _SHRINK)
            of_time = (table[..., 0].sum(1) + _SHRINK * mean) / (table[..., 1].sum(1) + _SHRINK)
            self._rates[teacher] = (table[..., 0] + _SHRINK * of_time[:, None]) / (
                table[..., 1] + _SHRINK
            )

    def of(self, teacher: str, night: bool) -> np.ndarray:
        """Return the rates of a teacher for each class, C float64; 0.6 where it is unknown."""
        if teacher not in self._rates:
            return np.full(len(STREET), 0.6)
        return self._rates[teacher][int(night)].clip(0.02, 0.98)


class BoxRates:
    """Shares of boxes that meet an object by teacher, day and night, class and score.

    Args:
        counts: see `Counts.boxes`.
    """

    def __init__(self, counts: Mapping[str, np.ndarray]) -> None:
        self._rates = {}
        for teacher, table in counts.items():
            right, said = table.sum((0, 1, 2))
            mean = (right + 0.5 * _SHRINK) / (said + _SHRINK)
            of_score = (table[..., 0].sum((0, 1)) + _SHRINK * mean) / (
                table[..., 1].sum((0, 1)) + _SHRINK
            )
            rates = (table[..., 0] + _SHRINK * of_score) / (table[..., 1] + _SHRINK)
            self._rates[teacher] = np.maximum.accumulate(rates, axis=-1)

    def of(self, teacher: str, night: bool, boxes: Boxes) -> np.ndarray:
        """Return the rate of each box, N float64; half of its score for an unknown teacher."""
        if teacher not in self._rates:
            return boxes.scores.astype(np.float64) / 2
        places = (np.digitize(boxes.scores, _SCORES) - 1).clip(0, len(_SCORES) - 2)
        return self._rates[teacher][int(night), boxes.classes, places].clip(0.02, 0.98)
