"""Misalignment of two cameras, on textures that were moved by a known amount."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from textures import texture

from ivf_core.images.alignment import AlignmentMeter, ShiftMeter


@pytest.mark.parametrize("shift", [(9, -6), (0, 0)])
def test_shift_is_found_across_modalities(shift: tuple[int, int]) -> None:
    meter = AlignmentMeter()
    for seed in range(4):
        scene = texture((240, 320), seed)
        move = np.float64([[1, 0, shift[0]], [0, 1, shift[1]]])
        # Bright in one image is dark in the other, and contrasts differ.
        thermal = (200 - 0.5 * scene + texture((240, 320), 50 + seed) * 0.1).astype(np.uint8)
        thermal = cv2.warpAffine(thermal, move, (320, 240), borderMode=cv2.BORDER_REFLECT)
        single = meter.add(scene, thermal)
        assert single == pytest.approx(np.hypot(*shift), abs=0.5)
    found = meter.result()
    assert found.median_px == pytest.approx(np.hypot(*shift), abs=0.3)
    assert found.confidence > 0.8
    if shift == (0, 0):
        assert found.homography is None
    else:
        expected = [[1, 0, -9], [0, 1, 6], [0, 0, 1]]
        np.testing.assert_allclose(found.homography, expected, atol=0.3)


def test_scale_is_found() -> None:
    meter = AlignmentMeter()
    matrix = np.array([[1.03, 0, -6], [0, 1.03, -4], [0, 0, 1]])
    for seed in range(5):
        scene = texture((240, 320), seed)
        thermal = cv2.warpPerspective(scene, matrix, (320, 240), borderMode=cv2.BORDER_REFLECT)
        meter.add(scene, 255 - thermal)
    both = meter.result().homography @ matrix
    points = np.array([[x, y, 1] for x in (60, 260) for y in (50, 190)]).T
    off = (both @ points)[:2] - points[:2]
    assert np.abs(off).max() < 1.5


def test_images_with_nothing_in_common_give_no_homography() -> None:
    meter = AlignmentMeter()
    for seed in range(5):
        meter.add(texture((240, 320), seed), texture((240, 320), 100 + seed))
    assert meter.result().homography is None
    assert meter.result().median_px is None


def test_shift_of_a_stream_follows_the_rig() -> None:
    meter = ShiftMeter()
    found = []
    for seed in range(12):
        scene = texture((240, 320), seed)
        moved = np.roll(scene, 0 if seed < 6 else 12, axis=1)
        found.append(meter.add(scene, 255 - moved))
    np.testing.assert_allclose(found[:6], 0, atol=0.5)
    np.testing.assert_allclose(found[-3:], 12, atol=0.5)


def test_shift_of_images_with_nothing_in_common_is_unclear() -> None:
    meter = ShiftMeter()
    found = [meter.add(texture((240, 320), k), texture((240, 320), 100 + k)) for k in range(5)]
    assert np.isnan(found).all()
    assert np.isnan(ShiftMeter().add(np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)))
