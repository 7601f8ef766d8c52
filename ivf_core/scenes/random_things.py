"""Random people, vehicles, objects and streets, and the random sides of a street."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ivf_core.scenes.cars import Car
from ivf_core.scenes.light import RGB
from ivf_core.scenes.people import Bicycle, Cyclist, Person
from ivf_core.scenes.roadside import (
    Barricade,
    Block,
    Building,
    Cone,
    Guardrail,
    Kerb,
    Lamp,
    Tree,
)
from ivf_core.scenes.scenery import Street
from ivf_core.scenes.textures import FACADES, GROUNDS, TREES
from ivf_core.scenes.thing import Thing

__all__ = [
    "random_barricade",
    "random_bicycle",
    "random_block",
    "random_car",
    "random_cone",
    "random_cyclist",
    "random_person",
    "random_street",
    "roadsides",
    "row_of",
]

_PAINTS = (
    (228, 230, 232), (196, 199, 203), (118, 121, 126), (40, 41, 45), (26, 27, 30),
    (150, 28, 32), (34, 58, 120), (30, 84, 70), (196, 180, 140), (214, 150, 40), (96, 140, 190),
)  # fmt: skip
_CLOTHES = (
    (32, 33, 38), (52, 56, 70), (38, 52, 96), (150, 34, 38), (196, 196, 192), (120, 116, 108),
    (72, 88, 62), (212, 168, 60), (90, 130, 170), (140, 96, 140), (230, 232, 234), (60, 44, 38),
)  # fmt: skip
_SKINS = ((232, 190, 164), (208, 162, 130), (172, 122, 92), (110, 76, 58))
_HAIRS = ((26, 22, 20), (60, 42, 30), (112, 82, 50), (150, 148, 146))


def _pick(rng: np.random.Generator, colors: tuple[tuple[int, int, int], ...]) -> RGB:
    r, g, b = colors[int(rng.integers(len(colors)))]
    tone = rng.uniform(0.8, 1.15)
    return min(r * tone, 255.0), min(g * tone, 255.0), min(b * tone, 255.0)


def _shift(rng: np.random.Generator, spread: float) -> RGB:
    level = rng.uniform(0.85, 1.15)
    r, g, b = (float(level * v) for v in rng.uniform(1 - spread, 1 + spread, 3))
    return r, g, b


def _wardrobe(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "height": rng.uniform(1.5, 1.88) if rng.random() < 0.9 else rng.uniform(1.05, 1.4),
        "top": _pick(rng, _CLOTHES),
        "trousers": _pick(rng, _CLOTHES[:7]),
        "skin": _pick(rng, _SKINS),
        "hair": _pick(rng, _HAIRS),
        "coat": rng.uniform(0.5, 0.9),
        "phase": rng.uniform(0, 2 * math.pi),
    }


def random_person(
    rng: np.random.Generator,
    x: float,
    z: float,
    heading: float | None = None,
    speed: float | None = None,
) -> Person:
    """Return a person with random clothes.

    Args:
        rng: source of randomness.
        x: position across the road in metres.
        z: position along the road in metres.
        heading: direction in radians; random by default.
        speed: metres per second; by default the person stands or walks at 0.9 to 1.6.
    """
    if heading is None:
        heading = rng.uniform(0, 2 * math.pi)
    if speed is None:
        speed = 0.0 if rng.random() < 0.25 else rng.uniform(0.9, 1.6)
    velocity = (speed * math.sin(heading), speed * math.cos(heading))
    return Person(x, z, heading, velocity, bag=rng.random() < 0.3, **_wardrobe(rng))


def random_cyclist(
    rng: np.random.Generator, x: float, z: float, heading: float, speed: float
) -> Cyclist:
    """Return a cyclist with random clothes and bicycle, who rides at `speed` metres per second."""
    velocity = (speed * math.sin(heading), speed * math.cos(heading))
    return Cyclist(x, z, heading, velocity, color=_pick(rng, _PAINTS), **_wardrobe(rng))


def random_car(
    rng: np.random.Generator,
    x: float,
    z: float,
    heading: float,
    speed: float = 0.0,
    running: bool | None = None,
) -> Car:
    """Return a car of random body, paint, warmth and size.

    Args:
        rng: source of randomness.
        x: position across the road in metres.
        z: position along the road in metres.
        heading: direction in radians.
        speed: metres per second.
        running: whether its engine runs; random by default for a car that stands.
    """
    if running is None:
        running = bool(speed) or rng.random() < 0.4
    return Car(
        x,
        z,
        heading,
        (speed * math.sin(heading), speed * math.cos(heading)),
        body=str(rng.choice(Car.BODIES, p=(0.35, 0.3, 0.25, 0.1))),
        color=_pick(rng, _PAINTS),
        warmth=rng.normal(8 if running else -8, 14),
        running=running,
        size=rng.uniform(0.93, 1.08),
    )


def random_bicycle(rng: np.random.Generator, x: float, z: float, heading: float) -> Bicycle:
    """Return a bicycle of random colour."""
    return Bicycle(x, z, heading, color=_pick(rng, _PAINTS))


def random_cone(rng: np.random.Generator, x: float, z: float) -> Cone:
    """Return a traffic cone of random colour and height."""
    color = _pick(rng, ((228, 62, 30), (214, 40, 36), (236, 110, 30)))
    return Cone(x, z, color=color, height=rng.uniform(0.5, 0.95))


def random_barricade(rng: np.random.Generator, x: float, z: float, heading: float) -> Barricade:
    """Return a barricade of random kind and colour."""
    color = _pick(rng, ((235, 190, 30), (225, 226, 222), (220, 70, 36)))
    return Barricade(x, z, heading, low=rng.random() < 0.25, color=color)


def random_block(rng: np.random.Generator, x: float, z: float) -> Block:
    """Return a block of random size, colour and warmth, which may glow."""
    return Block(
        x,
        z,
        width=rng.uniform(0.4, 1.2),
        height=rng.uniform(0.6, 2.0),
        color=_pick(rng, _PAINTS),
        warmth=rng.choice((-8.0, 0.0, 10.0, 45.0)),
        glows=rng.random() < 0.3,
    )


def random_street(rng: np.random.Generator) -> Street:
    """Return a street of random widths, colours, textures, markings and clouds."""
    grey = rng.uniform(66, 118)
    stone = rng.uniform(105, 165)
    return Street(
        half_road=rng.uniform(2.9, 4.6),
        sidewalk=rng.uniform(1.6, 4.0),
        road=(grey, grey * rng.uniform(0.99, 1.03), grey * rng.uniform(0.98, 1.08)),
        pavement=(stone, stone * 0.97, stone * rng.uniform(0.86, 0.98)),
        verge=_pick(rng, ((92, 108, 62), (118, 112, 84), (112, 108, 102), (78, 96, 52))),
        texture=int(rng.integers(GROUNDS)),
        skyline=int(rng.integers(6)),
        markings=rng.random() < 0.75,
        cloud=rng.uniform(0, 1),
    )


def row_of(kind: str, rng: np.random.Generator, x: float, z: float, count: int) -> list[Thing]:
    """Return a row of things of one kind along the road.

    Args:
        kind: "bicycle", "guardrail", "barricade" or "cone".
        rng: source of randomness.
        x: position of the row across the road in metres.
        z: position of its start along the road in metres.
        count: number of things.

    Raises:
        ValueError: an unknown kind.
    """
    things: list[Thing] = []
    if kind == "bicycle":
        heading = math.copysign(rng.uniform(0.9, 1.5), -x) + rng.normal(0, 0.05)
        pitch = rng.uniform(0.55, 0.8)
        for i in range(count):
            turned = heading + rng.normal(0, 0.07)
            things.append(random_bicycle(rng, x + rng.normal(0, 0.06), z + pitch * i, turned))
    elif kind == "guardrail":
        color = _pick(rng, ((172, 176, 180), (226, 226, 222), (120, 96, 80)))
        things = [Guardrail(x, z + 2.0 * i, color=color) for i in range(count)]
    elif kind == "barricade":
        first = random_barricade(rng, x, z, math.pi / 2)
        things = [
            Barricade(x, z + 1.35 * i, first.heading + rng.normal(0, 0.06), low=first.low,
                      color=first.color) for i in range(count)
        ]  # fmt: skip
    elif kind == "cone":
        first_cone = random_cone(rng, x, z)
        things = [
            Cone(x + rng.normal(0, 0.08), z + 2.2 * i, color=first_cone.color,
                 height=first_cone.height) for i in range(count)
        ]  # fmt: skip
    else:
        raise ValueError(f"no rows of '{kind}'")
    return things


def roadsides(
    rng: np.random.Generator,
    street: Street,
    start: float,
    stop: float,
    *,
    greenery: float = 0.5,
    kerbs: bool = True,
    lamps: bool = True,
) -> list[Thing]:
    """Return buildings, trees, bushes, lamps, signs, blocks and kerbs on both sides of a street.

    Args:
        rng: source of randomness.
        street: the street.
        start: first position along the road in metres.
        stop: last position along the road in metres.
        greenery: 0 for buildings only, 1 for trees only.
        kerbs: whether there are kerb stones along the road.
        lamps: whether there are street lamps.
    """
    things: list[Thing] = []
    edge = street.half_road + street.sidewalk
    for side in (-1, 1):
        setback = edge + rng.uniform(0.8, 4.0)
        z = start
        while z < stop:
            length = rng.uniform(9, 26)
            if rng.random() > greenery:
                height = rng.uniform(2.6, 5) if rng.random() < 0.15 else rng.uniform(6, 22)
                things.append(
                    Building(side * setback, z, length=length - 0.2, height=height,
                             depth=side * rng.uniform(8, 16), kind=int(rng.integers(FACADES)),
                             tint=_shift(rng, 0.08))
                )  # fmt: skip
            else:
                for tree_z in np.arange(z + 1, z + length, rng.uniform(3.0, 6.0)):
                    things.append(_random_tree(rng, side * (setback + rng.uniform(0.5, 7)), tree_z))
            z += length
        if rng.random() < 0.25 + greenery:
            pitch = rng.uniform(7, 16)
            for tree_z in np.arange(start + rng.uniform(0, pitch), stop, pitch):
                if rng.random() < 0.7:
                    things.append(_random_tree(rng, side * (edge + 0.3), tree_z))
        for z in np.arange(start + rng.uniform(5, 25), stop, 31.0):
            if rng.random() < 0.5:
                things.append(random_block(rng, side * (edge - 0.2), z))
            if rng.random() < 0.35:
                sign = Lamp(side * (street.half_road + 0.5), z + 9, height=rng.uniform(2.2, 2.8),
                            arm=0.0, board=_pick(rng, _PAINTS))  # fmt: skip
                things.append(sign)
        if lamps:
            tall = rng.uniform(5, 8)
            for z in np.arange(start + rng.uniform(0, 26), stop, 26.0):
                x = side * (street.half_road + 0.6)
                things.append(Lamp(x, z, height=tall, arm=-side * 1.2))
        if kerbs:
            for z in np.arange(start, stop, 40.0):
                things.append(Kerb(side * (street.half_road + 0.13), z + 20, length=40.0))
    return things


def _random_tree(rng: np.random.Generator, x: float, z: float) -> Tree:
    kind = int(rng.integers(TREES))
    height = rng.uniform(1.0, 2.4) if kind % 2 else rng.uniform(5, 11)
    return Tree(x, z, kind=kind, height=height, tint=_shift(rng, 0.2))
