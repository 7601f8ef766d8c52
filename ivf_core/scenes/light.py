"""Light and haze of the visible image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["RGB", "Light"]

RGB = tuple[float, float, float]
"""Red, green and blue, in 0..255 for colours, around 1 for factors."""


@dataclass(frozen=True)
class Light:
    """Light sources of the visible image, and the haze that covers it with distance.

    Attributes:
        daylight: 1 by day, 0 by night.
        day: ambient light by day; 1 shows colours unchanged.
        night: ambient light by night; 1 shows colours unchanged.
        headlights: strength of the camera car's headlights at night, 0 for none.
        lamps: positions (x, z) of street lamps in metres.
        sun: metres of shadow (in x and z) per metre of height; (0, 0) under an overcast sky.
        haze: share of the image that is lost to haze per metre.
        haze_color: colour of the haze by day.
        x: position of the headlights across the road in metres.
        z: position of the headlights along the road in metres.
    """

    daylight: float = 1.0
    day: float = 1.0
    night: float = 0.06
    headlights: float = 0.8
    lamps: tuple[tuple[float, float], ...] = ()
    sun: tuple[float, float] = (0.0, 0.0)
    haze: float = 0.001
    haze_color: RGB = (205.0, 210.0, 215.0)
    x: float = 0.0
    z: float = 0.0

    @property
    def ambient(self) -> float:
        """Ambient light at this time of day; 1 shows colours unchanged."""
        return self.daylight * self.day + (1 - self.daylight) * self.night

    def gain(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the factor on the colours of things at x, z (arrays of one shape, in metres)."""
        if self.daylight >= 1:
            return np.full(np.shape(x), self.day, np.float32)
        ahead = np.maximum(z - self.z, 0.5)
        aside = (x - self.x) / (1.6 + 0.13 * ahead)
        beam = self.headlights * np.exp(-aside * aside) / (1 + (ahead / 13) ** 2)
        beam = beam * np.minimum(ahead / 5, 1)
        for lamp_x, lamp_z in self.lamps:
            beam = beam + 0.3 * np.exp(-((x - lamp_x) ** 2 + (z - lamp_z) ** 2) / 45)
        return self.ambient + (1 - self.daylight) * beam

    def veil(self, distance: float) -> float:
        """Return the share of the colour that is lost to haze at a distance in metres."""
        return 1 - math.exp(-self.haze * max(distance, 0.0))

    def veil_color(self) -> RGB:
        """Return the colour of the haze in the present ambient light."""
        r, g, b = self.haze_color
        level = min(self.ambient + 0.04, 1.0)
        return r * level, g * level, b * level
