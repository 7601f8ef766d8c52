"""Tests of the faults of fused images, by hand."""

from __future__ import annotations

import numpy as np

from ivf_core.metrics.appearance import (
    brighter_pixels,
    burnt_pixels,
    keeps_contrast,
    object_region,
    static_flicker,
)

SIZE = (60, 60)
BOX = np.array([20.0, 10.0, 40.0, 50.0])
NONE = np.zeros((0, 4))


def image(inside: int, outside: int) -> np.ndarray:
    grey = np.full(SIZE, outside, np.uint8)
    grey[10:50, 20:40] = inside
    return grey


def test_burnt_and_brighter_pixels() -> None:
    fused = np.array([[249, 250, 255, 111, 110]], np.uint8)
    visible = np.array([[249, 250, 240, 100, 90]], np.uint8)
    infrared = np.array([[0, 0, 255, 0, 100]], np.uint8)
    assert burnt_pixels(fused) == 2
    # 111 is 11 above the brighter source, 110 is 10 above it, 249 and 255 are not above it.
    assert brighter_pixels(visible, infrared, fused) == 1


def test_contrast_is_object_minus_ring() -> None:
    region = object_region(BOX, NONE, SIZE)
    assert region is not None
    assert region.contrast(image(200, 50)) == 150
    assert region.contrast(image(50, 200)) == -150
    # Semi-axes of 6 and 16 pixels: the area is that of the ellipse to a few pixels.
    assert abs(region.inside.sum() - np.pi * 6 * 16) < 10
    # 30 x 60 pixels around, of which the box has 20 x 40.
    assert region.ring.sum() == 30 * 60 - 20 * 40


def test_other_boxes_do_not_belong_to_the_ring() -> None:
    grey = image(100, 50)
    grey[:, :20] = 255
    region = object_region(BOX, np.array([[0.0, 0.0, 20.0, 60.0]]), SIZE)
    assert region is not None
    assert region.contrast(grey) == 50


def test_half_of_the_better_cameras_contrast_with_its_sign() -> None:
    region = object_region(BOX, NONE, SIZE)
    assert region is not None
    dark, warm = image(20, 100), image(140, 100)  # -80 and 40 levels: the visible one is better
    assert keeps_contrast(region, dark, warm, image(60, 100)) is True
    assert keeps_contrast(region, dark, warm, image(61, 100)) is False
    assert keeps_contrast(region, dark, warm, image(200, 100)) is False
    assert keeps_contrast(region, image(100, 100), warm, image(121, 100)) is True
    assert keeps_contrast(region, image(107, 100), image(93, 100), image(0, 100)) is None


def test_flicker_counts_where_no_source_moves() -> None:
    before = tuple(np.array([[10, 10, 10, 10]], np.uint8) for _ in range(3))
    visible = np.array([[12, 13, 10, 9]], np.uint8)
    infrared = np.array([[10, 10, 14, 10]], np.uint8)
    fused = np.array([[17, 90, 90, 5]], np.uint8)
    assert static_flicker(before, (visible, infrared, fused)) == (7 + 5, 2 + 1, 0, 2)
