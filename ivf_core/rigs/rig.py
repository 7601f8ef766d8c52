"""Rig of two cameras, and the plane for which their images are registered.

The thermal image is registered onto the RGB image: each RGB pixel shows a point of the scene,
which the thermal camera sees at some pixel of its own. That depends on the distance of the point,
unless both cameras are at one place. A rig assumes that the scene is one plane;
`Rig.parallax_pixels` tells how far off other points are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ivf_core.images.registration import Registration, size_change
from ivf_core.rigs.camera import CameraModel
from ivf_core.system.short_text import short_repr

__all__ = ["PLANES", "Plane", "Rig"]

PLANES = ("infinity", "distance", "ground")
"""Kinds of planes for which a rig can be registered; see `Plane`."""

_LARGEST_BASELINE = 10.0  # metres
_LARGEST_DISTANCE = 1e6  # metres
_LARGEST_OFFSET = 10.0  # seconds
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Plane:
    """Plane that the scene is assumed to be, relative to the RGB camera.

    Attributes:
        kind: "infinity": everything is far away; "distance": a plane at right angles to the
            optical axis; "ground": the ground below the horizon, and infinity above it.
        distance: of "distance", in metres along the optical axis of the RGB camera.
        height: of "ground", of the RGB camera above the ground in metres.
        pitch_degrees: of "ground", angle by which the RGB camera looks down; 0 is level.

    Raises:
        ValueError: an impossible value; names it and what was expected.
    """

    kind: str = "infinity"
    distance: float = 0.0
    height: float = 0.0
    pitch_degrees: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in PLANES:
            raise ValueError(f"plane: {short_repr(self.kind)}, expected one of {', '.join(PLANES)}")
        needed = {"distance": "distance", "ground": "height"}.get(self.kind)
        if needed and not 0 < getattr(self, needed) <= _LARGEST_DISTANCE:
            raise ValueError(
                f"plane: {needed} is {getattr(self, needed)}, expected more than 0 metres"
            )
        if not -90 <= self.pitch_degrees <= 90:
            raise ValueError(
                f"plane: pitch_degrees is {self.pitch_degrees}, expected -90 to 90, positive down"
            )

    @property
    def normal(self) -> np.ndarray:
        """Vector n with n . X = 1 for the points X of the plane in RGB camera coordinates.

        Zero for infinity.
        """
        if self.kind == "distance":
            return np.array([0.0, 0.0, 1 / self.distance])
        if self.kind == "ground":
            pitch = math.radians(self.pitch_degrees)
            return np.array([0.0, math.cos(pitch), math.sin(pitch)]) / self.height
        return np.zeros(3)

    def inverse_depth(self, rays: np.ndarray) -> np.ndarray:
        """Return 1/Z of the points of the plane that rays of the RGB camera meet.

        Args:
            rays: ... x 3 directions of depth 1.

        Returns:
            ... float64 in 1/m; 0 where a ray meets the plane at infinity or not at all.
        """
        return np.maximum(rays @ self.normal, 0.0)


@dataclass(frozen=True)
class Rig:
    """Visible and thermal camera, and how thermal pixels map to RGB pixels.

    Either both cameras with their extrinsics and a plane, or a plain homography with the sizes of
    both images. A point at X in the coordinates of the thermal camera is at
    R X + t in those of the RGB camera.

    Attributes:
        rgb: the RGB camera, or None with a homography.
        thermal: the thermal camera, or None with a homography.
        rotation: R, nine numbers, row by row.
        translation: t in metres.
        plane: the plane for which the registration holds.
        homography: registration by a homography alone, or None.
        correction: homography from the pixels of the registered thermal image to those of the
            RGB image (3 x 3, nine numbers, row by row), which is applied after all else, or None;
            only with cameras: a homography is corrected itself.
        time_offset_seconds: time to add to thermal stamps, so that they compare with RGB stamps.
        undistort_rgb: whether the RGB image is undistorted before fusion; only with cameras.

    Raises:
        ValueError: an incomplete or impossible rig; names the part and what was expected.
    """

    rgb: CameraModel | None = None
    thermal: CameraModel | None = None
    rotation: tuple[float, ...] = _IDENTITY
    translation: tuple[float, ...] = (0.0, 0.0, 0.0)
    plane: Plane = Plane()
    homography: Registration | None = None
    correction: tuple[float, ...] | None = None
    time_offset_seconds: float = 0.0
    undistort_rgb: bool = False

    def __post_init__(self) -> None:
        cameras = [camera is not None for camera in (self.rgb, self.thermal)]
        has_homography = self.homography is not None and self.homography.homography is not None
        if has_homography == all(cameras) or any(cameras) != all(cameras):
            raise ValueError("needs both cameras, or a homography with its two sizes")
        if has_homography and (self.correction is not None or self.undistort_rgb):
            raise ValueError("correction and undistort_rgb need both cameras, not a homography")
        if not abs(self.time_offset_seconds) <= _LARGEST_OFFSET:
            raise ValueError(
                f"time_offset_seconds: {self.time_offset_seconds}, expected at most "
                f"{_LARGEST_OFFSET:.0f} s either way"
            )
        object.__setattr__(self, "rotation", _checked_rotation(self.rotation))
        object.__setattr__(self, "translation", _checked_translation(self.translation))
        if not self.plane.normal @ self.translation < 1:
            raise ValueError("plane: the thermal camera is not on the near side of the plane")
        if self.correction is not None:
            checked = Registration(self.correction, self.rgb_size, self.rgb_size)
            object.__setattr__(self, "correction", checked.homography)

    @property
    def rgb_size(self) -> tuple[int, int]:
        """Width and height of the RGB images for which the rig holds."""
        if self.rgb is not None:
            return self.rgb.size
        assert self.homography is not None
        assert self.homography.rgb_size is not None
        return self.homography.rgb_size

    @property
    def thermal_size(self) -> tuple[int, int]:
        """Width and height of the thermal images for which the rig holds."""
        if self.thermal is not None:
            return self.thermal.size
        assert self.homography is not None
        assert self.homography.thermal_size is not None
        return self.homography.thermal_size

    @property
    def baseline(self) -> float:
        """Distance of the two cameras in metres; 0 with a homography, which has none."""
        return float(np.linalg.norm(self.translation))

    @property
    def rgb_output(self) -> CameraModel | None:
        """Camera of the RGB image as it is fused: without distortion where the rig says so."""
        if self.rgb is None:
            return None
        return self.rgb.undistorted() if self.undistort_rgb else self.rgb

    def resized(self, rgb_size: tuple[int, int], thermal_size: tuple[int, int]) -> Rig:
        """Return the rig for images that are scaled to other sizes.

        Args:
            rgb_size: width and height of the RGB image.
            thermal_size: width and height of the thermal image.
        """
        if (tuple(rgb_size), tuple(thermal_size)) == (self.rgb_size, self.thermal_size):
            return self
        if self.homography is not None:
            matrix = (
                size_change(self.rgb_size, rgb_size)
                @ self._homography()
                @ size_change(thermal_size, self.thermal_size)
            )
            homography = Registration(tuple(matrix.ravel()), thermal_size, rgb_size)
            return replace(self, homography=homography)
        assert self.rgb is not None
        assert self.thermal is not None
        correction = self.correction
        if correction is not None:
            change = size_change(self.rgb_size, rgb_size)
            matrix = change @ np.reshape(correction, (3, 3)) @ np.linalg.inv(change)
            correction = tuple(matrix.ravel())
        return replace(
            self,
            rgb=self.rgb.resized(rgb_size),
            thermal=self.thermal.resized(thermal_size),
            correction=correction,
        )

    def corrected(self, homography: np.ndarray) -> Rig:
        """Return the rig whose registered thermal image is moved once more.

        Args:
            homography: 3 x 3, from pixels of the registered thermal image to those of the RGB
                image, both of the size `rgb_size`.

        Raises:
            ValueError: the homography maps no area to an area.
        """
        matrix = np.asarray(homography, np.float64)
        if self.homography is not None:
            matrix = matrix @ self._homography()
            changed = Registration(tuple(matrix.ravel()), self.thermal_size, self.rgb_size)
            return replace(self, homography=changed)
        if self.correction is not None:
            matrix = matrix @ np.reshape(self.correction, (3, 3))
        return replace(self, correction=tuple((matrix / matrix[2, 2]).ravel()))

    def thermal_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Map RGB pixels to the thermal pixels that are registered with them.

        Args:
            pixels: ... x 2 RGB pixels, of the undistorted image if `undistort_rgb`.

        Returns:
            ... x 2 thermal pixels, float64, also outside the thermal image; NaN where the
            thermal camera cannot look.
        """
        pixels = np.asarray(pixels, np.float64)
        if self.homography is not None:
            return _transform(np.linalg.inv(self._homography()), pixels)
        assert self.thermal is not None
        if self.correction is not None:
            pixels = _transform(np.linalg.inv(np.reshape(self.correction, (3, 3))), pixels)
        rays = self._rays(pixels)
        return self.thermal.project(self._seen_by_thermal(rays, self.plane.inverse_depth(rays)))

    def thermal_pixels_at(self, pixels: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
        """Map RGB pixels to the thermal pixels that show the same points, whose depth is known.

        Args:
            pixels: ... x 2 RGB pixels, as in `thermal_pixels`.
            depth: metres along the optical axis of the RGB camera, by pixel or for all.

        Returns:
            ... x 2 thermal pixels, as `thermal_pixels` returns them.

        Raises:
            ValueError: the rig is a homography, which knows no distances.
        """
        if self.thermal is None:
            raise ValueError("a homography knows no distances: needs both cameras")
        rays = self._rays(np.asarray(pixels, np.float64))
        inverse = np.broadcast_to(1 / np.asarray(depth, np.float64), rays.shape[:-1])
        return self.thermal.project(self._seen_by_thermal(rays, inverse))

    def parallax_pixels(
        self, distance: np.ndarray | float, pixel: tuple[float, float] | None = None
    ) -> np.ndarray:
        """Return how far off the registered thermal image is for objects at a distance.

        An object at a depth Z, seen at an RGB pixel, is registered with that pixel only if the
        plane has this depth there. For a plane at the distance Z0 and a baseline b across the view
        it is f b |1/Z - 1/Z0| pixels off.

        Args:
            distance: metres along the optical axis of the RGB camera, scalar or array.
            pixel: RGB pixel at which the object is seen; by default the centre of the image.

        Returns:
            RGB pixels, with the shape of `distance`; 0 with a homography that knows no distances.
            NaN where the thermal camera does not see the object.
        """
        distance = np.asarray(distance, np.float64)
        if self.rgb is None:
            return np.zeros(distance.shape)
        assert self.thermal is not None
        assert self.rgb_output is not None
        at = np.asarray(pixel if pixel is not None else (np.array(self.rgb_size) - 1) / 2)
        rays = self._rays(np.broadcast_to(at, (*distance.shape, 2)))
        seen = self._seen_by_thermal(rays, 1 / distance)
        seen = np.where(np.isfinite(self.thermal.project(seen)).all(-1)[..., None], seen, np.nan)
        moved = self.rgb_output.project(self._registered_at(seen))
        return np.linalg.norm(moved - self.rgb_output.project(rays), axis=-1)

    def _registered_at(self, seen: np.ndarray) -> np.ndarray:
        """Return the points of the plane, in RGB coordinates, along rays of the thermal camera."""
        directions = seen @ np.reshape(self.rotation, (3, 3)).T
        start = np.asarray(self.translation)
        slope = directions @ self.plane.normal
        room = 1 - start @ self.plane.normal
        with np.errstate(divide="ignore", invalid="ignore"):
            points = start + directions * (room / slope)[..., None]
        return np.where((slope > 1e-12)[..., None], points, directions)

    def _homography(self) -> np.ndarray:
        """Return the homography of a rig without cameras, 3 x 3."""
        assert self.homography is not None
        assert self.homography.homography is not None
        return np.reshape(self.homography.homography, (3, 3))

    def _rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the directions of depth 1 that pixels of the fused RGB image show."""
        assert self.rgb_output is not None
        return self.rgb_output.unproject(pixels)

    def _seen_by_thermal(self, rays: np.ndarray, inverse_depth: np.ndarray) -> np.ndarray:
        """Return points on rays of the RGB camera as directions from the thermal camera."""
        start = np.asarray(self.translation)
        return (rays - inverse_depth[..., None] * start) @ np.reshape(self.rotation, (3, 3))


def _transform(matrix: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Apply a homography to ... x 2 pixels; NaN beyond its horizon."""
    points = pixels @ matrix[:, :2].T + matrix[:, 2]
    # The horizon is where the last coordinate vanishes; the image's centre is on the right side.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(points[..., 2:] != 0, points[..., :2] / points[..., 2:], np.nan)


def _checked_rotation(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return the nearest rotation to nine numbers, or raise `ValueError`."""
    matrix = np.asarray(values, np.float64)
    if matrix.size != 9 or not np.isfinite(matrix).all():
        raise ValueError(f"rotation: {short_repr(values)}, expected 3 x 3 numbers")
    matrix = matrix.reshape(3, 3)
    if not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) or np.linalg.det(matrix) < 0:
        raise ValueError("rotation: no rotation matrix, its rows are not orthonormal")
    u, _, v = np.linalg.svd(matrix)
    exact = u @ v
    return tuple((matrix if np.allclose(exact, matrix, atol=1e-12) else exact).ravel().tolist())


def _checked_translation(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return three numbers of metres, or raise `ValueError`."""
    vector = np.asarray(values, np.float64)
    if vector.shape != (3,) or not np.isfinite(vector).all():
        raise ValueError(f"translation: {short_repr(values)}, expected three numbers of metres")
    length = float(np.linalg.norm(vector))
    if length > _LARGEST_BASELINE:
        raise ValueError(
            f"translation: {length:.4g} m between the cameras, expected at most "
            f"{_LARGEST_BASELINE:.0f} m; is it in millimetres (translation_scale: 0.001)?"
        )
    return tuple(vector.tolist())
