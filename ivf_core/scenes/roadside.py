"""Objects along a street: the small labelled classes, and unlabelled surroundings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ivf_core.scenes.camera import NEAR, Points
from ivf_core.scenes.canvas import Canvas
from ivf_core.scenes.light import RGB
from ivf_core.scenes.surfaces import draw_sprite, draw_wall
from ivf_core.scenes.textures import facade, tree
from ivf_core.scenes.thing import (
    BUMP,
    CAR_STOP,
    CONE,
    CURVE,
    GUARDRAIL,
    Anchor,
    Thing,
    scaled,
    turned,
    upright,
)

__all__ = ["Barricade", "Block", "Building", "Bump", "Cone", "Guardrail", "Kerb", "Lamp", "Tree"]


@dataclass(frozen=True)
class Cone(Thing):
    """Traffic cone of thin plastic, whose temperature is near that of the sky that it reflects.

    Attributes:
        color: colour of the plastic.
        height: height in metres.
    """

    color: RGB = (225.0, 60.0, 30.0)
    height: float = 0.75

    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""
        canvas.set_position(self.x, self.z)
        place = Anchor(canvas, self.x, self.z)
        heat, tall = canvas.heat["cone"], self.height
        base = 0.27 * tall
        foot = [place(-base, 0), place(base, 0), place(0.9 * base, 0.05), place(-0.9 * base, 0.05)]
        canvas.polygon(foot, scaled(self.color, 0.7), heat - 4, CONE)
        rings = 5 if place.scale * tall > 12 else 3
        for i in range(rings):
            low, high = i / rings, (i + 1) / rings
            wide, narrow = (0.2 * tall * (1 - 0.85 * share) for share in (low, high))
            color: RGB = (235, 235, 230) if i % 2 else self.color
            bottom, top = 0.05 + low * tall, 0.05 + high * tall
            ring = [place(-wide, bottom), place(wide, bottom), place(narrow, top),
                    place(-narrow, top)]  # fmt: skip
            canvas.polygon(ring, color, heat + (3 if i % 2 else 0), CONE)


@dataclass(frozen=True)
class Barricade(Thing):
    """Striped portable fence ("car_stop"), labelled as a filled panel, or a low block.

    Attributes:
        low: whether it is the block.
        color: colour of every second stripe.
    """

    low: bool = False
    color: RGB = (235.0, 190.0, 30.0)
    height = 0.9

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        return turned(self.heading, 0.08, 0.6)

    def _board(self, canvas: Canvas, u0: float, u1: float, y0: float, y1: float) -> Points:
        c, s = math.cos(self.heading), math.sin(self.heading)
        ends = [(self.x + u * c, self.z - u * s) for u in (u0, u1)]
        return upright(canvas, ends[0][0], ends[1][0], y0, y1, ends[0][1], ends[1][1])

    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""
        canvas.set_position(self.x, self.z)
        heat = canvas.heat["metal"]
        if self.low:
            canvas.polygon(self._board(canvas, -0.6, 0.6, 0, 0.16), (176, 172, 164), heat, CAR_STOP)
            for u in (-0.45, 0.25):
                band = self._board(canvas, u, u + 0.2, 0.02, 0.15)
                canvas.polygon(band, self.color, heat + 4, CAR_STOP)
            return
        canvas.label_polygon(self._board(canvas, -0.6, 0.6, 0.1, 0.9), CAR_STOP)
        for u in (-0.56, 0.56):
            post = self._board(canvas, u - 0.03, u + 0.03, 0, 0.9)
            canvas.polygon(post, (70, 70, 70), heat - 4, CAR_STOP)
        stripes = 6 if canvas.camera.project_ground(self.x, self.z)[2] > 10 else 1
        step = 1.2 / stripes
        for y in (0.3, 0.72):
            for i in range(stripes):
                color = (32.0, 32.0, 32.0) if i % 2 else self.color
                start = -0.6 + step * i
                board = self._board(canvas, start, start + step, y, y + 0.15)
                canvas.polygon(board, color, heat + (0 if i % 2 else 5), CAR_STOP)


@dataclass(frozen=True)
class Guardrail(Thing):
    """Steel rail, two metres long, on a post; along the road where its heading is 0.

    Attributes:
        color: colour of the rail.
    """

    color: RGB = (172.0, 176.0, 180.0)
    height = 0.75

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        return turned(self.heading, 1.0, 0.05)

    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""
        if self.z - canvas.camera.z < NEAR:
            return
        canvas.set_position(self.x, self.z)
        heat = canvas.heat["metal"]
        dx, dz = math.sin(self.heading), math.cos(self.heading)
        x0, x1, z0, z1 = self.x - dx, self.x + dx, self.z - dz, self.z + dz
        post = upright(canvas, self.x - 0.05, self.x + 0.05, 0, 0.7, self.z)
        canvas.polygon(post, scaled(self.color, 0.7), heat - 6, GUARDRAIL)
        rails = [(0.42, 0.75, 0.9)]
        if canvas.camera.project_ground(self.x, self.z)[2] > 15:
            rails = [(0.42, 0.52, 0.8), (0.5, 0.6, 1.08), (0.58, 0.68, 0.7), (0.66, 0.75, 1.0)]
        for low, high, tone in rails:
            rail = upright(canvas, x0, x1, low, high, z0, z1)
            canvas.polygon(rail, scaled(self.color, tone), heat + 10 * (tone - 0.9), GUARDRAIL)


@dataclass(frozen=True)
class Kerb(Thing):
    """Kerb stones along the road, centred at z ("curve", as MFNet calls kerbs).

    Attributes:
        length: length along the road in metres.
        color: colour of the stones.
    """

    length: float = 20.0
    color: RGB = (165.0, 163.0, 158.0)
    height = 0.0

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        return 0.12, self.length / 2

    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""
        start = max(self.z - self.length / 2, canvas.camera.z + NEAR)
        stop = self.z + self.length / 2
        heat = canvas.heat["kerb"]
        inner = math.copysign(0.09, -self.x)
        while start < stop:
            # Stones become longer with distance: short ones would not be visible.
            end = min(start + max(2.0, 0.25 * (start - canvas.camera.z)), stop)
            canvas.set_position(self.x, (start + end) / 2)
            top = canvas.camera.outline(
                [(self.x - inner, 0.13, start), (self.x + inner, 0.13, start),
                 (self.x + inner, 0.13, end), (self.x - inner, 0.13, end)]
            )  # fmt: skip
            side = upright(canvas, self.x + inner, self.x + inner, 0, 0.13, start, end)
            canvas.polygon(top, self.color, heat, CURVE)
            canvas.polygon(side, scaled(self.color, 0.72), heat + 9, CURVE)
            start = end


@dataclass(frozen=True)
class Bump(Thing):
    """Speed bump across the road.

    Attributes:
        width: length across the road in metres.
        striped: whether it is painted in stripes.
    """

    width: float = 7.0
    striped: bool = True
    height = 0.0

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        return self.width / 2, 0.3

    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""
        if self.z - 0.3 - canvas.camera.z < NEAR:
            return
        canvas.set_position(self.x, self.z)
        pieces = 10
        step = self.width / pieces
        for i in range(pieces):
            x0, x1 = self.x - self.width / 2 + i * step, self.x - self.width / 2 + (i + 1) * step
            tone: RGB = (205, 170, 60) if i % 2 else (48, 48, 50)
            if not self.striped:
                tone = (118, 112, 104) if i % 2 else (104, 99, 94)
            for (y0, z0), (y1, z1), light in (
                ((0.07, self.z), (0, self.z + 0.3), 1.1),
                ((0, self.z - 0.3), (0.07, self.z), 0.85),
            ):
                points = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z1), (x0, y1, z1)]
                heat = canvas.heat["bump"] + (4 if i % 2 else 0)
                canvas.polygon(canvas.camera.outline(points), scaled(tone, light), heat, BUMP)


@dataclass(frozen=True)
class Lamp(Thing):
    """Street lamp with an arm over the road, or a road sign where it has no arm.

    Attributes:
        height: height in metres.
        arm: length of the arm in metres, positive to the right; 0 for a road sign.
        board: colour of the sign.
    """

    height: float = 6.0
    arm: float = -1.2
    board: RGB = (40.0, 80.0, 170.0)

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        return 0.08, 0.08

    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""
        canvas.set_position(self.x, self.z)
        place = Anchor(canvas, self.x, self.z)
        s = place.scale
        heat = canvas.heat["metal"]
        grey: RGB = (92, 94, 96)
        canvas.limb(place(0, 0), place(0, self.height), (0.07 * s, 0.05 * s), grey, heat + 5)
        if not self.arm:
            canvas.ellipse(place(0, self.height), (0.32 * s, 0.32 * s), (225, 225, 225), heat - 9)
            canvas.ellipse(place(0, self.height), (0.26 * s, 0.26 * s), self.board, heat - 4)
            return
        tip = place(self.arm, self.height + 0.25)
        canvas.limb(place(0, self.height), tip, (0.04 * s, 0.04 * s), grey, heat + 5)
        lit = canvas.light.daylight < 0.5
        color: RGB = (255, 244, 214) if lit else (196, 198, 200)
        warm = heat + (110 if lit else 5)
        canvas.ellipse(tip, (0.3 * s, 0.1 * s), color, warm, glows=lit)


@dataclass(frozen=True)
class Tree(Thing):
    """Tree or bush, drawn as a sprite.

    Attributes:
        kind: index of its texture, see `textures.tree`.
        height: height in metres.
        tint: factor on its colours.
    """

    kind: int = 0
    height: float = 7.0
    tint: RGB = (1.0, 1.0, 1.0)

    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""
        canvas.set_position(self.x, self.z)
        column, row, scale = canvas.camera.project_ground(self.x, self.z)
        texture = tree(self.kind)
        tall = self.height * scale
        wide = tall * (1.6 if self.kind % 2 else 0.95)
        draw_sprite(canvas, texture, column - wide / 2, row - tall, wide, tall, canvas.heat["tree"],
                      contrast=canvas.heat["contrast"], tint=self.tint)  # fmt: skip


@dataclass(frozen=True)
class Block(Thing):
    """Box on the pavement, such as a bin, a cabinet or a vending machine.

    Attributes:
        width: width and depth in metres.
        height: height in metres.
        color: its colour.
        warmth: levels of heat by which it is warmer than buildings.
        glows: whether its front is lit at night.
    """

    width: float = 0.8
    height: float = 1.2
    color: RGB = (120.0, 130.0, 125.0)
    warmth: float = 0.0
    glows: bool = False

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        return self.width / 2, self.width / 2

    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""
        x0, x1, z0, z1 = self.footprint()
        if z0 - canvas.camera.z < NEAR:
            return
        canvas.set_position(self.x, z0)
        heat = canvas.heat["building"] + self.warmth
        edge = x1 if self.x < canvas.camera.x else x0
        side = upright(canvas, edge, edge, 0, self.height, z0, z1)
        canvas.polygon(side, scaled(self.color, 0.66), heat + 4)
        canvas.polygon(upright(canvas, x0, x1, 0, self.height, z0), self.color, heat)
        inset = upright(canvas, x0 + 0.1 * self.width, x1 - 0.1 * self.width,
                         0.45 * self.height, 0.93 * self.height, z0)  # fmt: skip
        lit = self.glows and canvas.light.daylight < 0.5
        panel: RGB = (235, 240, 245) if self.glows else scaled(self.color, 0.85)
        canvas.polygon(inset, panel, heat + self.warmth / 2, glows=lit)


@dataclass(frozen=True)
class Building(Thing):
    """Building next to the road; x and z are the corner that is nearest to road and camera.

    Attributes:
        length: length along the road in metres.
        height: height in metres.
        depth: depth away from the road in metres, positive to the right.
        kind: index of its texture, see `textures.facade`.
        tint: factor on its colours.
    """

    length: float = 20.0
    height: float = 10.0
    depth: float = 12.0
    kind: int = 0
    tint: RGB = (1.0, 1.0, 1.0)

    def footprint(self) -> tuple[float, float, float, float]:
        """Return the bounds (x0, x1, z0, z1) of its ground area in metres."""
        x0, x1 = sorted((self.x, self.x + self.depth))
        return x0, x1, self.z, self.z + self.length

    def draw(self, canvas: Canvas) -> None:
        """Draw it into colour, heat and labels."""
        day, night = facade(self.kind)
        light = canvas.light
        by_day = light.daylight > 0.5
        texture = day if by_day else night
        level = light.daylight * light.day if by_day else (1 - light.daylight) * light.night / 0.06
        x, z, top = self.x, self.z, self.height
        corner, far = (x, z), (x, z + self.length)
        outer = (x + self.depth, z)
        heat = canvas.heat["building"]
        # The end towards the camera and the side towards the road, which is brighter in the sun.
        sunny = light.sun[0] * math.copysign(1.0, self.depth) > 0
        for start, end, tone in ((outer, corner, 0.9), (corner, far, 1.1 if sunny else 0.8)):
            if start is outer and z - canvas.camera.z < NEAR:
                continue
            canvas.set_position(x, max((start[1] + end[1]) / 2, z))
            points = np.array(((start[0], 0, start[1]), (end[0], 0, end[1]),
                               (end[0], top, end[1]), (start[0], top, start[1])))  # fmt: skip
            gain = tone * min(max(level, 0.12), 1.3)
            draw_wall(canvas, texture, points, heat, contrast=canvas.heat["contrast"],
                        tint=scaled(self.tint, gain))  # fmt: skip
