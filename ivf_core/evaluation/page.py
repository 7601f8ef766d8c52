"""Page of an evaluation: one file without scripts that opens offline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.evaluation.folders import EvaluationResult
from ivf_core.evaluation.tables import (
    format_figure,
    format_number,
    segmentation_columns,
    shared_classes,
)
from ivf_core.html.embedding import embed_file
from ivf_core.html.plots import series_color
from ivf_core.html.render import write_page

__all__ = ["write_evaluation_page"]


def write_evaluation_page(
    path: Path,
    result: EvaluationResult,
    *,
    settings: Sequence[str],
    labels_note: str,
    violins: Path | None,
    sheets: Sequence[tuple[str, Path]],
    unmatched: Sequence[str],
    files: Sequence[str],
) -> None:
    """Write the page, with its images inside it.

    Args:
        path: HTML file to write.
        result: scores to show.
        settings: lines that say how the scores were made.
        labels_note: a warning about the labels, or "".
        violins: an SVG file, or None without metrics.
        sheets: headings and JPEG files.
        unmatched: files without a partner, one line each.
        files: names of the files next to the page.
    """
    scores = result.scores
    masks = _mask_rows(result)
    write_page(
        path,
        "evaluation.html.j2",
        title="Fusion scores: " + ", ".join(scores.methods),
        common=int(scores.common.sum()),
        pairs=len(scores.pairs),
        metrics=[metric.title for metric in scores.metrics],
        means=_mean_rows(result),
        labels_note=labels_note,
        masked_pairs=int(result.commonly_masked.sum()),
        mask_columns=list(masks[0]["figures"]) if masks else [],
        masks=masks,
        classes=_classes(result),
        violins=embed_file(violins) if violins is not None else "",
        grids=result.grids,
        scored=scores.pairs,
        sheets=[(heading, embed_file(sheet)) for heading, sheet in sheets],
        settings=settings,
        left_out=[*result.broken, *result.notes],
        unmatched=unmatched,
        files=files,
    )


def _classes(result: EvaluationResult) -> list[tuple[str, str]]:
    """Return name and CSS colour of each class of the labels."""
    if result.class_set is None or not result.masked.any():
        return []
    colors = ("#" + bytes(color).hex() for color in result.class_set.colors)
    return list(zip(result.class_set.names, colors, strict=True))


def _mean_rows(result: EvaluationResult) -> list[dict[str, Any]]:
    """Return a row per method with scores: its mean and standard deviation by each metric."""
    scores = result.scores
    means, best = scores.means(), scores.best()
    rows = []
    for m in np.flatnonzero(scores.present.any(axis=1)).tolist():
        deviations = [column["sd"] for column in scores.summary(m).values()]
        cells = [
            _cell(format_number(mean), "" if sd is None else format_number(sd), is_best)
            for mean, sd, is_best in zip(means[m], deviations, best[m], strict=True)
        ]
        rows.append(_row(result, m, [_cell(str(scores.present[m].sum())), *cells]))
    return rows


def _mask_rows(result: EvaluationResult) -> list[dict[str, Any]]:
    """Return a row per method with masks: its mIoU, accuracies, and IoU by class."""
    rows = []
    methods = np.flatnonzero(result.masked.any(axis=1)).tolist()
    matrices = {m: result.confusion(m, result.commonly_masked) for m in methods}
    shared = shared_classes(list(matrices.values()))
    for m, matrix in matrices.items():
        assert result.class_set is not None
        by_class = zip(result.class_set.names, matrix.iou(), strict=True)
        figures = {**segmentation_columns(matrix, shared), **dict(by_class)}
        cells = [_cell(format_figure(value)) for value in figures.values()]
        rows.append({**_row(result, m, cells), "figures": figures})
    return rows


def _row(result: EvaluationResult, method: int, cells: Iterable[dict[str, Any]]) -> dict[str, Any]:
    name = result.scores.methods[method]
    return {"method": name, "color": series_color(method), "cells": list(cells)}


def _cell(text: str, note: str = "", best: bool = False) -> dict[str, Any]:
    return {"text": text, "note": note, "best": bool(best)}
