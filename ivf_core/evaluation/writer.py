"""Files of an evaluation: scores as CSV and JSON, violins, contact sheets and a page."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import ivf_core
from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.box_scores import BoxScorer
from ivf_core.evaluation.folders import EvaluationResult, PairScorer
from ivf_core.evaluation.label_sheets import draw_label_sheet
from ivf_core.evaluation.mask_sheets import draw_mask_sheets
from ivf_core.evaluation.methods import Method
from ivf_core.evaluation.page import write_evaluation_page
from ivf_core.evaluation.scores import Scores
from ivf_core.evaluation.sheets import draw_sheets
from ivf_core.evaluation.tables import scores_csv, segmentation_summary
from ivf_core.html.plots import draw_violins
from ivf_core.system.atomic import atomic_path, write_json
from ivf_core.system.revision import git_revision

__all__ = ["PSEUDO_LABELS", "RESULTS", "OutputOptions", "write_evaluation"]

RESULTS = ("scores.csv", "summary.json", "tables.md", "violins.svg", "violins.png", "index.html")
"""Names of files that an evaluation writes, beside its sheets."""

PSEUDO_LABELS = "Against pseudo-labels, which are not ground truth."
"""Note that accompanies every score of masks that were compared with pseudo-labels."""


@dataclass(frozen=True)
class OutputOptions:
    """Options of the files, and facts to write beside the scores.

    Attributes:
        settings: options of the evaluation by name, for JSON.
        unmatched: files without a partner, one line each.
        pseudo_labels: whether the labels are no ground truth.
        examples: number of best and of worst images of each method on its sheets; 0 writes
            no sheets.
        rank_by: metrics that the images are ranked by; by default all, by their mean rank.
        cameras: as evaluated.
    """

    settings: dict[str, Any]
    unmatched: Sequence[str] = ()
    pseudo_labels: bool = False
    examples: int = 4
    rank_by: Sequence[str] = ()
    cameras: str = "both"


def write_evaluation(
    result: EvaluationResult,
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    options: OutputOptions,
    output: Path,
    scorers: Sequence[PairScorer] = (),
) -> list[Path]:
    """Write scores.csv, summary.json, tables.md, violins.png and .svg, the sheets and index.html.

    The same evaluation gives the same bytes on the same machine, those of the page and of
    the figures included.

    Args:
        result: scores of the methods on the pairs.
        pairs: pairs as evaluated.
        methods: methods as evaluated.
        options: see `OutputOptions`.
        output: folder; created where it is missing.
        scorers: scorers as evaluated; that of boxes gets sheets of masks.

    Returns:
        The files.

    Raises:
        ValueError: `rank_by` names a metric that was not evaluated.
    """
    labels_note = PSEUDO_LABELS if options.pseudo_labels else ""
    csv = scores_csv(result, " (pseudo-labels)" if labels_note else "")
    with atomic_path(output / "scores.csv") as temporary:
        temporary.write_text(csv, encoding="utf-8")
    files = [output / "scores.csv", output / "summary.json"]
    if result.grids:
        files.append(output / "tables.md")
        with atomic_path(files[-1]) as temporary:
            temporary.write_text(_markdown(result, pairs, methods, options), encoding="utf-8")
    violins = []
    if result.scores.metrics and result.scores.present.any():
        violins = [output / "violins.svg", output / "violins.png"]
        draw_violins(_distributions(result.scores), result.scores.methods, violins)
    sheets = draw_sheets(
        result.scores, pairs, methods, output,
        examples=options.examples, rank_by=options.rank_by, cameras=options.cameras,
    )  # fmt: skip
    for scorer in scorers:
        if isinstance(scorer, BoxScorer):
            sheets += draw_mask_sheets(
                scorer, pairs, methods, output, examples=options.examples, cameras=options.cameras
            )
    sheets += draw_label_sheet(
        result, pairs, methods, output, examples=options.examples, cameras=options.cameras
    )
    files += [*violins, *(path for _, path in sheets)]
    write_evaluation_page(
        output / "index.html",
        result,
        settings=_settings_lines(methods, options),
        labels_note=labels_note,
        violins=violins[0] if violins else None,
        sheets=sheets,
        unmatched=options.unmatched,
        files=[path.name for path in files],
    )
    files.append(output / "index.html")
    summary = _summary(result, methods, options, labels_note)
    summary["outputs"] = [path.relative_to(output).as_posix() for path in files]
    write_json(output / "summary.json", summary)
    return files


def _distributions(scores: Scores) -> dict[str, dict[int, np.ndarray]]:
    """Return by metric and method the finite scores of the common pairs, for `draw_violins`."""
    methods = np.flatnonzero(scores.present.any(axis=1)).tolist()
    values = scores.values[:, scores.common]
    return {
        metric.title: {m: values[m, np.isfinite(values[m, :, k]), k] for m in methods}
        for k, metric in enumerate(scores.metrics)
    }


def _summary(
    result: EvaluationResult, methods: Sequence[Method], options: OutputOptions, labels_note: str
) -> dict[str, Any]:
    scores = result.scores
    summary: dict[str, Any] = {
        "pairs": {
            "matched": len(scores.pairs),
            "common": int(scores.common.sum()),
            "left_out": result.broken,
            "unmatched": list(options.unmatched),
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
    if result.grids:
        summary["scored_pairs"] = list(scores.pairs)
        summary["tables"] = {grid.key: grid.to_json() for grid in result.grids}
    return {**summary, "notes": result.notes, **_settings(options)}


def _markdown(
    result: EvaluationResult,
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    options: OutputOptions,
) -> str:
    """Return the tables of the scorers, and how they were made."""
    lines = [f"- {line}" for line in _settings_lines(methods, options)]
    return "\n".join(
        [
            f"# Scores of {len(pairs)} pairs",
            "",
            *lines,
            "",
            *(g.to_markdown() for g in result.grids),
        ]
    )


def _settings(options: OutputOptions) -> dict[str, Any]:
    versions = {
        "ivf_core": ivf_core.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    with suppress(PackageNotFoundError):  # the metrics need none, the engines may
        versions["torch"] = version("torch")
    return {**options.settings, "versions": versions, "revision": git_revision()}


def _settings_lines(methods: Sequence[Method], options: OutputOptions) -> list[str]:
    """Return where the methods' images come from, and the settings, one line each."""
    settings = _settings(options)
    settings["versions"] = ", ".join(f"{k} {v}" for k, v in settings["versions"].items())
    sources = (
        f"{method.name}: {'weights' if method.pipeline is not None else 'images in'} "
        f"{method.source}"
        for method in methods
    )
    return [*sources, *(f"{name}: {value}" for name, value in settings.items())]
