"""Search for the place of a thermal camera from nothing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from shaken_scenes import pairs

from ivf_core.rigs.coarse_search import coarse_candidates
from ivf_core.rigs.pair_stack import PairStack

SIZE = (320, 240)


def turned(degrees: float) -> np.ndarray:
    """Return a rotation about the middle of the image, and a shift."""
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D(((SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2), -degrees, 1.0)
    matrix[:2, 2] += 6, -4
    return matrix


@pytest.mark.parametrize("degrees", [-8.0, 8.0])
def test_turned_camera_is_found_within_the_reach_of_refinement(degrees: float) -> None:
    known = turned(degrees)
    images = pairs(known, SIZE, 3)
    stack = PairStack([rgb for rgb, _ in images], [thermal for _, thermal in images])
    (best, found), (second, _) = coarse_candidates(stack, 2)
    grid = np.stack(np.meshgrid(np.linspace(0, 319, 9), np.linspace(0, 239, 9)), -1)
    a, b = (cv2.perspectiveTransform(grid.reshape(1, -1, 2), m)[0] for m in (known, found))
    assert np.linalg.norm(a - b, axis=1).mean() < 5
    assert best > 4 * second
