"""Write an evaluation: CSV, JSON, violins, sheets of the best and worst pictures, the page."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import ivf_core
from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.figures import THUMBNAIL_WIDTH, Row, draw_sheet, draw_violins
from ivf_core.evaluation.folders import Evaluation, read_pictures, run_weights
from ivf_core.evaluation.methods import Method, file_stem
from ivf_core.evaluation.page import build_page
from ivf_core.evaluation.scores import Scores, columns_of
from ivf_core.evaluation.tables import number, scores_csv, segmentation_summary
from ivf_core.system.atomic import atomic_path, write_json
from ivf_core.system.revision import git_revision

__all__ = ["PSEUDO_LABELS", "Report", "write_report"]

PSEUDO_LABELS = "Against pseudo-labels, which are not ground truth."


@dataclass(frozen=True)
class Report:
    """What a report shows beside the scores.

    Attributes:
        settings: options by name, for JSON.
        unmatched: files without a partner, one line each.
        pseudo_labels: whether the labels are no ground truth.
        examples: best and worst pictures of each method on its sheets; 0: no sheets.
        rank_by: metrics that say which; by default all, by their mean rank.
    """

    settings: dict[str, Any]
    unmatched: Sequence[str] = ()
    pseudo_labels: bool = False
    examples: int = 4
    rank_by: Sequence[str] = ()


def write_report(
    result: Evaluation,
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    report: Report,
    output: Path,
) -> list[Path]:
    """Write scores.csv, summary.json, violins.png and .svg, the sheets and index.html.

    The same evaluation gives the same bytes on the same machine, the page's and the
    figures' too.

    Args:
        pairs, methods: as evaluated.
        output: folder; made where it is missing.

    Returns:
        The files.

    Raises:
        ValueError: `rank_by` names a metric that was not evaluated.
    """
    labels_note = PSEUDO_LABELS if report.pseudo_labels else ""
    _write_text(
        output / "scores.csv", scores_csv(result, " (pseudo-labels)" if labels_note else "")
    )
    write_json(output / "summary.json", _summary(result, methods, report, labels_note))
    violins = [output / "violins.svg", output / "violins.png"]
    draw_violins(result.scores, violins)
    sheets = _draw_sheets(result, pairs, methods, report, output)
    files = [output / "scores.csv", output / "summary.json", *violins, *(p for _, p in sheets)]
    page = build_page(
        result,
        title="Fusion scores: " + ", ".join(result.scores.methods),
        settings=_settings_lines(methods, report),
        labels_note=labels_note,
        violins=violins[0],
        sheets=sheets,
        unmatched=report.unmatched,
        files=[path.name for path in files],
    )
    _write_text(output / "index.html", page)
    return [*files, output / "index.html"]


def _summary(
    result: Evaluation, methods: Sequence[Method], report: Report, labels_note: str
) -> dict[str, Any]:
    scores = result.scores
    summary: dict[str, Any] = {
        "pairs": {
            "matched": len(scores.pairs),
            "common": int(scores.common.sum()),
            "left_out": result.broken,
            "unmatched": list(report.unmatched),
        },
        "metrics": {
            metric.name: {"better": "higher" if metric.higher_is_better else "lower"}
            for metric in scores.metrics
        },
        "methods": {
            method.name: {
                "source": method.source,
                "pairs": int(scores.present[m].sum()),
                "scores": scores.summary(m),
            }
            for m, method in enumerate(methods)
        },
    }
    if result.confusions is not None and result.class_set is not None:
        summary["masks"] = {
            "labels": labels_note or "taken for ground truth",
            "class_set": result.class_set.name,
            "pairs": int(result.commonly_masked.sum()),
            "methods": segmentation_summary(result),
        }
    return {**summary, "notes": result.notes, **_settings(report)}


def _settings(report: Report) -> dict[str, Any]:
    versions = {
        "ivf_core": ivf_core.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "torch": torch.__version__,
    }
    return {**report.settings, "versions": versions, "revision": git_revision()}


def _settings_lines(methods: Sequence[Method], report: Report) -> list[str]:
    """Where the methods' pictures come from, and the settings."""
    settings = _settings(report)
    settings["versions"] = ", ".join(f"{k} {v}" for k, v in settings["versions"].items())
    sources = (
        f"{method.name}: {'weights' if method.pipeline is not None else 'pictures in'} "
        f"{method.source}"
        for method in methods
    )
    return [*sources, *(f"{name}: {value}" for name, value in settings.items())]


def _draw_sheets(
    result: Evaluation,
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    report: Report,
    output: Path,
) -> list[tuple[str, Path]]:
    """Write the sheets; headings and files."""
    scores = result.scores
    columns = columns_of(scores.metrics, report.rank_by)
    what = ", ".join(report.rank_by) or "mean rank over the metrics"
    captioned = columns if report.rank_by else []
    shown = _shown(methods)
    sheets = []

    @cache
    def thumbnails(pair: int) -> list[np.ndarray | None]:
        return _thumbnails(pairs[pair], methods)

    for m in np.flatnonzero(scores.present.any(axis=1)) if report.examples else ():
        ranks = scores.ranks(int(m), columns)
        known = np.flatnonzero(np.isfinite(ranks))
        ordered = known[np.argsort(ranks[known], kind="stable")].tolist()
        for kind, chosen in (
            ("best", ordered[: report.examples]),
            ("worst", ordered[::-1][: report.examples]),
        ):
            rows: list[Row] = [
                (
                    pairs[p].name,
                    list(zip(_captions(scores, p, shown, captioned), thumbnails(p), strict=True)),
                )
                for p in chosen
            ]
            path = output / f"{kind}_{file_stem(scores.methods[m])}.jpg"
            draw_sheet(rows, ["visible", "infrared", *shown], path)
            sheets.append((f"{scores.methods[m]}: {kind} pictures by {what}", path))
    return sheets


def _thumbnails(files: PairFiles, methods: Sequence[Method]) -> list[np.ndarray | None]:
    """Visible, infrared and every method's picture; None where it has none."""
    pictures = read_pictures(files, methods)
    if isinstance(pictures, str):
        raise ValueError(pictures)  # it could be read a while ago
    run_weights(files.name, pictures, methods)
    height, width = pictures.infrared.shape
    size = (THUMBNAIL_WIDTH, round(THUMBNAIL_WIDTH * height / width))
    fused = (pictures.fused.get(name) for name in _shown(methods))
    return [
        picture if picture is None else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        for picture in (pictures.visible, pictures.infrared, *fused)
    ]


def _captions(
    scores: Scores, pair: int, methods: Sequence[str], columns: Sequence[int]
) -> list[str]:
    """What stands below the pictures of a pair: the methods' values of some metrics."""
    captions = ["", ""]
    for method in methods:
        values = scores.values[scores.methods.index(method), pair]
        captions.append(", ".join(f"{scores.metrics[k].name} {number(values[k])}" for k in columns))
    return captions


def _shown(methods: Sequence[Method]) -> list[str]:
    return [method.name for method in methods if method.fused or method.pipeline is not None]


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
