"""World of a scene: a street, the things on it, and its rendering into a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.scenes.camera import NEAR, Camera
from ivf_core.scenes.canvas import Canvas
from ivf_core.scenes.light import Light
from ivf_core.scenes.scenery import Street, draw_ground, draw_sky
from ivf_core.scenes.sensors import InfraredSensor, Smoke, VisibleSensor
from ivf_core.scenes.thing import Thing

__all__ = ["CONDITIONS", "DAY_HEAT", "NIGHT_HEAT", "SceneFrame", "World", "painting_order"]

CONDITIONS = ("day", "night", "smoke")
"""Conditions of light and air, as frames name them."""

# Level of heat by material, 0..255; "contrast" is a factor on the variations of textures.
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

_FAR, _FAR_SMALL = 150.0, 90.0  # metres from which things, and things under 2 m, are left out


@dataclass(frozen=True)
class SceneFrame:
    """Images of both cameras at one moment, with their ground truth.

    Attributes:
        visible: RGB image, H x W x 3 uint8.
        infrared: thermal image, H x W uint8, warm is bright.
        counts: output of the thermal camera's 14-bit converter, H x W uint16: about 24
            counts per level of `infrared` at full gain, with a slowly drifting offset.
        labels: ids of `ivf_core.class_sets.MFNET`, H x W uint8, every pixel labelled.
        condition: one of `CONDITIONS`.
        seconds: time since the start of the drive; 0 for a single scene.
    """

    visible: np.ndarray
    infrared: np.ndarray
    counts: np.ndarray
    labels: np.ndarray
    condition: str
    seconds: float


@dataclass(frozen=True)
class World:
    """Street with things on it, and the two sensors that see it.

    Attributes:
        street: the street.
        things: everything that stands or moves on it.
        visible_sensor: the colour camera.
        infrared_sensor: the thermal camera.
    """

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
        """Render the frame at a moment.

        Args:
            camera: camera of both images.
            light: light and haze of the visible image.
            heat: level of heat by material, 0..255.
            smoke: smoke in front of the visible camera.
            seconds: time since the start, which moves things and smoke.
            condition: one of `CONDITIONS`, for the frame.
            rng: source of the sensors' noise; nothing else is random.
        """
        canvas = self.draw(camera, light, heat, seconds)
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

    def draw(self, camera: Camera, light: Light, heat: dict[str, float], seconds: float) -> Canvas:
        """Draw the scene at a moment, before any sensor sees it.

        Args:
            camera: see `render`.
            light: see `render`.
            heat: see `render`.
            seconds: see `render`.
        """
        canvas = Canvas(camera, light, heat)
        things = [thing.at(seconds) for thing in self.things]
        things = [thing for thing in things if _in_range(thing, camera)]
        draw_sky(canvas, self.street)
        draw_ground(canvas, self.street, things)
        flat = [thing for thing in things if not thing.height]
        upright = [thing for thing in things if thing.height]
        for thing in (*flat, *painting_order(upright, camera.x)):
            thing.draw(canvas)
        return canvas


def _in_range(thing: Thing, camera: Camera) -> bool:
    """Return whether a thing is in the field of view, not too near and not too far."""
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
    """Sort things from back to front, by the painter's algorithm.

    Where a line along or across the road separates two footprints, the thing on the far
    side of it cannot hide the thing on the camera's side. Of two things that could hide each
    other, the one whose middle is farther along the road comes first.

    Args:
        things: things whose footprints are in front of the camera.
        camera_x: position of the camera across the road in metres.

    Returns:
        The things, those to draw first in front.
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
    waiting_for = behind.sum(axis=0)  # number of things behind each that are not painted yet
    order = []
    for _ in things:
        ready = left & (waiting_for == 0)
        if not ready.any():  # a cycle: continue with the farthest
            ready = left
        chosen = int(np.argmax(np.where(ready, middle, -np.inf)))
        left[chosen] = False
        waiting_for -= behind[chosen]
        order.append(things[chosen])
    return order
