"""Pedestrians, cyclists and bicycles, drawn as jointed figures that face the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ivf_core.scenes.canvas import Canvas
from ivf_core.scenes.light import RGB
from ivf_core.scenes.surfaces import modulate_by_weave
from ivf_core.scenes.thing import BIKE, PERSON, Anchor, Thing, scaled, turned

__all__ = ["Bicycle", "Cyclist", "Person"]


_DETAILED = 18.0  # pixels per metre from which small parts are drawn
_VISIBLE = 8.0  # pixels per metre from which arms are drawn


@dataclass(frozen=True)
class Person(Thing):
    """Person who stands or walks.

    Attributes:
        height: height in metres.
        top: colour of the upper clothes.
        trousers: colour of the trousers.
        skin: colour of the skin.
        hair: colour of the hair.
        coat: warmth of the clothes between air (0) and skin (1).
        bag: whether the person carries a bag.
    """

    height: float = 1.7
    top: RGB = (60.0, 70.0, 110.0)
    trousers: RGB = (45.0, 45.0, 55.0)
    skin: RGB = (205.0, 160.0, 130.0)
    hair: RGB = (35.0, 28.0, 24.0)
    coat: float = 0.7
    bag: bool = False

    def _warm(self, canvas: Canvas, share: float) -> float:
        """Return the level of heat at a share between air (0) and skin (1)."""
        air, skin = canvas.heat["ambient"], canvas.heat["skin"]
        return air + share * (skin - air)

    def draw(self, canvas: Canvas) -> None:
        """Draw legs, torso, bag, arms and head."""
        canvas.set_position(self.x, self.z)
        place = Anchor(canvas, self.x, self.z)
        sine = math.sin(self.heading)
        walking = self.velocity != (0.0, 0.0)
        tall = self.height
        swing = 0.48 if walking else 0.07
        broad = abs(math.cos(self.heading))
        shoulders = (0.075 + 0.045 * broad) * tall
        for side in (-1, 1):  # far limbs first, then near ones
            angle = side * swing * math.sin(self.phase)
            self._leg(canvas, place, side, angle, sine, broad)
            if side < 0 and place.scale > _VISIBLE:
                self._arm(canvas, place, side, -angle, sine, broad, shoulders)
        torso = [
            place(-0.82 * shoulders, 0.48 * tall), place(0.82 * shoulders, 0.48 * tall),
            place(0.8 * shoulders, 0.62 * tall), place(shoulders, 0.79 * tall),
            place(0.6 * shoulders, 0.835 * tall), place(-0.6 * shoulders, 0.835 * tall),
            place(-shoulders, 0.79 * tall), place(-0.8 * shoulders, 0.62 * tall),
        ]  # fmt: skip
        canvas.polygon(torso, self.top, self._warm(canvas, self.coat), PERSON)
        if place.scale > _DETAILED:
            self._fold(canvas, place, shoulders)
        if self.bag:
            cool = self._warm(canvas, 0.45)
            behind = -0.11 * tall * sine
            corner = [place(behind + dx, dy * tall) for dx, dy in
                      ((-0.14, 0.58), (0.14, 0.58), (0.13, 0.79), (-0.13, 0.79))]  # fmt: skip
            canvas.polygon(corner, scaled(self.trousers, 1.4), cool, PERSON)
        if place.scale > _VISIBLE:
            self._arm(canvas, place, 1, -swing * math.sin(self.phase), sine, broad, shoulders)
        self._head(canvas, place, sine)
        self._clothe(canvas, place)

    def _fold(self, canvas: Canvas, place: Anchor, shoulders: float) -> None:
        """Draw the shaded flank of the torso."""
        corners = ((0.1, 0.5), (0.75, 0.5), (0.7, 0.74), (0.3, 0.66))
        flank = [place(x * shoulders, y * self.height) for x, y in corners]
        canvas.polygon(flank, scaled(self.top, 0.8), self._warm(canvas, self.coat - 0.1), PERSON)

    def _clothe(self, canvas: Canvas, place: Anchor) -> None:
        if place.scale > _DETAILED:
            left, top = place(-0.5, 1.08 * self.height)
            right, bottom = place(0.5, 0.0)
            modulate_by_weave(canvas, left, top, right, bottom, PERSON, round(97 * self.coat))

    def _head(self, canvas: Canvas, place: Anchor, sine: float) -> None:
        tall = self.height
        s = place.scale
        canvas.limb(place(0, 0.82 * tall), place(0.01 * sine, 0.87 * tall),
                    (0.045 * s, 0.04 * s), self.skin, self._warm(canvas, 1.0), PERSON)  # fmt: skip
        center = place(0.02 * sine, 0.925 * tall)
        axes = (0.047 * tall * s, 0.068 * tall * s)
        canvas.ellipse(center, axes, self.hair, self._warm(canvas, 0.72), PERSON)
        # The face is visible below the hair, on the side that the person faces.
        if math.cos(self.heading) < 0.6:
            face = place(0.045 * sine, 0.912 * tall)
            narrow = 0.78 if abs(sine) < 0.5 else 0.62
            warm = self._warm(canvas, 1.05)
            canvas.ellipse(face, (axes[0] * narrow, axes[1] * 0.78), self.skin, warm, PERSON)

    def _leg(
        self, canvas: Canvas, place: Anchor, side: int, angle: float, sine: float, broad: float
    ) -> None:
        tall, s = self.height, place.scale
        hip = (0.05 * tall * broad * side, 0.5 * tall)
        bent = max(0.0, -angle) * 1.3
        thigh, shin = 0.245 * tall, 0.235 * tall
        knee = (hip[0] + thigh * math.sin(angle) * sine, hip[1] - thigh * math.cos(angle))
        back = angle - bent
        foot = (knee[0] + shin * math.sin(back) * sine, knee[1] - shin * math.cos(back))
        tone = scaled(self.trousers, 0.8 if side < 0 else 1.0)
        warm = self._warm(canvas, self.coat + 0.05)
        canvas.limb(place(*knee), place(*foot), (0.062 * s, 0.05 * s), tone, warm, PERSON)
        canvas.limb(place(*hip), place(*knee), (0.09 * s, 0.066 * s), tone, warm, PERSON)
        if s < _DETAILED:
            return
        toe = (foot[0] + 0.12 * sine, max(foot[1] - 0.02, 0.03))
        heat = self._warm(canvas, 0.5)
        canvas.limb(place(*foot), place(*toe), (0.05 * s, 0.04 * s), (30, 28, 28), heat, PERSON)

    def _arm(
        self,
        canvas: Canvas,
        place: Anchor,
        side: int,
        angle: float,
        sine: float,
        broad: float,
        shoulders: float,
    ) -> None:
        tall, s = self.height, place.scale
        joint = (side * shoulders * (0.35 + 0.6 * broad), 0.79 * tall)
        elbow = (
            joint[0] + 0.17 * tall * math.sin(angle) * sine + 0.03 * side * broad,
            joint[1] - 0.17 * tall * math.cos(angle),
        )
        forward = angle + 0.35
        hand = (
            elbow[0] + 0.16 * tall * math.sin(forward) * sine,
            elbow[1] - 0.16 * tall * math.cos(forward),
        )
        tone = scaled(self.top, 0.72 if side < 0 else 0.9)
        warm = self._warm(canvas, self.coat - 0.05)
        canvas.limb(place(*joint), place(*elbow), (0.06 * s, 0.05 * s), tone, warm, PERSON)
        canvas.limb(place(*elbow), place(*hand), (0.048 * s, 0.038 * s), tone, warm, PERSON)
        if s < _DETAILED:
            return
        radius = (0.042 * s, 0.042 * s)
        canvas.ellipse(place(*hand), radius, self.skin, self._warm(canvas, 0.95), PERSON)


def _draw_bicycle(canvas: Canvas, place: Anchor, heading: float, color: RGB, ridden: bool) -> None:
    """Draw a bicycle; its label covers the discs of the wheels.

    Args:
        canvas: canvas to draw on.
        place: point on the ground between the wheels.
        heading: direction in radians.
        color: colour of the frame.
        ridden: whether somebody rides it; its tyres are then warmer.
    """
    s = place.scale
    sine, broad = math.sin(heading), abs(math.cos(heading))
    heat = canvas.heat["bike"]
    rubber = heat + (14 if ridden else 0)
    half = 0.52 * sine
    for wheel in (-half, half):
        axes = (max(0.33 * abs(sine), 0.03) * s, 0.33 * s)
        ring = max(1, round(0.045 * s))
        canvas.ellipse(place(wheel, 0.34), axes, (24, 24, 24), rubber, BIKE, ring=ring)
        if s > 40 and abs(sine) > 0.4:  # spokes, where they are visible
            for turn in (0.3, 1.35, 2.4):
                dx, dy = 0.31 * math.cos(turn) * abs(sine), 0.31 * math.sin(turn)
                ends = place(wheel - dx, 0.34 - dy), place(wheel + dx, 0.34 + dy)
                canvas.limb(*ends, (0.3, 0.3), (125, 125, 125), heat, BIKE)
    crank, seat, head = (-0.06 * sine, 0.3), (-0.2 * sine, 0.86), (0.36 * sine, 0.84)
    thick = (0.022 * s, 0.022 * s)
    tubes = (
        ((-half, 0.34), crank), ((-half, 0.34), (seat[0], 0.75)), (crank, seat), (crank, head),
        ((seat[0], 0.72), (head[0], 0.76)), ((half, 0.34), (head[0], 1.0)),
    )  # fmt: skip
    for start, end in tubes if s > 9 else tubes[2:4]:
        canvas.limb(place(*start), place(*end), thick, color, heat + 6, BIKE)
    reach = 0.06 * abs(sine) + 0.27 * broad
    bar = (0.4 * sine, 1.02)
    canvas.limb(place(bar[0] - reach, bar[1]), place(bar[0] + reach, bar[1]), thick,
                (35, 35, 35), heat, BIKE)  # fmt: skip
    saddle = 0.11 * abs(sine) + 0.07
    canvas.limb(place(seat[0] - saddle, 0.9), place(seat[0] + saddle, 0.9),
                (0.035 * s, 0.035 * s), (30, 26, 26), heat + 4, BIKE)  # fmt: skip
    if broad > 0.6 and not ridden:
        basket = [place(bar[0] + dx, dy) for dx, dy in
                  ((-0.16, 0.75), (0.16, 0.75), (0.19, 0.98), (-0.19, 0.98))]  # fmt: skip
        canvas.polygon(basket, (112, 112, 116), heat + 3, BIKE)


@dataclass(frozen=True)
class Bicycle(Thing):
    """Parked bicycle.

    Attributes:
        color: colour of the frame.
    """

    color: RGB = (150.0, 30.0, 30.0)

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        return turned(self.heading, 0.85, 0.2)

    def draw(self, canvas: Canvas) -> None:
        """Draw the bicycle."""
        canvas.set_position(self.x, self.z)
        _draw_bicycle(canvas, Anchor(canvas, self.x, self.z), self.heading, self.color, False)


@dataclass(frozen=True)
class Cyclist(Person):
    """Person who rides a bicycle.

    Attributes:
        color: colour of the frame.
    """

    color: RGB = (40.0, 60.0, 130.0)

    def extent(self) -> tuple[float, float]:
        """Return half its width (along x) and half its depth (along z) in metres."""
        return turned(self.heading, 0.85, 0.25)

    def draw(self, canvas: Canvas) -> None:
        """Draw rider and bicycle, the nearer parts last."""
        canvas.set_position(self.x, self.z)
        place = Anchor(canvas, self.x, self.z)
        sine, broad = math.sin(self.heading), abs(math.cos(self.heading))
        away = math.cos(self.heading) > 0
        if not away:
            self._ride(canvas, place, sine, broad)
        _draw_bicycle(canvas, place, self.heading, self.color, True)
        if away:
            self._ride(canvas, place, sine, broad)
        else:  # the near leg is in front of the frame
            self._pedal(canvas, place, sine, broad, 1)

    def _pedal(self, canvas: Canvas, place: Anchor, sine: float, broad: float, side: int) -> None:
        s = place.scale
        turn = self.phase * 0.35 + (math.pi if side < 0 else 0.0)
        hip = (-0.16 * sine + 0.08 * broad * side, 0.93)
        foot = (
            -0.04 * sine + 0.16 * math.cos(turn) * sine + 0.1 * broad * side,
            0.3 + 0.15 * math.sin(turn),
        )
        middle = ((hip[0] + foot[0]) / 2 + 0.17 * sine, (hip[1] + foot[1]) / 2 + 0.08)
        warm = self._warm(canvas, self.coat + 0.05)
        tone = scaled(self.trousers, 0.8 if side < 0 else 1.0)
        canvas.limb(place(*hip), place(*middle), (0.095 * s, 0.07 * s), tone, warm, PERSON)
        canvas.limb(place(*middle), place(*foot), (0.066 * s, 0.05 * s), tone, warm, PERSON)

    def _ride(self, canvas: Canvas, place: Anchor, sine: float, broad: float) -> None:
        s = place.scale
        for side in (-1, 1):
            self._pedal(canvas, place, sine, broad, side)
        half = 0.13 + 0.09 * broad
        lean = 0.22 * sine
        back = [
            place(-0.16 * sine - 0.8 * half, 0.88), place(-0.16 * sine + 0.8 * half, 0.88),
            place(lean + half, 1.36), place(lean + 0.5 * half, 1.45),
            place(lean - 0.6 * half, 1.45), place(lean - half, 1.34),
        ]  # fmt: skip
        canvas.polygon(back, self.top, self._warm(canvas, self.coat), PERSON)
        warm = self._warm(canvas, self.coat - 0.05)
        for side in (-1, 1):
            shoulder = (lean + side * half * (0.2 + 0.8 * broad), 1.36)
            hand = (0.4 * sine + 0.22 * broad * side, 1.05)
            tone = scaled(self.top, 0.85)
            canvas.limb(place(*shoulder), place(*hand), (0.06 * s, 0.045 * s), tone, warm, PERSON)
            grip = (0.045 * s, 0.045 * s)
            canvas.ellipse(place(*hand), grip, self.skin, self._warm(canvas, 0.9), PERSON)
        # The head of a standing person, moved to 1.57 m above the ground over the handlebar.
        bowed = Anchor(canvas, self.x, self.z)
        bowed.column += s * (lean + 0.06 * sine)
        bowed.row += s * (0.925 * self.height - 1.57)
        self._head(canvas, bowed, sine)
        self._clothe(canvas, place)
