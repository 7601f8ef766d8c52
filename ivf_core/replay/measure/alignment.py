"""How far the thermal picture lies off the visible one, and what would bring it there.

Both cameras see the outlines of things, so gradient magnitudes correlate where grey
levels do not. Phase correlation (Kuglin and Hines, 1975) of single pictures is weak
across modalities; the cameras of a rig stand still to each other, so the spectra of
all pictures looked at are added up before their peak is sought.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

__all__ = ["Alignment", "AlignmentMeter"]

_WIDTH = 320  # of the pictures compared
_TILE = 80
_REACH = 20  # pixels at that width: the largest shift that is sought
_LEAST_PEAK = 6.0  # of the sum: height of the peak in standard deviations of the surface
_LEAST_SINGLE_PEAK = 7.0
_LEAST_TILES = 6
_LEAST_FRAMES = 3
_LEAST_SHARE = 0.3
_LEAST_AFFINE_SHARE = 0.5
_INLIER = 1.5
_LARGEST_DISAGREEMENT = 1.0  # pixels of the full picture, between halves of the frames
_LEAST_GAIN = 1.0  # pixels of the full picture that a suggestion must be worth


@dataclass(frozen=True)
class Alignment:
    """What was found.

    Attributes:
        homography: 3 x 3, from the registered thermal picture to the visible one, both at
            the visible size; None where nothing reliable was found, or nothing is off.
        median_px: median length of the shifts of the picture's parts, in visible pixels;
            None where they cannot be told.
        confidence: share of the picture's parts whose shift is clear and agrees with the
            others', 0 to 1.
        frames: pictures looked at.
        size: width and height of the visible pictures.
    """

    homography: np.ndarray | None
    median_px: float | None
    confidence: float
    frames: int
    size: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        matrix = self.homography
        return {
            "suggested_homography": None if matrix is None else np.round(matrix, 6).tolist(),
            "median_px": None if self.median_px is None else round(self.median_px, 2),
            "confidence": round(self.confidence, 3),
            "frames": self.frames,
            "size": list(self.size),
        }


class AlignmentMeter:
    """Adds up the evidence of a bag's frames."""

    def __init__(self) -> None:
        self._sums: np.ndarray | None = None
        self._places: list[tuple[int, int]] = []
        self._scale = 1.0
        self._shape: tuple[int, int] | None = None
        self._frames = 0

    def add(self, grey: np.ndarray, infrared: np.ndarray) -> float:
        """Take a frame; frames of another size than the first are left out.

        Args:
            grey, infrared: H x W uint8, the visible luma and the registered thermal picture.

        Returns:
            The shift of the whole picture in pixels; NaN where it is not clear.
        """
        if self._shape is None:
            self._shape = grey.shape[0], grey.shape[1]
            self._scale = grey.shape[1] / _WIDTH
        if grey.shape != self._shape:
            return float("nan")
        size = (_WIDTH, max(_TILE, round(grey.shape[0] / self._scale)))
        visible, thermal = (_gradients(picture, size) for picture in (grey, infrared))
        self._places = _places(visible.shape)
        window = _window(_TILE)
        spectra = np.stack(
            [
                _cross_power(
                    visible[y : y + _TILE, x : x + _TILE] * window,
                    thermal[y : y + _TILE, x : x + _TILE] * window,
                )
                for y, x in self._places
            ]
        )
        if self._sums is None:
            self._sums = np.zeros((2, *spectra.shape), spectra.dtype)
        self._sums[self._frames % 2] += spectra
        self._frames += 1
        shift, peak = _peak(spectra.sum(axis=0))
        return float(np.hypot(*shift)) * self._scale if peak >= _LEAST_SINGLE_PEAK else float("nan")

    def result(self) -> Alignment | None:
        """What all frames say together; None without frames."""
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
        # More can be wrong with more than a shift.
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
        """Whether every other frame says the same as those between them."""
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
        """Centres (x, y) of the tiles with a clear shift: where they are, and belong."""
        found = [_peak(spectrum) for spectrum in spectra]
        clear = [k for k, (_, peak) in enumerate(found) if peak >= _LEAST_PEAK]
        if not clear:
            return np.zeros((0, 2)), np.zeros((0, 2))
        to = np.array([self._places[k] for k in clear])[:, ::-1] + (_TILE - 1) / 2
        return to - np.array([found[k][0] for k in clear]), to

    def _at_full_size(self, matrix: np.ndarray) -> np.ndarray:
        s = self._scale
        grow = np.array([[s, 0, (s - 1) / 2], [0, s, (s - 1) / 2], [0, 0, 1]])
        return grow @ matrix @ np.linalg.inv(grow)


def _motion(start: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """3 x 3 motion of points, of the simplest kind that explains them, and who agrees.

    A shift, or where that leaves too many out, an affine motion.
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
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def _gradients(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Gradient magnitude at the size compared, compressed, so that no single edge prevails."""
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 1.0)
    dx, dy = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    # In double precision, so that rounding does not reach the digits that are written.
    magnitude = np.sqrt(cv2.magnitude(dx, dy).astype(np.float64))
    return magnitude - cv2.blur(magnitude, (_TILE // 2 + 1, _TILE // 2 + 1))


def _places(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Corners (y, x) of tiles that overlap by half."""
    rows, columns = (range(0, length - _TILE + 1, _TILE // 2) for length in shape[:2])
    return [(y, x) for y in rows for x in columns]


@lru_cache(maxsize=2)
def _window(size: int) -> np.ndarray:
    return cv2.createHanningWindow((size, size), cv2.CV_64F)


def _cross_power(visible: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """Half-normalised cross-power spectrum; its peak lies at the shift thermal -> visible."""
    product = np.fft.rfft2(visible) * np.conj(np.fft.rfft2(thermal))
    return product / np.maximum(np.abs(product), 1e-6) ** 0.7


def _peak(spectrum: np.ndarray) -> tuple[np.ndarray, float]:
    """Shift (x, y) to sub-pixels, and the peak's height in standard deviations."""
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
    left, middle, right = (float(value) for value in values)
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0
