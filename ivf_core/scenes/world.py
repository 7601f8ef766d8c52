"""A world of things and its rendering into a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.scenes.drawing import NEAR, Camera, Canvas, Light
from ivf_core.scenes.scenery import Street, draw_ground, draw_sky
from ivf_core.scenes.sensors import InfraredSensor, Smoke, VisibleSensor
from ivf_core.scenes.thing import Thing

__all__ = ["CONDITIONS", "DAY_HEAT", "NIGHT_HEAT", "SceneFrame", "World", "painting_order"]

CONDITIONS = ("day", "night", "smoke")

# Levels of heat, 0..255, by material; "contrast" scales the textures' variations.
DAY_HEAT = {
    "ambient": 62.0, "skin": 196.0, "sky": 8.0, "road": 72.0, "pavement": 80.0, "verge": 56.0,
    "building": 76.0, "tree": 54.0, "car": 78.0, "glass": 44.0, "bike": 60.0, "cone": 50.0,
    "metal": 62.0, "kerb": 88.0, "bump": 80.0, "contrast": 1.0,
}  # fmt: skip
NIGHT_HEAT = {
    "ambient": 46.0, "skin": 192.0, "sky": 4.0, "road": 56.0, "pavement": 52.0, "verge": 36.0,
    "building": 56.0, "tree": 48.0, "car": 48.0, "glass": 36.0, "bike": 44.0, "cone": 38.0,
    "metal": 42.0, "kerb": 64.0, "bump": 62.0, "contrast": 0.8,
}  # fmt: skip

_FAR, _FAR_SMALL = 150.0, 90.0  # metres from which things, and those under 2 m, are left out


@dataclass(frozen=True)
class SceneFrame:
    """One moment as both cameras see it, with its ground truth.

    Attributes:
        visible: H x W x 3 uint8, RGB.
        infrared: H x W uint8, warm is bright.
        counts: H x W uint16, what the thermal camera's 14-bit converter gave: about 24
            counts for a level of `infrared` at full gain, with a slowly drifting offset.
        labels: H x W uint8, ids of `ivf_core.class_sets.MFNET`, every pixel labelled.
        condition: one of CONDITIONS.
        seconds: since the start of the drive; 0 for a single scene.
    """

    visible: np.ndarray
    infrared: np.ndarray
    counts: np.ndarray
    labels: np.ndarray
    condition: str
    seconds: float


@dataclass(frozen=True)
class World:
    """A street, what is on it, and the cameras that look at it."""

    street: Street
    things: tuple[Thing, ...]
    visible_sensor: VisibleSensor
    infrared_sensor: InfraredSensor

    def render(
        self,
        camera: Camera,
        light: Light,
        heat: dict[str, float],
        smoke: Smoke,
        seconds: float,
        condition: str,
        rng: np.random.Generator,
    ) -> SceneFrame:
        """The frame at a moment; `rng` feeds the sensors' noise only."""
        canvas = Canvas(camera, light, heat)
        things = [thing.at(seconds) for thing in self.things]
        things = [thing for thing in things if _in_range(thing, camera)]
        draw_sky(canvas, self.street)
        draw_ground(canvas, self.street, things)
        flat = [thing for thing in things if not thing.height]
        upright = [thing for thing in things if thing.height]
        for thing in (*flat, *painting_order(upright, camera.x)):
            thing.draw(canvas)
        visible = self.visible_sensor.expose(
            cv2.cvtColor(canvas.pixels, cv2.COLOR_RGBA2RGB),
            light.daylight,
            smoke,
            light.ambient,
            seconds,
            rng,
        )
        infrared, counts = self.infrared_sensor.expose(
            cv2.extractChannel(canvas.pixels, 3), smoke.density, seconds, rng
        )
        return SceneFrame(visible, infrared, counts, canvas.labels, condition, seconds)


def _in_range(thing: Thing, camera: Camera) -> bool:
    x0, x1, z0, z1 = thing.footprint()
    long_thing = z1 - z0 > 8 or not thing.height
    nearest = z1 if long_thing else (z0 + z1) / 2
    limit = _FAR if thing.height > 2 else _FAR_SMALL
    if nearest - camera.z < NEAR + 0.3 or z0 - camera.z > limit:
        return False
    # Outside the field of view on either side, seen from where it is widest.
    reach = 0.5 * camera.width / camera.focal + abs(camera.center / camera.width - 0.5) + 0.1
    depth = z1 - camera.z
    sway = abs(camera.bend) * depth * depth + 4.0
    return x0 - camera.x < reach * depth + sway and x1 - camera.x > -reach * depth - sway


def painting_order(things: Sequence[Thing], camera_x: float) -> list[Thing]:
    """Sort things from back to front.

    Where a line along or across the road parts two footprints, what is on the far
    side of it cannot hide what is on the camera's side. Of things that both could
    hide each other, the one whose middle is farther along the road comes first.

    Args:
        things: with footprints in front of the camera.
        camera_x: the camera's position across the road.
    """
    if not things:
        return []
    x0, x1, z0, z1 = np.array([thing.footprint() for thing in things]).T
    middle = z0 + z1
    right = x0[:, None] >= x1[None]  # row is to the right of column
    # Row cannot be hidden by column.
    safe = z1[:, None] <= z0[None]
    safe |= (right & (camera_x >= x1[None])) | (right.T & (camera_x <= x0[None]))
    behind = ~safe & (safe.T | (middle[:, None] > middle[None]))
    left = np.ones(len(things), bool)
    waiting_for = behind.sum(axis=0)  # how many things behind each are not painted yet
    order = []
    for _ in things:
        ready = left & (waiting_for == 0)
        if not ready.any():  # a cycle: go on with the farthest
            ready = left
        chosen = int(np.argmax(np.where(ready, middle, -np.inf)))
        left[chosen] = False
        waiting_for -= behind[chosen]
        order.append(things[chosen])
    return order
