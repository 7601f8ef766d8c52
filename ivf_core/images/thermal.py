"""Conversion of thermal frames of any depth to 8 bits, without flicker.

Counts are never treated as temperatures: only their order and spread matter.
"""

from __future__ import annotations

import math

import numpy as np

from ivf_core.images.scene_counts import scene_percentiles

__all__ = ["MINIMUM_SPANS", "THERMAL_MODES", "GainControl", "ThermalNormalizer"]

THERMAL_MODES = ("auto", "percentile", "full_range")
"""Modes of conversion to 8 bits; see `ThermalNormalizer`."""

MINIMUM_SPANS = {"uint8": 16.0, "uint16": 64.0, "float32": 1 / 256}
"""Default smallest width of the window, by dtype.

For integers it is in counts, above the noise of common sensors. float32 frames have no
known unit, so there it is a fraction of the larger magnitude of the window's two ends:
the smallest width is 1.2 for a scene at 300 K and 0.002 for one at 0.5.
"""

_GAP_IN_TIME_CONSTANTS = 5.0


class GainControl:
    """Percentile gain control whose window of counts moves smoothly in time.

    The counts at two percentiles of a frame are the frame's own window: counts below it
    map to 0, counts above it to 255, and linearly in between. The window in use follows
    the frames' own windows exponentially in stamp time,
    `window += (1 - exp(-dt / smoothing_seconds)) * (measured - window)`, so that the
    result depends neither on the processing speed nor, for a given scene, on the frame
    rate. A frame uses its own window at once if it is the first one, has no stamp, has
    another dtype or an earlier stamp than its predecessor, or comes more than five time
    constants later.

    Pixels that show no scene are left out of the percentiles, since they would take the
    window: see `scene_percentiles`. They become black or white.

    One thread calls it. Other threads may set `smoothing_seconds` and `minimum_span` and
    call `set_percentiles` and `reset` at any time: a frame reads each of them once.

    Args:
        low_percentile: share of pixels, in percent, that may become black.
        high_percentile: share of pixels, in percent, that stays below white.
        smoothing_seconds: time constant of the window; 0 turns smoothing off.
        minimum_span: smallest width of the window in counts, so that a uniform scene
            appears as grey and not as amplified noise. None uses the dtype's entry of
            `MINIMUM_SPANS`.

    Attributes:
        repaired_pixels: number of non-finite pixels that the last call filled.
        left_out_pixels: number of finite pixels that the last call took for no scene.

    Raises:
        ValueError: an option is out of range; the message names it.
    """

    def __init__(
        self,
        low_percentile: float = 0.5,
        high_percentile: float = 99.5,
        smoothing_seconds: float = 0.5,
        minimum_span: float | None = None,
    ) -> None:
        if not (math.isfinite(smoothing_seconds) and smoothing_seconds >= 0):
            raise ValueError(f"smoothing_seconds is {smoothing_seconds}, expected 0 or more")
        if minimum_span is not None and not (math.isfinite(minimum_span) and minimum_span > 0):
            raise ValueError(f"minimum_span is {minimum_span}, expected more than 0 or None")
        self.set_percentiles(low_percentile, high_percentile)
        self.smoothing_seconds = smoothing_seconds
        self.minimum_span = minimum_span
        self.repaired_pixels = 0
        self.left_out_pixels = 0
        self.reset()

    @property
    def percentiles(self) -> tuple[float, float]:
        """Low and high percentile, 0 to 100."""
        return self._percentiles

    @property
    def window(self) -> tuple[float, float] | None:
        """Counts that map to 0 and to 255; None before the first frame."""
        return self._window

    def set_percentiles(self, low_percentile: float, high_percentile: float) -> None:
        """Change both percentiles; the window moves to them smoothly.

        Any thread may call this while another one processes a frame.

        Args:
            low_percentile: share of pixels, in percent, that may become black.
            high_percentile: share of pixels, in percent, that stays below white.

        Raises:
            ValueError: not 0 <= low_percentile < high_percentile <= 100.
        """
        if not 0 <= low_percentile < high_percentile <= 100:
            raise ValueError(
                f"low_percentile is {low_percentile} and high_percentile is {high_percentile}, "
                "expected 0 <= low_percentile < high_percentile <= 100"
            )
        self._percentiles = (float(low_percentile), float(high_percentile))

    def reset(self) -> None:
        """Forget the window: the next frame uses its own window at once."""
        self._window: tuple[float, float] | None = None
        self._seconds: float | None = None
        self._dtype: np.dtype | None = None

    def __call__(
        self, image: np.ndarray, seconds: float | None = None, seen: np.ndarray | None = None
    ) -> np.ndarray:
        """Map one frame to 8 bits.

        Args:
            image: H x W uint8, uint16 or float32. Non-finite pixels are left out of the
                percentiles and become 0.
            seconds: time stamp of the frame.
            seen: H x W bool, pixels from which the window is measured, such as those that
                the RGB camera sees as well; None for all of them. The others are mapped, too.

        Returns:
            H x W uint8.

        Raises:
            ValueError: the shape or dtype is another, or no pixel is finite; the state
                remains unchanged.
        """
        _check_frame(image)
        finite = _finite_mask(image)
        measured = self._measure(image, _both(finite, seen))
        rate = self._follow_rate(image.dtype, seconds)
        window = self._window  # read once: another thread may reset it
        if window is None or rate == 1.0:
            window = measured
        else:
            low, high = window
            window = (low + rate * (measured[0] - low), high + rate * (measured[1] - high))
        self._window, self._seconds, self._dtype = window, seconds, image.dtype
        self.repaired_pixels = _count_false(finite)
        return _to_bytes(image, *window, finite)

    def _measure(self, image: np.ndarray, finite: np.ndarray | None) -> tuple[float, float]:
        """Return the frame's own window, widened to the minimum span about its centre."""
        low, high, self.left_out_pixels = scene_percentiles(
            image, finite, self._percentiles, self._smallest_span
        )
        excess = self._smallest_span(image.dtype, max(abs(low), abs(high))) - (high - low)
        if excess > 0:
            low, high = low - excess / 2, high + excess / 2
        return low, high

    def _smallest_span(self, dtype: np.dtype, magnitude: float) -> float:
        """Return the smallest width of a window whose larger end has this magnitude."""
        minimum_span = self.minimum_span  # read once: another thread may change it
        if dtype != np.float32:
            return minimum_span or MINIMUM_SPANS[dtype.name]
        span = minimum_span or MINIMUM_SPANS["float32"] * magnitude
        # Both ends must differ in single precision, at zero as well.
        return max(span, 2.0**-16 * magnitude, 1e-6)

    def _follow_rate(self, dtype: np.dtype, seconds: float | None) -> float:
        """Return the share of the way to the measured window that the window moves, 0 to 1."""
        # Read once: another thread may change or reset them.
        smoothing, before = self.smoothing_seconds, self._seconds
        if seconds is None or before is None or dtype != self._dtype:
            return 1.0
        elapsed = seconds - before
        if smoothing == 0 or not 0 <= elapsed <= _GAP_IN_TIME_CONSTANTS * smoothing:
            return 1.0
        return -math.expm1(-elapsed / smoothing)


class ThermalNormalizer:
    """Conversion of thermal frames to 8 bits in one of `THERMAL_MODES`.

    - "auto": 8-bit frames pass unchanged, since their camera has applied its own gain
      control; all others go through `GainControl`.
    - "percentile": every frame goes through `GainControl`.
    - "full_range": the range of the dtype is mapped to 0..255; for float32 it is [0, 1].
      Frames of 14 significant bits in 16 become dark in this mode.

    One thread calls it; other threads may set `mode` at any time.

    Args:
        mode: one of `THERMAL_MODES`.
        gain: gain control to use; None uses one with default options.

    Attributes:
        gain: gain control in use, for changing its percentiles at run time.
        repaired_pixels: number of non-finite pixels that the last call filled with 0.
        left_out_pixels: number of finite pixels that the gain control took for no scene.

    Raises:
        ValueError: the mode is unknown; names it.
    """

    def __init__(self, mode: str = "auto", gain: GainControl | None = None) -> None:
        self.mode = mode
        self.gain = gain or GainControl()
        self.repaired_pixels = 0
        self.left_out_pixels = 0

    @property
    def mode(self) -> str:
        """Mode in use; any thread may set it at any time."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in THERMAL_MODES:
            raise ValueError(f"mode is '{mode}', expected one of: {', '.join(THERMAL_MODES)}")
        self._mode = mode

    def reset(self) -> None:
        """Reset the gain control, as after a jump in time."""
        self.gain.reset()

    def __call__(
        self, image: np.ndarray, seconds: float | None = None, seen: np.ndarray | None = None
    ) -> np.ndarray:
        """Map one frame to 8 bits.

        Args:
            image: H x W uint8, uint16 or float32.
            seconds: time stamp of the frame.
            seen: see `GainControl.__call__`.

        Returns:
            H x W uint8; the input itself if nothing has to be changed.

        Raises:
            ValueError: the shape or dtype is another, or no pixel is finite.
        """
        mode = self._mode  # read once: another thread may change it
        _check_frame(image)
        self.left_out_pixels = 0
        if image.dtype == np.uint8 and mode != "percentile":
            self.repaired_pixels = 0
            return image
        if mode == "full_range":
            finite = _finite_mask(image)
            self.repaired_pixels = _count_false(finite)
            high = 1.0 if image.dtype == np.float32 else float(np.iinfo(image.dtype).max)
            return _to_bytes(image, 0.0, high, finite)
        mapped = self.gain(image, seconds, seen)
        self.repaired_pixels = self.gain.repaired_pixels
        self.left_out_pixels = self.gain.left_out_pixels
        return mapped


def _check_frame(image: np.ndarray) -> None:
    """Raise `ValueError` unless the frame is H x W uint8, uint16 or float32."""
    if image.ndim != 2 or not image.size:
        raise ValueError(f"thermal frame has shape {image.shape}, expected H x W")
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ValueError(f"thermal frame is {image.dtype}, expected uint8, uint16 or float32")


def _finite_mask(image: np.ndarray) -> np.ndarray | None:
    """Return the mask of finite pixels, or None if all are finite.

    Raises:
        ValueError: no pixel is finite.
    """
    if image.dtype != np.float32:
        return None
    finite = np.isfinite(image)
    if finite.all():
        return None
    if not finite.any():
        raise ValueError("thermal frame has no finite pixel")
    return finite


def _both(finite: np.ndarray | None, seen: np.ndarray | None) -> np.ndarray | None:
    """Return the pixels that are finite and seen; None for all. Without any, the finite ones."""
    if seen is None or finite is None:
        return finite if seen is None else seen
    both = finite & seen
    return both if both.any() else finite


def _count_false(mask: np.ndarray | None) -> int:
    """Return the number of False elements of a mask; 0 for None."""
    return 0 if mask is None else int(mask.size - np.count_nonzero(mask))


def _to_bytes(image: np.ndarray, low: float, high: float, finite: np.ndarray | None) -> np.ndarray:
    """Map counts [low, high] to 0..255, rounded; non-finite pixels become 0."""
    start, end = np.float32(low), np.float32(high)
    counts = image.astype(np.float32)
    if finite is not None:
        counts[~finite] = start
    np.clip(counts, start, end, out=counts)  # before scaling: huge counts cannot overflow
    counts -= start
    counts *= np.float32(255.0 / (float(end) - float(start)))
    np.rint(counts, out=counts)
    return counts.astype(np.uint8)
