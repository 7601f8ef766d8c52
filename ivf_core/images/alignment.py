"""Measure how far the thermal image is off the visible one.

Both cameras see the outlines of things, so gradient magnitudes correlate where grey
levels do not. Phase correlation (Kuglin and Hines, 1975) of single images is weak
across modalities. The cameras of a rig do not move relative to each other, so the
spectra of all frames are added up before their peak is located. `ivf register` estimates the
motion itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

__all__ = ["Alignment", "AlignmentMeter", "ShiftMeter"]

_WIDTH = 320  # pixels, to which images are resized
_TILE = 80
_REACH = 20  # pixels at that width: the largest shift that is found
_LEAST_PEAK = 6.0  # height of the sum's peak in standard deviations of the surface
_LEAST_SINGLE_PEAK = 7.0
_LEAST_TILES = 6
_LEAST_FRAMES = 3
_LEAST_SHARE = 0.3
_LEAST_SHIFT = 1.0  # pixels at the compared width from which images are off


@dataclass(frozen=True)
class Alignment:
    """Result of an alignment check.

    Attributes:
        median_px: median length of the tiles' shifts, in visible pixels; None if they are
            unclear.
        confidence: share of tiles whose shift is clear, 0 to 1.
        frames: number of frames measured.
        is_off: whether the images are apart by more than what is measured of registered ones.
    """

    median_px: float | None
    confidence: float
    frames: int
    is_off: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return `registration` of summary.json."""
        return {
            "median_px": None if self.median_px is None else round(self.median_px, 2),
            "confidence": round(self.confidence, 3),
            "frames": self.frames,
        }


class AlignmentMeter:
    """Sum of the cross-power spectra of a bag's frames."""

    def __init__(self) -> None:
        self._sum: np.ndarray | None = None
        self._shape: tuple[int, ...] | None = None
        self._scale = 1.0
        self._frames = 0

    def add(self, grey: np.ndarray, infrared: np.ndarray, width: int | None = None) -> float:
        """Add a frame; frames of another size than the first are left out.

        Args:
            grey: H x W uint8, the visible luma where both cameras see.
            infrared: H x W uint8, the registered thermal image there.
            width: width of the whole image in pixels; None if these are whole.

        Returns:
            The shift of the whole image in pixels; NaN if it is unclear.
        """
        if self._shape is None:
            self._shape = grey.shape
        if grey.shape != self._shape:
            return float("nan")
        self._scale = _scale(grey.shape, width)
        spectra = _tile_spectra(grey, infrared, self._scale)
        self._sum = spectra if self._sum is None else self._sum + spectra
        self._frames += 1
        return _length(spectra.sum(axis=0)) / self._scale

    def result(self) -> Alignment | None:
        """Return the alignment over all frames; None without frames."""
        if self._sum is None:
            return None
        found = [_peak(spectrum) for spectrum in self._sum]
        shifts = [np.hypot(*shift) for shift, peak in found if peak >= _LEAST_PEAK]
        share = len(shifts) / len(found)
        if len(shifts) < min(_LEAST_TILES, len(found)) or self._frames < _LEAST_FRAMES:
            return Alignment(None, share, self._frames)
        median = float(np.median(shifts))
        is_off = share >= _LEAST_SHARE and median >= _LEAST_SHIFT
        return Alignment(median / self._scale, share, self._frames, is_off)


class ShiftMeter:
    """Shift between the two images of a stream, from its latest frames.

    `AlignmentMeter` is for whole bags. Here the spectra of earlier frames fade, so that a
    rig that gets out of line shows within a few frames.

    Args:
        memory: weight of the frames before relative to the newest one, 0 to 1.
    """

    def __init__(self, memory: float = 0.7) -> None:
        self._memory = memory
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._sum = np.zeros((_TILE, _TILE // 2 + 1), np.complex128)
        self._shape: tuple[int, ...] | None = None

    def add(self, grey: np.ndarray, infrared: np.ndarray, width: int | None = None) -> float:
        """Add a frame; one of another size than the frame before starts again.

        Args:
            grey: H x W uint8, the visible luma where both cameras see.
            infrared: H x W uint8, the registered thermal image there.
            width: width of the whole image in pixels; None if these are whole.

        Returns:
            The shift in pixels, found up to a sixteenth of the width along either axis; NaN if
            it is unclear.
        """
        if grey.shape != self._shape:
            self.reset()
            self._shape = grey.shape
        scale = _scale(grey.shape, width)
        self._sum = self._memory * self._sum + _tile_spectra(grey, infrared, scale).sum(axis=0)
        return _length(self._sum) / scale


def _length(spectrum: np.ndarray) -> float:
    """Return the length of a shift in compared pixels; NaN if it is unclear."""
    shift, peak = _peak(spectrum)
    return float(np.hypot(*shift)) if peak >= _LEAST_SINGLE_PEAK else float("nan")


def _scale(shape: tuple[int, ...], width: int | None) -> float:
    """Return the scale at which images are compared: a part has room for a tile."""
    return max(_WIDTH / (width or shape[1]), _TILE / shape[1])


def _gradients(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the root of the gradient magnitude of a resized image, minus its local mean.

    The root keeps single strong edges from dominating.
    """
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 1.0)
    # In double precision, so that rounding does not reach the digits that are written.
    # cv2.magnitude of float32 differs in its last bit with the alignment of the memory.
    dx, dy = cv2.Sobel(small, cv2.CV_64F, 1, 0), cv2.Sobel(small, cv2.CV_64F, 0, 1)
    magnitude = np.sqrt(np.sqrt(dx * dx + dy * dy))
    return magnitude - cv2.blur(magnitude, (_TILE // 2 + 1, _TILE // 2 + 1))


def _tile_spectra(grey: np.ndarray, infrared: np.ndarray, scale: float) -> np.ndarray:
    """Return the cross-power spectrum of each tile of images that are scaled."""
    size = round(grey.shape[1] * scale), max(_TILE, round(grey.shape[0] * scale))
    visible, thermal = (_gradients(image, size) for image in (grey, infrared))
    window = _window(_TILE)
    spectra = [
        _cross_power(
            visible[y : y + _TILE, x : x + _TILE] * window,
            thermal[y : y + _TILE, x : x + _TILE] * window,
        )
        for y, x in _places(visible.shape)
    ]
    return np.stack(spectra)


def _places(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the corners (y, x) of tiles that overlap by half."""
    rows, columns = (range(0, length - _TILE + 1, _TILE // 2) for length in shape[:2])
    return [(y, x) for y in rows for x in columns]


@lru_cache(maxsize=2)
def _window(size: int) -> np.ndarray:
    return cv2.createHanningWindow((size, size), cv2.CV_64F)


def _cross_power(visible: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """Return the half-normalised cross-power spectrum, with its peak at the shift.

    The shift leads from thermal to visible.
    """
    product = np.fft.rfft2(visible) * np.conj(np.fft.rfft2(thermal))
    return product / np.maximum(np.abs(product), 1e-6) ** 0.7


def _peak(spectrum: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the shift (x, y) to sub-pixels, and the peak's height in standard deviations."""
    surface = np.fft.fftshift(np.fft.irfft2(spectrum, (_TILE, _TILE)))
    middle = _TILE // 2
    near = surface[middle - _REACH : middle + _REACH + 1, middle - _REACH : middle + _REACH + 1]
    y, x = np.unravel_index(int(near.argmax()), near.shape)
    deviation = float(surface.std())
    if deviation == 0 or not (0 < y < 2 * _REACH and 0 < x < 2 * _REACH):
        return np.zeros(2), 0.0
    height = float(near[y, x] - surface.mean()) / deviation
    return np.array(
        [x + _vertex(near[y, x - 1 : x + 2]), y + _vertex(near[y - 1 : y + 2, x])]
    ) - _REACH, height


def _vertex(values: np.ndarray) -> float:
    """Return the offset of the vertex of a parabola through three values, 0 without a peak."""
    left, middle, right = (float(value) for value in values)
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0
