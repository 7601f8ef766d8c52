"""Charts as data for replay.js, which draws them.

A chart is a dictionary:
    id, section, title, unit, note: text;
    kind: "line", "stack" (areas on top of each other) or "bars" (a histogram);
    x: None for the seconds of the pairs, else numbers of its own;
    series: [{label, column or values, color or None}], where column is a name in `columns`;
    band: None, or quantiles of reference scores {p5, p25, median, p75, p95};
    marks: [{x, label}], vertical lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["ascending", "chart", "numbers", "packed"]

_DIGITS = 4


def chart(
    key: str,
    section: str,
    title: str,
    unit: str,
    series: Iterable[Mapping[str, Any]],
    *,
    kind: str = "line",
    note: str = "",
    x: Sequence[float] | None = None,
    band: Mapping[str, float] | None = None,
    marks: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return a chart as described at the head of this module.

    Args:
        key: its id.
        section: section of the report that shows it.
        title: its title.
        unit: unit of its values.
        series: its series; `color` may be left out.
        kind: "line", "stack" or "bars".
        note: remark next to the title.
        x: positions of the values; None for the seconds of the pairs.
        band: quantiles of reference scores.
        marks: vertical lines.
    """
    return {
        "id": key,
        "section": section,
        "title": title,
        "unit": unit,
        "kind": kind,
        "note": note,
        "x": x,
        "series": [{"color": None, **one} for one in series],
        "band": band,
        "marks": list(marks),
    }


def numbers(values: np.ndarray | Sequence[float]) -> list[float | None]:
    """Round numbers for JSON; None where they are not finite.

    They have four digits, and as many more as are needed to tell values far from 0 apart:
    offsets between clocks that differ by hours still vary by milliseconds.
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    digits = _DIGITS
    if len(finite) and (spread := float(np.ptp(finite))) > 0:
        digits += max(0, math.floor(math.log10(float(np.abs(finite).max()) / spread)))
    return [_number(value, digits) for value in values.tolist()]


def packed(values: np.ndarray) -> list[float | None] | dict[str, Any]:
    """Return a column for JSON: `numbers`, or {rows, values} where most values are missing."""
    rows = np.flatnonzero(np.isfinite(values))
    if 2 * len(rows) > len(values):
        return numbers(values)
    return {"rows": rows.tolist(), "values": numbers(values[rows])}


def _number(value: float, digits: int) -> float | None:
    """Round a float; whole numbers become int, which is shorter in JSON."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


def ascending(seconds: np.ndarray) -> list[float]:
    """Return times for JSON in milliseconds' precision that never decrease, as axes need.

    A time that is lower than an earlier one is replaced by it.
    """
    return np.maximum.accumulate(seconds).round(3).tolist() if len(seconds) else []
