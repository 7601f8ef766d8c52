"""Tests of the synthetic rig: its images agree with the rig's own maps, in space and time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ivf_core.images.registration import Registration
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import Plane, Rig
from ivf_core.scenes.rig_drive import RigDrive

RGB = CameraModel((320, 240), (260.0, 260.0), (160.0, 123.0), "plumb_bob",
                  (-0.2, 0.05, 0.001, 0.0))  # fmt: skip
THERMAL = CameraModel((200, 160), (190.0, 191.0), (98.0, 79.0), "equidistant",
                      (0.01, -0.01, 0.0, 0.0))  # fmt: skip
GROUND = Plane("ground", height=1.5, pitch_degrees=5.0)
RIG = Rig(RGB, THERMAL, tuple(cv2.Rodrigues(np.array([0.01, -0.02, 0.015]))[0].ravel()),
          (0.25, 0.05, -0.02), GROUND)  # fmt: skip


def _registered(rig: Rig, infrared: np.ndarray) -> np.ndarray:
    pixels = np.stack(np.meshgrid(np.arange(RGB.size[0]), np.arange(RGB.size[1])), -1)
    return cv2.remap(infrared, rig.thermal_pixels(pixels).astype(np.float32), None,
                     cv2.INTER_LINEAR)  # fmt: skip


def _best_shift(registered: np.ndarray, truth: np.ndarray, area: tuple) -> tuple[int, int]:
    """Return the shift (x, y) of up to 4 pixels by which an image agrees best with another."""

    def error(shift: tuple[int, int]) -> float:
        return np.abs(
            np.roll(registered, shift[::-1], (0, 1))[area].astype(int) - truth[area]
        ).mean()

    return min(itertools.product(range(-4, 5), repeat=2), key=error)


def test_the_plane_of_the_rig_registers_the_ground() -> None:
    infrared = RigDrive(RIG, seed=3).infrared(3.5)[0]
    # A thermal camera in the place of the RGB camera sees what has to be where.
    truth = RigDrive(Rig(RGB, RGB, plane=GROUND), seed=3).infrared(3.5)[0]
    road = np.s_[145:220, 100:240]  # a crossing ahead
    assert np.ptp(truth[road].astype(int)) > 20
    assert _best_shift(_registered(RIG, infrared), truth, road) == (0, 0)
    assert _best_shift(_registered(replace(RIG, plane=Plane()), infrared), truth, road) != (0, 0)


def test_the_far_scene_is_registered_at_infinity() -> None:
    rig = replace(RIG, plane=Plane())
    infrared = RigDrive(rig, seed=3).infrared(3.5)[0]
    truth = RigDrive(Rig(RGB, RGB), seed=3).infrared(3.5)[0]
    far = np.s_[60:120, 140:180]  # the end of the street
    assert np.ptp(truth[far].astype(int)) > 50
    assert _best_shift(_registered(rig, infrared), truth, far) == (0, 0)


def test_stamps_are_apart_by_the_time_offset() -> None:
    late = RigDrive(replace(RIG, time_offset_seconds=0.2), seed=3, vibration_degrees=0.1)
    pair = late.pair(2.0)
    np.testing.assert_array_equal(pair.infrared, late.infrared(2.2)[0])
    np.testing.assert_array_equal(pair.visible, late.visible(2.0))
    assert (pair.infrared != late.infrared(2.0)[0]).any()
    assert pair.counts.dtype == np.uint16
    assert (pair.visible.shape, pair.infrared.shape) == ((240, 320, 3), (160, 200))


def test_vibration_moves_both_images() -> None:
    calm, shaken = (RigDrive(RIG, seed=3, vibration_degrees=v) for v in (0.0, 0.5))
    still = cv2.cvtColor(calm.visible(2.0), cv2.COLOR_RGB2GRAY).astype(np.float32)
    moving = cv2.cvtColor(shaken.visible(2.0), cv2.COLOR_RGB2GRAY).astype(np.float32)
    (x, y), response = cv2.phaseCorrelate(still, moving)
    assert response > 0.2
    assert 0.5 < np.hypot(x, y) < 5  # half a degree is 2.3 pixels


def test_conditions_change_the_light() -> None:
    day, night = (RigDrive(RIG, seed=3, condition=c).visible(1.0) for c in ("day", "night"))
    assert night.mean() < day.mean() / 2


@pytest.mark.parametrize(
    ("rig", "options", "message"),
    [
        (Rig(homography=Registration((1, 0, 0, 0, 1, 0, 0, 0, 1), (64, 64), (64, 64))), {},
         "both cameras"),
        (Rig(RGB, CameraModel((640, 480), (200.0, 200.0), (320.0, 240.0), "equidistant")), {},
         "degrees aside"),
        (RIG, {"condition": "rain"}, "'rain', expected one of day"),
    ],
)  # fmt: skip
def test_rigs_that_cannot_be_drawn_are_rejected(rig: Rig, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RigDrive(rig, **options)
