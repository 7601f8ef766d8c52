"""Confidence intervals of means over time, by bootstrap over blocks of neighbours.

Neighbouring frames show almost the same: taken for independent, they would give intervals
many times too narrow. The circular block bootstrap (Politis and Romano, 1992) draws runs of
neighbours instead, the end of the series being followed by its start; what is correlated
over much less than a block is then accounted for. The interval is symmetric, Student's
quantile for the number of blocks times the standard deviation of the resampled statistic:
percentiles take the blocks' own spread for known, and with ten blocks of an autoregressive
series of correlation 0.8 hold the truth in 88 % of cases instead of 95 %, these in 93 %.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

__all__ = ["CONFIDENCE", "SAMPLES", "SEED", "Interval", "block_length", "block_means", "interval"]

SAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate and its bounds."""

    estimate: float
    low: float
    high: float


def block_length(seconds: np.ndarray, block_seconds: float) -> int:
    """Frames in a block: `block_seconds` at the mean rate, at least one, at most all."""
    if len(seconds) < 2 or not (span := float(seconds[-1] - seconds[0])) > 0:
        return 1
    frames = round(block_seconds * (len(seconds) - 1) / span)
    return max(1, min(frames, len(seconds)))


def interval(estimate: float, resampled: np.ndarray, blocks: float) -> Interval:
    """The interval of a statistic.

    Args:
        estimate: the statistic of the series itself.
        resampled: of its resamples.
        blocks: blocks in the series; with fewer than three the interval is infinite.
    """
    freedom = blocks - 1
    if freedom < 2:
        return Interval(estimate, -math.inf, math.inf)
    spread = float(np.std(resampled)) * math.sqrt(blocks / freedom)
    half = _student(0.5 + CONFIDENCE / 2, freedom) * spread
    return Interval(estimate, estimate - half, estimate + half)


def block_means(
    series: np.ndarray, block: int, samples: int = SAMPLES, seed: int = SEED
) -> np.ndarray:
    """Means of resampled series.

    Args:
        series: M x N, in the order of time; each resample takes the same blocks of all M.
        block: length of a block, 1 .. N.
        samples: how many resamples.
        seed: series with the same blocks have the same seed and length.

    Returns:
        samples x M float64, the same for the same arguments.
    """
    count = series.shape[1]
    blocks = -(-count // block)
    rest = count - (blocks - 1) * block
    around = np.concatenate((series, series[:, :block]), axis=1)
    totals = np.concatenate((np.zeros((len(series), 1)), around.cumsum(axis=1)), axis=1)
    # Sums of the blocks that begin at each frame: of whole ones, and of the one cut short.
    whole = totals[:, block : block + count] - totals[:, :count]
    short = totals[:, rest : rest + count] - totals[:, :count]
    rng = np.random.default_rng(seed)
    means = np.empty((samples, len(series)))
    for sample in means:
        first, *others = rng.integers(count, size=blocks)
        sample[:] = (short[:, first] + whole[:, others].sum(axis=1)) / count
    return means


def _student(share: float, freedom: float) -> float:
    """Quantile of Student's t, to 3 % from 2 degrees of freedom, 1 % from 3 (A&S 26.7.5)."""
    z = NormalDist().inv_cdf(share)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
