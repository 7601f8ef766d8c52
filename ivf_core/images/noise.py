"""Procedural noise that repeats at its borders: value noise, and billows of smoke."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

__all__ = ["smoke", "value_noise"]


def value_noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cells: tuple[int, int],
    octaves: int = 4,
    persistence: float = 0.6,
) -> np.ndarray:
    """Return value noise that repeats at its borders.

    Args:
        rng: source of randomness.
        shape: height and width, powers of two.
        cells: cells of the coarsest octave along both axes, powers of two; each octave
            doubles them.
        octaves: number of octaves; fewer where cells become smaller than pixels.
        persistence: amplitude of an octave relative to the one before it.

    Returns:
        float32 of the shape, of mean 0 and standard deviation 1.
    """
    total = np.zeros(shape, np.float32)
    amplitude = 1.0
    rows, cols = cells
    for _ in range(octaves):
        if rows > shape[0] or cols > shape[1]:
            break
        grid = np.pad(rng.standard_normal((rows, cols), np.float32), 2, mode="wrap")
        step_y, step_x = shape[0] // rows, shape[1] // cols
        full = cv2.resize(
            grid, ((cols + 4) * step_x, (rows + 4) * step_y), interpolation=cv2.INTER_CUBIC
        )
        total += amplitude * full[2 * step_y :, 2 * step_x :][: shape[0], : shape[1]]
        amplitude *= persistence
        rows, cols = rows * 2, cols * 2
    total -= total.mean()
    return total / max(float(total.std()), 1e-6)


@cache
def smoke() -> np.ndarray:
    """Return billows of smoke that repeat at their borders.

    Returns:
        512 x 512 float32, of mean 0 and standard deviation 1.
    """
    return value_noise(np.random.default_rng(15), (512, 512), (4, 4), 6, 0.55)
