"""The base of everything that stands or moves in a scene.

A heading of 0 looks down the road, away from the camera; a quarter turn
(pi / 2) looks to the right.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

from ivf_core.class_sets import MFNET
from ivf_core.scenes.drawing import RGB, Canvas, Points

__all__ = ["Figure", "Thing", "scaled", "turned", "upright"]

CAR, PERSON, BIKE, CURVE, CAR_STOP, GUARDRAIL, CONE, BUMP = (
    MFNET.names.index(name)
    for name in ("car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
)

_T = TypeVar("_T", bound="Thing")


@dataclass(frozen=True)
class Thing(ABC):
    """Something in the world.

    Attributes:
        x, z: position of its middle in metres.
        heading: direction it looks to, in radians.
        velocity: metres per second in x and z.
        phase: how far it has got in its gait, in radians.
    """

    x: float
    z: float
    heading: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)
    phase: float = 0.0

    height = 1.0
    """Metres, for its shadow; 0 casts none."""

    def at(self: _T, seconds: float) -> _T:
        """The same thing some time later."""
        vx, vz = self.velocity
        if not (vx or vz):
            return self
        gait = self.phase + 4.3 * seconds * math.hypot(vx, vz)
        return replace(self, x=self.x + vx * seconds, z=self.z + vz * seconds, phase=gait)

    def extent(self) -> tuple[float, float]:
        """Half its width (along x) and half its depth (along z) in metres."""
        return 0.25, 0.25

    def footprint(self) -> tuple[float, float, float, float]:
        """x from, x to, z from, z to, in metres."""
        half_x, half_z = self.extent()
        return self.x - half_x, self.x + half_x, self.z - half_z, self.z + half_z

    @abstractmethod
    def draw(self, canvas: Canvas) -> None:
        """Draw it in the pictures of both cameras and in the mask."""


def turned(heading: float, half_length: float, half_width: float) -> tuple[float, float]:
    """Half the extents along x and z of a turned rectangle."""
    sine, cosine = abs(math.sin(heading)), abs(math.cos(heading))
    return half_length * sine + half_width * cosine, half_length * cosine + half_width * sine


def scaled(color: RGB, factor: float) -> RGB:
    """A colour, lighter or darker."""
    r, g, b = color
    return r * factor, g * factor, b * factor


def upright(
    canvas: Canvas, x0: float, x1: float, y0: float, y1: float, z: float, z1: float | None = None
) -> Points:
    """Outline in the picture of a board from (x0, z) to (x1, z1), from y0 to y1."""
    far = z if z1 is None else z1
    return canvas.camera.outline([(x0, y0, z), (x1, y0, far), (x1, y1, far), (x0, y1, z)])


class Figure:
    """Places points given in metres beside a spot on the ground into the picture."""

    def __init__(self, canvas: Canvas, x: float, z: float) -> None:
        self.column, self.row, self.scale = canvas.camera.spot(x, z)

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        return self.column + self.scale * x, self.row - self.scale * y
