"""Estimate the time between the shutters of two free-running cameras from their motion.

When a rig turns or shakes, all of the image moves in both cameras. The slower camera tells how far
it turned between two of its images; the faster one, whose turns are added up, how far the rig
turned between any two moments. The offset is where both agree best. So a rig that
vibrates faster than the slower camera's rate is no error: its images are of two moments as
well, and only these are compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ivf_core.rigs.image_motion import TREND_SECONDS, ImageMotion, MotionRecorder, gaussian_means

__all__ = ["TimeOffsetEstimate", "estimate_time_offset"]

_LEAST_FRAMES = 20
_STEP = 0.005  # seconds between offsets that are tried
_FINEST_BAND = 0.35  # intervals of the slower camera
_FAR_SECONDS = 0.1  # between peaks that are two
_NEAR_SECONDS = 0.02  # around the clearest peak, in which the offset is
_PARTS = 4
_REACH_SECONDS = 0.06  # around the offset, in which that of a part of the recording is sought
_CERTAIN_SECONDS = 0.005
# Lead of the highest peak over the second in log-likelihood; that of noise is up to 6. The lead
# counts, not the ratio: vibration has peaks at all of its periods, one of which fits better.
_CLEAR = 12.0


@dataclass(frozen=True)
class TimeOffsetEstimate:
    """Estimated time between two shutters.

    Attributes:
        offset_seconds: time to add to thermal stamps, so that they compare with RGB stamps; 0
            where the motions tell nothing.
        confidence: 0 to 1: high where the motions correlate at one offset much better than
            at others, and parts of the recording agree within milliseconds.
        correlation: the larger one of the horizontal and the vertical motions' correlations at
            the offset, -1 to 1.
        spread_seconds: standard error of the offset from four parts of the recording; infinite
            where the motions tell nothing.
    """

    offset_seconds: float
    confidence: float
    correlation: float
    spread_seconds: float


class _Band(NamedTuple):
    """Turns of both cameras within a band of frequencies, at S shifts and in N intervals.

    Attributes:
        independent: 2, number of values in both directions whose motion is independent.
        measured: number of values whose noise is independent.
        slow: S x N x 2, of the slower camera; 0 where that of the faster one is unknown.
        fast: S x N x 2.
    """

    independent: np.ndarray
    measured: float
    slow: np.ndarray
    fast: np.ndarray


_NOTHING = TimeOffsetEstimate(0.0, 0.0, 0.0, float("inf"))


def estimate_time_offset(
    rgb: MotionRecorder | Iterable[tuple[float, np.ndarray]],
    thermal: MotionRecorder | Iterable[tuple[float, np.ndarray]],
    *,
    largest_seconds: float = 0.5,
) -> TimeOffsetEstimate:
    """Estimate the time to add to thermal stamps, so that they compare with RGB stamps.

    Args:
        rgb: stamps in seconds and images H x W x 3 uint8 in their order, or what a
            `MotionRecorder` has of them.
        thermal: stamps and images h x w uint8, uint16 or float32, likewise.
        largest_seconds: largest offset to look for.
    """
    motions = []
    for source, infrared in ((rgb, False), (thermal, True)):
        recorder = source
        if not isinstance(recorder, MotionRecorder):
            recorder = MotionRecorder(infrared=infrared)
            for seconds, image in source:  # type: ignore[union-attr]
                recorder.add(seconds, image)
        motion = recorder.motion() if len(recorder) >= _LEAST_FRAMES else None
        if motion is None or len(motion.starts) < _LEAST_FRAMES // 2:  # mostly pauses
            return _NOTHING
        motions.append(motion)
    shared = min(one.stops[-1] for one in motions) - max(one.starts[0] for one in motions)
    if shared < 4 * largest_seconds:
        return _NOTHING
    intervals = [float(np.median(one.stops - one.starts)) for one in motions]
    slow, fast = motions[::-1] if intervals[1] >= intervals[0] else motions
    offset = _best_offset(slow, fast, largest_seconds)
    if slow is motions[1]:
        return offset
    return TimeOffsetEstimate(
        -offset.offset_seconds, offset.confidence, offset.correlation, offset.spread_seconds
    )


def _best_offset(slow: ImageMotion, fast: ImageMotion, largest: float) -> TimeOffsetEstimate:
    """Return the time to add to the stamps of the slower camera."""
    count = round(largest / _STEP)
    shifts = np.arange(-count, count + 1) * _STEP
    bands = _bands(slow, *_turned(slow, fast, shifts))
    # Which peak it is, the motion tells; where it is, all values do, whose noise is independent.
    scores = _scores(bands, [band.independent for band in bands], slice(None), slice(None))
    best = int(scores.argmax())
    if not 0 < best < 2 * count or scores[best] <= 0:
        return _NOTHING
    offset = shifts[0] + _peak(bands, best, _NEAR_SECONDS, slice(None)) * _STEP
    far = np.abs(shifts - shifts[best]) > _FAR_SECONDS
    lead = scores[best] - float(scores[far].max(initial=0.0))
    spread = _spread(bands, best)
    steady = 1 / (1 + (spread / (2 * _CERTAIN_SECONDS)) ** 2)
    clear = 1 / (1 + (_CLEAR / max(lead, 1e-3)) ** 4)
    first = np.sum([band.slow[best] for band in bands], axis=0)
    second = np.sum([band.fast[best] for band in bands], axis=0)
    correlation = float(_correlations(first, second).max())
    return TimeOffsetEstimate(float(offset), float(steady * clear), correlation, spread)


def _turned(
    slow: ImageMotion, fast: ImageMotion, shifts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how fast the faster camera turned during the shifted intervals of the slower one.

    Returns:
        S x N x 2 mean rates at S shifts in N intervals, and S x N whether they are known.
    """
    gaps = fast.stops - fast.starts
    # Knots at both ends of each interval: the turn of a pause is unknown.
    knots = np.stack((fast.starts, fast.stops), -1).ravel()
    turn = np.cumsum(fast.rates * gaps[:, None], axis=0)
    turn = np.stack((turn - fast.rates * gaps[:, None], turn), 1).reshape(-1, 2)
    unknown = np.cumsum(np.append(0.0, np.diff(knots) * (np.arange(1, len(knots)) % 2 == 0)))
    speed = np.vstack((fast.rates[:1], (fast.rates[1:] + fast.rates[:-1]) / 2, fast.rates[-1:]))

    def places(times: np.ndarray) -> np.ndarray:
        index = np.clip(np.searchsorted(fast.starts, times, side="right") - 1, 0, len(gaps) - 1)
        share = np.clip((times - fast.starts[index]) / gaps[index], 0, 1)[..., None]
        # Cubic between the knots: its slope there is the mean rate of both intervals.
        low, high = turn[2 * index], turn[2 * index + 1]
        first, last = (speed[index + end] * gaps[index, None] for end in (0, 1))
        rise = high - low
        bend = first + last - 2 * rise
        return low + share * (first + share * (rise - first - bend + share * bend))

    starts, stops = (shifts[:, None] + ends for ends in (slow.starts, slow.stops))
    rates = (places(stops.ravel()) - places(starts.ravel())).reshape(*starts.shape, 2)
    paused = np.interp(stops, knots, unknown) - np.interp(starts, knots, unknown)
    known = (starts >= knots[0]) & (stops <= knots[-1]) & (paused < 1e-6)
    return rates / (slow.stops - slow.starts)[:, None], known


def _bands(slow: ImageMotion, fast_rates: np.ndarray, known: np.ndarray) -> list[_Band]:
    """Split the turns into octaves, from the trend, which is left out, to the finest changes.

    Noise and motion differ in their spectra, so that each band tells by itself how well the
    cameras agree.
    """
    times = (slow.starts + slow.stops) / 2
    gap = float(np.median(slow.stops - slow.starts))
    shown = known[..., None]
    both = np.concatenate(
        (np.where(shown, slow.rates, 0.0), np.where(shown, fast_rates, 0.0)), axis=2
    ).swapaxes(0, 1)  # N x S x 4
    width, bands = TREND_SECONDS, []
    coarse = gaussian_means(times, np.eye(len(times)), width)
    while width:
        width = width / 2 if width / 2 > _FINEST_BAND * gap else 0.0
        fine = np.eye(len(times))
        if width:
            fine = gaussian_means(times, fine, width)
        kernel = fine - coarse
        changes = np.tensordot(kernel, both, 1).swapaxes(0, 1) * shown
        both_turns = changes[..., :2], changes[..., 2:]
        count = _independent(*(turns[len(turns) // 2] for turns in both_turns))
        measured = float((kernel**2).sum())
        bands.append(_Band(np.minimum(count, measured), measured, *both_turns))
        coarse = fine
    return bands


def _independent(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how many independent values two N x 2 series have for their correlation (Bartlett).

    A vibration of one frequency is long, but tells little: above half of the cameras' rate it looks
    like a slower one, and the two cameras then agree at a wrong offset.
    """
    size = 2 * len(first)
    powers = [np.abs(np.fft.rfft(turns - turns.mean(axis=0), size, axis=0)) ** 2
              for turns in (first, second)]  # fmt: skip
    one, other = (np.fft.irfft(power, size, axis=0) for power in powers)
    alike = (one * other).sum(axis=0) / np.maximum(one[0] * other[0], 1e-30)
    return len(first) / np.maximum(alike, 1.0)


def _scores(bands: list[_Band], counts: list[Any], part: slice, among: slice) -> np.ndarray:
    """Return the log-likelihood ratio of correlated against independent turns at each shift.

    A direction or a band in which nothing moves adds nothing.

    Args:
        bands: turns.
        counts: number of independent values in each band, or 2 of them.
        part: intervals to use.
        among: shifts to use.
    """
    total: np.ndarray = np.zeros(len(bands[0].slow[among]))
    for band, count in zip(bands, counts, strict=True):
        slow, fast = band.slow[among, part], band.fast[among, part]
        correlation = _correlations(slow, fast)
        information = -np.log(np.maximum(1 - correlation**2, 1e-6)) * count
        # Few intervals that are known at a shift correlate by chance.
        shown = (fast != 0).any(axis=-1).sum(axis=-1) / band.slow.shape[1]
        total += (np.sign(correlation) * information).sum(axis=-1) * shown
    return total


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlations of two ... x N x 2 over N."""
    first = first - first.mean(axis=-2, keepdims=True)
    second = second - second.mean(axis=-2, keepdims=True)
    norm = np.sqrt((first**2).sum(axis=-2) * (second**2).sum(axis=-2))
    return (first * second).sum(axis=-2) / np.maximum(norm, 1e-12)


def _spread(bands: list[_Band], best: int) -> float:
    """Return the standard error of the offset from parts of the recording."""
    edges = np.linspace(0, bands[0].slow.shape[1], _PARTS + 1).astype(int)
    # The parts' own offsets, near the one of the whole.
    found = [
        _peak(bands, best, _REACH_SECONDS, slice(start, stop)) * _STEP
        for start, stop in itertools.pairwise(edges)
    ]
    return float(np.std(found, ddof=1) / np.sqrt(len(found)))


def _peak(bands: list[_Band], near: int, reach: float, part: slice) -> float:
    """Return the index of the shift, to a fraction, at which a part agrees best near another."""
    steps = round(reach / _STEP)
    first = max(near - steps, 0)
    among = slice(first, min(near + steps + 1, len(bands[0].slow)))
    scores = _scores(bands, [band.measured for band in bands], part, among)
    peak = int(np.clip(scores.argmax(), 1, len(scores) - 2))
    return first + peak + _vertex(scores[peak - 1 : peak + 2])


def _vertex(values: np.ndarray) -> float:
    """Return the offset of the vertex of a parabola through three values, at most 1."""
    left, middle, right = (float(value) for value in values)
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -1, 1)) if bend < 0 else 0.0
