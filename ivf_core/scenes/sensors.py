"""Sensors of the two cameras, which turn a drawn scene into images, and smoke."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ivf_core.images.noise import smoke
from ivf_core.scenes.light import RGB
from ivf_core.scenes.textures import grain

__all__ = ["InfraredSensor", "Smoke", "VisibleSensor"]

_COUNTS_PER_LEVEL = 24.0  # counts of the thermal camera's converter per level of heat
_COUNTS_OFFSET = 7300.0
_DRIFT_COUNTS = 220.0  # amplitude of the offset's drift
_DRIFT_SECONDS = 47.0  # period of the drift


@dataclass(frozen=True)
class Smoke:
    """Drifting smoke in front of the visible camera.

    Attributes:
        density: 0 for no smoke, 1 where hardly anything is visible.
        color: colour of the smoke by day.
        scale: factor on the size of its billows.
        wind: speed to the right and down in widths of the image per second.
        offset: start in the texture along both axes, 0..1 each.
    """

    density: float = 0.0
    color: RGB = (186.0, 192.0, 198.0)
    scale: float = 1.0
    wind: tuple[float, float] = (0.10, -0.03)
    offset: tuple[float, float] = (0.0, 0.0)

    def apply(self, visible: np.ndarray, seconds: float, light: float) -> np.ndarray:
        """Cover an image with smoke.

        Args:
            visible: H x W x 3 uint8.
            seconds: time, which moves the smoke.
            light: ambient light, 1 by day.

        Returns:
            H x W x 3 uint8.
        """
        height, width = visible.shape[:2]
        small = (max(width // 4, 8), max(height // 4, 8))
        far = _billows(small, 0.5 * self.scale, self._shift(seconds, 1.0))
        near = _billows(small, 1.1 * self.scale, self._shift(seconds + 31, 1.9))
        # From thin places to billows that hide everything.
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
    """Sensor of a colour camera.

    Attributes:
        noise: standard deviation by day and by night, in levels of 0..255.
        blur: standard deviation of the blur in pixels at 640 columns.
        balance: white balance, a factor for each channel.
        gamma: exponent on the image in 0..1.
        glare: share of a bright light that spreads around it at night.
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
        """Return the camera's image of a scene.

        Args:
            rgb: drawn scene, H x W x 3 uint8.
            daylight: 1 by day, 0 by night.
            smoke: smoke in front of the camera.
            ambient: ambient light, 1 by day.
            seconds: time, which moves the smoke.
            rng: source of the noise.

        Returns:
            H x W x 3 uint8.
        """
        height, width = rgb.shape[:2]
        image = rgb
        if daylight < 1 and self.glare > 0:
            image = self._add_glare(image, 1 - daylight)
        if smoke.density > 0:
            image = smoke.apply(image, seconds, min(ambient + 0.06, 1.0))
        sigma = self.blur * width / 640
        if sigma > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        levels = np.linspace(0, 1, 256)[:, None] ** self.gamma * np.array(self.balance) * 255
        table = np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(256, 1, 3)
        image = cv2.LUT(image, table)
        amount = (daylight * self.noise[0] + (1 - daylight) * self.noise[1]) / 24
        noise = _crop(grain(height, width)[0], height, width, rng)
        return cv2.addWeighted(image, 1.0, noise, amount, -128 * amount)

    def _add_glare(self, image: np.ndarray, night: float) -> np.ndarray:
        height, width = image.shape[:2]
        small = cv2.resize(image, (max(width // 4, 1), max(height // 4, 1)),
                           interpolation=cv2.INTER_AREA)  # fmt: skip
        bright = np.maximum(small, 150) - 150
        core = cv2.GaussianBlur(bright, (0, 0), max(width / 320, 0.5)).astype(np.float32)
        halo = cv2.GaussianBlur(bright, (0, 0), max(width / 64, 1.0)).astype(np.float32)
        glow = np.clip((1.8 * core + 3.5 * halo) * (self.glare * night), 0, 255).astype(np.uint8)
        return cv2.add(image, cv2.resize(glow, (width, height)))


@dataclass(frozen=True)
class InfraredSensor:
    """Sensor of an uncooled thermal camera, with counts and an 8-bit image.

    Attributes:
        noise: standard deviation in levels of 0..255.
        blur: standard deviation of the blur in pixels at 640 columns.
        vignette: share by which the corners are darker.
        gain: factor from levels of heat to levels of the 8-bit image.
        offset: levels that are added to the 8-bit image.
        gamma: exponent on the 8-bit image in 0..1.
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
        """Return the camera's 8-bit image and counts of a scene.

        Args:
            heat: drawn scene, H x W uint8.
            smoke_density: 0 for no smoke to 1.
            seconds: time, which moves the offset of the counts.
            rng: source of the noise.

        Returns:
            Image, H x W uint8, and counts, H x W uint16.
        """
        height, width = heat.shape
        sensed: np.ndarray = heat.astype(np.float32)
        sigma = self.blur * width / 640
        if sigma > 0.2:
            sensed = cv2.GaussianBlur(sensed, (0, 0), sigma)
        # Smoke is nearly transparent in the long-wave band: little contrast is lost.
        lost = 0.06 * smoke_density
        sensed = sensed * (1 - lost) + lost * float(sensed.mean())
        sensed *= _vignette(height, width, self.vignette)
        noise = _crop(grain(height, width)[1], height, width, rng)
        sensed += (noise.astype(np.float32) - 128) * (self.noise / 24)
        sensed += _columns(height, width) * (0.35 * self.noise)
        drift = _DRIFT_COUNTS * math.sin(2 * math.pi * seconds / _DRIFT_SECONDS)
        counts = np.rint(sensed * _COUNTS_PER_LEVEL + (_COUNTS_OFFSET + drift)).astype(np.uint16)
        image: np.ndarray = np.maximum(sensed, 0) * (self.gain / 255) + self.offset / 255
        if self.gamma != 1:
            image = cv2.pow(np.clip(image, 0, 1), self.gamma)
        return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8), counts


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
    """Return fixed-pattern noise: columns of the read-out differ slightly from each other."""
    pattern = np.random.default_rng(19).standard_normal(width).astype(np.float32)
    return np.broadcast_to(pattern, (height, width))
