"""Cars of four shapes: sedan, hatchback, van and truck."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ivf_core.scenes.camera import Points
from ivf_core.scenes.canvas import Canvas
from ivf_core.scenes.light import RGB
from ivf_core.scenes.surfaces import modulate_by_weave
from ivf_core.scenes.thing import CAR, Thing, scaled, turned

__all__ = ["Car"]

# By body: corners of the side view, from the bottom of the rear over the roof to the bottom of
# the front, as shares of length and height; the kind of face between each two corners; and the
# outlines of the side windows.
_BODIES: dict[
    str, tuple[list[tuple[float, float]], list[str], list[list[tuple[float, float]]]]
] = {
    "sedan": (
        [(-0.5, 0.16), (-0.5, 0.55), (-0.47, 0.64), (-0.34, 0.67), (-0.2, 0.97), (0.07, 1.0),
         (0.25, 0.67), (0.46, 0.55), (0.5, 0.42), (0.5, 0.16)],
        ["rear", "plain", "plain", "glass", "plain", "glass", "hood", "plain", "front"],
        [[(-0.29, 0.69), (-0.19, 0.91), (-0.07, 0.93), (-0.07, 0.68)],
         [(-0.05, 0.68), (-0.05, 0.93), (0.06, 0.93), (0.2, 0.68)]],
    ),
    "hatch": (
        [(-0.5, 0.16), (-0.5, 0.58), (-0.42, 0.93), (-0.36, 0.99), (0.04, 1.0), (0.26, 0.64),
         (0.45, 0.54), (0.5, 0.42), (0.5, 0.16)],
        ["rear", "glass", "plain", "plain", "glass", "hood", "plain", "front"],
        [[(-0.43, 0.65), (-0.36, 0.92), (-0.12, 0.94), (-0.12, 0.64)],
         [(-0.1, 0.64), (-0.1, 0.94), (0.03, 0.93), (0.2, 0.64)]],
    ),
    "van": (
        [(-0.5, 0.13), (-0.5, 0.55), (-0.49, 0.93), (-0.46, 1.0), (0.24, 1.0), (0.4, 0.58),
         (0.49, 0.45), (0.5, 0.13)],
        ["rear", "glass", "plain", "plain", "glass", "hood", "front"],
        [[(-0.46, 0.58), (-0.45, 0.9), (-0.14, 0.9), (-0.14, 0.58)],
         [(-0.11, 0.58), (-0.11, 0.9), (0.23, 0.9), (0.34, 0.58)]],
    ),
    "truck": (
        [(-0.5, 0.2), (-0.5, 1.0), (0.16, 1.0), (0.22, 0.9), (0.42, 0.86), (0.48, 0.52),
         (0.5, 0.42), (0.5, 0.14)],
        ["box", "plain", "plain", "plain", "glass", "plain", "front"],
        [[(0.27, 0.52), (0.27, 0.8), (0.4, 0.8), (0.45, 0.52)]],
    ),
}  # fmt: skip
_DETAILED = 14.0  # pixels per metre from which small parts are drawn
_CAR_SIZES = {
    "sedan": (4.5, 1.75, 1.45),
    "hatch": (3.9, 1.7, 1.52),
    "van": (4.6, 1.75, 1.95),
    "truck": (6.2, 2.1, 2.8),
}  # length, width, height in metres


@dataclass(frozen=True)
class Car(Thing):
    """Car that is drawn as a solid: a sedan, hatchback, van or truck.

    Attributes:
        body: one of `BODIES`.
        color: colour of the paint.
        warmth: levels of heat by which its body is warmer than its surroundings.
        running: whether engine, tyres and exhaust are hot, and lamps are lit at night.
        size: factor on the usual size of the body.
    """

    body: str = "sedan"
    color: RGB = (150.0, 150.0, 155.0)
    warmth: float = 0.0
    running: bool = True
    size: float = 1.0

    BODIES = tuple(_BODIES)
    height = 1.5

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        length, width, _ = _CAR_SIZES[self.body]
        return turned(self.heading, self.size * length / 2, self.size * width / 2)

    def _place(self, along: float, up: float, side: float) -> tuple[float, float, float]:
        """Return the point of the world at shares of length, height and half width."""
        (length_x, length_z), (half_x, half_z), height = self._axes
        # Narrower towards the roof.
        across = side * (1 - 0.22 * (up - 0.6)) if up > 0.6 else side
        return (
            self.x + along * length_x + across * half_x,
            up * height,
            self.z + along * length_z + across * half_z,
        )

    @cached_property
    def _axes(self) -> tuple[tuple[float, float], tuple[float, float], float]:
        """Length and half width as vectors in x and z, and height, in metres."""
        length, width, height = (self.size * s for s in _CAR_SIZES[self.body])
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        half = width / 2
        return (length * sine, length * cosine), (half * cosine, -half * sine), height

    def _outline(self, canvas: Canvas, points: Points, side: float) -> Points:
        """Project a part of the side view, on the car's left (-1) or right (1)."""
        return canvas.camera.outline([self._place(along, up, side) for along, up in points])

    def _across(
        self,
        canvas: Canvas,
        low: tuple[float, float],
        high: tuple[float, float],
        sides: tuple[float, float],
    ) -> Points:
        """Project a rectangle between two points of the side view, from one side to another."""
        first, second = sides
        return canvas.camera.outline(
            [
                self._place(*low, first),
                self._place(*low, second),
                self._place(*high, second),
                self._place(*high, first),
            ]
        )

    def draw(self, canvas: Canvas) -> None:
        """Draw the visible faces from back to front."""
        canvas.set_position(self.x, self.z - self.extent()[1])
        profile, roles, _ = _BODIES[self.body]
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        to_camera = (canvas.camera.x - self.x, canvas.camera.z - self.z)
        forward = to_camera[0] * sine + to_camera[1] * cosine
        rightward = to_camera[0] * cosine - to_camera[1] * sine
        length, width, height = (self.size * s for s in _CAR_SIZES[self.body])
        side = math.copysign(1.0, rightward)
        shows_side = abs(rightward) > width / 2
        self._draw_underbody(canvas, forward, side if shows_side else 0.0)
        faces = []
        for (low, high), role in zip(pairwise(profile), roles, strict=True):
            along, up = (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
            normal = (-(high[1] - low[1]) * height, (high[0] - low[0]) * length)
            gap = (forward - along * length, canvas.camera.elevation - up * height)
            if normal[0] * gap[0] + normal[1] * gap[1] > 0:
                faces.append((gap[0] ** 2, low, high, role, normal[1] / math.hypot(*normal)))
        for _, low, high, role, upward in sorted(faces, key=lambda face: -face[0]):
            self._draw_face(canvas, low, high, role, upward)
        if shows_side:
            self._draw_side(canvas, side)
        column, row, scale = canvas.camera.project_ground(self.x, self.z)
        if scale > _DETAILED:
            reach = scale * max(length, width)
            modulate_by_weave(canvas, column - reach, row - 1.3 * scale * height, column + reach,
                         row + 0.3 * reach, CAR, round(7 * length * width))  # fmt: skip

    def _body_heat(self, canvas: Canvas) -> float:
        return canvas.heat["car"] + self.warmth

    def _draw_underbody(self, canvas: Canvas, forward: float, side: float) -> None:
        end = math.copysign(0.46, forward)
        heat = canvas.heat["road"] + (45 if self.running else -8)
        dark = (22.0, 22.0, 24.0)
        canvas.polygon(self._across(canvas, (end, 0.07), (end, 0.3), (-0.9, 0.9)), dark, heat, CAR)
        for wheel in (-0.78, 0.78):
            tyre = self._across(canvas, (end, 0.0), (end, 0.3), (wheel - 0.12, wheel + 0.12))
            canvas.polygon(tyre, (18, 18, 18), heat + 12, CAR)
        if side:
            slab = [(-0.46, 0.07), (-0.46, 0.3), (0.46, 0.3), (0.46, 0.07)]
            canvas.polygon(self._outline(canvas, slab, 0.95 * side), dark, heat, CAR)

    def _draw_face(
        self,
        canvas: Canvas,
        low: tuple[float, float],
        high: tuple[float, float],
        role: str,
        upward: float,
    ) -> None:
        heat = self._body_heat(canvas)
        if role in ("hood", "front") and self.running:
            heat += 30
        color = scaled(self.color, 0.82 + 0.3 * max(upward, 0.0))
        canvas.polygon(self._across(canvas, low, high, (-1, 1)), color, heat, CAR)

        def band(start: float, stop: float, sides: tuple[float, float]) -> Points:
            (x0, y0), (x1, y1) = low, high
            bottom = (x0 + start * (x1 - x0), y0 + start * (y1 - y0))
            top = (x0 + stop * (x1 - x0), y0 + stop * (y1 - y0))
            return self._across(canvas, bottom, top, sides)

        if role == "glass":
            tone = 46 + 60 * max(upward, 0.0)
            glass = (tone * 0.9, tone, tone * 1.08)
            canvas.polygon(band(0.1, 0.92, (-0.88, 0.88)), glass, canvas.heat["glass"], CAR)
        elif role in ("front", "rear", "box"):
            self._draw_end(canvas, band, role, heat)

    def _draw_end(
        self,
        canvas: Canvas,
        band: Callable[[float, float, tuple[float, float]], Points],
        role: str,
        heat: float,
    ) -> None:
        """Draw bumper, grille or tailgate, plate and lamps of the front or the rear."""
        scale = canvas.camera.project_ground(self.x, self.z)[2]
        lit = self.running and canvas.light.daylight < 0.5
        high = 0.34 if role == "box" else 1.0
        canvas.polygon(band(0, 0.3 * high, (-1, 1)), scaled(self.color, 0.6), heat + 4, CAR)
        if role == "front":
            canvas.polygon(band(0.42, 0.8, (-0.5, 0.5)), (28, 28, 30), heat + 26, CAR)
            lamp: RGB = (255, 250, 230) if lit else (225, 228, 232)
            spread = (0.5, 0.88)
        else:
            lamp = (255, 40, 30) if lit else (150, 26, 26)
            spread = (0.3, 0.72) if role == "rear" else (0.1, 0.28)
            if self.running:
                canvas.polygon(band(0.02, 0.14, (0.4, 0.62)), (40, 40, 40), 235, CAR)
        for side in (-1, 1):
            sides = (side * 0.94, side * (0.6 if role == "front" else 0.74))
            warm = heat + (22 if lit else 3)
            canvas.polygon(band(*spread, sides), lamp, warm, CAR, glows=lit)
        if scale < _DETAILED:
            return
        plate = band(0.32 * high, 0.5 * high, (-0.2, 0.2))
        canvas.polygon(plate, (222, 224, 218), heat - 6, CAR)

    def _draw_side(self, canvas: Canvas, side: float) -> None:
        profile, _, windows = _BODIES[self.body]
        sun = canvas.light.sun[0] * side * math.cos(self.heading)
        color = scaled(self.color, 0.78 - 0.2 * max(-1.0, min(1.0, sun)))
        heat = self._body_heat(canvas)
        canvas.polygon(self._outline(canvas, profile, side), color, heat, CAR)
        sill = [(-0.5, 0.16), (-0.5, 0.34), (0.5, 0.34), (0.5, 0.16)]
        canvas.polygon(self._outline(canvas, sill, side), scaled(color, 0.72), heat + 5, CAR)
        glass = (44.0, 50.0, 56.0)
        for window in windows:
            shape = self._outline(canvas, window, side)
            canvas.polygon(shape, glass, canvas.heat["glass"], CAR)
        scale = canvas.camera.project_ground(self.x, self.z)[2]
        detailed = scale > _DETAILED
        for door in (-0.1, 0.12, 0.27) if detailed else ():
            line = [(door, 0.3), (door, 0.6), (door + 0.006, 0.6), (door + 0.006, 0.3)]
            canvas.polygon(self._outline(canvas, line, side), scaled(color, 0.6), heat - 6, CAR)
        length, _, height = _CAR_SIZES[self.body]
        around = [2 * math.pi * i / (16 if detailed else 8) for i in range(16 if detailed else 8)]
        hot = 48 if self.running else -4
        for wheel in (-0.31, 0.32):
            for radius, tone, warm in ((0.34, 20, 10), (0.2, 130, hot), (0.07, 60, hot + 12)):
                circle = [
                    (wheel + radius * math.cos(a) / length, (0.33 + radius * math.sin(a)) / height)
                    for a in around
                ]
                shape = self._outline(canvas, circle, side)
                canvas.polygon(shape, (tone, tone, tone), canvas.heat["road"] + warm, CAR)
