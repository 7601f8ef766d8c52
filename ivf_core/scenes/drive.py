"""Synthetic drive along a street: by day, then by night, then through smoke."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ivf_core.scenes import random_things
from ivf_core.scenes.camera import Camera
from ivf_core.scenes.light import Light
from ivf_core.scenes.roadside import Bump, Lamp
from ivf_core.scenes.sensors import InfraredSensor, Smoke, VisibleSensor
from ivf_core.scenes.thing import Thing
from ivf_core.scenes.world import CONDITIONS, DAY_HEAT, NIGHT_HEAT, SceneFrame, World

__all__ = ["MINIMUM_SIZE", "SPEED", "Air", "SyntheticDrive", "check_size"]

MINIMUM_SIZE = 32
"""Smallest width and height of an image in pixels."""

SPEED = 6.0
"""Speed of the camera car in metres per second."""

_VIEW = 130.0  # length of the street ahead of the camera in metres
_FADE = 0.03  # share of the drive in which light and smoke change


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return a size (width, height) as integers.

    Args:
        size: width and height in pixels.

    Raises:
        ValueError: one of them is no whole number or below `MINIMUM_SIZE`.
    """
    width, height = size
    if int(width) != width or int(height) != height or min(width, height) < MINIMUM_SIZE:
        raise ValueError(
            f"size must be (width, height) of at least {MINIMUM_SIZE} pixels each, got {size}"
        )
    return int(width), int(height)


@dataclass(frozen=True)
class Air:
    """Light, heat and smoke at one moment of a drive.

    Attributes:
        light: light and haze of the visible image.
        heat: level of heat by material, 0..255.
        smoke: smoke in front of the visible camera.
    """

    light: Light
    heat: dict[str, float]
    smoke: Smoke


class SyntheticDrive:
    """Frames of a drive along a street, a third each by day, by night and through smoke.

    A frame depends on the seed and its time alone: its bytes are the same in whatever order
    frames are requested. The street and its traffic are generated for the length of the
    drive, so that drives of different lengths differ.

    Args:
        seed: seed of street, traffic and noise; 0 or more.
        size: width and height in pixels, at least `MINIMUM_SIZE` each.
        rate_hz: frames per second.
        seconds: length of the drive.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        seed: int = 0,
        size: tuple[int, int] = (640, 480),
        rate_hz: float = 30.0,
        seconds: float = 10.0,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        if not (math.isfinite(rate_hz) and rate_hz > 0):
            raise ValueError(f"rate_hz must be positive, got {rate_hz}")
        if not (math.isfinite(seconds) and round(seconds * rate_hz) >= 1):
            raise ValueError(f"seconds must hold at least one frame, got {seconds}")
        self.seed = seed
        self.size = check_size(size)
        self.rate_hz = rate_hz
        self.seconds = seconds
        self.world = _layout(np.random.default_rng((1, seed)), seconds)
        self._lamps = tuple(
            (thing.x, thing.z)
            for thing in self.world.things
            if isinstance(thing, Lamp) and thing.arm
        )

    def __len__(self) -> int:
        return round(self.seconds * self.rate_hz)

    def __iter__(self) -> Iterator[SceneFrame]:
        return (self.frame(index) for index in range(len(self)))

    def frame(self, index: int) -> SceneFrame:
        """Render the frame at `index / rate_hz` seconds.

        Args:
            index: 0 to len - 1.

        Raises:
            IndexError: the index is outside that range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a drive of {len(self)}")
        seconds = index / self.rate_hz
        camera = self._camera(seconds)
        air = self.air(index / len(self), seconds, camera.x, camera.z)
        condition = CONDITIONS[min(3 * index // len(self), 2)]
        rng = np.random.default_rng((2, self.seed, index))
        return self.world.render(camera, air.light, air.heat, air.smoke, seconds, condition, rng)

    def air(self, progress: float, seconds: float, x: float, z: float) -> Air:
        """Return light, heat and smoke at a moment.

        Args:
            progress: share of the drive, 0 to below 1: a third by day, by night, in smoke.
            seconds: time since the start.
            x: position of the headlights across the road in metres.
            z: position of the headlights along the road in metres.
        """
        night = _step(progress, 1 / 3) - _step(progress, 2 / 3)
        density = 0.95 * _step(progress, 2 / 3) * (0.85 + 0.15 * math.cos(0.9 * seconds))
        light = Light(
            daylight=1 - night,
            day=1.0 - 0.12 * density,
            night=0.05,
            headlights=0.6,
            lamps=tuple(lamp for lamp in self._lamps if -20 < lamp[1] - z < 110),
            sun=(0.0, 0.0) if density > 0.2 else (0.9, -0.35),
            haze=0.0012 + 0.02 * density,
            haze_color=(190.0, 196.0, 202.0),
            x=x,
            z=z,
        )
        heat = {key: (1 - night) * DAY_HEAT[key] + night * NIGHT_HEAT[key] for key in DAY_HEAT}
        smoke = Smoke(density, offset=(0.1 * (self.seed % 10), 0.37))
        return Air(light, heat, smoke)

    def _camera(self, seconds: float) -> Camera:
        width, height = self.size
        pitch = 0.0016 * math.sin(2 * math.pi * 1.3 * seconds) + 0.001 * math.sin(5.1 * seconds)
        focal = 0.9 * width
        return Camera(
            width=width,
            height=height,
            focal=focal,
            horizon=0.46 * height + pitch * focal,
            center=width * (0.5 + 0.012 * math.sin(0.45 * seconds)),
            elevation=1.5,
            x=-1.3 + 0.2 * math.sin(0.6 * seconds),
            z=SPEED * seconds,
            bend=0.0005 * math.sin(0.35 * seconds + 0.6),
        )


def _step(progress: float, at: float) -> float:
    """Return a smooth step: 0 before `at`, 1 after it, both as shares of the drive."""
    share = min(max((progress - at) / _FADE + 0.5, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def _layout(rng: np.random.Generator, seconds: float) -> World:
    """Generate street and traffic; the camera drives on the left, as where MFNet was recorded."""
    stop = SPEED * seconds + _VIEW
    street = replace(
        random_things.random_street(rng), half_road=3.7, sidewalk=3.0, markings=True, cloud=0.35,
        crossings=tuple(float(z) for z in np.arange(26, stop, 61)),
    )  # fmt: skip
    things: list[Thing] = random_things.roadsides(rng, street, 0.0, stop, greenery=0.35)
    things += [Bump(0.0, z, width=7.2) for z in np.arange(47.0, stop, 70)]
    things += _parked(rng, stop)
    things += _walkers(rng, stop)
    things += _traffic(rng, seconds)
    infrared = InfraredSensor(noise=1.3, gain=1.3, offset=-28.0)
    return World(street, tuple(things), VisibleSensor(noise=(1.8, 4.5)), infrared)


def _parked(rng: np.random.Generator, stop: float) -> list[Thing]:
    """Generate parked cars and bicycles, cones, barricades and guardrails along the road."""
    things: list[Thing] = []
    for side in (-1, 1):
        z = rng.uniform(6, 14)
        while z < stop:
            kind = rng.choice(("car", "bicycle", "guardrail", "barricade", "cone", "gap"),
                              p=(0.38, 0.17, 0.13, 0.10, 0.10, 0.12))  # fmt: skip
            if kind == "car":
                heading = 0.0 if side < 0 else math.pi
                things.append(
                    random_things.random_car(rng, side * 4.6, z + 3, heading, running=False)
                )
                z += rng.uniform(6.5, 11)
            elif kind == "gap":
                z += rng.uniform(4, 12)
            else:
                count = int(rng.integers(3, 7))
                x = side * (3.5 if kind == "cone" else 4.3 if kind == "guardrail" else 4.7)
                things += random_things.row_of(str(kind), rng, x, z + 1, count)
                z += {"bicycle": 0.9, "guardrail": 2.0, "barricade": 1.4, "cone": 2.2}[
                    str(kind)
                ] * count + rng.uniform(2, 6)
    return things


def _walkers(rng: np.random.Generator, stop: float) -> list[Thing]:
    """Generate people on the pavements, and people who cross the road ahead of the camera."""
    things: list[Thing] = []
    for z in np.arange(8.0, stop, 5.5):
        side = rng.choice((-1, 1))
        heading = rng.choice((0.0, math.pi)) + rng.normal(0, 0.08)
        x = side * rng.uniform(5.7, 6.6)
        things.append(random_things.random_person(rng, x, z + rng.uniform(-2, 2), heading))
    for z in np.arange(27.5, stop, 30.5):
        side = float(rng.choice((-1, 1)))
        speed = rng.uniform(1.2, 1.6)
        # In the middle of the road when the camera is about 20 m away, well after the car ahead.
        lead = (z - rng.uniform(17, 22)) / SPEED
        heading = side * math.pi / 2
        start = -side * speed * lead - side * 0.5
        things.append(random_things.random_person(rng, start, z, heading, speed))
    return things


def _traffic(rng: np.random.Generator, seconds: float) -> list[Thing]:
    """Generate a car ahead, oncoming cars and cyclists, and cyclists to follow."""
    things: list[Thing] = [
        random_things.random_car(rng, -1.5, 34.0, 0.0, SPEED + 8.0 / max(seconds, 5.0), True)
    ]
    for meeting in np.arange(rng.uniform(1.5, 2.5), seconds + 12, 3.4):
        speed = rng.uniform(6, 9)
        start = SPEED * meeting + speed * meeting
        things.append(random_things.random_car(rng, 1.8, start, math.pi, speed, True))
    for meeting in np.arange(rng.uniform(2, 4), seconds + 10, 4.7):
        speed = rng.uniform(3.0, 4.5)
        if rng.random() < 0.5:
            start = (SPEED + speed) * meeting
            things.append(random_things.random_cyclist(rng, 3.1, start, math.pi, speed))
        else:
            start = (SPEED - speed) * meeting
            things.append(random_things.random_cyclist(rng, -3.2, start, 0.0, speed))
    return things
