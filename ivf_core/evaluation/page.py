"""The page that shows an evaluation: one file, no scripts, opens offline."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ivf_core.evaluation.figures import method_color
from ivf_core.evaluation.folders import Evaluation
from ivf_core.evaluation.tables import number, segmentation_columns

__all__ = ["build_page"]

# Sheets that show when the page opens: the first method's.
_UNFOLDED = 2

_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 1280px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0 .8rem; max-width: 60rem; } .quiet { color: #666; font-size: .9em; }
.warning { background: #fff4d6; border-left: 4px solid #e69f00; padding: .5rem .8rem; }
.wide { overflow-x: auto; } img { width: 100%; display: block; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #222; } tbody tr + tr td { border-top: 1px solid #e4e4e4; }
td small { display: block; color: #888; } td.best { font-weight: 700; background: #eaf5ef; }
td.best small { font-weight: 400; }
i { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .5em; }
li { overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; padding: .2rem 0; }
"""


def build_page(
    result: Evaluation,
    *,
    title: str,
    settings: Sequence[str],
    labels_note: str,
    violins: Path,
    sheets: Sequence[tuple[str, Path]],
    unmatched: Sequence[str],
    files: Sequence[str],
) -> str:
    """The page as HTML, its pictures in it.

    Args:
        title: of the page.
        settings: lines on how the scores came about.
        labels_note: a warning on what the labels are, or "".
        violins: an SVG file.
        sheets: headings and JPEG files.
        unmatched: files without a partner.
        files: names of the files beside the page.
    """
    scores = result.scores
    common = int(scores.common.sum())
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=quiet>{common} of {len(scores.pairs)} pairs, those that all methods have "
        f"a picture of · {len(scores.metrics)} metrics</p>",
        "<h2>Means</h2>",
        "<p class=quiet>Below each mean the standard deviation. ↑ higher is better, ↓ lower; "
        "the best of several is marked.</p>",
        _scores_table(result),
    ]
    if result.confusions is not None:
        parts.append("<h2>Masks</h2>")
        if labels_note:
            parts.append(f"<p class=warning>{escape(labels_note)}</p>")
        parts.append(_masks_table(result))
    parts += [
        "<h2>Distributions</h2>",
        "<p class=quiet>Black line: median; white triangle: mean; thick bar: the middle half.</p>",
        _picture(violins, "Violin plots of each metric"),
    ]
    parts.append("<h2>Best and worst pictures</h2>" if sheets else "")
    for index, (heading, path) in enumerate(sheets):
        unfolded = " open" if index < _UNFOLDED else ""
        parts.append(
            f"<details{unfolded}><summary>{escape(heading)}</summary>"
            f"{_picture(path, heading)}</details>"
        )
    parts += ["<h2>How it was made</h2>", _list(settings)]
    left_out = [*result.broken, *result.notes]
    if left_out:
        parts += [f"<h2>Left out ({len(left_out)})</h2>", _list(left_out)]
    if unmatched:
        parts.append(
            f"<details><summary>{len(unmatched)} files without a partner</summary>"
            f"{_list(unmatched)}</details>"
        )
    links = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in files)
    parts.append(f"<p class=quiet>Beside this page: {links}</p>")
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _scores_table(result: Evaluation) -> str:
    scores = result.scores
    means, best = scores.means(), scores.best()
    head = ["", "pairs", *(metric.title for metric in scores.metrics)]
    rows = []
    for m, method in enumerate(scores.methods):
        if not scores.present[m].any():
            continue
        summary = scores.summary(m)
        cells = [_method(m, method), f"<td>{scores.present[m].sum()}</td>"]
        for k, metric in enumerate(scores.metrics):
            deviation = summary[metric.name]["sd"]
            below = f"<small>{number(deviation)}</small>" if deviation is not None else ""
            kind = " class=best" if best[m, k] else ""
            cells.append(f"<td{kind}>{number(means[m, k])}{below}</td>")
        rows.append("".join(cells))
    return _table(head, rows)


def _masks_table(result: Evaluation) -> str:
    assert result.class_set is not None
    head: list[str] = []
    rows = []
    for m in np.flatnonzero(result.masked.any(axis=1)):
        matrix = result.confusion(int(m), result.commonly_masked)
        figures = segmentation_columns(matrix)
        head = ["", *figures, *result.class_set.names]
        values = [*figures.values(), *matrix.iou()]
        cells = "".join(f"<td>{number(value)}</td>" for value in values)
        rows.append(_method(int(m), result.scores.methods[m]) + cells)
    note = f"<p class=quiet>{result.commonly_masked.sum()} pairs; by class, IoU.</p>"
    return note + _table(head, rows)


def _method(index: int, name: str) -> str:
    return f'<td><i style="background:{method_color(index)}"></i>{escape(name)}</td>'


def _table(head: Iterable[str], rows: Iterable[str]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f"<div class=wide><table><thead><tr>{titles}</tr></thead>"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _picture(path: Path, text: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:{_TYPES[path.suffix]};base64,{data}" alt="{escape(text)}">'
