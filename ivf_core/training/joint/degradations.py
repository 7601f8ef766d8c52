"""Damage to the images of one camera, as a vehicle's life brings it.

Every function takes and returns H x W uint8 or H x W x 3 uint8, and draws from a generator.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

__all__ = ["BLINDING", "DAMAGE", "blur", "compress", "freeze", "salt", "shrink", "warp"]

Damage = Callable[[np.ndarray, np.random.Generator], np.ndarray]

LARGEST_SHIFT = 24.0
"""Largest shift of `warp` in pixels."""


def warp(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shift, turn and stretch an image by up to 24 pixels, as a camera out of registration."""
    height, width = image.shape[:2]
    largest = LARGEST_SHIFT * random.random()
    angle = random.uniform(0, 2 * np.pi)
    corners = np.array([[0, 0], [width, 0], [0, height]], np.float32)
    shift = largest * 0.8 * np.array([np.cos(angle), np.sin(angle)])
    moved = corners + shift + random.uniform(-0.2, 0.2, (3, 2)) * largest
    matrix = cv2.getAffineTransform(corners, moved.astype(np.float32))
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


def freeze(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Show the scene from a few metres further back, as a frame from before."""
    height, width = image.shape[:2]
    zoom = random.uniform(1.03, 1.25)
    matrix = np.array([[1 / zoom, 0, 0], [0, 1 / zoom, 0]], np.float32)
    matrix[:, 2] = (
        width / 2 * (1 - 1 / zoom) + random.uniform(-12, 12),
        height / 2 * (1 - 1 / zoom) + random.uniform(-4, 4),
    )
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


def salt(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Set up to 12 % of the pixels to black or white."""
    share = random.uniform(0.01, 0.12)
    drawn = random.random(image.shape[:2], dtype=np.float32)
    image = image.copy()
    image[drawn < share] = 255
    if random.random() < 0.5:
        image[drawn > 1 - share / 2] = 0
    return image


def grain(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of up to 20 grey levels, with lines for half of the images."""
    sigma = random.uniform(4, 20)
    noise = sigma * random.standard_normal(image.shape[:2], dtype=np.float32)
    if random.random() < 0.3:
        lines = sigma / 2 * random.standard_normal(image.shape[1], dtype=np.float32)
        noise += lines
    if image.ndim == 3:
        noise = noise[..., None]
    return (image + noise).clip(0, 255).astype(np.uint8)


def blur(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Blur by a Gaussian of up to 4 pixels, or by motion of up to 15."""
    if random.random() < 0.6:
        return cv2.GaussianBlur(image, (0, 0), random.uniform(0.8, 4))
    length = int(random.integers(3, 16))
    kernel = np.full((1, length), 1 / length, np.float32)
    return cv2.filter2D(image, -1, kernel if random.random() < 0.7 else kernel.T)


def compress(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Compress as JPEG of quality 10 to 40."""
    quality = int(random.integers(10, 41))
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    return decoded


def shrink(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Reduce to between 1/5 and 2/3 of the resolution and enlarge again."""
    height, width = image.shape[:2]
    scale = random.uniform(0.2, 0.67)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _black(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.zeros_like(image)


def _white(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.full_like(image, 255)


def _gray(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.full_like(image, random.integers(30, 230))


BLINDING: dict[str, tuple[float, Damage]] = {
    "absent": (0.65, _black),
    "saturated": (0.25, _white),
    "uniform": (0.1, _gray),
}
"""Damage after which a camera shows nothing, with its share."""

DAMAGE: dict[str, tuple[float, Damage]] = {
    "warp": (0.3, warp),
    "freeze": (0.12, freeze),
    "salt": (0.2, salt),
    "grain": (0.12, grain),
    "blur": (0.1, blur),
    "compress": (0.08, compress),
    "shrink": (0.08, shrink),
}
"""Damage after which a camera still shows something, with its share."""
