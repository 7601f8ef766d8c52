"""Calibration of rigs from rendered boards, whose cameras are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from board_views import board_views

from ivf_core.calibration.board_calibration import CalibrationError, calibrate_rig
from ivf_core.calibration.boards import Board, detect_board
from ivf_core.cli import main
from ivf_core.images.files import write_image
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import Rig
from ivf_core.rigs.rig_files import read_rig

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
    views = board_views(RIG, BOARDS[kind], 10)
    result = calibrate_rig(views, BOARDS[kind])
    assert len(result.used) >= 9
    assert max(result.residuals) < 0.3
    assert_near(result.rig, RIG)


def test_low_resolution_and_other_lenses() -> None:
    """A thermal camera of 160 x 120, and a fisheye RGB lens."""
    rig = Rig(
        rgb=CameraModel((640, 480), (420.0, 420.0), (320.0, 240.0), "equidistant",
                        (-0.02, 0.004, 0.0, 0.0)),
        thermal=CameraModel((160, 120), (150.0, 150.0), (80.0, 60.0)),
        rotation=RIG.rotation,
        translation=(0.05, 0.0, 0.0),
    )  # fmt: skip
    board = Board("asymmetric_circles", 4, 7, 0.05)
    result = calibrate_rig(board_views(rig, board, 12), board, ("equidistant", "plumb_bob"))
    assert result.residuals[1] < 0.3
    assert_near(result.rig, rig)


def test_view_at_another_moment_is_left_out() -> None:
    board = BOARDS["asymmetric_circles"]
    views = board_views(RIG, board, 9)
    views[3] = views[3][0], views[7][1]
    result = calibrate_rig(views, board)
    assert result.rejected == [3]
    assert_near(result.rig, RIG)


def test_missing_board_is_named() -> None:
    blank = [(np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8))] * 6
    with pytest.raises(CalibrationError, match="found in 0 RGB and 0 thermal images of 6 views"):
        calibrate_rig(blank, BOARDS["circles"])
    assert detect_board(blank[0][0], BOARDS["charuco"]) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("circle", 4, 5, 0.1), "expected one of checkerboard"),
        (("circles", 1, 5, 0.1), "board of 1x5"),
        (("circles", 4, 5, 0.0), "spacing is 0"),
        (("charuco", 4, 5, 0.1, 0.2), "expected smaller"),
        (("charuco", 4, 5, 0.1, 0.05, "DICT_7"), "OpenCV has none"),
    ],
)
def test_impossible_boards_are_named(words: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Board(*words)


def test_command(tmp_path: Path) -> None:
    views = board_views(RIG, BOARDS["asymmetric_circles"], 7)
    for number, (rgb, thermal) in enumerate(views):
        write_image(tmp_path / f"views/rgb/{number}.png", rgb)
        write_image(tmp_path / f"views/thermal/{number}.png", thermal)
    words = ["calibrate-rig", str(tmp_path / "views"), "--output", str(tmp_path / "out"),
             "--board", "asymmetric_circles", "--size", "4x9", "--spacing", "0.04"]  # fmt: skip
    assert main(words) == 0
    assert_near(read_rig(tmp_path / "out/rig.yaml"), RIG)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["outputs"] == ["index.html", "rig.yaml", "summary.json"]
    assert max(summary["residual_pixels"].values()) < 0.3
    assert "view 7" in (tmp_path / "out/index.html").read_text()
