"""Estimate the fixed offset between the shutters of two cameras, from stamps and motion."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

__all__ = ["MotionLag", "MotionLagMeter", "OffsetSuggestion", "suggest_offset"]

_LEAST_IMAGES = 10
_STEADY_SHARE = 0.2  # periods: largest spread of the stamps' phase that counts as one offset
_FAR_SECONDS = 2.0

_TILES = (8, 6)
_LAGS = 15  # pairs in either direction
_MEMORY = 1 / 16  # weight of the newest frame in the moving mean
_BLOCK = 25
_LEAST_BLOCKS = 4
_LEAST_CORRELATION = 0.08
_LARGEST_ERROR = 0.4  # periods


class MotionLag(NamedTuple):
    """Delay of the motion in the thermal images behind the RGB images.

    Attributes:
        seconds: delay by the stamps, 0 if both clocks and shutters agree.
        error_seconds: standard error (jackknife over blocks of 25 pairs).
        correlation: correlation of the motion at that delay.
    """

    seconds: float
    error_seconds: float
    correlation: float


class MotionLagMeter:
    """Correlation of the motion in both cameras' images over place and time.

    Each image is cut into 8 x 6 tiles. The motion of a tile is its mean difference to the
    image before, minus the median of all tiles (exposure, compression), minus its own
    moving mean (texture, noise). The motions of both cameras are correlated at lags up to
    15 pairs, over all tiles together. Only sums are kept.
    """

    def __init__(self) -> None:
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._means = np.zeros((2, _TILES[0] * _TILES[1]))
        self._recent = np.zeros((2, _LAGS + 1, _TILES[0] * _TILES[1]))
        self._steps: deque[float] = deque(maxlen=31)
        self._last: tuple[int, int] | None = None
        self._blocks: list[np.ndarray] = []
        self._count = 0
        self._offset_sum = 0.0

    def add(
        self, visible: np.ndarray, infrared: np.ndarray, visible_ns: int, infrared_ns: int
    ) -> None:
        """Add the next pair.

        Args:
            visible: h x w uint8, the visible luma, small.
            infrared: h x w uint8, thermal image of the same view.
            visible_ns: stamp of the visible image.
            infrared_ns: stamp of the thermal image.
        """
        before, last = self._before, self._last
        self._before, self._last = (visible, infrared), (visible_ns, infrared_ns)
        if before is None or last is None or before[0].shape != visible.shape:
            return
        step = (visible_ns - last[0]) / 1e9
        if step <= 0:
            self._recent[:] = 0.0
            return
        self._steps.append(step)
        period = float(np.median(self._steps))
        # Missing frames leave empty places.
        for _ in range(min(round(step / period) - 1, _LAGS)):
            self._push(np.zeros_like(self._means))
        other_step = (infrared_ns - last[1]) / 1e9
        if max(abs(step - period), abs(other_step - period)) > 0.5 * period:
            self._push(np.zeros_like(self._means))
            return
        images = zip((visible, infrared), before, strict=True)
        motion = np.stack([_tiled(cv2.absdiff(now, past)) for now, past in images])
        if not self._count:
            self._means[:] = motion
        self._means += _MEMORY * (motion - self._means)
        self._push(motion - self._means)
        self._offset_sum += (infrared_ns - visible_ns) / 1e9
        self._sum()

    def result(self) -> MotionLag | None:
        """Return the delay; None if there is too little motion or too large an error."""
        # The last block may have fewer pairs.
        blocks = np.array(self._blocks)
        if self._count < _LEAST_BLOCKS * _BLOCK:
            return None
        total = blocks.sum(axis=0)
        lag, correlation = _top(total)
        without = np.array([_top(total - block)[0] for block in blocks])
        count = len(blocks)
        error = float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))
        if not (correlation >= _LEAST_CORRELATION and error <= _LARGEST_ERROR):  # NaN too
            return None
        period = float(np.median(self._steps))
        return MotionLag(lag * period + self._offset_sum / self._count, error * period, correlation)

    def _push(self, motion: np.ndarray) -> None:
        self._recent[:, 1:] = self._recent[:, :-1].copy()
        self._recent[:, 0] = motion

    def _sum(self) -> None:
        """Add the products of the newest pair to its block.

        Rows are the product and the power of each camera; columns are lags.
        """
        if self._count % _BLOCK == 0:
            self._blocks.append(np.zeros((3, 2 * _LAGS + 1)))
        self._count += 1
        sums = self._blocks[-1]
        visible, infrared = self._recent
        # Positive lag, thermal is late: the newest thermal image with earlier RGB images.
        for sign, past, now in ((1, visible, infrared[0]), (-1, infrared, visible[0])):
            lags = slice(_LAGS, None) if sign > 0 else slice(None, _LAGS)
            rows = past if sign > 0 else past[:0:-1]
            known = (rows != 0).any(axis=1)
            sums[0, lags] += rows @ now
            sums[1, lags] += np.square(rows).sum(axis=1)
            sums[2, lags] += known * np.square(now).sum()


def _tiled(difference: np.ndarray) -> np.ndarray:
    """Return the mean of each tile minus the median of all tiles, as a vector."""
    tiles = cv2.resize(difference.astype(np.float32), _TILES, interpolation=cv2.INTER_AREA).ravel()
    return tiles - np.median(tiles)


def _top(sums: np.ndarray) -> tuple[float, float]:
    """Return the lag with the highest correlation, in fractional pairs, and the correlation.

    Both are NaN at the ends of the range.
    """
    scores = sums[0] / np.sqrt(np.maximum(sums[1] * sums[2], 1e-12))
    best = int(scores.argmax())
    if not 0 < best < len(scores) - 1:
        return np.nan, np.nan
    left, middle, right = (float(score) for score in scores[best - 1 : best + 2])
    bend = left - 2 * middle + right
    return best - _LAGS + (0.5 * (left - right) / bend if bend < 0 else 0.0), middle


class OffsetSuggestion(NamedTuple):
    """Offset to add to thermal stamps, and the evidence for it.

    Attributes:
        seconds: the offset, as for `offset_seconds`.
        basis: "stamps": thermal stamps keep this distance to the nearest RGB stamp, up to
            whole periods; "motion": motion appears in both images with this delay;
            "stamps and motion": of the distances that the stamps allow, the nearest to
            that delay; "recording": the clocks differ, measured by the recorder's clock.
    """

    seconds: float
    basis: str


def suggest_offset(
    stamps: Mapping[str, np.ndarray],
    clock_difference_seconds: float,
    motion: MotionLag | None,
) -> OffsetSuggestion | None:
    """Estimate the offset that brings both cameras' images of one moment together.

    Two cameras of one frequency keep a constant phase, which the stamps give to a fraction
    of a millisecond. The number of whole periods between two images of one moment is not in
    the stamps, but in the motion.

    Args:
        stamps: stamps of all images in ns, by camera ("rgb", "thermal").
        clock_difference_seconds: thermal clock minus RGB clock, by time of recording.
        motion: result of `MotionLagMeter`.

    Returns:
        The suggestion, or None if stamps and motion are inconclusive.
    """
    if min(len(stamps["rgb"]), len(stamps["thermal"])) < _LEAST_IMAGES:
        return None
    far = abs(clock_difference_seconds) > _FAR_SECONDS
    base = clock_difference_seconds if far else 0.0
    moved = stamps["thermal"] - round(base * 1e9)
    period = float(np.median(np.diff(np.sort(stamps["rgb"])))) / 1e9
    phase, spread = _phase(stamps["rgb"], moved, period) if period > 0 else (0.0, np.inf)
    steady = spread <= _STEADY_SHARE * period
    if far:
        return OffsetSuggestion(_rounded(-base - (phase if steady else 0.0)), "recording")
    if motion is None:
        return OffsetSuggestion(_rounded(-phase), "stamps") if steady else None
    if not steady:
        return OffsetSuggestion(_rounded(-motion.seconds), "motion")
    periods = round((motion.seconds - phase) / period)
    return OffsetSuggestion(_rounded(-phase - periods * period), "stamps and motion")


def _phase(rgb: np.ndarray, thermal: np.ndarray, period: float) -> tuple[float, float]:
    """Return the circular median of thermal minus nearest RGB stamp in s, and its spread."""
    rgb = np.sort(rgb)
    after = np.clip(np.searchsorted(rgb, thermal), 1, len(rgb) - 1)
    behind, ahead = thermal - rgb[after - 1], rgb[after] - thermal
    nearest = np.where(behind <= ahead, behind, -ahead) / 1e9
    nearest = nearest[np.abs(nearest) <= period]
    if len(nearest) < _LEAST_IMAGES:
        return 0.0, np.inf
    middle = float(np.angle(np.exp(2j * np.pi * nearest / period).mean())) / (2 * np.pi) * period
    off = (nearest - middle + period / 2) % period - period / 2
    median = float(np.median(off))
    return middle + median, float(np.percentile(np.abs(off - median), 75))


def _rounded(seconds: float) -> float:
    return round(seconds, 4) + 0.0
