"""Tables of scores as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ivf_core.evaluation.folders import Evaluation
from ivf_core.evaluation.scores import Scores
from ivf_core.metrics.segmentation import ConfusionMatrix

__all__ = [
    "format_scores",
    "format_segmentation",
    "number",
    "scores_csv",
    "segmentation_columns",
    "segmentation_summary",
]


def number(value: float) -> str:
    """Four significant digits, a dash where there is none."""
    return f"{value:#.4g}".rstrip(".") if math.isfinite(value) else "-"


def format_scores(scores: Scores, width: int = 120) -> str:
    """Means over the common pairs; a star marks the best of several, an arrow the better side.

    Args:
        width: of the terminal, in characters; wider tables go on below.
    """
    means, best = scores.means(), scores.best()
    rows = [m for m in range(len(scores.methods)) if scores.present[m].any()]
    columns = [
        [metric.title, *(number(means[m, k]) + ("*" if best[m, k] else " ") for m in rows)]
        for k, metric in enumerate(scores.metrics)
    ]
    counts = ["pairs", *(str(scores.present[m].sum()) for m in rows)]
    return _format_table(["", *(scores.methods[m] for m in rows)], [counts, *columns], width)


def format_segmentation(result: Evaluation, width: int = 120) -> str:
    """mIoU, accuracy and IoU by class of every method with masks, over the pairs all have."""
    rows = _masked_methods(result)
    matrices = [result.confusion(m, result.commonly_masked) for m in rows]
    columns = [
        [title, *(number(values[title]) for values in map(segmentation_columns, matrices))]
        for title in segmentation_columns(matrices[0])
    ]
    assert result.class_set is not None
    for index, name in enumerate(result.class_set.names):
        columns.append([name, *(number(matrix.iou()[index]) for matrix in matrices)])
    return _format_table(["", *(result.scores.methods[m] for m in rows)], columns, width)


def segmentation_columns(matrix: ConfusionMatrix) -> dict[str, float]:
    """The figures of a confusion matrix by name, NaN where no class occurs."""
    found = matrix.class_accuracy()
    return {
        "mIoU": matrix.mean_iou(),
        "accuracy": matrix.accuracy(),
        "mAcc": math.nan if np.isnan(found).all() else float(np.nanmean(found)),
    }


def segmentation_summary(result: Evaluation) -> dict[str, Any]:
    """By method, for JSON: the figures above, and IoU, accuracy and true pixels by class."""
    assert result.class_set is not None
    summary = {}
    for m in _masked_methods(result):
        matrix = result.confusion(m, result.commonly_masked)
        by_class = zip(
            result.class_set.names,
            matrix.iou(),
            matrix.class_accuracy(),
            matrix.counts.sum(1).tolist(),
            strict=True,
        )
        summary[result.scores.methods[m]] = {
            **{name: _json(value) for name, value in segmentation_columns(matrix).items()},
            "classes": {
                name: {"IoU": _json(iou), "accuracy": _json(found), "pixels": pixels}
                for name, iou, found, pixels in by_class
            },
        }
    return summary


def scores_csv(result: Evaluation, labels_note: str = "") -> str:
    """A row per pair and method: the metrics and, with labels, the picture's mIoU and accuracy.

    Args:
        labels_note: what the labels are, after the names of their columns.
    """
    if result.confusions is None:
        return result.scores.to_csv((), lambda method, pair: ())

    def cells(method: int, pair: int) -> Sequence[float]:
        if not result.masked[method, pair]:
            return math.nan, math.nan
        matrix = result.confusion(method, pair)
        return matrix.mean_iou(), matrix.accuracy()

    names = [f"{name}{labels_note}" for name in ("mIoU", "accuracy")]
    return result.scores.to_csv(names, cells)


def _masked_methods(result: Evaluation) -> list[int]:
    return np.flatnonzero(result.masked.any(axis=1)).tolist()


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _format_table(names: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> str:
    """Aligned columns of equal length beside the names, in blocks that fit into the width."""
    left = max(map(len, names))
    blocks: list[list[str]] = []
    for column in columns:
        wide = max(map(len, column)) + 2
        if not blocks or len(blocks[-1][0]) + wide > width:
            blocks.append([name.ljust(left) for name in names])
        block = blocks[-1]
        for row, cell in enumerate(column):
            block[row] += cell.rjust(wide)
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)
