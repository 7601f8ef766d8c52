"""Figures of scores: violins of every metric, and sheets of the best and worst pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ivf_core.evaluation.scores import Scores
from ivf_core.system.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["THUMBNAIL_WIDTH", "Row", "draw_sheet", "draw_violins", "method_color"]

# Of Okabe and Ito: told apart by colour-blind people too.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_PANELS = 5
_DPI = 130

THUMBNAIL_WIDTH = 320
"""Of the pictures on a sheet, in pixels; others are scaled to it."""

_INK = "#222222"

_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 10.5,
    "svg.hashsalt": "ivf",  # the same ids in every run
    "text.color": _INK,
}

Row = tuple[str, Sequence[tuple[str, np.ndarray | None]]]
"""A name, and pictures (H x W x 3 or H x W uint8) with a caption each; None where there is none."""


def method_color(index: int) -> str:
    """The colour of a method by its position, as in CSS."""
    return _COLORS[index % len(_COLORS)]


def draw_violins(scores: Scores, paths: Sequence[Path]) -> None:
    """One panel a metric, one violin a method, over the common pairs, as SAGE's Figure 5.

    The black line is the median, the white triangle the mean.

    Args:
        paths: files to write, each in the format of its suffix.
    """
    methods = [m for m in range(len(scores.methods)) if scores.present[m].any()]
    columns = min(_PANELS, len(scores.metrics))
    rows = math.ceil(len(scores.metrics) / columns)
    width = max(2.6, 0.45 * len(methods) + 0.9)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, 2.5 * rows + 0.5), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, axis in enumerate(axes):
            if panel < len(scores.metrics):
                _draw_panel(axis, scores, panel, methods)
            else:
                axis.set_axis_off()
        handles = [Patch(color=method_color(m), label=scores.methods[m]) for m in methods]
        figure.legend(
            handles=handles, loc="outside upper center", ncols=min(6, len(handles)), frameon=False
        )
        _save(figure, paths)


def _draw_panel(axis: Axes, scores: Scores, column: int, methods: Sequence[int]) -> None:
    axis.set_title(scores.metrics[column].title)
    axis.set_xticks([])
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    for place, method in enumerate(methods):
        values = scores.values[method, scores.common, column]
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        parts: Any = axis.violinplot(values, [place], widths=0.85, showextrema=False)
        parts["bodies"][0].set(
            facecolor=method_color(method), edgecolor=_INK, linewidth=0.6, alpha=0.75
        )
        low, high = np.percentile(values, (25, 75))
        axis.vlines(place, low, high, color=_INK, linewidth=2.5)
        axis.hlines(np.median(values), place - 0.28, place + 0.28, color="black", linewidth=1.6)
        axis.plot(place, values.mean(), "^", color="white", markeredgecolor=_INK, markersize=6)
    axis.set_xlim(-0.7, len(methods) - 0.3)


def draw_sheet(rows: Sequence[Row], titles: Sequence[str], path: Path) -> None:
    """Write a contact sheet: one row a pair, one column a source or method.

    Args:
        rows: as `Row`, all with as many pictures as there are titles.
        titles: of the columns.
        path: file to write, in the format of its suffix.
    """
    # In inches.
    left, top, gap, width = 0.25, 0.3, 0.06, THUMBNAIL_WIDTH / _DPI
    below = 0.2 if any(caption for _, row in rows for caption, _ in row) else gap
    heights = [width * _ratio(row) for _, row in rows]
    size = (left + len(titles) * (width + gap), top + sum(heights) + below * len(rows))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size)
        edge = size[1] - top
        for place, (name, row) in enumerate(rows):
            height = heights[place]
            edge -= height
            figure.text(
                left / 2 / size[0], (edge + height / 2) / size[1], name,
                rotation=90, ha="center", va="center", fontsize=8,
            )  # fmt: skip
            for column, (caption, picture) in enumerate(row):
                across = left + column * (width + gap)
                axis = figure.add_axes(
                    (across / size[0], edge / size[1], width / size[0], height / size[1])
                )
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                axis.set_xlabel(caption, fontsize=8, labelpad=2)
                if place == 0:
                    axis.set_title(titles[column], pad=4)
                if picture is not None:
                    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect="auto")
            edge -= below
        _save(figure, [path])


def _ratio(pictures: Sequence[tuple[str, np.ndarray | None]]) -> float:
    """Height by width of a row's pictures, which are of one size."""
    shape = next(picture.shape for _, picture in pictures if picture is not None)
    return shape[0] / shape[1]


def _save(figure: Figure, paths: Sequence[Path]) -> None:
    for path in paths:
        # Without the date and version that matplotlib writes: the same bytes every time.
        metadata = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=_DPI, metadata=metadata.get(path.suffix))
