"""Estimate the time between the shutters of two free-running cameras from their motion.

When a rig turns or shakes, all of the image moves in both cameras. The median motion between
frames is a signal of each camera, whatever its view, resolution and rate; where the two
signals correlate most is the offset, to a fraction of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.rigs.orientation_fields import thermal_grey

__all__ = ["MotionRecorder", "TimeOffsetEstimate", "estimate_time_offset"]

_WIDTH = 320  # pixels, at which motion is measured
_LEAST_FRAMES = 20
_LEAST_SECONDS = 2.0
_LONGEST_GAP = 2.5  # intervals; a longer one is a pause
_CLIP = 6.0  # median absolute deviations, beyond which a motion is an outlier
_STEP = 0.005  # seconds between the values of the signals
# Both signals are smoothed alike: interpolation would average the noise of one of them more at
# half of a frame than at a whole one, and the correlation would be drawn there.
_SMOOTHING = 0.7  # intervals of the slower camera
_TREND_SECONDS = 0.7  # slower changes are left out: they are of traffic rather than of the rig
_PARTS = 4
_CERTAIN_SECONDS = 0.005
_CLEAR = 1.5  # ratio of the highest to the second peak


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


_NOTHING = TimeOffsetEstimate(0.0, 0.0, 0.0, float("inf"))


class MotionRecorder:
    """Record of the median motion between a camera's images.

    Args:
        infrared: whether the images are thermal.
    """

    def __init__(self, *, infrared: bool) -> None:
        self._infrared = infrared
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._previous: np.ndarray | None = None
        self._seconds: list[float] = []
        self._motions: list[np.ndarray] = []

    def add(self, seconds: float, image: np.ndarray) -> None:
        """Measure the motion since the image before.

        Args:
            seconds: stamp; an image that is not later than the one before is left out.
            image: H x W x 3 uint8 RGB, or h x w uint8, uint16 or float32.
        """
        if self._seconds and seconds <= self._seconds[-1]:
            return
        grey = thermal_grey(image) if self._infrared else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if grey.shape[1] > _WIDTH:
            size = _WIDTH, max(32, round(_WIDTH * grey.shape[0] / grey.shape[1]))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        if self._previous is not None:
            motion = np.full(2, np.nan)
            if grey.shape == self._previous.shape:
                flow = self._flow.calc(self._previous, grey, None)  # type: ignore[call-overload]
                motion = np.median(flow[::2, ::2].reshape(-1, 2), axis=0) / grey.shape[1]
            self._motions.append(motion)
        self._previous = grey
        self._seconds.append(seconds)

    def __len__(self) -> int:
        return len(self._seconds)

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the middles of N intervals in seconds, and the motions there.

        The motions are N x 2, in image widths a second; pauses are left out, outliers cut.
        """
        gaps = np.diff(self._seconds)
        known = ~np.isnan(self._motions).any(axis=1) & (gaps <= _LONGEST_GAP * np.median(gaps))
        middles = np.array(self._seconds[:-1]) + gaps / 2
        rates = np.array(self._motions)[known] / gaps[known, None]
        middle = np.median(rates, axis=0)
        spread = np.median(np.abs(rates - middle), axis=0) + 1e-3
        return middles[known], np.clip(rates, middle - _CLIP * spread, middle + _CLIP * spread)


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
    recorders = []
    for source, infrared in ((rgb, False), (thermal, True)):
        recorder = source
        if not isinstance(recorder, MotionRecorder):
            recorder = MotionRecorder(infrared=infrared)
            for seconds, image in source:  # type: ignore[union-attr]
                recorder.add(seconds, image)
        if len(recorder) < _LEAST_FRAMES:
            return _NOTHING
        recorders.append(recorder.rates())
    signals = _signals(*recorders)
    shifts = round(largest_seconds / _STEP)
    if signals is None or len(signals[0]) < 4 * shifts:
        return _NOTHING
    scores, correlations = _curve(*signals, shifts)
    best = int(scores.argmax())
    if not 0 < best < 2 * shifts or scores[best] <= 0:
        return _NOTHING
    offset = (best + _vertex(scores[best - 1 : best + 2]) - shifts) * _STEP
    far = np.abs(np.arange(len(scores)) - best) * _STEP > 0.1
    ratio = scores[best] / max(float(scores[far].max(initial=0.0)), 1e-3)
    spread = _spread(signals, shifts, best - shifts)
    steady = 1 / (1 + (spread / (2 * _CERTAIN_SECONDS)) ** 2)
    clear = 1 / (1 + (_CLEAR / ratio) ** 6)
    return TimeOffsetEstimate(
        float(offset), float(steady * clear), float(correlations[best]), spread
    )


def _signals(
    rgb: tuple[np.ndarray, np.ndarray], thermal: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the motions of both cameras at common times, M x 2, without slow changes."""
    start = max(rgb[0][0], thermal[0][0])
    stop = min(rgb[0][-1], thermal[0][-1])
    if not stop - start >= _LEAST_SECONDS:
        return None
    times = np.arange(start, stop, _STEP)
    width = _SMOOTHING * max(float(np.median(np.diff(one))) for one, _ in (rgb, thermal))
    first, second = (
        _smoothed(*one, times, width) - _smoothed(*one, times, _TREND_SECONDS)
        for one in (rgb, thermal)
    )
    return first, second


def _smoothed(
    middles: np.ndarray, rates: np.ndarray, times: np.ndarray, width: float
) -> np.ndarray:
    """Return the mean of rates around each time, weighted by a Gaussian."""
    result = np.empty((len(times), 2))
    for index, time in enumerate(times):
        near = slice(*np.searchsorted(middles, (time - 4 * width, time + 4 * width)))
        if near.start == near.stop:  # a pause
            result[index] = 0.0
            continue
        weight = np.exp(-0.5 * ((middles[near] - time) / width) ** 2)
        result[index] = weight @ rates[near] / max(float(weight.sum()), 1e-9)
    return result


def _curve(first: np.ndarray, second: np.ndarray, shifts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return score and largest correlation at each shift from -shifts to shifts.

    The score is the log-likelihood ratio of correlated against independent signals, so that a
    direction in which nothing moves adds nothing.
    """
    scores, largest = [], []
    for shift in range(-shifts, shifts + 1):
        a = first[max(shift, 0) : len(first) + min(shift, 0)]
        b = second[max(-shift, 0) : len(second) + min(-shift, 0)]
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        norm = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
        correlation = (a * b).sum(axis=0) / np.maximum(norm, 1e-12)
        information = -np.log(np.maximum(1 - correlation**2, 1e-6))
        scores.append(float((np.sign(correlation) * information).sum()))
        largest.append(correlation.max())
    return np.array(scores), np.array(largest)


def _spread(signals: tuple[np.ndarray, np.ndarray], shifts: int, near: int) -> float:
    """Return the standard error of the offset from parts of the recording."""
    found = []
    for part in np.array_split(np.arange(len(signals[0])), _PARTS):
        # The part's own offset, near the one of the whole.
        scores, _ = _curve(signals[0][part], signals[1][part], min(shifts, len(part) // 3))
        middle = len(scores) // 2 + near
        reach = round(0.06 / _STEP)
        low, high = max(middle - reach, 1), min(middle + reach, len(scores) - 1)
        if low >= high:
            return float("inf")
        best = low + int(scores[low:high].argmax())
        found.append((best + _vertex(scores[best - 1 : best + 2])) * _STEP)
    return float(np.std(found, ddof=1) / np.sqrt(len(found)))


def _vertex(values: np.ndarray) -> float:
    """Return the offset of the vertex of a parabola through three values, at most 1."""
    left, middle, right = (float(value) for value in values)
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -1, 1)) if bend < 0 else 0.0
