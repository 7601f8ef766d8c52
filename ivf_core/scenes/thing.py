"""Base class of everything that stands or moves in a scene, and helpers to draw it.

A heading of 0 points along the road, away from the camera; a quarter turn (pi / 2) points to
the right.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

from ivf_core.class_sets import MFNET
from ivf_core.scenes.camera import Points
from ivf_core.scenes.canvas import Canvas
from ivf_core.scenes.light import RGB

__all__ = ["Anchor", "Thing", "scaled", "turned", "upright"]

CAR, PERSON, BIKE, CURVE, CAR_STOP, GUARDRAIL, CONE, BUMP = (
    MFNET.names.index(name)
    for name in ("car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
)

_T = TypeVar("_T", bound="Thing")


@dataclass(frozen=True)
class Thing(ABC):
    """Object of a scene with a position, a heading and a velocity.

    Attributes:
        x: position of its middle across the road in metres.
        z: position of its middle along the road in metres.
        heading: direction that it faces, in radians.
        velocity: metres per second in x and z.
        phase: phase of its gait, in radians.
    """

    x: float
    z: float
    heading: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)
    phase: float = 0.0

    height = 1.0
    """Height in metres, which its shadow depends on; 0 casts no shadow."""

    def at(self: _T, seconds: float) -> _T:
        """Return this object some seconds later."""
        vx, vz = self.velocity
        if not (vx or vz):
            return self
        gait = self.phase + 4.3 * seconds * math.hypot(vx, vz)
        return replace(self, x=self.x + vx * seconds, z=self.z + vz * seconds, phase=gait)

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        return 0.25, 0.25

    def footprint(self) -> tuple[float, float, float, float]:
        """Return the bounds (x0, x1, z0, z1) of its ground area in metres."""
        half_x, half_z = self.extent()
        return self.x - half_x, self.x + half_x, self.z - half_z, self.z + half_z

    @abstractmethod
    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""


def turned(heading: float, half_length: float, half_width: float) -> tuple[float, float]:
    """Return half the extents along x and z of a rectangle with a heading, in metres."""
    sine, cosine = abs(math.sin(heading)), abs(math.cos(heading))
    return half_length * sine + half_width * cosine, half_length * cosine + half_width * sine


def scaled(color: RGB, factor: float) -> RGB:
    """Return a colour that is lighter or darker by a factor."""
    r, g, b = color
    return r * factor, g * factor, b * factor


def upright(
    canvas: Canvas, x0: float, x1: float, y0: float, y1: float, z: float, z1: float | None = None
) -> Points:
    """Project an upright board.

    Args:
        canvas: canvas whose camera sees it.
        x0: position of its first edge across the road in metres.
        x1: position of its second edge across the road in metres.
        y0: height of its lower edge in metres.
        y1: height of its upper edge in metres.
        z: position of its first edge along the road in metres.
        z1: position of its second edge along the road; by default `z`.

    Returns:
        Its outline in the image; empty where it is behind the near plane.
    """
    far = z if z1 is None else z1
    return canvas.camera.outline([(x0, y0, z), (x1, y0, far), (x1, y1, far), (x0, y1, z)])


class Anchor:
    """Point on the ground that maps metres around it to pixels of the image.

    Args:
        canvas: canvas whose camera sees it.
        x: position across the road in metres.
        z: position along the road in metres.

    Attributes:
        column: its column in the image.
        row: its row in the image.
        scale: pixels per metre.
    """

    def __init__(self, canvas: Canvas, x: float, z: float) -> None:
        self.column, self.row, self.scale = canvas.camera.project_ground(x, z)

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """Return the (column, row) of a point x metres to the right and y metres up."""
        return self.column + self.scale * x, self.row - self.scale * y
