"""Camera with a lens: pinhole and distortion, in OpenCV's and ROS's conventions.

Camera coordinates are in metres: x to the right, y down, z along the optical axis. Pixels are
(x, y), with integer coordinates at the pixels' centres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ivf_core.images.registration import size_change
from ivf_core.system.short_text import short_repr

__all__ = ["DISTORTION_MODELS", "LARGEST_SIDE", "CameraModel"]

DISTORTION_MODELS = {
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (8,),
    "equidistant": (0, 4),
}
"""Names of the distortion models as ROS and OpenCV use them, with their numbers of coefficients.

- plumb_bob: k1, k2, p1, p2 and k3 (Brown-Conrady; Kalibr's radtan).
- rational_polynomial: k1, k2, p1, p2, k3, k4, k5, k6.
- equidistant: k1, k2, k3, k4 of a polynomial in the angle (Kannala and Brandt, 2006; OpenCV's
  fisheye).
"""

LARGEST_SIDE = 1 << 16
"""Largest width and height of an image in pixels."""

_LARGEST_COEFFICIENT = 1e6
_ITERATIONS = 30
_STEPS = 4096  # of the search for the angle at which a lens folds


@dataclass(frozen=True)
class CameraModel:
    """Intrinsics of a camera.

    The distortion maps a direction (X/Z, Y/Z) to distorted coordinates (x, y), which the pinhole
    maps to the pixel (fx x + cx, fy y + cy).

    Attributes:
        size: width and height in pixels of the images for which the rest holds.
        focal: fx and fy in pixels.
        center: cx and cy in pixels.
        distortion_model: one of `DISTORTION_MODELS`.
        distortion: coefficients in OpenCV's order, with as many as the model has; none is a
            lens without distortion (for equidistant: of the projection r = f theta).

    Raises:
        ValueError: an impossible value; names it and what was expected.
    """

    size: tuple[int, int]
    focal: tuple[float, float]
    center: tuple[float, float]
    distortion_model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(
            type(n) is int and 0 < n <= LARGEST_SIDE for n in self.size
        ):
            raise ValueError(f"size: {short_repr(self.size)}, expected [width, height] in pixels")
        for name in ("focal", "center", "distortion"):
            object.__setattr__(self, name, _floats(name, getattr(self, name)))
        for name, sound in (("focal", self._focal_is_sound()), ("center", self._is_near())):
            if len(getattr(self, name)) != 2 or not sound:
                raise ValueError(
                    f"{name}: {short_repr(getattr(self, name))} for images of {self.size[0]} x "
                    f"{self.size[1]}, expected two numbers of pixels in proportion"
                )
        counts = DISTORTION_MODELS.get(self.distortion_model)
        if counts is None:
            raise ValueError(
                f"distortion_model: {short_repr(self.distortion_model)}, expected one of "
                f"{', '.join(DISTORTION_MODELS)}"
            )
        if len(self.distortion) not in counts:
            raise ValueError(
                f"distortion: {len(self.distortion)} coefficients, expected "
                f"{' or '.join(map(str, counts))} of {self.distortion_model}"
            )

    @property
    def camera_matrix(self) -> np.ndarray:
        """Matrix K of the pinhole, 3 x 3 float64."""
        (fx, fy), (cx, cy) = self.focal, self.center
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    @property
    def is_distorted(self) -> bool:
        """Flag of a lens that bends straight lines."""
        return self.distortion_model == "equidistant" or any(self.distortion)

    def undistorted(self) -> CameraModel:
        """Return the pinhole camera with the same size and matrix."""
        return CameraModel(self.size, self.focal, self.center)

    def resized(self, size: tuple[int, int]) -> CameraModel:
        """Return the camera whose images are scaled to another size.

        Args:
            size: width and height in pixels.
        """
        if tuple(size) == self.size:
            return self
        matrix = size_change(self.size, size) @ self.camera_matrix
        focal, center = (matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2])
        return replace(self, size=(int(size[0]), int(size[1])), focal=focal, center=center)

    def cropped(self, x: int, y: int, width: int, height: int) -> CameraModel:
        """Return the camera whose images are a part of this one's.

        Args:
            x: column of the part's first pixel; may be negative, where a border was added.
            y: row of the part's first pixel; likewise.
            width: width of the part in pixels.
            height: height of the part in pixels.
        """
        center = (self.center[0] - x, self.center[1] - y)
        return replace(self, size=(width, height), center=center)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points.

        Args:
            points: ... x 3 camera coordinates in any unit.

        Returns:
            ... x 2 pixels, float64; NaN for points that the lens cannot show: behind the camera,
            or beyond the angle at which its distortion folds back.
        """
        points = np.asarray(points, np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            xy = points[..., :2] / points[..., 2:]
            visible = (points[..., 2] > 0) & (np.sum(xy * xy, axis=-1) < self._largest_square())
            xy = np.where(visible[..., None], xy, np.nan)
            return self._distort(xy) * self.focal + self.center

    def unproject(self, pixels: np.ndarray) -> np.ndarray:
        """Return the directions that pixels show.

        Args:
            pixels: ... x 2 pixels.

        Returns:
            ... x 3 camera coordinates of the points at depth 1, float64; NaN for pixels that show
            nothing, since the distortion does not reach them.
        """
        target = (np.asarray(pixels, np.float64) - self.center) / self.focal
        if not self.is_distorted:
            return np.concatenate((target, np.ones((*target.shape[:-1], 1))), axis=-1)
        xy = self._undistort(target)
        return np.concatenate((xy, np.ones((*xy.shape[:-1], 1))), axis=-1)

    def _distort(self, xy: np.ndarray) -> np.ndarray:
        """Return the distorted coordinates of directions (X/Z, Y/Z), ... x 2."""
        if not self.is_distorted:
            return xy
        square = np.sum(xy * xy, axis=-1)
        distorted = xy * self._radial(square)[..., None]
        if self.distortion_model == "equidistant":
            return distorted
        p1, p2 = self.distortion[2:4]
        x, y = xy[..., 0], xy[..., 1]
        return distorted + np.stack(
            (
                2 * p1 * x * y + p2 * (square + 2 * x * x),
                p1 * (square + 2 * y * y) + 2 * p2 * x * y,
            ),
            axis=-1,
        )

    def _radial(self, square: np.ndarray) -> np.ndarray:
        """Return the factor by which the lens scales directions of a squared radius."""
        if self.distortion_model == "equidistant":
            radius = np.sqrt(square)
            angle = np.arctan(radius)
            k = self.distortion or (0.0,) * 4
            bent = angle * (1 + _polynomial(k, angle * angle))
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(radius > 1e-8, bent / radius, 1.0)
        k1, k2, _, _, *rest = self.distortion
        k3, k4, k5, k6 = (*rest, 0.0, 0.0, 0.0, 0.0)[:4]
        return (1 + _polynomial((k1, k2, k3), square)) / (1 + _polynomial((k4, k5, k6), square))

    def _undistort(self, target: np.ndarray) -> np.ndarray:
        """Return the directions whose distorted coordinates are given, by Newton's method."""
        limit = math.sqrt(self._largest_square())
        shape, target = target.shape, target.reshape(-1, 2)
        # Along a ray from the centre the radial part grows up to the fold: its inverse is a table.
        radii = np.tan(np.linspace(0, math.atan(limit), _STEPS)[:-1])
        xy = _along(target, np.interp(_norm(target), radii * self._radial(radii**2), radii))
        left = np.arange(len(xy))  # directions that still have to move
        with np.errstate(all="ignore"):
            for _ in range(_ITERATIONS):
                error = target[left] - self._distort(xy[left])
                wrong = np.abs(error).max(axis=-1) > 1e-10
                left, error = left[wrong], error[wrong]
                if not left.size:
                    break
                moved = xy[left] + self._newton_step(xy[left], error)
                inside = (_norm(moved) < limit)[:, None]
                xy[left] = np.where(inside, moved, _along(moved, 0.999999 * limit))
            found = np.max(np.abs(target - self._distort(xy)) * self.focal, axis=-1) < 1e-3
        return np.where(found[:, None], xy, np.nan).reshape(shape)

    def _newton_step(self, xy: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Return the step that removes an error of the distorted coordinates, N x 2."""
        h = 1e-6
        columns = [
            (self._distort(xy + shift) - self._distort(xy - shift)) / (2 * h)
            for shift in (np.array([h, 0.0]), np.array([0.0, h]))
        ]
        a, c, b, d = columns[0][:, 0], columns[0][:, 1], columns[1][:, 0], columns[1][:, 1]
        determinant = a * d - b * c
        step = np.stack(
            (d * error[:, 0] - b * error[:, 1], a * error[:, 1] - c * error[:, 0]), axis=-1
        )
        return step / determinant[:, None]

    def _largest_square(self) -> float:
        """Return the squared radius (X/Z, Y/Z) beyond which the lens shows nothing."""
        return _fold(self.distortion_model, self.distortion)

    def _focal_is_sound(self) -> bool:
        side = max(self.size)
        return all(1e-2 * side < abs(f) < 1e4 * side and f > 0 for f in self.focal)

    def _is_near(self) -> bool:
        return all(abs(c) < 100 * side for c, side in zip(self.center, self.size, strict=False))


def _floats(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """Return values as finite floats, or raise `ValueError`."""
    try:
        floats = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {short_repr(values)}, expected numbers") from error
    if not all(abs(value) < _LARGEST_COEFFICIENT for value in floats):  # false for NaN, too
        raise ValueError(f"{name}: {short_repr(values)}, expected finite numbers")
    return floats


def _polynomial(coefficients: Sequence[float], square: np.ndarray) -> np.ndarray:
    """Return c1 s + c2 s^2 + c3 s^3 ... of a squared radius or angle."""
    total = np.zeros_like(square)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * square
    return total


def _norm(xy: np.ndarray) -> np.ndarray:
    """Return the lengths of N x 2 vectors."""
    return np.hypot(xy[..., 0], xy[..., 1])


def _along(xy: np.ndarray, length: np.ndarray | float) -> np.ndarray:
    """Return N x 2 vectors of the given lengths with the directions of others."""
    norm = np.maximum(_norm(xy), 1e-300)
    return xy * (np.asarray(length) / norm)[:, None]


@lru_cache(maxsize=32)
def _fold(model: str, distortion: tuple[float, ...]) -> float:
    """Return the squared radius at which the radial distortion stops growing; infinity if never."""
    camera = CameraModel((2, 2), (1.0, 1.0), (0.5, 0.5), model, distortion)
    if not any(distortion):
        return math.inf
    angles = np.linspace(0, math.pi / 2, _STEPS)[:-1]
    radii = np.tan(angles)
    with np.errstate(all="ignore"):
        distorted = radii * camera._radial(radii**2)
        grows = np.diff(distorted) > 0
    stops = np.flatnonzero(~grows)
    return math.inf if not stops.size else float(radii[stops[0]] ** 2)
