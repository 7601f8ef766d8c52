"""Search for scale, rotation and shift of a thermal camera about which nothing is known."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from ivf_core.images.registration import size_change
from ivf_core.rigs.orientation_fields import orientation_fields, warp_grey
from ivf_core.rigs.pair_stack import PairStack

__all__ = ["coarse_candidates"]

_WIDTH = 160  # pixels, to which RGB images are resized
# Of the RGB width, which the thermal image takes.
_SHARES = tuple(np.geomspace(0.36, 2.3, 27).tolist())
_ANGLES = (-8.0, -4.0, 4.0, 8.0)  # degrees
# Which scales look best upright tells nothing of a camera that is turned by 8 degrees.
_TURNED_SHARES = _SHARES[::2]
_LEAST_OVERLAP = 0.3  # of the smaller image
_PAIRS = 8
_APART = 0.06  # of the RGB width, between the corners of two candidates


def coarse_candidates(stack: PairStack, count: int) -> list[tuple[float, np.ndarray]]:
    """Find similarities from thermal to RGB by correlating whole images.

    The correlation is divided by the energy of both images where they overlap, and
    multiplied by the root of the overlap's area: its significance if nothing agreed.

    Args:
        stack: images.
        count: number of candidates.

    Returns:
        Significance and 3 x 3 homography (thermal pixel -> RGB pixel) of at most `count`
        candidates that differ, the best first.
    """
    chosen = np.unique(np.linspace(0, len(stack) - 1, _PAIRS).round().astype(int)).tolist()
    found: list[tuple[float, np.ndarray]] = []
    for index in chosen:
        stack.rgb_fields(index, _WIDTH)
    with ThreadPoolExecutor(2) as pool:
        tried = [(share, 0.0) for share in _SHARES]
        tried += [(share, angle) for share in _TURNED_SHARES for angle in _ANGLES]
        for peaks in pool.map(lambda one: _correlate(stack, chosen, *one), tried):
            found += peaks
    found.sort(key=lambda one: -one[0])
    width, height = stack.thermal_size
    corners = np.array([[[0, 0], [width, 0], [0, height], [width, height]]], np.float64)
    kept: list[tuple[float, np.ndarray]] = []
    places: list[np.ndarray] = []
    for significance, matrix in found:
        place = cv2.perspectiveTransform(corners, matrix)[0]
        apart = [np.linalg.norm(place - other, axis=1).mean() for other in places]
        if all(distance > _APART * stack.rgb_size[0] for distance in apart):
            kept.append((significance, matrix))
            places.append(place)
        if len(kept) == count:
            break
    return kept


def _correlate(
    stack: PairStack, chosen: Sequence[int], share: float, angle: float
) -> list[tuple[float, np.ndarray]]:
    """Return the two highest peaks over all shifts, at one scale and rotation."""
    size = stack.size_at(_WIDTH)
    matrix, extent = _similarity(stack.thermal_size, share * size[0], angle)
    padded = tuple(
        cv2.getOptimalDFTSize(a + b) for a, b in zip(size[::-1], extent[::-1], strict=True)
    )
    product = np.zeros((*padded, 2), np.float32)
    energies = [np.zeros(size[::-1], np.float32), np.zeros(extent[::-1], np.float32)]
    mask = np.zeros(extent[::-1], np.uint8)
    for index in chosen:
        rgb = stack.rgb_fields(index, _WIDTH)
        warped, mask = warp_grey(stack.thermal[index], stack.seen, matrix, extent)
        thermal = orientation_fields(warped) * mask[..., None]
        energies[0] += (rgb * rgb).sum(axis=2)
        energies[1] += (thermal * thermal).sum(axis=2)
        for k in (0, 2):
            product += cv2.mulSpectrums(
                _spectrum(rgb[..., k : k + 2], padded),
                _spectrum(thermal[..., k : k + 2], padded),
                0,
                conjB=True,
            )
    whole, part = np.ones(size[::-1], np.float32), mask.astype(np.float32)
    area = _correlation(whole, part, padded)
    energy = _correlation(energies[0], part, padded) * _correlation(whole, energies[1], padded)
    numerator = cv2.dft(product, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE)[..., 0]
    enough = area >= _LEAST_OVERLAP * min(whole.size, float(part.sum()))
    ratio = numerator / np.sqrt(np.maximum(energy, 1e-3)) * np.sqrt(np.maximum(area, 0))
    return _peaks(np.where(enough, ratio, -np.inf), matrix, stack, size)


def _peaks(
    surface: np.ndarray, matrix: np.ndarray, stack: PairStack, size: tuple[int, int]
) -> list[tuple[float, np.ndarray]]:
    grow = size_change(size, stack.rgb_size)
    rows, columns = surface.shape
    found = []
    for _ in range(2):
        y, x = (int(n) for n in np.unravel_index(int(surface.argmax()), surface.shape))
        height = float(surface[y, x])
        if not np.isfinite(height):
            break
        shift = np.eye(3)
        shift[:2, 2] = x if x < size[0] else x - columns, y if y < size[1] else y - rows
        found.append((height, grow @ shift @ matrix))
        near = np.arange(-6, 7)
        surface[np.ix_((y + near) % rows, (x + near) % columns)] = -np.inf
    return found


def _similarity(
    thermal_size: tuple[int, int], width: float, angle: float
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the map of a thermal image to a width and an angle, and its extent (w, h)."""
    scale = width / thermal_size[0]
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    w, h = thermal_size
    extent = (
        max(16, int(scale * (w * cosine + h * abs(sine)))),
        max(16, int(scale * (h * cosine + w * abs(sine)))),
    )
    matrix = np.array([
        [scale * cosine, -scale * sine, 0], [scale * sine, scale * cosine, 0], [0, 0, 1.0]
    ])  # fmt: skip
    middle = matrix @ ((w - 1) / 2, (h - 1) / 2, 1)
    matrix[:2, 2] = (extent[0] - 1) / 2 - middle[0], (extent[1] - 1) / 2 - middle[1]
    return matrix, extent


def _spectrum(field: np.ndarray, padded: tuple[int, ...]) -> np.ndarray:
    """Return the spectrum of H x W x 2 real and imaginary parts, padded by zeros."""
    large = np.zeros((*padded, 2), np.float32)
    large[: field.shape[0], : field.shape[1]] = field
    return cv2.dft(large)


def _correlation(first: np.ndarray, second: np.ndarray, padded: tuple[int, ...]) -> np.ndarray:
    """Return the correlation of two real fields over all shifts of the second."""
    spectra = [
        _spectrum(np.stack((one, np.zeros_like(one)), -1), padded) for one in (first, second)
    ]
    product = cv2.mulSpectrums(spectra[0], spectra[1], 0, conjB=True)
    return cv2.dft(product, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE)[..., 0]
