"""Differences between two replays, with confidence intervals.

Where both show the same footage, pairs of the same stamp are compared with one another, and
the interval is that of their differences, in which the effects of the scene cancel. Footage
counts as the same where stamps agree and the RGB images have the same mean luma (stamps alone
may agree by chance: converted videos all start at the same one). For different footage, only
the means are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ivf_core.defaults import BLOCK_SECONDS
from ivf_core.replay.compare.bootstrap import SEED, Interval, block_length, block_means, interval
from ivf_core.replay.quantities import describe
from ivf_core.replay.saved_replay import ReplayDirectory

__all__ = ["Comparison", "QuantityDifference", "compare"]

_LEAST_BLOCKS = 6  # blocks of short drives are shortened to have this many
_SAME_LUMA = 1.0  # grey levels by which an encoder may change the mean
_SAME_SHARE = 0.9
_OTHER = "other_"


@dataclass(frozen=True)
class QuantityDifference:
    """Difference of one quantity between replays A and B.

    Attributes:
        name: column of frames.csv or timings.csv, or a counted figure of summary.json.
        a: mean in A.
        b: mean in B.
        value: b with its interval.
        difference: b - a with its interval.
        ratio: b / a with its interval, or None where a is not positive.
        count: number of pairs compared, or of pairs in the shorter replay; 0 for a counted
            figure, whose intervals are points.
        blocks: number of blocks of time in the pairs.
    """

    name: str
    a: float
    b: float
    value: Interval
    difference: Interval
    ratio: Interval | None
    count: int
    blocks: float

    @property
    def verdict(self) -> str:
        """Name of the change, better, worse or differs; "" where the interval contains 0."""
        if self.difference.low <= 0 <= self.difference.high:
            return ""
        sign = describe(self.name).better * (1 if self.difference.estimate > 0 else -1)
        return {1: "better", -1: "worse", 0: "differs"}[sign]


@dataclass(frozen=True)
class Comparison:
    """Comparison of replay B with replay A.

    Attributes:
        a: the baseline.
        b: the replay that is compared with it.
        same_footage: whether pairs were compared with one another.
        matched: rows of A and rows of B with the same stamps; empty for different footage.
        block_seconds: length of the blocks as requested; blocks of short drives are shorter.
        quantities: differences of the quantities that both replays have, by name.
        known: names of all quantities that either replay has.
    """

    a: ReplayDirectory
    b: ReplayDirectory
    same_footage: bool
    matched: tuple[np.ndarray, np.ndarray]
    block_seconds: float
    quantities: Mapping[str, QuantityDifference]
    known: frozenset[str]


@dataclass(frozen=True)
class _Series:
    """Values of a quantity over time."""

    seconds: np.ndarray
    values: np.ndarray

    def finite(self, also: np.ndarray | bool = True) -> _Series:
        """Return the finite values, of those that `also` selects."""
        keep = np.isfinite(self.values) & also
        return _Series(self.seconds[keep], self.values[keep])


def compare(
    a: ReplayDirectory, b: ReplayDirectory, block_seconds: float = BLOCK_SECONDS
) -> Comparison:
    """Compare replay B with replay A.

    Args:
        a: the baseline.
        b: the replay to compare with it.
        block_seconds: length of the blocks that the bootstrap draws, positive.

    Raises:
        ValueError: block_seconds is not positive.
    """
    if not block_seconds > 0:
        raise ValueError(f"block_seconds is {block_seconds}, expected a positive number")
    matched = _match(a, b)
    same = _is_same_footage(a, b, matched)
    if not same:
        matched = matched[0][:0], matched[1][:0]
    found: dict[str, QuantityDifference] = {}
    series_a, series_b = _series(a), _series(b)
    for name in series_a:
        if name not in series_b:
            continue
        one, two = series_a[name], series_b[name]
        if name == _UNPAIRED:
            aligned = same and np.array_equal(one.seconds, two.seconds)
        else:
            aligned = same
            if same:
                one = _Series(one.seconds[matched[0]], one.values[matched[0]])
                two = _Series(two.seconds[matched[1]], two.values[matched[1]])
        compared = (_paired if aligned else _unpaired)(name, one, two, block_seconds)
        if compared is not None:
            found[name] = compared
    figures_a, figures_b = _figures(a.summary), _figures(b.summary)
    for name in figures_a:
        if name in figures_b:
            found[name] = _counted(name, figures_a[name], figures_b[name])
    known = frozenset((*series_a, *series_b, *figures_a, *figures_b))
    return Comparison(a, b, same, matched, block_seconds, found, known)


# ----------------------------------------------------------------- quantities

_UNPAIRED = "unpaired_hz"


def _series(replay: ReplayDirectory) -> dict[str, _Series]:
    """Return all quantities that were measured over time, by name."""
    columns = {k: v for k, v in replay.columns().items() if not k.startswith(_OTHER)}
    if {"prepare_ms", "model_ms"} <= set(columns):
        columns["pipeline_ms"] = columns["prepare_ms"] + columns["model_ms"]
    found = {
        name: _Series(replay.seconds, values)
        for name, values in columns.items()
        if np.isfinite(values).any()
    }
    rate = replay.summary["pairing"].get("rate") or {}
    if rate.get("seconds"):
        lost = np.subtract(rate["rgb_hz"], rate["pairs_hz"], dtype=np.float64)
        found[_UNPAIRED] = _Series(np.asarray(rate["seconds"], np.float64), lost)
    return found


def _figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return all quantities that are one number per replay, by name."""
    pairing, live = summary["pairing"], summary.get("live") or {}
    figures = {
        "pairs": pairing["pairs"],
        "failed": sum((summary.get("failed") or {}).values()),
        **{
            f"unmatched_{camera}": sum(reasons.values())
            for camera, reasons in pairing["unmatched"].items()
        },
        **{k: v for k, v in (summary.get("throughput") or {}).items() if k.endswith("per_second")},
        **dict(_leaves("live", live)),
    }
    if "dropped" in live:
        figures["live_dropped"] = sum(live["dropped"].values())
    if summary.get("segmentation"):
        figures["miou_all"] = summary["segmentation"]["miou"]
    return {name: float(value) for name, value in figures.items() if value is not None}


def _leaves(prefix: str, entries: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested entries, their keys joined by underscores."""
    for key, entry in entries.items():
        if isinstance(entry, Mapping):
            yield from _leaves(f"{prefix}_{key}", entry)
        elif isinstance(entry, int | float) and not isinstance(entry, bool):
            yield f"{prefix}_{key}", float(entry)


# ----------------------------------------------------------------- pairs of the same stamp


def _match(a: ReplayDirectory, b: ReplayDirectory) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of A and B with the same stamp in the same loop of the bag, in A's order."""
    places = {key: row for row, key in enumerate(_keys(b.stamps))}
    rows = [(row, places[key]) for row, key in enumerate(_keys(a.stamps)) if key in places]
    table = np.array(rows, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _keys(stamps: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield each stamp with the number of times that stamps went back before it."""
    loops = np.cumsum(np.diff(stamps, prepend=stamps[:1]) < 0)
    return zip(loops.tolist(), stamps.tolist(), strict=True)


def _is_same_footage(
    a: ReplayDirectory, b: ReplayDirectory, matched: tuple[np.ndarray, np.ndarray]
) -> bool:
    if not len(matched[0]):
        return False
    if "rgb_dark" not in a.frames or "rgb_dark" not in b.frames:
        return True
    apart = np.abs(a.frames["rgb_dark"][matched[0]] - b.frames["rgb_dark"][matched[1]])
    return bool((apart <= _SAME_LUMA).mean() >= _SAME_SHARE)


# ----------------------------------------------------------------- intervals


def _paired(name: str, a: _Series, b: _Series, block_seconds: float) -> QuantityDifference | None:
    """Compare two series pair by pair."""
    both = np.isfinite(a.values) & np.isfinite(b.values)
    a, b = a.finite(both), b.finite(both)
    if not len(a.values):
        return None
    block = _block(a.seconds, block_seconds)
    means = block_means(np.stack((a.values, b.values)), block)
    return _compared(name, a, b, means, len(a.values) / block)


def _unpaired(name: str, a: _Series, b: _Series, block_seconds: float) -> QuantityDifference | None:
    """Compare the means of two independent series."""
    a, b = a.finite(), b.finite()
    if not len(a.values) or not len(b.values):
        return None
    resampled, blocks = [], []
    for seed, series in enumerate((a, b), SEED):  # different seeds: they are independent
        block = _block(series.seconds, block_seconds)
        resampled.append(block_means(series.values[None], block, seed=seed)[:, 0])
        blocks.append(len(series.values) / block)
    return _compared(name, a, b, np.stack(resampled, axis=1), min(blocks))


def _block(seconds: np.ndarray, block_seconds: float) -> int:
    return min(block_length(seconds, block_seconds), max(1, len(seconds) // _LEAST_BLOCKS))


def _compared(
    name: str, a: _Series, b: _Series, means: np.ndarray, blocks: float
) -> QuantityDifference:
    mean_a, mean_b = float(a.values.mean()), float(b.values.mean())
    ratio = None
    if mean_a > 0 and (means[:, 0] > 0).all():
        ratio = interval(mean_b / mean_a, means[:, 1] / means[:, 0], blocks)
    return QuantityDifference(
        name,
        mean_a,
        mean_b,
        interval(mean_b, means[:, 1], blocks),
        interval(mean_b - mean_a, means[:, 1] - means[:, 0], blocks),
        ratio,
        min(len(a.values), len(b.values)),
        blocks,
    )


def _counted(name: str, a: float, b: float) -> QuantityDifference:
    """Return the difference of a counted figure, whose intervals are points."""

    def point(value: float) -> Interval:
        return Interval(value, value, value)

    ratio = point(b / a) if a > 0 else None
    return QuantityDifference(name, a, b, point(b), point(b - a), ratio, 0, 0)
