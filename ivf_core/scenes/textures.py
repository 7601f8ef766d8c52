"""Textures, generated from noise and cached: ground, facades, trees, a far backdrop, clouds.

A texture has four channels: red, green, blue and heat. Heat is relative: 128 stands for the
temperature of the material, so that one texture serves for all thermal settings. Each texture
depends on its index alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np

from ivf_core.images.noise import value_noise

__all__ = [
    "FACADES",
    "GROUNDS",
    "GROUND_METRES",
    "TREES",
    "Texture",
    "backdrop",
    "clouds",
    "facade",
    "grain",
    "ground",
    "speckle",
    "tree",
    "weave",
]

FACADES, TREES, GROUNDS = 14, 10, 5
"""Numbers of different textures of each kind."""

GROUND_METRES = 32.0
"""Length in metres after which the ground's texture repeats in both directions."""


@dataclass(frozen=True)
class Texture:
    """Image with its reductions by 2, 4, 8 and so on (mipmaps).

    Attributes:
        levels: H x W x 4 uint8 each, the first one at full size.
        masks: H x W uint8 each, 255 where the texture is opaque; empty for opaque textures.
    """

    levels: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...] = ()

    @classmethod
    def build(cls, pixels: np.ndarray, mask: np.ndarray | None = None) -> Texture:
        """Build the reductions of an image, H x W x 4 uint8, and of its mask, H x W uint8."""
        levels, masks = [pixels], [] if mask is None else [mask]
        while min(levels[-1].shape[:2]) >= 16:
            levels.append(_halve(levels[-1]))
            if masks:
                masks.append(np.where(_halve(masks[-1]) > 127, 255, 0).astype(np.uint8))
        return cls(tuple(levels), tuple(masks))

    def level_for(self, width: float) -> int:
        """Return the index of the reduction to draw at `width` pixels without aliasing."""
        ratio = self.levels[0].shape[1] / max(width, 1.0)
        return int(np.clip(np.log2(max(ratio, 1.0)), 0, len(self.levels) - 1))


def _halve(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)


def _stack(rgb: np.ndarray, heat: np.ndarray) -> np.ndarray:
    return np.clip(np.dstack((rgb, heat)), 0, 255).astype(np.uint8)


@cache
def ground(index: int) -> tuple[np.ndarray, ...]:
    """Return multipliers of the ground's colour and heat, 128 for one.

    Args:
        index: 0 to `GROUNDS` - 1.

    Returns:
        Four 512 x 512 x 4 uint8, each more blurred along the road (the first axis) than the
        one before, because far rows of an image cover metres of it. The second axis is across
        the road, with its middle at column 256.
    """
    rng = np.random.default_rng((11, index))
    shape = (512, 512)
    patches = value_noise(rng, shape, (4, 8), 3)
    asphalt = value_noise(rng, shape, (64, 64), 4, 0.9)
    visible = 128 + 7 * patches + 8 * asphalt
    heat = 128 + 9 * patches + 5 * asphalt
    across = np.abs((np.arange(512) - 256) * GROUND_METRES / 512)
    # Wheel tracks: darker and warmer.
    tracks = sum(np.exp(-(((across - at) / 0.35) ** 2)) for at in (0.9, 2.3))
    visible = visible - 6 * tracks
    heat = heat + 5 * tracks
    lines = np.zeros(shape, np.uint8)
    for _ in range(10):  # cracks and joints
        path = np.cumsum(rng.normal(0, 7, (24, 2)) + rng.normal(0, 5, 2), axis=0)
        cv2.polylines(lines, [(path + rng.integers(0, 512, 2)).astype(np.int32)], False, 255, 1)
    for _ in range(3):  # repaired patches and manholes
        x, y, w, h = (int(v) for v in rng.integers((190, 0, 8, 10), (310, 500, 40, 90)))
        tone = int(rng.integers(-16, 9))
        visible[y : y + h, x : x + w] += tone
        heat[y : y + h, x : x + w] -= tone // 3
        manhole = (int(rng.integers(200, 310)), int(rng.integers(10, 500)))
        cv2.circle(visible, manhole, 6, 92.0, -1)
        cv2.circle(heat, manhole, 6, 150.0, -1)
    visible -= 22 * (lines / 255.0)
    heat += 8 * (lines / 255.0)
    # Paving slabs beside the road, weeds beyond.
    slab = int(rng.choice((8, 10, 16)))
    rows, cols = np.indices(shape)
    joints = ((rows % slab == 0) | (cols % slab == 0)) & (across > 4.5)
    visible[joints] -= 16
    heat[joints] += 6
    weeds = value_noise(rng, shape, (64, 64), 3, 0.8)
    visible += 16 * weeds * (across > 8)
    heat += 7 * weeds * (across > 8)
    image = _stack(np.dstack([visible] * 3), heat)
    blurred = [image]
    for reach in (9, 33, 129):
        wrapped = np.concatenate((image[-reach:], image, image[:reach]))
        blurred.append(np.ascontiguousarray(cv2.blur(wrapped, (1, reach))[reach:-reach]))
    return tuple(blurred)


def _wall(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a wall without windows: colour (H x W x 3) and heat (H x W), float32."""
    palette = ((168, 158, 146), (146, 92, 74), (190, 184, 172), (122, 118, 116), (176, 148, 112))
    base = np.array(palette[int(rng.integers(len(palette)))], np.float32) * rng.uniform(0.7, 1.1)
    stains = value_noise(rng, shape, (4, 8), 5)
    tone = 1 + 0.05 * stains + 0.03 * value_noise(rng, shape, (64, 128), 3)
    heat = 128 + 7 * stains
    rows, cols = np.indices(shape)
    pattern = int(rng.integers(3))
    if pattern == 0:  # courses of brick
        tone -= 0.12 * ((rows % 5 == 0) | ((cols + 5 * ((rows // 5) % 2)) % 10 == 0))
        heat -= 3 * (rows % 5 == 0)
    elif pattern == 1:  # panels
        step = int(rng.integers(24, 56))
        tone -= 0.18 * ((rows % step < 2) | (cols % step < 2))
        heat += 9 * ((rows % step < 2) | (cols % step < 2))
    return base * tone[..., None], heat


@cache
def facade(index: int) -> tuple[Texture, Texture]:
    """Return the front of a building by day and by night (some windows lit), 256 x 512 each.

    Args:
        index: 0 to `FACADES` - 1.
    """
    rng = np.random.default_rng((12, index))
    shape = (256, 512)
    rgb, heat = _wall(rng, shape)
    lit = np.zeros((*shape, 3), np.float32)
    blank = index % 5 == 4
    floors = 0 if blank else int(rng.integers(2, 6))
    columns = int(rng.integers(5, 13))
    storey = 256 / max(floors, 1)
    pitch = 512 / columns
    glass_heat = rng.uniform(88, 165)
    share_lit = rng.uniform(0.05, 0.45)
    tall, wide = rng.uniform(0.4, 0.75), rng.uniform(0.35, 0.85)
    for floor in range(floors):
        shop = floor == floors - 1 and rng.random() < 0.5
        for column in range(columns):
            w, h = (0.92, 0.85) if shop else (wide, tall)
            x0, x1 = (int(pitch * (column + 0.5 + s * w / 2)) for s in (-1, 1))
            y0, y1 = (int(storey * (floor + 0.5 + s * h / 2)) for s in (-1, 1))
            tone = rng.uniform(25, 75)
            sheen = np.linspace(1.6, 0.8, y1 - y0)[:, None, None]
            rgb[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] *= 0.72
            rgb[y0:y1, x0:x1] = np.array((0.9, 1.0, 1.1)) * tone * sheen
            rgb[y1 : y1 + 3, x0 - 2 : x1 + 2] *= 1.5
            heat[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] += 10
            heat[y0:y1, x0:x1] = glass_heat + rng.normal(0, 12)
            middle = (x0 + x1) // 2
            rgb[y0:y1, middle : middle + 1] = 150
            if rng.random() < (0.6 if shop else share_lit):
                warmth = rng.uniform(0.35, 1.0)
                lit[y0:y1, x0:x1] = np.array((255, 226, 168)) * warmth * rng.uniform(0.4, 1)
                lit[y0:y1, middle : middle + 1] = 20
    rgb[:5] *= 0.6
    heat[:4] -= 14
    lamp = 0.05 + 0.10 * np.linspace(0, 1, 256)[:, None, None] ** 2
    night = np.maximum(rgb * lamp * np.array((1.0, 0.97, 0.8)), lit)
    return Texture.build(_stack(rgb, heat)), Texture.build(_stack(night, heat))


@cache
def tree(index: int) -> Texture:
    """Return a tree (even indices) or a bush (odd indices), 256 x 256, with a mask.

    Args:
        index: 0 to `TREES` - 1.
    """
    rng = np.random.default_rng((13, index))
    shape = (256, 256)
    bush = index % 2 == 1
    rows, cols = np.indices(shape) / 256.0
    blobs = value_noise(rng, shape, (4, 4), 6, 0.75)
    leaves = value_noise(rng, shape, (32, 32), 4, 0.9)
    middle, reach = (0.62, 0.40) if bush else (0.38, 0.36)
    radius = np.hypot((cols - 0.5) / 0.46, (rows - middle) / reach)
    crown = (radius + 0.10 * blobs + 0.09 * leaves < 0.86) & (rows < 0.985)
    # Lobes are lit from above, dark below and between.
    light = 1 + 0.22 * blobs + 0.22 * leaves + 0.9 * (middle - rows)
    hue = np.array(((78, 104, 46), (60, 88, 44), (96, 112, 52), (128, 96, 44), (70, 92, 60))[
        int(rng.integers(5))
    ], np.float32)  # fmt: skip
    rgb = hue * np.clip(light, 0.25, 1.9)[..., None]
    heat = 128 + 9 * blobs + 11 * leaves
    if not bush:
        half = 0.016 + 0.02 * np.clip(rows - 0.3, 0, 1) ** 2
        bent = 0.5 + 0.02 * np.sin(rows * 5 + index)
        trunk = (np.abs(cols - bent) < half) & (rows > 0.45) & ~(crown & (leaves > -0.6))
        bark = 62 + 14 * leaves + 260 * (cols - bent)
        rgb[trunk] = (bark[..., None] * np.array((1.0, 0.86, 0.7)))[trunk]
        heat[trunk] = 150
        crown = crown | trunk
    return Texture.build(_stack(rgb, heat), crown.astype(np.uint8) * 255)


@cache
def backdrop(index: int) -> Texture:
    """Return far trees and towers above the horizon, 64 x 1024, with a mask."""
    rng = np.random.default_rng((14, index))
    shape = (64, 1024)
    rows = np.indices(shape)[0]
    leaves = value_noise(rng, shape, (8, 128), 3, 0.8)
    top = 40 - 9 * value_noise(rng, shape, (1, 16), 5, 0.65)[:1]
    rgb = np.array((92, 104, 84)) * (1 + 0.14 * leaves)[..., None]
    heat = 122 + 7 * leaves
    mask = rows > top
    for _ in range(int(rng.integers(6, 18))):
        x, width, height = (int(v) for v in rng.integers((0, 14, 20), (1000, 50, 58)))
        block = (slice(64 - height, 64), slice(x, x + width))
        tone = rng.uniform(120, 175)
        rgb[block] = (tone, tone, tone * 1.03)
        rgb[64 - height : 64 : 5, x : x + width] *= 0.8
        heat[block] = rng.uniform(110, 165)
        mask[block] = True
    return Texture.build(_stack(rgb, heat), mask.astype(np.uint8) * 255)


@cache
def clouds(index: int) -> np.ndarray:
    """Return clouds that are wider than high, 256 x 256 float32, of mean 0 and deviation 1."""
    return value_noise(np.random.default_rng((17, index)), (256, 256), (8, 2), 5)


@cache
def speckle(index: int) -> np.ndarray:
    """Return the grain of the near ground: multipliers, 512 x 512 x 4 uint8, 128 for one."""
    rng = np.random.default_rng((18, index))
    colour = 128 + 7 * value_noise(rng, (512, 512), (64, 64), 4, 0.9)
    heat = 128 + 1.5 * value_noise(rng, (512, 512), (64, 64), 3, 0.9)
    return _stack(np.dstack([colour] * 3), heat)


@cache
def weave() -> np.ndarray:
    """Return folds of cloth that repeat: multipliers, 512 x 512 x 4 uint8, 128 for one."""
    rng = np.random.default_rng(20)
    folds = value_noise(rng, (512, 512), (16, 16), 4, 0.7)
    heat = value_noise(rng, (512, 512), (8, 8), 5, 0.65)
    return _stack(np.dstack([128 + 11 * folds] * 3), 128 + 13 * heat + 5 * folds)


@lru_cache(maxsize=8)
def grain(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise of the visible and of the infrared sensor, to crop frames from.

    The colours of the visible sensor are correlated, and so are its neighbouring pixels, as
    after demosaicing.

    Args:
        height: height of a frame in pixels.
        width: width of a frame in pixels.

    Returns:
        (height + 64) x (width + 64) x 3 and (height + 64) x (width + 64) uint8, of mean 128 and
        standard deviation 24.
    """
    rng = np.random.default_rng(16)
    raw = rng.standard_normal((height + 64, width + 64, 5), np.float32)
    colour = 1.35 * cv2.GaussianBlur(raw[..., :3], (3, 3), 0.6) + 0.65 * raw[..., 3:4]
    return _noise_bytes(colour), _noise_bytes(raw[..., 4])


def _noise_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values * (24 / values.std()) + 128, 0, 255).astype(np.uint8)
