"""Scores of masks by the labels of single points."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ivf_core.class_sets import STREET, UNLABELED
from ivf_core.data.pairs import PairFiles
from ivf_core.data.points import UNSURE, PointLabel
from ivf_core.evaluation.folders import PairImages
from ivf_core.evaluation.grid import Grid, Share
from ivf_core.evaluation.methods import Method

__all__ = ["MINIMUM_POINTS", "PointScorer"]

MINIMUM_POINTS = 15
"""Number of points that a class needs to enter the mean over classes."""

_BOTH = "both"


class _Group(NamedTuple):
    kind: str
    time: str


class PointScorer:
    """Scorer of the masks of several methods by points.

    Args:
        methods: methods with masks; others have no rows.
        points: points by pair; their labels are names of `STREET`, or others, which are
            counted but not scored.
    """

    needs_masks = True

    def __init__(
        self, methods: Sequence[Method], points: Mapping[str, Sequence[PointLabel]]
    ) -> None:
        self._points = points
        self._methods = [method for method in methods if method.street is not None]
        self._counts: dict[str, Counter[tuple[_Group, str, str]]] = {
            method.name: Counter() for method in self._methods
        }
        self._pairs: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._points

    def add(self, files: PairFiles, images: PairImages, masks: Mapping[str, np.ndarray]) -> None:
        """Score the masks of a pair; see `PairScorer`.

        Raises:
            ValueError: a point is outside the image.
        """
        name, size = files.name, images.visible.shape[:2]
        for point in self._points.get(name, ()):
            if not (0 <= point.x < size[1] and 0 <= point.y < size[0]):
                raise ValueError(
                    f"points of '{name}': ({point.x}, {point.y}) is outside the image, "
                    f"which is {size[1]} x {size[0]}"
                )
            for method, counts in self._counts.items():
                if method in masks:
                    predicted = int(masks[method][point.y, point.x])
                    label = "" if predicted == UNLABELED else STREET.names[predicted]
                    counts[_Group(point.kind, point.time), point.label, label] += 1
                    self._pairs.add(name)

    def grids(self) -> list[Grid]:
        """Return the means by kind and time of day, and the accuracies by class."""
        groups = sorted({key[0] for counts in self._counts.values() for key in counts})
        kinds = list(dict.fromkeys(group.kind for group in groups))
        times = list(dict.fromkeys(group.time for group in groups))
        if len(kinds) > 1:
            kinds.append(_BOTH)
        means = Grid(
            "points",
            "Points: mean over classes",
            ("method", "kind", "time"),
            ("mean over classes", "classes", "accuracy", "not scored"),
            notes=[
                f"{len(self._pairs)} pairs have points; those labelled '{UNSURE}' are left out.",
                f"The mean is over the accuracies of classes with {MINIMUM_POINTS} points or more; "
                "accuracy is the share of all points of the method's classes.",
            ],
        )
        classes = Grid(
            "points_by_class",
            "Points: accuracy by class",
            ("method", "kind", "time"),
            STREET.names,
            notes=["With the numbers of right and of all points."],
        )
        for method in self._methods:
            for kind in kinds:
                for time in sorted(set(times)):
                    row = (method.name, kind, time)
                    shares = self._shares(method, kind, time)
                    labelled = [name for name in shares if name in method.street_names]
                    enough = [
                        shares[name].value
                        for name in labelled
                        if shares[name].total >= MINIMUM_POINTS
                    ]
                    scored = [shares[name] for name in labelled]
                    total = Share(sum(s.hits for s in scored), sum(s.total for s in scored))
                    rest = sum(s.total for s in shares.values()) - total.total
                    mean = sum(enough) / len(enough) if enough else math.nan
                    means.rows.append((*row, mean, len(enough), total, rest))
                    cells = [
                        shares.get(name, Share(0, 0)) if name in method.street_names else ""
                        for name in STREET.names
                    ]
                    classes.rows.append((*row, *cells))
            lacking = [name for name in STREET.names if name not in method.street_names]
            if lacking:
                names = ", ".join(lacking)
                means.notes.append(f"'{method.name}' has no class {names}: not scored.")
        return [means, classes, self._confusions()]

    def _shares(self, method: Method, kind: str, time: str) -> dict[str, Share]:
        """Return the accuracy by label."""
        hits: Counter[str] = Counter()
        totals: Counter[str] = Counter()
        for (group, label, predicted), count in self._counts[method.name].items():
            if kind in (group.kind, _BOTH) and time == group.time:
                totals[label] += count
                hits[label] += count * (label == predicted)
        return {label: Share(hits[label], totals[label]) for label in totals}

    def _confusions(self) -> Grid:
        """Return the number of points by label and predicted class, over all kinds and times."""
        grid = Grid(
            "points_confusion",
            "Points: predicted class by label",
            ("method", "label"),
            (*STREET.names, "none"),
            printed=False,
        )
        for method in self._methods:
            counts: Counter[tuple[str, str]] = Counter()
            for (_, label, predicted), count in self._counts[method.name].items():
                counts[label, predicted] += count
            labels = {label for label, _ in counts}
            ordered = [name for name in STREET.names if name in labels]
            for label in [*ordered, *sorted(labels - set(STREET.names))]:
                row = [counts[label, name] for name in (*STREET.names, "")]
                grid.rows.append((method.name, label, *(n or "" for n in row)))
        return grid
