"""Measure the misalignment of the thermal and the visible image, and suggest a homography.

Both cameras see the outlines of things, so gradient magnitudes correlate where grey
levels do not. Phase correlation (Kuglin and Hines, 1975) of single images is weak
across modalities. The cameras of a rig do not move relative to each other, so the
spectra of all frames are added up before their peak is located.
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
_LEAST_AFFINE_SHARE = 0.5
_INLIER = 1.5
_LARGEST_DISAGREEMENT = 1.0  # pixels at full size, between halves of the frames
_LEAST_GAIN = 1.0  # pixels at full size by which a suggestion must be better


@dataclass(frozen=True)
class Alignment:
    """Result of an alignment check.

    Attributes:
        homography: 3 x 3, from the registered thermal image to the visible one, both at
            the visible size; None if nothing reliable was found, or nothing is off.
        median_px: median length of the tiles' shifts, in visible pixels; None if they are
            unclear.
        confidence: share of tiles whose shift is clear and agrees with the others',
            0 to 1.
        frames: number of frames measured.
        size: width and height of the visible images.
    """

    homography: np.ndarray | None
    median_px: float | None
    confidence: float
    frames: int
    size: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Return `registration` of summary.json."""
        matrix = self.homography
        return {
            "suggested_homography": None if matrix is None else np.round(matrix, 6).tolist(),
            "median_px": None if self.median_px is None else round(self.median_px, 2),
            "confidence": round(self.confidence, 3),
            "frames": self.frames,
            "size": list(self.size),
        }


class AlignmentMeter:
    """Sum of the cross-power spectra of a bag's frames."""

    def __init__(self) -> None:
        self._sums: np.ndarray | None = None
        self._places: list[tuple[int, int]] = []
        self._scale = 1.0
        self._shape: tuple[int, int] | None = None
        self._frames = 0

    def add(self, grey: np.ndarray, infrared: np.ndarray) -> float:
        """Add a frame; frames of another size than the first are left out.

        Args:
            grey: H x W uint8, the visible luma.
            infrared: H x W uint8, the registered thermal image.

        Returns:
            The shift of the whole image in pixels; NaN if it is unclear.
        """
        if self._shape is None:
            self._shape = grey.shape[0], grey.shape[1]
            self._scale = grey.shape[1] / _WIDTH
        if grey.shape != self._shape:
            return float("nan")
        self._places, spectra = _tile_spectra(grey, infrared)
        if self._sums is None:
            self._sums = np.zeros((2, *spectra.shape), spectra.dtype)
        self._sums[self._frames % 2] += spectra
        self._frames += 1
        shift, peak = _peak(spectra.sum(axis=0))
        return float(np.hypot(*shift)) * self._scale if peak >= _LEAST_SINGLE_PEAK else float("nan")

    def result(self) -> Alignment | None:
        """Return the alignment over all frames; None without frames."""
        if self._sums is None or self._shape is None:
            return None
        size = self._shape[1], self._shape[0]
        start, to = self._shifts(self._sums.sum(axis=0))
        if len(to) < _LEAST_TILES or self._frames < _LEAST_FRAMES:
            return Alignment(None, None, 0.0, self._frames, size)
        moved, agreeing = _motion(start, to)
        share = float(agreeing.sum()) / len(self._places)
        if agreeing.sum() < _LEAST_TILES:
            return Alignment(None, None, share, self._frames, size)
        shifts = np.linalg.norm((to - start)[agreeing], axis=1) * self._scale
        gain = np.linalg.norm(_moved(moved, to) - to, axis=1).mean() * self._scale
        # An affine motion has more parameters that can be wrong than a shift.
        needed = _LEAST_SHARE if np.array_equal(moved[:2, :2], np.eye(2)) else _LEAST_AFFINE_SHARE
        reliable = share >= needed and gain >= _LEAST_GAIN and self._halves_agree()
        return Alignment(
            self._at_full_size(moved) if reliable else None,
            float(np.median(shifts)),
            share,
            self._frames,
            size,
        )

    def _halves_agree(self) -> bool:
        """Return whether the even and the odd frames give the same motion."""
        assert self._sums is not None
        corners = np.array([place[::-1] for place in self._places]) + (_TILE - 1) / 2
        moved = []
        for sums in self._sums:
            start, to = self._shifts(sums)
            if len(to) < _LEAST_TILES:
                return False
            moved.append(_moved(_motion(start, to)[0], corners))
        off = np.linalg.norm(moved[0] - moved[1], axis=1).mean() * self._scale
        return bool(off <= _LARGEST_DISAGREEMENT)

    def _shifts(self, spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the centres (x, y) of the tiles with a clear shift, now and after alignment."""
        found = [_peak(spectrum) for spectrum in spectra]
        clear = [k for k, (_, peak) in enumerate(found) if peak >= _LEAST_PEAK]
        if not clear:
            return np.zeros((0, 2)), np.zeros((0, 2))
        to = np.array([self._places[k] for k in clear])[:, ::-1] + (_TILE - 1) / 2
        return to - np.array([found[k][0] for k in clear]), to

    def _at_full_size(self, matrix: np.ndarray) -> np.ndarray:
        """Convert a motion from the compared size to the full size."""
        s = self._scale
        grow = np.array([[s, 0, (s - 1) / 2], [0, s, (s - 1) / 2], [0, 0, 1]])
        return grow @ matrix @ np.linalg.inv(grow)


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

    def add(
        self, grey: np.ndarray, infrared: np.ndarray, coverage: np.ndarray | None = None
    ) -> float:
        """Add a frame; one of another size than the frame before starts again.

        Args:
            grey: H x W uint8, the visible luma.
            infrared: H x W uint8, the registered thermal image.
            coverage: H x W bool, the pixels that the thermal camera sees; only these are
                compared. None if it sees all of them.

        Returns:
            The shift in pixels, found up to a sixteenth of the width along either axis; NaN if
            it is unclear.
        """
        if grey.shape != self._shape:
            self.reset()
            self._shape = grey.shape
        places, spectra = _tile_spectra(grey, infrared)
        if coverage is not None:
            size = _compared_size(grey.shape)
            inside = cv2.resize(coverage.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            seen = [bool(inside[y : y + _TILE, x : x + _TILE].all()) for y, x in places]
            spectra = spectra[seen]
        self._sum = self._memory * self._sum + spectra.sum(axis=0)
        shift, peak = _peak(self._sum)
        if peak < _LEAST_SINGLE_PEAK:
            return float("nan")
        return float(np.hypot(*shift)) * grey.shape[1] / _WIDTH


def _motion(start: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the simplest motion that explains points: a shift, or else an affine motion.

    Returns the 3 x 3 matrix, and a mask of the points that agree with it. An affine motion
    is tried where a shift leaves out more than a fifth of the points.
    """
    shift = np.median(to - start, axis=0)
    agree_shift = np.linalg.norm(to - start - shift, axis=1) <= _INLIER
    shifted = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1.0]])
    if agree_shift.mean() >= 0.8:
        return shifted, agree_shift
    cv2.setRNGSeed(0)
    affine, inliers = cv2.estimateAffine2D(start, to, ransacReprojThreshold=_INLIER)
    if affine is None or inliers.sum() < agree_shift.sum() + 2:
        return shifted, agree_shift
    return np.vstack((affine, (0, 0, 1))), inliers[:, 0].astype(bool)


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a 3 x 3 affine motion to N x 2 points."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


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


def _compared_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return width and height to which images of a shape are resized."""
    return _WIDTH, max(_TILE, round(shape[0] * _WIDTH / shape[1]))


def _tile_spectra(
    grey: np.ndarray, infrared: np.ndarray
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return the corners (y, x) of the tiles, and the cross-power spectrum of each."""
    size = _compared_size(grey.shape)
    visible, thermal = (_gradients(image, size) for image in (grey, infrared))
    places = _places(visible.shape)
    window = _window(_TILE)
    spectra = [
        _cross_power(
            visible[y : y + _TILE, x : x + _TILE] * window,
            thermal[y : y + _TILE, x : x + _TILE] * window,
        )
        for y, x in places
    ]
    return places, np.stack(spectra)


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
