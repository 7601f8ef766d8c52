"""Sky of a thermal image: a smooth region at its upper border that is coldest of all."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["find_cold_sky"]

_COLDEST = 0.2  # of the range of grey levels
_SMOOTHEST = 0.03  # gradient a pixel, of the range of grey levels
_LOWEST = 0.6  # of the image's height


def find_cold_sky(infrared: np.ndarray) -> np.ndarray:
    """Find the sky by its cold, which holds by day and night where a camera's gain shows it.

    Args:
        infrared: H x W uint8.

    Returns:
        H x W bool.
    """
    smooth = cv2.GaussianBlur(infrared.astype(np.float32), (0, 0), 2)
    low, high = (float(value) for value in np.percentile(smooth, (1, 98)))
    span = max(high - low, 10.0)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *order) / 8 for order in ((1, 0), (0, 1)))
    gradient = cv2.GaussianBlur(np.hypot(across, down), (0, 0), 3)
    cold = (smooth < low + _COLDEST * span) & (gradient < _SMOOTHEST * span)
    cold[round(_LOWEST * len(cold)) :] = False
    opened = cv2.morphologyEx(cold.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    _, regions = cv2.connectedComponents(opened, connectivity=4)
    upper = np.unique(regions[: max(2, len(regions) // 50)])
    return np.isin(regions, upper[upper > 0])
