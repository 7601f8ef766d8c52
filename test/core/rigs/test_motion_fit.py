"""Fits of a motion to surfaces of which some tell nothing."""

from __future__ import annotations

import numpy as np

from ivf_core.rigs.motion_fit import fit_motion, from_half_widths, motion_of_points

SIZE = (640, 480)


def test_where_nothing_is_seen_the_map_stays_near_a_similarity() -> None:
    """Tiles of the left half have peaks that are off by some pixels; the others have none."""
    x, y = np.meshgrid(np.arange(48, 640, 48.0), np.arange(48, 480, 48.0))
    centres = np.stack((x, y), -1).reshape(-1, 2)
    steps = np.arange(-8, 9)
    corners = np.array([[0, 0], [639, 0], [0, 479], [639, 479.0]])
    off = np.zeros((5, 2))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        surfaces = np.zeros((len(centres), 17, 17), np.float32)
        for index in np.flatnonzero(centres[:, 0] < 320):
            dx, dy = rng.normal(0, 2, 2)
            surfaces[index] = np.exp(-((steps - dx) ** 2 + (steps[:, None] - dy) ** 2) / 8)
        for column, base in enumerate((None, from_half_widths(SIZE))):
            motion, _ = fit_motion(centres, surfaces, "homography", SIZE, 1.2, base=base)
            off[seed, column] = np.linalg.norm(motion_of_points(corners, motion), axis=1).mean()
    free, drawn = off.mean(axis=0)
    assert drawn < 0.8 * free
