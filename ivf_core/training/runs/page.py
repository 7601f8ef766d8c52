"""One page about a run, from the files of its record: see `ivf_core.training.runs.record`."""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.system.atomic import atomic_path

__all__ = ["picture_files", "read_losses", "write_summary"]

RECIPE = "recipe.yaml"
METADATA = "metadata.json"
LOSSES = "losses.csv"
SCORES = "scores.json"
IMAGES = "images"
PAGE = "summary.html"

RUNNING, FINISHED = "running", "finished"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }
table { border-collapse: collapse; margin: 0 2em 1em 0 }
caption { font-weight: bold; padding: .3em 0; text-align: left; white-space: nowrap }
td, th { border-bottom: 1px solid #ccc; padding: .2em .8em .2em 0; text-align: left;
  vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.tables { align-items: start; display: flex; flex-wrap: wrap }
.note { border-left: 4px solid #c60; background: #fff4e5; padding: .4em .8em; margin: .5em 0 }
img { max-width: 100% }
pre { background: #f4f4f4; padding: .8em; overflow-x: auto }
"""

# Points of a curve: more than the page has pixels for only make it heavy.
_POINTS = 600
_WIDEST_MEAN = 1000


def write_summary(directory: str | os.PathLike[str]) -> Path:
    """Write `summary.html`: outcome, warnings, scores, curves, pictures, recipe and origin.

    It stands alone: pictures are inside it. Without matplotlib it has no curves, and says so.

    Args:
        directory: of a run's record.

    Returns:
        The page.
    """
    directory = Path(directory)
    metadata = json.loads((directory / METADATA).read_text(encoding="utf-8"))
    scores = directory / SCORES
    title = f"{metadata['part']}: {directory.resolve().name}"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *_outcome(metadata),
        *(_note(text) for text in metadata["warnings"]),
        *(_scores(json.loads(scores.read_text(encoding="utf-8"))) if scores.is_file() else ()),
        *_curves(read_losses(directory)),
        *_pictures(picture_files(directory)),
        "<h2>Recipe</h2>",
        f"<pre>{escape((directory / RECIPE).read_text(encoding='utf-8'))}</pre>",
        "<h2>Origin</h2>",
        *(_session(session) for session in metadata["sessions"]),
        "</body></html>",
    ]
    page = directory / PAGE
    with atomic_path(page) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return page


def read_losses(directory: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps (int64) and values (float64) of each loss by name, in the order of first mention."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    with (Path(directory) / LOSSES).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            steps, values = found.setdefault(row["loss"], ([], []))
            steps.append(int(row["step"]))
            values.append(float(row["value"]))
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in found.items()}


def picture_files(directory: str | os.PathLike[str]) -> dict[int, Path]:
    """The rows of pictures of a run's record by step, ascending."""
    paths = (Path(directory) / IMAGES).glob("*.png")
    return dict(sorted((int(path.stem), path) for path in paths if path.stem.isdecimal()))


def _outcome(metadata: Mapping[str, Any]) -> Iterable[str]:
    session = metadata["sessions"][-1]
    last = session["last_step"]
    done = session["first_step"] if last is None else last + 1
    steps = f"{done} of {metadata['total_steps']} steps"
    if session["outcome"] == FINISHED:
        yield f"<p>Finished, {steps}.</p>"
    else:
        yield _note(f"The run stopped, {steps}: {session['outcome']}")


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _scores(tables: Mapping[str, Mapping[str, float | str]]) -> Iterable[str]:
    yield '<h2>Scores</h2><div class="tables">'
    for title, table in tables.items():
        rows = "".join(
            f'<tr><td>{escape(name)}</td><td class="number">{escape(_text(value))}</td></tr>'
            for name, value in table.items()
        )
        yield f"<table><caption>{escape(title)}</caption>{rows}</table>"
    yield "</div>"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _curves(losses: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Iterable[str]:
    if not losses:
        return
    yield "<h2>Losses by step</h2>"
    try:
        svg = _draw_curves(losses)
    except ImportError:
        logging.getLogger(__name__).warning(
            "matplotlib is not installed (extra `training`): the summary has no curves"
        )
        yield f"<p>matplotlib is not installed: no curves; the values are in {LOSSES}.</p>"
        return
    yield _image("image/svg+xml", svg, "losses by step, as they are and smoothed")


def _draw_curves(losses: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """SVG with a plot for each loss: pale as it is, dark its moving mean."""
    from matplotlib.figure import Figure

    columns = min(3, len(losses))
    rows = -(-len(losses) // columns)
    figure = Figure(figsize=(4 * columns, 2.7 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_visible(False)
    for axes, (name, (steps, values)) in zip(grid, losses.items(), strict=False):
        axes.set_visible(True)
        shown = np.linspace(0, len(steps) - 1, min(len(steps), _POINTS)).round().astype(int)
        smooth = _moving_mean(values)
        axes.plot(steps[shown], values[shown], color="#9dc3e6", linewidth=0.6)
        axes.plot(steps[shown], smooth[shown], color="#1f4e79", linewidth=1.4)
        if _spans_decades(smooth):
            axes.set_yscale("log")
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return file.getvalue()


def _moving_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a fiftieth of the values around each, fewer at both ends."""
    window = np.ones(min(max(1, len(values) // 50), _WIDEST_MEAN))
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _spans_decades(values: np.ndarray) -> bool:
    """Whether a log axis helps: all above 0, the largest over ten times the smallest."""
    finite = values[np.isfinite(values)]
    return finite.size > 0 and finite.min() > 0 and finite.max() > 10 * finite.min()


def _pictures(files: Mapping[int, Path]) -> Iterable[str]:
    """The first, the middle and the last row."""
    if not files:
        return
    yield "<h2>Pictures</h2>"
    steps = list(files)
    for index in sorted({0, len(steps) // 2, len(steps) - 1}):
        yield f"<p>Step {steps[index]}</p>"
        yield _image("image/png", files[steps[index]].read_bytes(), f"step {steps[index]}")


def _image(kind: str, data: bytes, text: str) -> str:
    encoded = base64.b64encode(data).decode("ascii")
    return f'<img alt="{escape(text)}" src="data:{kind};base64,{encoded}">'


def _session(session: Mapping[str, Any]) -> str:
    facts = {
        "steps": f"from {session['first_step']}, last {session['last_step']}",
        "started": session["started"],
        "ended": f"{session['ended'] or 'unknown'}: {session['outcome']}",
        "command": session["command"],
        "revision": session["revision"],
        "versions": ", ".join(f"{name} {value}" for name, value in session["versions"].items()),
        "machine": ", ".join(f"{name}: {value}" for name, value in session["machine"].items()),
    }
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{rows}</table>"
