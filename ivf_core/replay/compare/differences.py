"""Two replays side by side: what differs, by how much, and how sure that is.

Of the same footage, pairs of one stamp are compared with one another, and the interval is
that of their differences; what scenes have in common cancels. It is the same footage where
stamps agree and the RGB pictures have the same mean luma (stamps alone may agree by chance:
converted videos all start at one). Of other footage, only the means are compared.
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

__all__ = ["Compared", "Comparison", "compare"]

_LEAST_BLOCKS = 6  # shorter blocks in a drive too short for as many
_SAME_LUMA = 1.0  # grey levels, for what an encoder changes
_SAME_SHARE = 0.9
_OTHER = "other_"


@dataclass(frozen=True)
class Compared:
    """One quantity in two replays.

    Attributes:
        name: column of frames.csv or timings.csv, or one of `Comparison`'s figures.
        a, b: means.
        value: b with its interval.
        difference: b - a.
        ratio: b / a, or None where a is not positive.
        count: pairs compared, or the fewer of both; 0 for a figure that is counted, whose
            intervals are points.
        blocks: blocks of time in them.
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
        """ "better", "worse", "differs", or "" where the interval has 0 in it."""
        if self.difference.low <= 0 <= self.difference.high:
            return ""
        sign = describe(self.name).better * (1 if self.difference.estimate > 0 else -1)
        return {1: "better", -1: "worse", 0: "differs"}[sign]


@dataclass(frozen=True)
class Comparison:
    """Replay B against replay A.

    Attributes:
        a, b: the replays.
        same_footage: whether pairs were compared with one another.
        matched: rows of A and of B with the same stamp; empty where the footage differs.
        block_seconds: as asked; shorter for short drives.
        quantities: by name.
        known: names of all quantities that either replay has.
    """

    a: ReplayDirectory
    b: ReplayDirectory
    same_footage: bool
    matched: tuple[np.ndarray, np.ndarray]
    block_seconds: float
    quantities: Mapping[str, Compared]
    known: frozenset[str]


@dataclass(frozen=True)
class _Series:
    seconds: np.ndarray
    values: np.ndarray

    def finite(self, also: np.ndarray | bool = True) -> _Series:
        keep = np.isfinite(self.values) & also
        return _Series(self.seconds[keep], self.values[keep])


def compare(
    a: ReplayDirectory, b: ReplayDirectory, block_seconds: float = BLOCK_SECONDS
) -> Comparison:
    """Compare B with A.

    Args:
        a, b: the baseline and what is held against it.
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
    found: dict[str, Compared] = {}
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


# ----------------------------------------------------------------- what to compare

_UNPAIRED = "unpaired_hz"


def _series(replay: ReplayDirectory) -> dict[str, _Series]:
    """What was measured over time, by name."""
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
    """What is one number a replay."""
    pairing, live = summary["pairing"], summary.get("live") or {}
    figures = {
        "pairs": pairing["pairs"],
        "failed": sum((summary.get("failed") or {}).values()),
        **{
            f"unmatched_{camera}": sum(reasons.values())
            for camera, reasons in pairing["unmatched"].items()
        },
        **{k: v for k, v in (summary.get("throughput") or {}).items() if k != "seconds"},
        **dict(_leaves("live", live)),
    }
    if "dropped" in live:
        figures["live_dropped"] = sum(live["dropped"].values())
    if summary.get("segmentation"):
        figures["miou_all"] = summary["segmentation"]["miou"]
    return {name: float(value) for name, value in figures.items() if value is not None}


def _leaves(prefix: str, entries: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, entry in entries.items():
        if isinstance(entry, Mapping):
            yield from _leaves(f"{prefix}_{key}", entry)
        elif isinstance(entry, int | float) and not isinstance(entry, bool):
            yield f"{prefix}_{key}", float(entry)


# ----------------------------------------------------------------- pairs of one stamp


def _match(a: ReplayDirectory, b: ReplayDirectory) -> tuple[np.ndarray, np.ndarray]:
    """Rows of A and B with the same stamp in the same loop of the bag, in A's order."""
    places = {key: row for row, key in enumerate(_keys(b.stamps))}
    rows = [(row, places[key]) for row, key in enumerate(_keys(a.stamps)) if key in places]
    table = np.array(rows, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _keys(stamps: np.ndarray) -> Iterator[tuple[int, int]]:
    """Each stamp with how often stamps went back before it."""
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


# ----------------------------------------------------------------- how to compare


def _paired(name: str, a: _Series, b: _Series, block_seconds: float) -> Compared | None:
    both = np.isfinite(a.values) & np.isfinite(b.values)
    a, b = a.finite(both), b.finite(both)
    if not len(a.values):
        return None
    block = _block(a.seconds, block_seconds)
    means = block_means(np.stack((a.values, b.values)), block)
    return _compared(name, a, b, means, len(a.values) / block)


def _unpaired(name: str, a: _Series, b: _Series, block_seconds: float) -> Compared | None:
    a, b = a.finite(), b.finite()
    if not len(a.values) or not len(b.values):
        return None
    resampled, blocks = [], []
    for seed, series in enumerate((a, b), SEED):  # apart: they are independent
        block = _block(series.seconds, block_seconds)
        resampled.append(block_means(series.values[None], block, seed=seed)[:, 0])
        blocks.append(len(series.values) / block)
    return _compared(name, a, b, np.stack(resampled, axis=1), min(blocks))


def _block(seconds: np.ndarray, block_seconds: float) -> int:
    return min(block_length(seconds, block_seconds), max(1, len(seconds) // _LEAST_BLOCKS))


def _compared(name: str, a: _Series, b: _Series, means: np.ndarray, blocks: float) -> Compared:
    mean_a, mean_b = float(a.values.mean()), float(b.values.mean())
    ratio = None
    if mean_a > 0 and (means[:, 0] > 0).all():
        ratio = interval(mean_b / mean_a, means[:, 1] / means[:, 0], blocks)
    return Compared(
        name,
        mean_a,
        mean_b,
        interval(mean_b, means[:, 1], blocks),
        interval(mean_b - mean_a, means[:, 1] - means[:, 0], blocks),
        ratio,
        min(len(a.values), len(b.values)),
        blocks,
    )


def _counted(name: str, a: float, b: float) -> Compared:
    def point(value: float) -> Interval:
        return Interval(value, value, value)

    ratio = point(b / a) if a > 0 else None
    return Compared(name, a, b, point(b), point(b - a), ratio, 0, 0)
