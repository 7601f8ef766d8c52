"""Fit of a motion to correlation surfaces of tiles.

Each surface tells for each displacement how well a tile agrees. A single surface often has
no clear peak, as along an edge, but the sum of all surfaces along one motion has: so
the parameters of the motion are what is maximised, not the peak of each tile.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["MOTION_MODELS", "clear_peaks", "fit_motion", "from_half_widths", "motion_of_points"]

MOTION_MODELS = {"translation": 2, "similarity": 4, "affine": 6, "homography": 8}
"""Models of a motion and their degrees of freedom."""

_FIRST_BLUR = 3.0  # pixels, of surfaces; wide peaks guide the first steps
# Usual deviations of a rig's map from a similarity: aspect and shear (square pixels have neither)
# and two perspectives (axes that are 1.5 degrees apart, at a field of view of 60 degrees).
_USUAL = np.array([0.01, 0.01, 0.015, 0.015])
_DEPENDENT_TILES = 16.0  # that err alike: tiles overlap, and outlines reach over several
_OUTSIDE_PENALTY = 0.01  # for each pixel by which a displacement leaves a surface
_STEPS = 25
_PEAK_BLUR = 0.8
_MAGSAC_THRESHOLD = 2.0  # pixels


def fit_motion(
    centres: np.ndarray,
    surfaces: np.ndarray,
    model: str,
    size: tuple[int, int],
    blur: float,
    seed: int = 0,
    base: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Find the motion of the tiles that maximises the sum of their surfaces.

    It starts from the shift that all surfaces share, and from MAGSAC over the peaks of single
    tiles, and adds parameters from model to model. Then the map as a whole, the motion after
    its base, is drawn towards a similarity by the usual spread of rigs, as strongly as the
    tiles disagree: where there are no outlines, corners of the image are extrapolated.

    Args:
        centres: N x 2, middle of each tile as (x, y) in pixels.
        surfaces: N x (2 R + 1) x (2 R + 1) float32 of displacements from -R to R.
        model: a key of `MOTION_MODELS`.
        size: width and height of the image.
        blur: standard deviation in pixels by which surfaces are smoothed.
        seed: seed of MAGSAC.
        base: 3 x 3 map of the thermal image, in half widths (`from_half_widths`), to pixels before
            the motion; None leaves the map as the surfaces have it.

    Returns:
        3 x 3 matrix, pixel -> pixel after the motion, and the mean of the surfaces there; the
        identity and 0 without tiles.
    """
    if not len(centres):
        return np.eye(3), 0.0
    best: tuple[float, np.ndarray] | None = None
    landscape = _Landscape(centres, _blurred(surfaces, _FIRST_BLUR), size)
    fine = _Landscape(centres, _blurred(surfaces, blur), size)
    for start in (landscape.common_shift(), _magsac(centres, surfaces, size, seed)):
        if start is None:
            continue
        theta = start[: MOTION_MODELS[model]]
        for surface in (landscape, fine):
            for count in MOTION_MODELS.values():
                if len(theta) <= count <= MOTION_MODELS[model]:
                    theta = surface.ascend(np.pad(theta, (0, count - len(theta))))
        value = fine.value(theta)
        if best is None or value > best[0]:
            best = value, theta
    assert best is not None
    theta = best[1]
    if base is not None and len(theta) > MOTION_MODELS["similarity"]:
        noise = _DEPENDENT_TILES * fine.noise(theta)
        for surface in (landscape, fine):
            surface.prior = noise, base
            theta = surface.ascend(theta)
    displacement = motion_of_points(centres, _matrix(theta, size))
    return _matrix(theta, size), float(fine.sample(displacement).mean())


def from_half_widths(size: tuple[int, int]) -> np.ndarray:
    """Return the 3 x 3 map to pixels from the middle of an image in units of half its width."""
    half = size[0] / 2
    return np.array([[half, 0, (size[0] - 1) / 2], [0, half, (size[1] - 1) / 2], [0, 0, 1.0]])


def motion_of_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return by how much a 3 x 3 matrix moves N x 2 points."""
    if not len(points):
        return np.zeros((0, 2))
    return cv2.perspectiveTransform(points[None], matrix)[0] - points


def clear_peaks(surfaces: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the tiles with a clear peak, and their displacements (x, y) to sub-pixels.

    Args:
        surfaces: N x (2 R + 1) x (2 R + 1) float32.
        least: height of a peak above the mean, in standard deviations of the surface.

    Returns:
        Indices of M tiles, and M x 2 displacements.
    """
    reach = surfaces.shape[1] // 2
    found, places = [], []
    if not len(surfaces):
        return np.zeros(0, int), np.zeros((0, 2))
    for index, surface in enumerate(_blurred(surfaces, _PEAK_BLUR)):
        y, x = np.unravel_index(int(surface.argmax()), surface.shape)
        if not (0 < y < 2 * reach and 0 < x < 2 * reach):
            continue
        if surface[y, x] - surface.mean() < least * surface.std():
            continue
        found.append(index)
        places.append(
            (x + _vertex(surface[y, x - 1 : x + 2]), y + _vertex(surface[y - 1 : y + 2, x]))
        )
    return np.array(found, int), np.reshape(places, (-1, 2)) - reach


class _Landscape:
    """Sum of surfaces as a function of the parameters of a motion.

    The parameters are shift, scale, rotation, two shears and two perspectives, in units of half
    the width.
    """

    def __init__(self, centres: np.ndarray, values: np.ndarray, size: tuple[int, int]) -> None:
        self.values = values
        self.prior: tuple[float, np.ndarray] | None = None  # noise, and map before the motion
        self._centres = centres
        self._size = size
        self._half = size[0] / 2
        self._reach = values.shape[1] // 2
        self._all = np.arange(len(values))[:, None, None]

    def common_shift(self) -> np.ndarray:
        """Return the shift at which the sum of all surfaces peaks."""
        total = self.values.sum(axis=0)
        y, x = np.unravel_index(int(total.argmax()), total.shape)
        return np.array([x - self._reach, y - self._reach], np.float64) / self._half

    def value(self, theta: np.ndarray) -> float:
        """Return the sum of the surfaces, less the prior."""
        moved = motion_of_points(self._centres, _matrix(theta, self._size))
        outside = np.maximum(np.abs(moved) - self._reach, 0).sum()
        value = float(self.sample(moved).sum()) - _OUTSIDE_PENALTY * outside
        if self.prior is not None:
            noise, base = self.prior
            value -= 0.5 * noise * float((self._distortion(theta, base) ** 2).sum())
        return value

    def noise(self, theta: np.ndarray) -> float:
        """Return the variance of the gradient over that of a likelihood, at a maximum.

        The tiles' gradients cancel there; their spread shows how far the maximum is from where
        other tiles would have it (Godambe's information).
        """
        moved = motion_of_points(self._centres, _matrix(theta, self._size))
        slope = np.stack((self.sample(moved, dx=1), self.sample(moved, dy=1)), -1)
        basis = _basis(self._centres, self._size, len(theta)) * self._half
        gradients = np.einsum("nip,ni->np", basis, slope)
        _, curvature = self._derivatives(theta)
        curvature += 1e-6 * np.trace(curvature) * np.eye(len(theta)) + 1e-12 * np.eye(len(theta))
        return float(np.trace(np.linalg.solve(curvature, gradients.T @ gradients)) / len(theta))

    def _distortion(self, theta: np.ndarray, base: np.ndarray) -> np.ndarray:
        """Return aspect, shear and perspectives of the map as a whole, over their usual values."""
        whole = np.linalg.inv(from_half_widths(self._size)) @ _matrix(theta, self._size) @ base
        whole = whole / whole[2, 2]
        # Its derivative in the middle of the thermal image.
        linear = whole[:2, :2] - whole[:2, 2:] * whole[2, :2]
        scaled = linear.T @ linear / max(abs(float(np.linalg.det(linear))), 1e-12)
        aspect, shear = (scaled[0, 0] - scaled[1, 1]) / 4, scaled[0, 1] / 2
        return np.array([aspect, shear, *whole[2, :2]]) / _USUAL

    def ascend(self, theta: np.ndarray) -> np.ndarray:
        """Climb to a maximum by Levenberg and Marquardt's steps."""
        current, damping = self.value(theta), 0.3
        for _ in range(_STEPS):
            gradient, curvature = self._derivatives(theta)
            gain = 0.0
            for _ in range(8):
                damped = curvature + damping * np.diag(np.diag(curvature) + 1e-9)
                tried = theta + np.linalg.solve(damped, gradient)
                value = self.value(tried)
                if value > current:
                    gain, theta, current = value - current, tried, value
                    damping = max(damping / 3, 1e-3)
                    break
                damping *= 4
            if gain < 1e-6 * abs(current):
                break
        return theta

    def sample(self, moved: np.ndarray, dx: int = 0, dy: int = 0) -> np.ndarray:
        """Return the value, or a derivative, of each surface at its displacement.

        Between its pixels a surface is a cubic B-spline, whose maxima are not drawn to pixels.
        """
        places = np.clip(moved + self._reach, 1, 2 * self._reach - 1.001)
        whole = np.floor(places).astype(int)
        along, across = (places - whole).T
        near = np.arange(-1, 3)
        x, y = whole[:, :1] + near, whole[:, 1:] + near
        patches = self.values[self._all, y[:, :, None], x[:, None, :]]
        return np.einsum("nyx,ny,nx->n", patches, _spline(across, dy), _spline(along, dx))

    def _derivatives(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient, and the negative curvature without its negative part."""
        moved = motion_of_points(self._centres, _matrix(theta, self._size))
        basis = _basis(self._centres, self._size, len(theta)) * self._half
        slope = np.stack((self.sample(moved, dx=1), self.sample(moved, dy=1)), -1)
        xx, xy, yy = (self.sample(moved, dx, dy) for dx, dy in ((2, 0), (1, 1), (0, 2)))
        bend = -np.stack((xx, xy, xy, yy), -1).reshape(-1, 2, 2)
        lengths, directions = np.linalg.eigh(bend)
        bend = np.einsum("nij,nj,nkj->nik", directions, np.maximum(lengths, 0), directions)
        gradient = np.einsum("nip,ni->p", basis, slope)
        curvature = np.einsum("nip,nij,njq->pq", basis, bend, basis)
        if self.prior is not None:
            noise, base = self.prior
            steps = 1e-5 * np.eye(len(theta))
            change = np.stack(
                [self._distortion(theta + one, base) - self._distortion(theta - one, base)
                 for one in steps], -1
            ) / 2e-5  # fmt: skip
            gradient -= noise * change.T @ self._distortion(theta, base)
            curvature += noise * change.T @ change
        return gradient, curvature


def _spline(f: np.ndarray, derivative: int) -> np.ndarray:
    """Return the weights N x 4 of a cubic B-spline, or of a derivative, at fractions 0 to 1."""
    g = 1 - f
    if derivative == 0:
        weights = (g**3, 3 * f**3 - 6 * f**2 + 4, 3 * g**3 - 6 * g**2 + 4, f**3)
        return np.stack(weights, -1) / 6
    if derivative == 1:
        weights = (-g * g, 3 * f * f - 4 * f, 4 * g - 3 * g * g, f * f)
        return np.stack(weights, -1) / 2
    return np.stack((g, 3 * f - 2, 3 * g - 2, f), -1)


def _basis(points: np.ndarray, size: tuple[int, int], count: int) -> np.ndarray:
    """Return the motion of points for each of the first parameters, N x 2 x count."""
    x = (points[:, 0] - (size[0] - 1) / 2) / (size[0] / 2)
    y = (points[:, 1] - (size[1] - 1) / 2) / (size[0] / 2)
    one, zero = np.ones_like(x), np.zeros_like(x)
    moves = [(one, zero), (zero, one), (x, y), (-y, x), (x, -y), (y, x), (x * x, x * y),
             (x * y, y * y)]  # fmt: skip
    return np.stack([np.stack(move, -1) for move in moves[:count]], -1)


def _matrix(theta: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the homography in pixels whose motion is that of the basis, to first order."""
    t, pixels = np.pad(theta, (0, 8 - len(theta))), from_half_widths(size)
    motion = np.array([
        [1 + t[2] + t[4], t[5] - t[3], t[0]],
        [t[5] + t[3], 1 + t[2] - t[4], t[1]],
        [-t[6], -t[7], 1.0],
    ])  # fmt: skip
    return pixels @ motion @ np.linalg.inv(pixels)


def _magsac(
    centres: np.ndarray, surfaces: np.ndarray, size: tuple[int, int], seed: int
) -> np.ndarray | None:
    """Return the affine motion of most peaks as parameters, None where there are too few."""
    found, moved = clear_peaks(surfaces, 3.0)
    if len(found) < 6:
        return None
    start = centres[found]
    cv2.setRNGSeed(seed)
    matrix, inliers = cv2.findHomography(
        start, start + moved, cv2.USAC_MAGSAC, _MAGSAC_THRESHOLD, maxIters=2000, confidence=0.999
    )
    if matrix is None or inliers.sum() < 6:
        return None
    agreeing = inliers[:, 0].astype(bool)
    basis = _basis(start[agreeing], size, 6).reshape(-1, 6) * (size[0] / 2)
    return np.linalg.lstsq(basis, moved[agreeing].ravel(), rcond=None)[0]


def _blurred(surfaces: np.ndarray, deviation: float) -> np.ndarray:
    return np.stack(
        [
            cv2.GaussianBlur(one, (0, 0), deviation, borderType=cv2.BORDER_REPLICATE)
            for one in surfaces
        ]
    )


def _vertex(values: np.ndarray) -> float:
    """Return the offset of the vertex of a parabola through three values, 0 without a peak."""
    left, middle, right = (float(value) for value in values)
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0
