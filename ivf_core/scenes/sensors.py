"""The two cameras: what they do to the light and the heat of a drawn scene."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ivf_core.scenes.drawing import RGB
from ivf_core.scenes.textures import grain, smoke

__all__ = ["InfraredSensor", "Smoke", "VisibleSensor"]

COUNTS_PER_LEVEL = 24.0
COUNTS_OFFSET = 7300.0
DRIFT_COUNTS = 220.0
DRIFT_SECONDS = 47.0


@dataclass(frozen=True)
class Smoke:
    """Drifting smoke before the visible camera.

    Attributes:
        density: 0 for none, 1 for hardly anything seen.
        color: of the smoke by day.
        scale: size of its billows, 1 for usual.
        wind: picture widths per second, to the right and down.
        offset: where in the texture it begins, 0..1 each.
    """

    density: float = 0.0
    color: RGB = (186.0, 192.0, 198.0)
    scale: float = 1.0
    wind: tuple[float, float] = (0.10, -0.03)
    offset: tuple[float, float] = (0.0, 0.0)

    def apply(self, visible: np.ndarray, seconds: float, light: float) -> np.ndarray:
        """Veil an H x W x 3 uint8 picture; `light` is the ambient light, 1 by day."""
        height, width = visible.shape[:2]
        small = (max(width // 4, 8), max(height // 4, 8))
        far = _billows(small, 0.5 * self.scale, self._shift(seconds, 1.0))
        near = _billows(small, 1.1 * self.scale, self._shift(seconds + 31, 1.9))
        # Between thin places and billows that hide everything.
        thick = 1 / (1 + np.exp(-2.2 * (far + 0.8 * near)))
        share = self.density * (0.42 + 0.66 * thick)
        share = np.clip(share, 0, 0.985).astype(np.float32)
        tone = ((0.92 + 0.07 * near - 0.05 * far) * light).astype(np.float32)
        cloud = tone[..., None] * np.array(self.color, np.float32) * share[..., None]
        full = (width, height)
        clear = 1 - cv2.resize(share, full, interpolation=cv2.INTER_LINEAR)
        veil = cv2.resize(cloud, full, interpolation=cv2.INTER_LINEAR)
        mixed = veil + visible * clear[..., None]
        return np.clip(mixed, 0, 255).astype(np.uint8)

    def _shift(self, seconds: float, pace: float) -> tuple[float, float]:
        return (
            self.offset[0] - seconds * pace * self.wind[0],
            self.offset[1] - seconds * pace * self.wind[1],
        )


def _billows(size: tuple[int, int], scale: float, shift: tuple[float, float]) -> np.ndarray:
    texture = smoke()
    span = texture.shape[0]
    step = 0.5 * span / size[0] / scale
    matrix = np.array([[step, 0, (shift[0] % 1) * span], [0, step, (shift[1] % 1) * span]])
    return cv2.warpAffine(texture, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_WRAP)  # fmt: skip


@dataclass(frozen=True)
class VisibleSensor:
    """A colour camera.

    Attributes:
        noise: standard deviation by day and by night, in levels of 0..255.
        blur: standard deviation in pixels at 640 columns.
        balance: white balance, a factor for each channel.
        gamma: exponent on the picture in 0..1.
        glare: how much of a bright light spreads around it at night.
    """

    noise: tuple[float, float] = (2.0, 5.0)
    blur: float = 0.5
    balance: RGB = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    glare: float = 0.9

    def expose(
        self,
        rgb: np.ndarray,
        daylight: float,
        smoke: Smoke,
        ambient: float,
        seconds: float,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """H x W x 3 uint8 scene to the camera's picture of the same shape."""
        height, width = rgb.shape[:2]
        picture = rgb
        if daylight < 1 and self.glare > 0:
            picture = self._add_glare(picture, 1 - daylight)
        if smoke.density > 0:
            picture = smoke.apply(picture, seconds, min(ambient + 0.06, 1.0))
        sigma = self.blur * width / 640
        if sigma > 0.2:
            picture = cv2.GaussianBlur(picture, (0, 0), sigma)
        levels = np.linspace(0, 1, 256)[:, None] ** self.gamma * np.array(self.balance) * 255
        table = np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(256, 1, 3)
        picture = cv2.LUT(picture, table)
        amount = (daylight * self.noise[0] + (1 - daylight) * self.noise[1]) / 24
        noise = _crop(grain(height, width)[0], height, width, rng)
        return cv2.addWeighted(picture, 1.0, noise, amount, -128 * amount)

    def _add_glare(self, picture: np.ndarray, night: float) -> np.ndarray:
        height, width = picture.shape[:2]
        small = cv2.resize(picture, (max(width // 4, 1), max(height // 4, 1)),
                           interpolation=cv2.INTER_AREA)  # fmt: skip
        bright = np.maximum(small, 150) - 150
        core = cv2.GaussianBlur(bright, (0, 0), max(width / 320, 0.5)).astype(np.float32)
        halo = cv2.GaussianBlur(bright, (0, 0), max(width / 64, 1.0)).astype(np.float32)
        glow = np.clip((1.8 * core + 3.5 * halo) * (self.glare * night), 0, 255).astype(np.uint8)
        return cv2.add(picture, cv2.resize(glow, (width, height)))


@dataclass(frozen=True)
class InfraredSensor:
    """An uncooled thermal camera, its counts and the 8-bit picture made of them.

    Attributes:
        noise: standard deviation in levels of 0..255.
        blur: standard deviation in pixels at 640 columns.
        vignette: share by which the corners are darker.
        gain, offset, gamma: of the 8-bit picture.
    """

    noise: float = 1.5
    blur: float = 0.9
    vignette: float = 0.08
    gain: float = 1.0
    offset: float = 0.0
    gamma: float = 1.0

    def expose(
        self, heat: np.ndarray, smoke_density: float, seconds: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """H x W uint8 heat to H x W uint8 picture and H x W uint16 counts."""
        height, width = heat.shape
        sensed: np.ndarray = heat.astype(np.float32)
        sigma = self.blur * width / 640
        if sigma > 0.2:
            sensed = cv2.GaussianBlur(sensed, (0, 0), sigma)
        # Smoke is nearly clear in the long-wave band: a little contrast is lost.
        lost = 0.06 * smoke_density
        sensed = sensed * (1 - lost) + lost * float(sensed.mean())
        sensed *= _vignette(height, width, self.vignette)
        noise = _crop(grain(height, width)[1], height, width, rng)
        sensed += (noise.astype(np.float32) - 128) * (self.noise / 24)
        sensed += _columns(height, width) * (0.35 * self.noise)
        drift = DRIFT_COUNTS * math.sin(2 * math.pi * seconds / DRIFT_SECONDS)
        counts = np.rint(sensed * COUNTS_PER_LEVEL + (COUNTS_OFFSET + drift)).astype(np.uint16)
        picture: np.ndarray = np.maximum(sensed, 0) * (self.gain / 255) + self.offset / 255
        if self.gamma != 1:
            picture = cv2.pow(np.clip(picture, 0, 1), self.gamma)
        return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8), counts


def _crop(bank: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    y, x = (int(v) for v in rng.integers(0, 65, 2))
    return bank[y : y + height, x : x + width]


@lru_cache(maxsize=16)
def _vignette(height: int, width: int, strength: float) -> np.ndarray:
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    return 1 - np.float32(strength) * (x * x + y * y) / 2


@lru_cache(maxsize=16)
def _columns(height: int, width: int) -> np.ndarray:
    """Fixed-pattern noise: columns of the read-out that differ a little."""
    pattern = np.random.default_rng(19).standard_normal(width).astype(np.float32)
    return np.broadcast_to(pattern, (height, width))
