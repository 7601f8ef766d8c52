"""Calibration of rigs from rendered boards, whose cameras are known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from board_views import board_views

from ivf_core.calibration.board_calibration import calibrate_rig
from ivf_core.calibration.boards import Board
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import Rig

TURN = cv2.Rodrigues(np.radians([1.2, -2.0, 0.8]))[0]
RIG = Rig(
    rgb=CameraModel((640, 480), (610.0, 612.0), (322.0, 236.0), "plumb_bob",
                    (-0.12, 0.05, 0.0, 0.0, 0.0)),
    thermal=CameraModel((320, 256), (330.0, 331.0), (161.0, 126.0), "plumb_bob",
                        (-0.18, 0.06, 0.0, 0.0, 0.0)),
    rotation=tuple(TURN.ravel()),
    translation=(0.062, -0.011, 0.008),
)  # fmt: skip
BOARDS = {
    "checkerboard": Board("checkerboard", 8, 5, 0.05),
    "circles": Board("circles", 8, 5, 0.05),
    "asymmetric_circles": Board("asymmetric_circles", 4, 9, 0.04),
    "charuco": Board("charuco", 7, 5, 0.06, 0.045),
    "apriltag": Board("apriltag", 4, 3, 0.08, 0.024),
}


def assert_near(found: Rig, known: Rig) -> None:
    """Assert extrinsics within 0.1 degree and 2 mm."""
    turn = np.reshape(found.rotation, (3, 3)) @ np.reshape(known.rotation, (3, 3)).T
    assert math.degrees(np.linalg.norm(cv2.Rodrigues(turn)[0])) <= 0.1
    assert np.linalg.norm(np.subtract(found.translation, known.translation)) <= 0.002


@pytest.mark.parametrize("kind", BOARDS)
def test_extrinsics_are_found(kind: str) -> None:
    views = board_views(RIG, BOARDS[kind], 14)
    result = calibrate_rig(views, BOARDS[kind])
    assert len(result.used) >= 12
    assert max(result.residuals) < 0.3
    assert_near(result.rig, RIG)
