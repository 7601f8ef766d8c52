"""Background of a scene: sky, far backdrop, and the ground with its light and shadows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from ivf_core.scenes.camera import NEAR, Camera
from ivf_core.scenes.canvas import Canvas
from ivf_core.scenes.light import RGB
from ivf_core.scenes.surfaces import draw_sprite
from ivf_core.scenes.textures import GROUND_METRES, backdrop, clouds, ground, speckle
from ivf_core.scenes.thing import Thing

__all__ = ["Street", "draw_ground", "draw_sky"]

_FAR = 400.0  # length of the visible ground in metres
_UNIT = 160  # byte that represents a factor of 1
# Distances in metres at which the blur of the ground's texture along the road increases.
_BLUR_FROM = (9.0, 20.0, 42.0)
_PAINT: RGB = (215.0, 214.0, 206.0)


@dataclass(frozen=True)
class Street:
    """Permanent appearance of a street.

    Attributes:
        half_road: half the width of the road in metres.
        sidewalk: width of the pavement on each side in metres.
        road: colour of the road.
        pavement: colour of the pavement.
        verge: colour of the ground beyond the pavement.
        texture: index of the ground's texture, see `textures.ground`.
        skyline: index of backdrop and clouds, see `textures.backdrop`.
        markings: whether the road has a centre line and edge lines.
        crossings: positions of zebra crossings along the road in metres.
        cloud: 0 for a blue sky, 1 for an overcast one.
    """

    half_road: float = 3.6
    sidewalk: float = 3.0
    road: RGB = (92.0, 93.0, 96.0)
    pavement: RGB = (146.0, 141.0, 134.0)
    verge: RGB = (92.0, 108.0, 62.0)
    texture: int = 0
    skyline: int = 0
    markings: bool = True
    crossings: tuple[float, ...] = ()
    cloud: float = 0.4


def draw_sky(canvas: Canvas, street: Street) -> None:
    """Fill the image above the horizon with sky, clouds, far trees and towers.

    Args:
        canvas: canvas to draw on.
        street: its backdrop and clouds.
    """
    camera, light = canvas.camera, canvas.light
    rows = int(np.clip(round(camera.horizon) + 2, 0, camera.height))
    if rows == 0:
        return
    start = max(0.0, 1 - camera.horizon / (0.6 * camera.height))
    down = np.linspace(start, 1, rows)[:, None, None] ** 1.3
    blue, pale = np.array((96, 150, 214)), np.array((206, 220, 232))
    grey = np.array((212, 214, 217))
    clear = blue + (pale - blue) * down
    by_day = clear + (grey - clear) * street.cloud
    by_night = np.array((7, 9, 15)) + np.array((22, 18, 13)) * down**3
    colour = light.daylight * by_day * min(light.day, 1.1) + (1 - light.daylight) * by_night
    # Computed at a quarter of the width: nothing in the sky is sharp.
    quarter = max(camera.width // 4, 1)
    sky = np.empty((rows, quarter, 4), np.float32)
    sky[..., :3], sky[..., 3] = colour, canvas.heat["sky"] + 16 * down[..., 0] ** 3
    whiter = np.array((26, 22, 17, 0)) * light.daylight + np.array((0, 0, 0, 7))
    cover = cv2.resize(clouds(street.skyline), (quarter, rows), interpolation=cv2.INTER_LINEAR)
    sky += (0.35 + street.cloud) * cover[..., None] * whiter.astype(np.float32)
    canvas.pixels[:rows] = cv2.resize(_as_bytes(sky), (camera.width, rows))
    tall = 0.13 * camera.height
    shift = camera.focal * camera.bend * 150.0
    wide = 2.2 * camera.width
    canvas.set_position(1e4, camera.z + 160.0)
    draw_sprite(canvas, backdrop(street.skyline), camera.center + shift - wide / 2,
                  camera.horizon + 1 - tall, wide, tall, canvas.heat["building"] - 4,
                  contrast=canvas.heat["contrast"])  # fmt: skip


def draw_ground(canvas: Canvas, street: Street, things: Sequence[Thing]) -> None:
    """Fill the image below the horizon: road, pavements, markings, shadows and night.

    Args:
        canvas: canvas to draw on.
        street: its road and pavements.
        things: things that cast shadows.
    """
    camera = canvas.camera
    top = int(np.clip(np.floor(camera.horizon) + 1, 0, camera.height - 1))
    area = canvas.pixels[top:]
    _fill_strips(canvas, street, top)
    _paint_markings(canvas, street)
    rows = np.arange(top, camera.height, dtype=np.float32) + 0.5
    depth = camera.focal * camera.elevation / np.maximum(rows - camera.horizon, 0.4)
    columns = np.arange(camera.width, dtype=np.float32) + 0.5
    aside = (columns - camera.center)[None] * (depth / camera.focal)[:, None]
    aside += (camera.x - camera.bend * depth**2)[:, None]
    _texture(area, street.texture, aside, depth + camera.z)
    _illuminate(canvas, area, top, depth, aside, things)


def _fill_strips(canvas: Canvas, street: Street, top: int) -> None:
    heat = canvas.heat
    canvas.pixels[top:] = (*street.verge, heat["verge"])
    edge = street.half_road + street.sidewalk
    near, far = canvas.camera.z, canvas.camera.z + _FAR
    for half, colour, warm in (
        (edge, street.pavement, heat["pavement"]),
        (street.half_road + 0.35, tuple(0.86 * c for c in street.pavement), heat["pavement"]),
        (street.half_road, street.road, heat["road"]),
    ):
        outline = np.rint(canvas.camera.strip(-half, half, near, far)).astype(np.int32)
        cv2.fillPoly(canvas.pixels, [outline], (*colour, warm))


def _paint_markings(canvas: Canvas, street: Street) -> None:
    camera = canvas.camera
    ink = (*_PAINT, canvas.heat["road"] - 7)

    def paint(x0: float, x1: float, z0: float, z1: float) -> None:
        if z1 - camera.z > NEAR:
            outline = np.rint(camera.strip(x0, x1, max(z0, camera.z), z1)).astype(np.int32)
            cv2.fillPoly(canvas.pixels, [outline], ink)

    if street.markings:
        edge = street.half_road - 0.35
        for x in (-edge, edge):
            paint(x - 0.06, x + 0.06, camera.z, camera.z + 120)
        first = 9.0 * np.floor(camera.z / 9.0)
        for dash in first + 9.0 * np.arange(12):
            paint(-0.07, 0.07, dash, dash + 4.0)
    for crossing in street.crossings:
        if 0 < crossing + 3 - camera.z < 90:
            for x in np.arange(-street.half_road + 0.5, street.half_road - 0.5, 1.0):
                paint(x, x + 0.5, crossing, crossing + 3.0)


def _texture(area: np.ndarray, index: int, aside: np.ndarray, along: np.ndarray) -> None:
    """Multiply the ground by its texture, more blurred along the road in far rows.

    Args:
        area: rows of the canvas below the horizon, H x W x 4 uint8; changed.
        index: index of the texture.
        aside: position of each pixel across the road in metres, H x W.
        along: position of each row along the road in metres, H.
    """
    levels = ground(index)
    size = levels[0].shape[0]
    pixels = size / GROUND_METRES
    near = along.min()
    starts = [np.searchsorted(-along, -(near + limit)) for limit in _BLUR_FROM]
    edges = [0, *starts[::-1], len(along)]
    across = (aside * pixels + size / 2).astype(np.float32)
    for level, (start, stop) in enumerate(pairwise(edges)):
        if stop <= start:
            continue
        grid = np.broadcast_to(
            np.mod(along[start:stop, None] * pixels, size).astype(np.float32),
            (stop - start, area.shape[1]),
        )
        tile = cv2.remap(levels[3 - level], across[start:stop], np.ascontiguousarray(grid),
                         cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)  # fmt: skip
        cv2.multiply(area[start:stop], tile, dst=area[start:stop], scale=1 / 128)
    # Close to the camera, a texture that is eight times finer.
    start = edges[-2]
    if start < len(along):
        grid = np.broadcast_to(
            np.mod(along[start:, None] * pixels * 8, size).astype(np.float32),
            (len(along) - start, area.shape[1]),
        )
        tile = cv2.remap(speckle(index), np.mod(across[start:] * 8, size),
                         np.ascontiguousarray(grid), cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_WRAP)  # fmt: skip
        cv2.multiply(area[start:], tile, dst=area[start:], scale=1 / 128)


def _illuminate(
    canvas: Canvas,
    area: np.ndarray,
    top: int,
    depth: np.ndarray,
    aside: np.ndarray,
    things: Sequence[Thing],
) -> None:
    """Apply light, shadows and haze, computed at a quarter of the resolution.

    Args:
        canvas: camera and light.
        area: rows of the canvas below the horizon, H x W x 4 uint8; changed.
        top: first of these rows.
        depth: distance of each row in metres, H.
        aside: position of each pixel across the road in metres, H x W.
        things: things that cast shadows.
    """
    camera, light = canvas.camera, canvas.light
    height, width = area.shape[:2]
    small = (max(width // 4, 1), max(height // 4, 1))
    rows = np.linspace(0, height - 1, small[1]).astype(int)
    columns = np.linspace(0, width - 1, small[0]).astype(int)
    z = np.broadcast_to(depth[rows, None] + camera.z, (small[1], small[0]))
    veil = 1 - np.exp(-light.haze * depth[rows])
    gain = light.gain(aside[np.ix_(rows, columns)], z) * (1 - veil)[:, None]
    factor = cv2.resize(_as_bytes(gain * _UNIT), (width, height), interpolation=cv2.INTER_LINEAR)
    if light.daylight > 0:
        shadow = cv2.LUT(_shadows(camera, light.sun, things)[top:], _shade_table(light.daylight))
        factor = cv2.multiply(factor, shadow, scale=1 / 255)
    same = np.full_like(factor, _UNIT)
    cv2.multiply(area, cv2.merge((factor, factor, factor, same)), dst=area, scale=1 / _UNIT)
    mist = np.zeros((small[1], 1, 4), np.float32)
    mist[..., :3] = veil[:, None, None] * np.array(light.veil_color())
    cv2.add(area, cv2.resize(_as_bytes(mist), (width, height)), dst=area)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _shade_table(daylight: float) -> np.ndarray:
    """Return the table from the depth of a shadow, 0..255, to the factor on light, 255 for one."""
    return _as_bytes(255 - 0.55 * daylight * np.arange(256))


def _shadows(camera: Camera, sun: tuple[float, float], things: Sequence[Thing]) -> np.ndarray:
    """Return soft shadows of things, H x W uint8; under an overcast sky only beneath them."""
    mask = np.zeros((camera.height, camera.width), np.uint8)
    for thing in things:
        x0, x1, z0, z1 = thing.footprint()
        if not thing.height or z0 - camera.z < NEAR or z1 - z0 > 8 or z0 - camera.z > 50:
            continue
        base = np.array([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], np.float64)
        tip = base + np.array((sun[0], 0, sun[1])) * min(thing.height, 6.0)
        tip[:, 2] = np.maximum(tip[:, 2], camera.z + NEAR)
        points = np.rint(camera.project(np.concatenate((base, tip)))).astype(np.int32)
        cv2.fillConvexPoly(mask, cv2.convexHull(points), 255)
    reach = max(camera.width // 160, 1)
    return cv2.blur(mask, (2 * reach + 1, reach | 1))
