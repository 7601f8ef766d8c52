"""Random single scenes with enough variety to train a network on them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ivf_core.scenes import random_things
from ivf_core.scenes.camera import Camera
from ivf_core.scenes.drive import check_size
from ivf_core.scenes.light import Light
from ivf_core.scenes.roadside import Building, Bump, Guardrail, Lamp
from ivf_core.scenes.scenery import Street
from ivf_core.scenes.sensors import InfraredSensor, Smoke, VisibleSensor
from ivf_core.scenes.textures import FACADES
from ivf_core.scenes.thing import Thing
from ivf_core.scenes.world import CONDITIONS, DAY_HEAT, NIGHT_HEAT, SceneFrame, World

__all__ = ["random_scene"]

_VIEW = 110.0  # length of the street in metres


def random_scene(
    seed: int | np.random.Generator,
    size: tuple[int, int] = (640, 480),
    condition: str | None = None,
) -> SceneFrame:
    """Render a random scene: camera, street, weather, traffic and sensors all vary.

    Args:
        seed: seed of the scene, or a generator, which is advanced.
        size: width and height in pixels, at least `MINIMUM_SIZE` each.
        condition: one of `CONDITIONS`, or None for a random one.

    Raises:
        ValueError: the size is too small, or the condition is unknown.
    """
    if condition is not None and condition not in CONDITIONS:
        raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}, got '{condition}'")
    width, height = check_size(size)
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng((3, seed))
    if condition is None:
        condition = str(rng.choice(CONDITIONS, p=(0.45, 0.4, 0.15)))
    street = random_things.random_street(rng)
    camera = _random_camera(rng, width, height, street)
    things = _surroundings(rng, street) + _population(rng, street, camera)
    night = condition == "night" or (condition == "smoke" and rng.random() < 0.25)
    light = _random_light(rng, camera, night, condition == "smoke", things)
    smoke = Smoke(
        rng.uniform(0.55, 0.95) if condition == "smoke" else 0.0,
        color=tuple(rng.uniform(165, 225) * rng.uniform(0.93, 1.07, 3)),
        scale=rng.uniform(0.6, 2.0),
        offset=(rng.uniform(), rng.uniform()),
    )
    world = World(street, tuple(things), _random_visible_sensor(rng), _random_infrared_sensor(rng))
    heat = _random_heat(rng, night)
    return world.render(camera, light, heat, smoke, 0.0, condition, rng)


def _random_camera(rng: np.random.Generator, width: int, height: int, street: Street) -> Camera:
    return Camera(
        width=width,
        height=height,
        focal=width * rng.uniform(0.75, 1.35),
        horizon=height * rng.uniform(0.3, 0.62),
        center=width * rng.uniform(0.25, 0.75),
        elevation=rng.uniform(1.0, 2.2),
        x=rng.uniform(-0.7, 0.7) * street.half_road,
        bend=rng.normal(0, 0.0007),
    )


def _random_light(
    rng: np.random.Generator, camera: Camera, night: bool, smoky: bool, things: list[Thing]
) -> Light:
    lamps = [(t.x, t.z) for t in things if isinstance(t, Lamp) and t.arm]
    overcast = smoky or rng.random() < 0.45
    return Light(
        daylight=0.0 if night else 1.0,
        day=rng.uniform(0.6, 1.2),
        night=_log_uniform(rng, 0.02, 0.2),
        headlights=rng.uniform(0.15, 1.0) if rng.random() < 0.7 else 0.0,
        lamps=tuple(lamps) if rng.random() < 0.7 else (),
        sun=(0.0, 0.0) if overcast else (rng.uniform(-1.6, 1.6), rng.uniform(-0.8, 0.8)),
        haze=rng.uniform(0.01, 0.04) if smoky else rng.uniform(0.0005, 0.004),
        haze_color=(196.0, 202.0, 208.0),
        x=camera.x,
        z=camera.z,
    )


def _random_heat(rng: np.random.Generator, night: bool) -> dict[str, float]:
    """Return random levels of heat by material; cars are warmer or colder than the road."""
    base = NIGHT_HEAT if night else DAY_HEAT
    heat = {key: value + rng.normal(0, 7) for key, value in base.items()}
    level = rng.uniform(-18, 22)
    for key in heat:
        heat[key] = max(heat[key] + (0 if key in ("sky", "skin") else level), 1.0)
    heat["sky"] = abs(heat["sky"])
    heat["skin"] = rng.uniform(150, 225)
    heat["car"] += rng.normal(0, 14)
    heat["glass"] += rng.normal(0, 12)
    heat["ambient"] = (heat["road"] + heat["building"]) / 2
    heat["contrast"] = rng.uniform(0.5, 1.7)
    return heat


def _random_visible_sensor(rng: np.random.Generator) -> VisibleSensor:
    return VisibleSensor(
        noise=(rng.uniform(0.5, 4), rng.uniform(1.5, 9)),
        blur=rng.uniform(0, 1.1),
        balance=tuple(rng.uniform(0.9, 1.08) * rng.normal(1, 0.03, 3)),
        gamma=rng.uniform(0.8, 1.3),
        glare=rng.uniform(0.4, 1.3),
    )


def _random_infrared_sensor(rng: np.random.Generator) -> InfraredSensor:
    """Return a random thermal camera, from images as dark as those of MSRS to all levels."""
    return InfraredSensor(
        noise=rng.uniform(0.5, 3.5),
        blur=rng.uniform(0.4, 1.6),
        vignette=rng.uniform(0, 0.2),
        gain=rng.uniform(0.75, 1.3),
        offset=rng.uniform(-18, 10),
        gamma=rng.uniform(0.9, 1.9),
    )


def _surroundings(rng: np.random.Generator, street: Street) -> list[Thing]:
    things = random_things.roadsides(
        rng, street, rng.uniform(-12, 0), _VIEW, greenery=rng.uniform(0, 1),
        kerbs=rng.random() < 0.5, lamps=rng.random() < 0.6,
    )  # fmt: skip
    if rng.random() < 0.25:  # the street ends at a wall
        z = rng.uniform(14, 60)
        wide = rng.uniform(20, 60)
        things = [thing for thing in things if thing.footprint()[2] < z - 1]
        things.append(Building(-wide / 2, z, length=10.0, height=rng.uniform(3, 16), depth=wide,
                               kind=int(rng.integers(FACADES))))  # fmt: skip
    if rng.random() < 0.2:
        striped = rng.random() < 0.5
        things.append(Bump(0.0, rng.uniform(4, 22), width=2 * street.half_road, striped=striped))
    return things


def _population(rng: np.random.Generator, street: Street, camera: Camera) -> list[Thing]:
    """Return cars, people, cyclists and the small classes; none overlaps another."""
    crowd = rng.random() < 0.12
    things: list[Thing] = []
    taken: list[tuple[float, float, float, float]] = []

    def add(candidates: list[Thing]) -> None:
        prints = [thing.footprint() for thing in candidates]
        if prints and not any(_overlap(a, b) for a in prints for b in taken):
            things.extend(candidates)
            taken.extend(prints)

    edge = street.half_road + street.sidewalk
    for kind, chance in (
        ("bicycle", 0.3),
        ("barricade", 0.17),
        ("guardrail", 0.17),
        ("cone", 0.15),
    ):
        if rng.random() < chance:
            side = rng.choice((-1, 1))
            x = side * (street.half_road + rng.uniform(0.3, street.sidewalk - 0.6))
            add(random_things.row_of(kind, rng, x, rng.uniform(3, 14), int(rng.integers(3, 14))))
    if rng.random() < 0.07:  # a rail across the road
        z, color = rng.uniform(8, 25), (200.0, 200.0, 198.0)
        first, count = rng.uniform(-8, 0), int(rng.integers(3, 7))
        add([Guardrail(first + 2.0 * i, z, math.pi / 2, color=color) for i in range(count)])
    for _ in range(int(rng.poisson(2.2))):
        x, z = _random_position(rng, camera, edge, _log_uniform(rng, 0.05, 0.55), 1.5)
        heading = rng.choice((0.0, math.pi)) + rng.normal(0, 0.12)
        if rng.random() < 0.2:
            heading = rng.uniform(0, 2 * math.pi)
        car = random_things.random_car(rng, x, 0.0, heading)
        # The end of the car is at most half as wide as the image.
        nearest = 3.4 * camera.focal / camera.width + car.extent()[1]
        add([replace(car, z=max(z, nearest))])
    for _ in range(int(rng.poisson(16 if crowd else 3.2))):
        # As many far people as near ones: sizes are log-uniform.
        share = _log_uniform(rng, 0.025, 0.3 if crowd else 0.9)
        x, z = _random_position(rng, camera, edge, share, 1.7)
        add([random_things.random_person(rng, x, z)])
        while rng.random() < 0.25:
            x += rng.choice((-1, 1)) * rng.uniform(0.6, 0.9)
            add([random_things.random_person(rng, x, z + rng.uniform(-0.2, 0.2))])
    for _ in range(int(rng.poisson(0.6))):
        x, z = _random_position(rng, camera, edge, rng.uniform(0.06, 0.6), 1.7)
        add([random_things.random_cyclist(rng, x, z, rng.uniform(0, 2 * math.pi), 3.0)])
    for kind, mean in (("cone", 0.5), ("bicycle", 0.5), ("barricade", 0.3), ("block", 0.5)):
        for _ in range(int(rng.poisson(mean))):
            x, z = _random_position(rng, camera, edge, rng.uniform(0.03, 0.3), 1.0)
            heading = rng.uniform(0, 2 * math.pi)
            if kind == "cone":
                add([random_things.random_cone(rng, x, z)])
            elif kind == "bicycle":
                add([random_things.random_bicycle(rng, x, z, heading)])
            elif kind == "barricade":
                add([random_things.random_barricade(rng, x, z, heading)])
            else:
                add([random_things.random_block(rng, x, z)])
    return things


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _random_position(
    rng: np.random.Generator, camera: Camera, edge: float, share: float, tall: float
) -> tuple[float, float]:
    """Return a random position at which `tall` metres fill a share of the image's height."""
    z = min(max(camera.focal * tall / (share * camera.height), 1.6), 90.0)
    column = rng.uniform(-0.05, 1.05) * camera.width
    x = camera.x + (column - camera.center) * z / camera.focal - camera.bend * z * z
    return float(np.clip(x, -edge, edge)) + rng.normal(0, 0.1), z


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
