"""Filters of the templates: format numbers, durations, stamps and nested settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

__all__ = ["FILTERS", "count", "duration", "flat", "percent", "utc", "value"]

_MISSING = "\u2013"
_YEAR_1971, _YEAR_10000 = 31_536_000, 253_402_300_800


def count(value: float) -> str:
    """Format a count with thin spaces between thousands, 12345 as 12 345."""
    return f"{value:,.0f}".replace(",", "\u2009")


def percent(value: float | None) -> str:
    """Format a share in [0, 1] as a percentage of three digits; a dash where there is none."""
    return _MISSING if value is None or not math.isfinite(value) else f"{100 * value:.3g} %"


def duration(seconds: float) -> str:
    """Format seconds: 3725 as 1 h 2 min 5 s, times under a minute to one decimal."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours} h " if hours else "") + f"{minutes} min {rest} s"


def utc(stamp_ns: int) -> str:
    """Format a stamp in ns as date and time.

    Stamps before 1971, as of simulations and clocks that are not set, are given in seconds.
    """
    seconds = stamp_ns // 10**9
    if not _YEAR_1971 <= seconds < _YEAR_10000:
        return f"{stamp_ns / 1e9:.3f} s"
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def value(number: Any, unit: str = "") -> str:
    """Format a number to four digits with its unit; other values as `str` does.

    Args:
        number: value to format; a dash stands for None and numbers that are not finite.
        unit: its unit; "%" formats a share in [0, 1] as a percentage.
    """
    if number is None or (isinstance(number, float) and not math.isfinite(number)):
        return _MISSING
    if isinstance(number, bool):
        return "yes" if number else "no"
    if not isinstance(number, int | float):
        return str(number)
    if unit == "%":
        return percent(number)
    text = count(number) if float(number).is_integer() and abs(number) >= 1000 else f"{number:.4g}"
    return f"{text} {unit}".rstrip()


def bare(number: float, unit: str = "") -> str:
    """Format a number without its unit, for columns that have the unit in their head."""
    return value(100 * number if unit == "%" else number)


def words(key: str) -> str:
    """Format a key of summary.json as a label: spaces instead of underscores."""
    return key.replace("_", " ")


def flat(entries: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested settings into rows of a table: label, and value as text.

    Args:
        entries: settings by key; the keys of nested settings are joined by ": ".
        prefix: text in front of each label.
    """
    rows = []
    for key, entry in entries.items():
        label = f"{prefix}{words(key)}"
        if isinstance(entry, Mapping):
            rows += flat(entry, f"{label}: ")
        elif isinstance(entry, list):
            rows.append((label, ", ".join(map(_item, entry)) or "none"))
        else:
            whole = isinstance(entry, int) and not isinstance(entry, bool)
            rows.append((label, "none" if entry is None else str(entry) if whole else value(entry)))
    return rows


FILTERS: Mapping[str, Callable[..., Any]] = {
    "bare": bare,
    "count": count,
    "duration": duration,
    "flat": flat,
    "percent": percent,
    "utc": utc,
    "value": value,
    "words": words,
}
"""Functions by their name in templates."""


def _item(entry: Any) -> str:
    return " ".join(map(value, entry.values())) if isinstance(entry, Mapping) else value(entry)
