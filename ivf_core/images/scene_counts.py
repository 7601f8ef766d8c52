"""Counts of a thermal frame that show the scene, apart from fill values, telemetry and defects."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

__all__ = ["SmallestSpan", "scene_percentiles"]

SmallestSpan = Callable[[np.dtype, float], float]
"""Function that returns the smallest width of a window, by dtype and magnitude of its ends."""

_SAMPLE_PIXELS = 40_000
_FEWEST_PIXELS = 64  # of smaller samples nothing is left out
_EVERY = 17  # of the sample's pixels one in so many shows where the body of the histogram is
_BODY = (5.0, 95.0)  # percentiles between which counts are scene in any case
_FILL_SHARE = 1e-3  # smallest share of the pixels that a fill value has
_FILL_GAP = 0.25  # from a usual fill value, or rows of one value, to the scene, in its widths
_GAP = 4.0  # from other counts to the scene, in its widths: hot objects are nearer or blurred
_OUTSIDE = 0.5  # from the body to the counts of foreign rows, in its widths
_FOREIGN_SHARE = 0.5  # smallest share of a foreign row's pixels that lie outside
_FOREIGN_HEIGHT = 0.05  # largest height of foreign rows, relative to the frame
_LEAST_SCENE = 0.02  # smallest share of the pixels that can be the scene
_BLENDED = np.ones((5, 5), np.uint8)  # neighbours that interpolation mixes with a fill value
_MOST_STEPS = 4


def scene_percentiles(
    image: np.ndarray,
    finite: np.ndarray | None,
    percentiles: tuple[float, float],
    smallest_span: SmallestSpan,
) -> tuple[float, float, int]:
    """Find the counts at two percentiles of the scene, from a sample of the frame.

    Left out are a fill value (many pixels of exactly one value at an end of the histogram:
    zeros around a rectified image, -9999), rows and columns of telemetry or of a defect,
    and the outermost pixels beyond a gap in the histogram that is several times as wide as
    the rest, such as dead pixels.

    Args:
        image: H x W uint8, uint16 or float32.
        finite: H x W bool, at least one True; None if all pixels are finite.
        percentiles: low and high percentile, 0 to 100.
        smallest_span: returns the width below which counts differ by noise only.

    Returns:
        Both counts, and the number of finite pixels that were left out.
    """
    step = math.ceil(math.sqrt(image.size / _SAMPLE_PIXELS))
    if finite is not None and not finite[::step, ::step].any():
        step = 1
    sample = _Sample(image, finite, step, smallest_span)
    left_out = sample.leave_out()
    low, high = _at(sample.values, percentiles)
    return low, high, left_out


def _at(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return the values at two percentiles, several times as fast as np.percentile."""
    low, high = (round(percent / 100 * (values.size - 1)) for percent in percentiles)
    ordered = np.partition(values, (low, high))
    return float(ordered[low]), float(ordered[high])


class _Sample:
    """Sample of a thermal frame, from which the pixels that show no scene are left out.

    Attributes:
        values: counts of the sample that are left, in one dimension.
    """

    def __init__(
        self,
        image: np.ndarray,
        finite: np.ndarray | None,
        step: int,
        smallest_span: SmallestSpan,
    ) -> None:
        self._image, self._finite, self._step = image, finite, step
        self._smallest_span = smallest_span
        self._grid = image[::step, ::step]
        self._kept = None if finite is None else finite[::step, ::step]
        self._fewest = max(_FEWEST_PIXELS // 2, int(_LEAST_SCENE * self._grid.size))
        self._limits = [-math.inf, math.inf]  # counts of the scene lie between them
        self._foreign = np.zeros(image.shape[0], bool), np.zeros(image.shape[1], bool)
        self.values = self._grid.ravel() if finite is None else self._grid[self._kept]

    def leave_out(self) -> int:
        """Leave out all that shows no scene.

        Returns:
            The number of finite pixels of the frame that this concerns.
        """
        if self.values.size < _FEWEST_PIXELS:
            return 0
        for done in range(_MOST_STEPS):
            low, high = _at(self.values[::_EVERY], _BODY)
            span = self._span(low, high)
            least, most = float(self.values.min()), float(self.values.max())
            if not (
                (
                    (least < low - _FILL_GAP * span or least == low)
                    and self._leave_out_fill(least, 0)
                )
                or (
                    (most > high + _FILL_GAP * span or most == high)
                    and self._leave_out_fill(most, 1)
                )
                or (
                    (least < low - _OUTSIDE * span or most > high + _OUTSIDE * span)
                    and self._leave_out_lines(low - _OUTSIDE * span, high + _OUTSIDE * span)
                )
                or (least < low - _GAP * span and self._leave_out_tail(low, span, 0))
                or (most > high + _GAP * span and self._leave_out_tail(high, span, 1))
            ):
                return self._count() if done else 0
        return self._count()

    def _span(self, low: float, high: float) -> float:
        """Return the distance between two counts, at least that of noise."""
        magnitude = max(abs(low), abs(high))
        return max(high - low, self._smallest_span(self._image.dtype, magnitude))

    def _keep(self, kept: np.ndarray) -> bool:
        """Keep some pixels of the sample only, unless too few are left."""
        kept = kept if self._kept is None else kept & self._kept
        values = self._grid[kept]
        if values.size < self._fewest:
            return False
        self._kept, self.values = kept, values
        return True

    def _leave_out_fill(self, value: float, end: int) -> bool:
        """Leave out the least (`end` 0) or largest value if it is a fill value."""
        exact = self._image.dtype.type(value)
        filled = self.values == exact
        if np.count_nonzero(filled) < max(2, _FILL_SHARE * filled.size):
            return False
        gap = _FILL_GAP if self._is_usual_fill(exact) else _GAP
        if not self._is_apart(self.values[~filled], value, gap, (10.0, 90.0)):
            return False
        # Interpolation at the border of a rectified image mixes its pixels with the fill value.
        mixed = cv2.dilate((self._image == exact).view(np.uint8), _BLENDED).view(bool)
        kept = ~mixed[:: self._step, :: self._step]
        if self._kept is not None:
            kept &= self._kept
        values = self._grid[kept]
        if not self._is_apart(values, value, gap, (2.0, 98.0)):
            return False
        self._kept, self.values = kept, values
        self._limits[end] = value
        return True

    def _is_usual_fill(self, value: np.generic) -> bool:
        """Return whether a value is 0 or a limit of its type, or fills whole rows or columns."""
        dtype = self._image.dtype
        limits = np.iinfo(dtype) if dtype.kind == "u" else np.finfo(dtype)
        if value in (0, limits.min, limits.max):
            return True
        same = self._grid == value
        return bool(same.all(axis=1).any() or same.all(axis=0).any())

    def _is_apart(
        self, rest: np.ndarray, value: float, gap: float, percentiles: tuple[float, float]
    ) -> bool:
        """Return whether a value is far from the rest, which must be a scene: not one value."""
        if rest.size < self._fewest:
            return False
        low, high = _at(rest, percentiles)
        limit = gap * self._span(low, high)
        return low < high and (value < low - limit or value > high + limit)

    def _leave_out_lines(self, low: float, high: float) -> bool:
        """Leave out the few rows and columns of which most lies outside of two counts."""
        outside = (self._grid < low) | (self._grid > high)
        if self._kept is not None:
            outside &= self._kept
        lines = [_few_foreign(outside, self._kept, axis) for axis in (0, 1)]
        if not (lines[0].any() or lines[1].any()):
            return False
        if not self._keep(~(lines[0][:, None] | lines[1])):
            return False
        for axis, found in enumerate(lines):
            for index in np.flatnonzero(found):
                start = max(0, (index - 1) * self._step + 1)
                near = np.take(
                    self._image,
                    range(start, min((index + 1) * self._step, self._image.shape[axis])),
                    axis,
                )
                share = ((near < low) | (near > high)).mean(axis=1 - axis)
                self._foreign[axis][start : start + share.size] |= share > _FOREIGN_SHARE
        return True

    def _leave_out_tail(self, body: float, span: float, end: int) -> bool:
        """Leave out the least or largest counts beyond a wide gap outside of the body."""
        values = self.values[self.values <= body] if end == 0 else self.values[self.values >= body]
        tail = np.sort(values).astype(np.float64)
        gaps = np.flatnonzero(np.diff(tail) > _GAP * span)
        if not gaps.size:
            return False
        limit = tail[gaps[-1]] if end == 0 else tail[gaps[0] + 1]
        exact = self._image.dtype.type(limit)
        if not self._keep(self._grid > exact if end == 0 else self._grid < exact):
            return False
        self._limits[end] = limit
        return True

    def _count(self) -> int:
        """Return the number of finite pixels of the frame that are left out."""
        left_out = np.zeros(self._image.shape, bool)
        for limit, beyond in zip(self._limits, (np.less_equal, np.greater_equal), strict=True):
            if math.isfinite(limit):
                left_out |= beyond(self._image, self._image.dtype.type(limit))
        left_out[self._foreign[0]] = True
        left_out[:, self._foreign[1]] = True
        if self._finite is not None:
            left_out &= self._finite
        return int(np.count_nonzero(left_out))


def _few_foreign(outside: np.ndarray, kept: np.ndarray | None, axis: int) -> np.ndarray:
    """Return the rows (axis 0) or columns (axis 1) of which most lies outside, if they are few."""
    across = 1 - axis
    size = outside.shape[across] if kept is None else np.count_nonzero(kept, axis=across)
    lines = np.count_nonzero(outside, axis=across) > _FOREIGN_SHARE * np.asarray(size)
    if not lines.any():
        return lines
    most = max(1, int(_FOREIGN_HEIGHT * lines.size))
    edges = np.flatnonzero(np.diff(lines.astype(np.int8), prepend=0, append=0))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start > most:
            lines[start:end] = False
    return lines
