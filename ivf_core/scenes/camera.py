"""A level pinhole camera over a flat road.

World coordinates are in metres: x to the right, y up, z along the road.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["NEAR", "Camera", "Points", "Points3"]

NEAR = 0.5
"""Distance of the near plane in metres; nothing nearer is drawn."""

Points = Sequence[tuple[float, float]]
"""Points of the image as (column, row), or of a flat outline in metres."""

Points3 = Sequence[tuple[float, float, float]]
"""Points of the world as (x, y, z) in metres."""


@dataclass(frozen=True)
class Camera:
    """A level camera looking down the road.

    Attributes:
        width: width of the image in pixels.
        height: height of the image in pixels.
        focal: focal length in pixels.
        horizon: row of the horizon.
        center: column of the road's vanishing point.
        elevation: height above the road in metres.
        x: position across the road in metres.
        z: position along the road in metres.
        bend: curvature of the road, which is `bend` z^2 metres to the right at distance z.
    """

    width: int
    height: int
    focal: float
    horizon: float
    center: float
    elevation: float
    x: float = 0.0
    z: float = 0.0
    bend: float = 0.0

    def project_ground(self, x: float, z: float) -> tuple[float, float, float]:
        """Return column, row, and pixels per metre of a point (x, z) on the ground."""
        depth = max(z - self.z, NEAR)
        scale = self.focal / depth
        column = self.center + scale * (x - self.x) + self.focal * self.bend * depth
        return column, self.horizon + scale * self.elevation, scale

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project N x 3 points of the world, none nearer than `NEAR`, to N x 2 columns and rows."""
        depth = points[:, 2] - self.z
        scale = self.focal / depth
        columns = self.center + scale * (points[:, 0] - self.x) + self.focal * self.bend * depth
        rows = self.horizon + scale * (self.elevation - points[:, 1])
        return np.stack((columns, rows), axis=1)

    def outline(self, points: Points3) -> list[tuple[float, float]]:
        """Project a polygon, clipped at the near plane; nothing may be left of it.

        For the few corners of a polygon, plain Python is faster than arrays.
        """
        limit = self.z + NEAR
        if any(z < limit for _, _, z in points):
            points = _clip(points, limit)
        projected = []
        for x, y, z in points:
            depth = z - self.z
            scale = self.focal / depth
            column = self.center + scale * (x - self.x) + self.focal * self.bend * depth
            projected.append((column, self.horizon + scale * (self.elevation - y)))
        return projected

    def strip(self, x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
        """Return the outline of a strip of ground that follows the bend of the road.

        Args:
            x0: left edge in metres.
            x1: right edge in metres.
            z0: start along the road in metres.
            z1: end along the road in metres.

        Returns:
            18 x 2 columns and rows.
        """
        start = max(z0 - self.z, NEAR)
        stop = max(z1 - self.z, start)
        along = self.z + start * (max(stop, 1e-3) / start) ** np.linspace(0, 1, 9)
        level = np.zeros(9)
        left = np.stack((np.full(9, x0), level, along), axis=1)
        right = np.stack((np.full(9, x1), level, along), axis=1)[::-1]
        return self.project(np.concatenate((left, right)))


def _clip(points: Points3, limit: float) -> Points3:
    """Return the part of a polygon whose z is at least `limit`."""
    kept = []
    for a, b in zip((points[-1], *points[:-1]), points, strict=True):
        if (a[2] < limit) != (b[2] < limit):
            share = (limit - a[2]) / (b[2] - a[2])
            kept.append((a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), limit))
        if b[2] >= limit:
            kept.append(b)
    return kept
