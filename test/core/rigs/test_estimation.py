"""Estimation of a homography between cameras of different modality, size and view."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from shaken_scenes import pairs, pattern, thermal_view

from ivf_core.rigs.estimation import EstimationError, estimate_homography

SIZE = (320, 240)
FULL = np.array([[1.04, 0.02, -9.0], [-0.015, 0.98, 6.0], [4e-5, -2e-5, 1.0]])
# A thermal camera of few pixels with 60 % of the RGB view, off its middle.
NARROW = np.array([[1.6, 0.05, 75.0], [-0.04, 1.6, 55.0], [0.0, 0.0, 1.0]])


def mean_error(found: np.ndarray, known: np.ndarray, size: tuple[int, int]) -> float:
    grid = np.stack(np.meshgrid(np.linspace(0, size[0] - 1, 9), np.linspace(0, size[1] - 1, 9)), -1)
    a, b = (cv2.perspectiveTransform(grid.reshape(1, -1, 2), m)[0] for m in (found, known))
    inside = ((b >= 0) & (b < SIZE)).all(axis=1)
    return float(np.linalg.norm(a - b, axis=1)[inside].mean())


@pytest.mark.parametrize(
    ("known", "size", "count"),
    [(FULL, SIZE, 3), (NARROW, (120, 90), 4), (FULL, SIZE, 1)],
    ids=["warped", "narrow", "one pair"],
)
def test_homography_is_found(known: np.ndarray, size: tuple[int, int], count: int) -> None:
    found = estimate_homography(pairs(known, size, count))
    assert mean_error(found.homography, known, size) < 0.8
    assert found.confidence > 0.5
    assert found.holdout_error_pixels < 2
    assert (found.rgb_size, found.thermal_size, found.pairs_used) == (SIZE, size, count)


def test_initial_homography_is_refined_and_kept_within_its_model() -> None:
    near = np.array([[1.0, 0, 9.0], [0, 1.0, -6.0], [0, 0, 1.0]])
    images = pairs(near, SIZE, 3)
    found = estimate_homography(images, initial=np.eye(3), model="translation")
    np.testing.assert_allclose(found.homography[:2, :2], np.eye(2), atol=1e-9)
    np.testing.assert_allclose(found.homography[:2, 2], (9.0, -6.0), atol=0.5)


def test_result_is_repeatable() -> None:
    images = pairs(FULL, SIZE, 2)
    first, second = (estimate_homography(images, initial=np.eye(3)) for _ in range(2))
    np.testing.assert_array_equal(first.homography, second.homography)


def test_images_of_different_scenes_have_a_low_confidence() -> None:
    images = [
        (np.repeat(pattern(seed)[..., None], 3, axis=2),
         thermal_view(pattern(50 + seed), FULL, SIZE, seed))
        for seed in range(3)
    ]  # fmt: skip
    assert estimate_homography(images).confidence < 0.2


def test_start_beside_the_image_has_no_confidence() -> None:
    """No tile is covered there."""
    beside = np.array([[1.0, 0, 900.0], [0, 1.0, 0], [0, 0, 1.0]])
    assert estimate_homography(pairs(FULL, SIZE, 2), initial=beside).confidence < 0.01


def test_images_without_outlines_have_a_low_confidence() -> None:
    grey = np.full((240, 320, 3), 90, np.uint8)
    assert estimate_homography([(grey, np.full((120, 160), 7000, np.uint16))] * 2).confidence < 0.2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no pairs"),
        ([((8, 8, 3), (64, 64))], "8x8 pixels, expected at least"),
        ([((64, 64, 3), (64, 64)), ((64, 64, 3), (64, 80))], "several sizes"),
    ],
)
def test_unusable_pairs_are_named(images: list, message: str) -> None:
    blank = [(np.zeros(a, np.uint8), np.zeros(b, np.uint8)) for a, b in images]
    with pytest.raises(EstimationError, match=message):
        estimate_homography(blank)
