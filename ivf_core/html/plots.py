"""Charts that matplotlib draws: violins of distributions and curves of losses.

matplotlib is imported when a chart is drawn, so that pages without charts do without it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ivf_core.system.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DPI", "STYLE", "draw_curves", "draw_violins", "save_figure", "series_color"]

DPI = 130
"""Resolution of figures that are saved as pixels, in dots per inch."""

_INK = "#222222"

STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 10.5,
    "svg.hashsalt": "ivf",  # the same ids in every run
    "text.color": _INK,
}
"""Settings of matplotlib for all figures."""

# The palette of Okabe and Ito, which colour-blind readers can tell apart.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_VIOLIN_COLUMNS = 5

_CURVE_COLUMNS = 3
_CURVE_POINTS = 600  # more points than a page has pixels only make the file larger
_WIDEST_MEAN = 1000  # steps


def series_color(index: int) -> str:
    """Return the colour of a series by its position, in CSS notation."""
    return _COLORS[index % len(_COLORS)]


def draw_violins(
    panels: Mapping[str, Mapping[int, np.ndarray]], names: Sequence[str], paths: Sequence[Path]
) -> None:
    """Draw one panel per quantity and one violin per series, as in SAGE's Figure 5.

    The black line is the median, the white triangle the mean, the bar the middle half.

    Args:
        panels: by title, the finite values (N float64) of each series by its position in
            `names`; a series without values leaves its place empty.
        names: series, as the legend shows them; their positions choose their colours.
        paths: files to write, each in the format of its suffix.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = sorted({series for panel in panels.values() for series in panel})
    columns = min(_VIOLIN_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = max(2.6, 0.45 * len(shown) + 0.9)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, 2.5 * rows + 0.5), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        for axis, (title, panel) in zip(axes, panels.items(), strict=False):
            axis.set_title(title)
            axis.set_xticks([])
            axis.grid(axis="y", color="#e4e4e4", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
            for place, series in enumerate(shown):
                if len(panel.get(series, ())):
                    _draw_violin(axis, place, panel[series], series_color(series))
            axis.set_xlim(-0.7, len(shown) - 0.3)
        handles = [Patch(color=series_color(series), label=names[series]) for series in shown]
        figure.legend(
            handles=handles, loc="outside upper center", ncols=min(6, len(handles)), frameon=False
        )
        save_figure(figure, paths)


def _draw_violin(axis: Axes, place: float, values: np.ndarray, color: str) -> None:
    parts: Any = axis.violinplot(values, [place], widths=0.85, showextrema=False)
    parts["bodies"][0].set(facecolor=color, edgecolor=_INK, linewidth=0.6, alpha=0.75)
    low, high = np.percentile(values, (25, 75))
    axis.vlines(place, low, high, color=_INK, linewidth=2.5)
    axis.hlines(np.median(values), place - 0.28, place + 0.28, color="black", linewidth=1.6)
    axis.plot(place, values.mean(), "^", color="white", markeredgecolor=_INK, markersize=6)


def draw_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Draw one panel per curve: a thin line for the values, a thick one for their moving mean.

    Args:
        curves: steps (N int64) and values (N float64) by title.

    Returns:
        SVG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(_CURVE_COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4 * columns, 2.7 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes[len(curves) :]:
            axis.set_axis_off()
        for axis, (title, (steps, values)) in zip(axes, curves.items(), strict=False):
            count = min(len(steps), _CURVE_POINTS)
            shown = np.linspace(0, len(steps) - 1, count).round().astype(int)
            smooth = _moving_mean(values)
            axis.plot(steps[shown], values[shown], color="#9dc3e6", linewidth=0.6)
            axis.plot(steps[shown], smooth[shown], color="#1f4e79", linewidth=1.4)
            if _spans_decades(smooth):
                axis.set_yscale("log")
            axis.set_title(title)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata=_metadata(".svg"))
    return file.getvalue()


def _moving_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over a fiftieth of the values around each one, fewer at both ends."""
    window = np.ones(min(max(1, len(values) // 50), _WIDEST_MEAN))
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _spans_decades(values: np.ndarray) -> bool:
    """Return whether a log axis helps: all above 0, the largest over ten times the smallest."""
    finite = values[np.isfinite(values)]
    return finite.size > 0 and finite.min() > 0 and finite.max() > 10 * finite.min()


def save_figure(figure: Figure, paths: Sequence[Path]) -> None:
    """Save a figure to each path in the format of its suffix, with the same bytes every time."""
    for path in paths:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=DPI, metadata=_metadata(path.suffix))


def _metadata(suffix: str) -> dict[str, None] | None:
    """Return settings that leave out the date and version that matplotlib writes."""
    return {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}.get(suffix)
