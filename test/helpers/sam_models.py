"""Images for tests of a tiny SAM."""

from __future__ import annotations

import numpy as np


def random_image(seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Return a bright rectangle on a dark ground, with noise: H x W x 3 uint8, `size` is H, W."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 60, (*size, 3))
    image[8:30, 10:40] += 150
    return image.astype(np.uint8)
