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
    assert found is not None
    assert found.median_px == pytest.approx(np.hypot(*shift), abs=0.3)
    assert found.confidence > 0.8
    assert found.is_off == (shift != (0, 0))


def test_images_of_another_scale_are_off() -> None:
    """Displace the parts in different directions: there is no shift of the whole."""
    meter = AlignmentMeter()
    scale = 1.05
    middle = np.array([[scale, 0, 160 * (1 - scale)], [0, scale, 120 * (1 - scale)]])
    for seed in range(5):
        scene = texture((240, 320), seed)
        thermal = cv2.warpAffine(scene, middle, (320, 240), borderMode=cv2.BORDER_REFLECT)
        meter.add(scene, 255 - thermal)
    found = meter.result()
    assert found is not None
    assert found.is_off
    distance = np.hypot(*np.meshgrid(np.arange(320) - 160, np.arange(240) - 120))
    assert found.median_px == pytest.approx(0.05 * np.median(distance), rel=0.4)


@pytest.mark.parametrize("part", [np.s_[40:200, 100:260], np.s_[60:130, 30:120]])
def test_a_part_of_the_image_is_compared_at_the_scale_of_the_whole(part: tuple) -> None:
    """A shift of a sixteenth of the width is found in a part, too; the last one has one tile."""
    meter, stream = AlignmentMeter(), ShiftMeter()
    for seed in range(5):
        scene = texture((240, 320), seed)
        thermal = np.roll(255 - scene, 15, axis=1)
        single = meter.add(scene[part], thermal[part], 320)
        assert stream.add(scene[part], thermal[part], 320) == pytest.approx(15, abs=0.5)
    assert single == pytest.approx(15, abs=0.5)
    found = meter.result()
    assert found is not None
    assert found.median_px == pytest.approx(15, abs=0.5)
    assert found.is_off


def test_images_with_nothing_in_common_are_unclear() -> None:
    meter = AlignmentMeter()
    for seed in range(5):
        meter.add(texture((240, 320), seed), texture((240, 320), 100 + seed))
    found = meter.result()
    assert found is not None
    assert found.median_px is None
    assert not found.is_off


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
