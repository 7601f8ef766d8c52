"""Nights from days: what a visible camera would show of the same scene in the dark."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["night_from_day"]


def night_from_day(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Darken an image, with lamps, their glare, the sensor's tint and noise.

    Args:
        rgb: H x W x 3 uint8.
        random: generator of all that is drawn.

    Returns:
        H x W x 3 uint8.
    """
    height, width = rgb.shape[:2]
    values = (rgb.astype(np.float32) / 255) ** np.float32(random.uniform(1.2, 2.4))
    gray = values.mean(axis=2, keepdims=True)
    values = gray + random.uniform(0.2, 0.7) * (values - gray)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    light = random.uniform(0.03, 0.25) + random.uniform(0, 0.3) * rows**2
    for _ in range(int(random.integers(0, 6))):  # pools of light around lamps
        x, y = random.uniform(0, width), random.uniform(0, height)
        radius = random.uniform(0.05, 0.4) * height
        d = (np.arange(width, dtype=np.float32) - x) ** 2 + (
            (np.arange(height, dtype=np.float32)[:, None] - y) ** 2
        )
        light = light + random.uniform(0.1, 0.7) * np.exp(-d / (2 * radius**2))[..., None]
    tint = np.array(
        [random.uniform(0.8, 1.3), random.uniform(0.85, 1.05), random.uniform(0.5, 1.1)],
        np.float32,
    )
    values = values * light * tint
    for _ in range(int(random.integers(0, 5))):  # lamps and headlights with their glare
        x, y = int(random.integers(width)), int(random.integers(height))
        spot = np.zeros((height, width), np.float32)
        cv2.circle(spot, (x, y), int(random.integers(1, 6)), 1.0, -1)
        glare = spot + random.uniform(2, 8) * cv2.GaussianBlur(spot, (0, 0), random.uniform(3, 12))
        values += glare[..., None] * tint
    values += random.uniform(0.004, 0.03) * random.standard_normal(rgb.shape, dtype=np.float32)
    return (values.clip(0, 1) * 255).astype(np.uint8)
