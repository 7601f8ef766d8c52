"""Tables of scores as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ivf_core.evaluation.folders import EvaluationResult
from ivf_core.evaluation.grid import align_columns
from ivf_core.evaluation.scores import Scores
from ivf_core.metrics.segmentation import ConfusionMatrix

__all__ = [
    "format_figure",
    "format_number",
    "format_scores",
    "format_segmentation",
    "scores_csv",
    "segmentation_columns",
    "segmentation_summary",
    "shared_classes",
]


def format_number(value: float) -> str:
    """Format a number to four significant digits; a dash where it is not finite."""
    return f"{value:#.4g}".rstrip(".") if math.isfinite(value) else "-"


def format_figure(value: float) -> str:
    """Format a count as it is, and any other figure by `format_number`."""
    return str(value) if isinstance(value, int) else format_number(value)


def format_scores(scores: Scores, width: int = 120) -> str:
    """Format the means over the common pairs.

    A star marks the best of several methods, an arrow the better direction of a metric.

    Args:
        scores: scores of the methods.
        width: width of the terminal in characters; further columns continue below.
    """
    means, best = scores.means(), scores.best()
    rows = [m for m in range(len(scores.methods)) if scores.present[m].any()]
    columns = [
        [metric.title, *(format_number(means[m, k]) + ("*" if best[m, k] else " ") for m in rows)]
        for k, metric in enumerate(scores.metrics)
    ]
    counts = ["pairs", *(str(scores.present[m].sum()) for m in rows)]
    return align_columns(["", *(scores.methods[m] for m in rows)], [counts, *columns], width)


def format_segmentation(result: EvaluationResult, width: int = 120) -> str:
    """Format mIoU, accuracies and IoU by class of the methods with masks, on their common pairs.

    Args:
        result: an evaluation with labels.
        width: width of the terminal in characters; further columns continue below.
    """
    rows = _masked_methods(result)
    matrices = [result.confusion(m, result.commonly_masked) for m in rows]
    shared = shared_classes(matrices)
    all_figures = [segmentation_columns(matrix, shared) for matrix in matrices]
    columns = [
        [title, *(format_figure(figures[title]) for figures in all_figures)]
        for title in all_figures[0]
    ]
    assert result.class_set is not None
    for index, name in enumerate(result.class_set.names):
        columns.append([name, *(format_number(matrix.iou()[index]) for matrix in matrices)])
    return align_columns(["", *(result.scores.methods[m] for m in rows)], columns, width)


def shared_classes(matrices: Sequence[ConfusionMatrix]) -> np.ndarray:
    """Return which classes have an IoU for every method, C bool."""
    return np.all([np.isfinite(matrix.iou()) for matrix in matrices], axis=0)


def segmentation_columns(matrix: ConfusionMatrix, shared: np.ndarray) -> dict[str, float]:
    """Return the figures of a confusion matrix by name; NaN where no class occurs.

    The mean IoU is over the classes that are true or predicted anywhere, whose number differs
    between methods; only means over the same classes can be compared.

    Args:
        matrix: pixels by true and predicted class.
        shared: classes of `shared_classes`.
    """
    iou = matrix.iou()
    return {
        "mIoU": matrix.mean_iou(),
        "classes in mIoU": int(np.isfinite(iou).sum()),
        f"mIoU of {shared.sum()} shared": float(iou[shared].mean()) if shared.any() else math.nan,
        "accuracy": matrix.pixel_accuracy(),
        "mAcc": matrix.mean_accuracy(),
    }


def segmentation_summary(result: EvaluationResult) -> dict[str, Any]:
    """Return by method, for JSON: mIoU and accuracies, and IoU, accuracy and pixels by class."""
    assert result.class_set is not None
    summary = {}
    matrices = {m: result.confusion(m, result.commonly_masked) for m in _masked_methods(result)}
    shared = shared_classes(list(matrices.values()))
    for m, matrix in matrices.items():
        by_class = zip(
            result.class_set.names,
            matrix.iou(),
            matrix.accuracy(),
            matrix.counts.sum(1).tolist(),
            strict=True,
        )
        summary[result.scores.methods[m]] = {
            **{name: _json(value) for name, value in segmentation_columns(matrix, shared).items()},
            "classes": {
                name: {"IoU": _json(iou), "accuracy": _json(found), "pixels": pixels}
                for name, iou, found, pixels in by_class
            },
        }
    return summary


def scores_csv(result: EvaluationResult, labels_note: str = "") -> str:
    """Return CSV with a row per pair and method: metrics and, with labels, mIoU and accuracy.

    Args:
        result: scores of the methods.
        labels_note: text to append to the names of the columns that rest on labels.
    """
    if result.confusions is None:
        return result.scores.to_csv((), lambda method, pair: ())

    def cells(method: int, pair: int) -> Sequence[float]:
        if not result.masked[method, pair]:
            return math.nan, math.nan
        matrix = result.confusion(method, pair)
        return matrix.mean_iou(), matrix.pixel_accuracy()

    names = [f"{name}{labels_note}" for name in ("mIoU", "accuracy")]
    return result.scores.to_csv(names, cells)


def _masked_methods(result: EvaluationResult) -> list[int]:
    return np.flatnonzero(result.masked.any(axis=1)).tolist()


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
