"""Nights made of days: the visible image is darkened while thermal image and labels stay.

Segmenters that label by day are nearly blind at night. A day's labels with a night's look teach
what they cannot: where light is lacking, the thermal image tells.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["night_from_day"]

_LAMPS = 7
_POOLS = 5
_TINTS = np.array(
    ((1.0, 1.0, 1.0), (0.75, 1.0, 0.8), (1.0, 0.88, 0.6), (0.8, 0.9, 1.0)), np.float32
)
"""Colours of light at night: neutral, a sensor's green, sodium lamps, LED lamps."""
_TO_LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)
_TO_LEVELS = np.rint(255 * (np.arange(65536) / 65535) ** (1 / 2.2)).astype(np.uint8)


def night_from_day(visible: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Make a night of a day: darkness, a pool of light, lamps with glare, tint, noise.

    In linear light the image is scaled down, its sky most, and lit from in front of the
    vehicle; lamps glare; then follow the sensor's gain, shot and read noise, its tint and
    its loss of colour.

    Args:
        visible: H x W x 3 uint8 RGB of a day.
        random: generator of random numbers.

    Returns:
        H x W x 3 uint8 RGB, a new array.

    Raises:
        ValueError: another shape or dtype.
    """
    if visible.ndim != 3 or visible.shape[2] != 3 or visible.dtype != np.uint8:
        raise ValueError(f"visible is {visible.shape} {visible.dtype}, expected H x W x 3 uint8")
    linear = _TO_LINEAR[visible]
    light = linear * _illumination(linear, random)[..., None]
    light += _lamps(visible.shape[:2], random)
    light *= _TINTS[int(random.integers(len(_TINTS)))]
    gray = light.mean(-1, keepdims=True)
    saturation = np.float32(random.uniform(0.35, 1.0))
    light = gray + saturation * (light - gray)
    # Photons are few: their noise grows with the root of the light, read noise is constant.
    shot, read = (np.float32(_between(random, *span)) for span in ((2e-4, 4e-3), (5e-5, 1e-3)))
    deviation = np.sqrt(shot * light + read * read)
    light += deviation * random.standard_normal(light.shape, dtype=np.float32)
    if random.random() < 0.4:  # a sensor's denoising
        light = cv2.GaussianBlur(light, (0, 0), random.uniform(0.5, 1.2))
    black = np.float32(_between(random, 1e-5, 2e-3))  # flare lifts the darkest levels
    return _TO_LEVELS[((light + black).clip(0, 1) * np.float32(65535)).astype(np.uint16)]


def _between(random: np.random.Generator, low: float, high: float) -> float:
    """Draw a number between two, whose logarithm is uniform."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _illumination(linear: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return factors of light, H x W float32: ambient light, and headlights' or lamps' pools."""
    height, width = linear.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    factors = np.full((height, width), _between(random, 0.004, 0.12), np.float32)
    # What is bright by day is the sky, or lit by it: at night it is not.
    luma = cv2.GaussianBlur(linear.mean(-1), (0, 0), max(1.0, width / 80))
    factors *= 1 - np.float32(0.85) * np.clip((luma - 0.35) / 0.4, 0, 1)
    for _ in range(int(random.integers(0, _POOLS))):
        center = (random.uniform(0, 1) * width, random.uniform(0.2, 1) * height)
        reach = (random.uniform(0.1, 0.5) * width, random.uniform(0.1, 0.3) * height)
        distance = ((x - center[0]) / reach[0]) ** 2 + ((y - center[1]) / reach[1]) ** 2
        factors += np.float32(_between(random, 0.03, 0.6)) * np.exp(-distance)
    return factors


def _lamps(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return the light of lamps and their glare, H x W x 3 float32."""
    height, width = size
    light = np.zeros((height, width, 3), np.float32)
    for _ in range(int(random.integers(0, _LAMPS))):
        color = 3 * random.uniform((0.8, 0.6, 0.3), (1.0, 1.0, 1.0))
        place = (int(random.uniform(0, width)), int(random.uniform(0.1, 0.65) * height))
        radius = max(1, round(random.uniform(0.003, 0.02) * width))
        cv2.circle(light, place, radius, color.tolist(), cv2.FILLED)
    if light.any():
        small = max(1.0, width * float(random.uniform(0.004, 0.01)))
        near = cv2.GaussianBlur(light, (0, 0), small) * np.float32(0.8)
        coarse = cv2.resize(light, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        far = cv2.resize(cv2.GaussianBlur(coarse, (0, 0), 1.5 * small), (width, height))
        light = np.minimum(light, 1) + near + np.float32(random.uniform(0.3, 2.0)) * far
    return light
