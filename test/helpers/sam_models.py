"""Pictures for a tiny SAM."""

from __future__ import annotations

import numpy as np


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Two colours with noise, size[0] x size[1] x 3 uint8."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 60, (*size, 3))
    image[8:30, 10:40] += 150
    return image.astype(np.uint8)
