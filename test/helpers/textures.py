"""Textures that tests compare images by."""

from __future__ import annotations

import cv2
import numpy as np


def texture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return smooth noise over the whole range, H x W uint8."""
    noise = np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(
        np.uint8
    )
