"""Filters of the templates: numbers, durations, stamps and nested settings as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

__all__ = ["FILTERS", "count", "duration", "flat", "percent", "utc", "value"]

_MISSING = "\u2013"
_YEAR_1971, _YEAR_10000 = 31_536_000, 253_402_300_800


def count(value: float) -> str:
    """12345 as 12 345, with thin spaces."""
    return f"{value:,.0f}".replace(",", "\u2009")


def percent(value: float | None) -> str:
    return _MISSING if value is None or not math.isfinite(value) else f"{100 * value:.3g} %"


def duration(seconds: float) -> str:
    """3725 as 1 h 2 min 5 s; under a minute with one decimal."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours} h " if hours else "") + f"{minutes} min {rest} s"


def utc(stamp_ns: int) -> str:
    """A stamp as date and time; of a simulation, or of no clock that is set, as seconds."""
    seconds = stamp_ns // 10**9
    if not _YEAR_1971 <= seconds < _YEAR_10000:
        return f"{stamp_ns / 1e9:.3f} s"
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def value(number: Any, unit: str = "") -> str:
    """A number to four digits with its unit; anything else as it is."""
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
    """As `value`, for columns whose head has the unit."""
    return value(100 * number if unit == "%" else number)


def words(key: str) -> str:
    """A key of summary.json as a label."""
    return key.replace("_", " ")


def flat(entries: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of a table: the keys in words, joined, and the value as text."""
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
"""Name to function, as templates call them."""


def _item(entry: Any) -> str:
    return " ".join(map(value, entry.values())) if isinstance(entry, Mapping) else value(entry)
