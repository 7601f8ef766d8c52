"""Tests of the mapping of a rig, for its three planes and for homographies, and of parallax."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ivf_core.images.registration import Registration
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import Plane, Rig

RGB = CameraModel((1280, 720), (900.0, 905.0), (640.0, 352.0), "plumb_bob",
                  (-0.1, 0.05, 0.0005, -0.0002, 0.0))  # fmt: skip
THERMAL = CameraModel((160, 120), (130.0, 131.0), (80.5, 58.0), "equidistant",
                      (0.02, -0.01, 0.0, 0.0))  # fmt: skip
ROTATION = tuple(cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0].ravel())
SHIFT = np.array([[1, 0, 7], [0, 1, -3], [0, 0, 1.0]])
STEP = SHIFT[:2, 2]
TRANSLATION = (0.08, -0.03, 0.02)


def _rig(plane: Plane, **changes: object) -> Rig:
    return Rig(RGB, THERMAL, ROTATION, TRANSLATION, plane, **changes)  # type: ignore[arg-type]


def _in_both(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the RGB and the thermal pixels of points in RGB coordinates, by OpenCV."""
    lens = np.array(RGB.distortion)
    rgb = cv2.projectPoints(points, np.zeros(3), np.zeros(3), RGB.camera_matrix, lens)[0][:, 0]
    rotation = np.reshape(ROTATION, (3, 3))
    seen = (points - TRANSLATION) @ rotation
    thermal = cv2.fisheye.projectPoints(
        seen[None], np.zeros(3), np.zeros(3), THERMAL.camera_matrix, np.array(THERMAL.distortion)
    )[0][0]
    return rgb, thermal


def _directions() -> np.ndarray:
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 9), np.linspace(-0.3, 0.3, 7))
    return np.stack((x.ravel(), y.ravel(), np.ones(x.size)), axis=-1)


@pytest.mark.parametrize(
    ("plane", "depth"),
    [
        (Plane(), lambda rays: 1e9 * np.ones(len(rays))),
        (Plane("distance", distance=4.0), lambda rays: 4.0 * np.ones(len(rays))),
        (
            Plane("ground", height=1.6, pitch_degrees=10.0),
            lambda rays: np.where(
                (slope := rays @ (0, np.cos(np.radians(10)), np.sin(np.radians(10)))) > 0,
                1.6 / np.maximum(slope, 1e-9),
                1e9,
            ),
        ),
    ],
)
def test_points_of_the_plane_map_to_where_the_thermal_camera_sees_them(plane, depth) -> None:
    rays = _directions()
    rgb, thermal = _in_both(rays * depth(rays)[:, None])
    np.testing.assert_allclose(_rig(plane).thermal_pixels(rgb), thermal, atol=2e-3)


def test_ground_at_a_pitch_lies_below_the_camera_and_rises_to_the_horizon() -> None:
    plane = Plane("ground", height=1.6, pitch_degrees=10.0)
    # A level floor 1.6 m below a camera that looks 10 degrees down: 1.6 / sin(10) m ahead.
    assert 1 / plane.inverse_depth(np.array([0.0, 0, 1])) == pytest.approx(9.214, abs=1e-3)
    above = np.array([0.0, -np.tan(np.radians(10.1)), 1])
    assert plane.inverse_depth(above) == 0


def test_known_depths_map_to_where_the_thermal_camera_sees_them() -> None:
    rays = _directions()
    depth = np.random.default_rng(0).uniform(1, 40, len(rays))
    rgb, thermal = _in_both(rays * depth[:, None])
    mapped = _rig(Plane()).thermal_pixels_at(rgb, depth)
    np.testing.assert_allclose(mapped, thermal, atol=1e-3)


def test_other_sizes_and_order_of_resolutions() -> None:
    rig = _rig(Plane("distance", distance=3.0))
    pixels = np.array([[300.0, 200.0], [700.0, 500.0]])
    small = rig.resized((320, 180), (640, 480))  # RGB smaller than thermal
    expected = (rig.thermal_pixels(pixels) + 0.5) * 4 - 0.5
    np.testing.assert_allclose(small.thermal_pixels((pixels + 0.5) / 4 - 0.5), expected, atol=1e-6)
    assert (small.rgb_size, small.thermal_size) == ((320, 180), (640, 480))


def test_undistorted_rgb_pixels_are_those_of_the_pinhole() -> None:
    rays = _directions()
    pinhole = RGB.undistorted().project(rays)
    bent = RGB.project(rays)
    flat, raw = _rig(Plane(), undistort_rgb=True), _rig(Plane())
    np.testing.assert_allclose(flat.thermal_pixels(pinhole), raw.thermal_pixels(bent), atol=1e-3)


def test_correction_moves_the_registered_image() -> None:
    pixels = np.array([[300.0, 200.0], [700.0, 500.0]])
    rig = _rig(Plane())
    moved = rig.corrected(SHIFT)
    np.testing.assert_allclose(moved.thermal_pixels(pixels + STEP), rig.thermal_pixels(pixels))
    twice = moved.corrected(SHIFT)
    np.testing.assert_allclose(twice.thermal_pixels(pixels + 2 * STEP), rig.thermal_pixels(pixels))
    half = moved.resized((640, 360), (160, 120))
    np.testing.assert_allclose(
        half.thermal_pixels((pixels + 0.5) / 2 - 0.5), moved.thermal_pixels(pixels), atol=1e-9
    )


def test_homography_is_inverted_and_corrected() -> None:
    matrix = (1.2, 0.1, 8, -0.1, 1.1, 20, 8e-4, 4e-4, 1)
    rig = Rig(homography=Registration(matrix, (100, 80), (160, 120)), time_offset_seconds=0.02)
    thermal = np.array([[10.0, 20], [90, 70]])
    rgb = cv2.perspectiveTransform(thermal[:, None], np.reshape(matrix, (3, 3)))[:, 0]
    np.testing.assert_allclose(rig.thermal_pixels(rgb), thermal, atol=1e-9)
    np.testing.assert_allclose(rig.corrected(SHIFT).thermal_pixels(rgb + STEP), thermal, atol=1e-9)
    assert rig.corrected(SHIFT).time_offset_seconds == 0.02
    assert (rig.parallax_pixels([1.0, 50.0]) == 0).all()


def test_parallax_of_parallel_cameras_is_the_textbook_formula() -> None:
    camera = CameraModel((640, 480), (600.0, 600.0), (319.5, 239.5))
    rig = Rig(camera, camera, translation=(0.1, 0, 0), plane=Plane("distance", distance=10.0))
    distances = np.array([2.0, 5.0, 10.0, 50.0])
    expected = 600 * 0.1 * np.abs(1 / distances - 1 / 10)
    np.testing.assert_allclose(rig.parallax_pixels(distances), expected, atol=1e-6)
    far = Rig(camera, camera, translation=(0.1, 0, 0))
    np.testing.assert_allclose(far.parallax_pixels(5.0), 12.0, atol=1e-6)


def test_parallax_with_lenses_rotation_and_ground() -> None:
    """The registered pixel of a point is found again through both maps."""
    for plane in (Plane(), Plane("distance", distance=6.0), Plane("ground", height=2.0,
                                                                  pitch_degrees=15)):  # fmt: skip
        rig = _rig(plane)
        pixel = np.array([700.0, 400.0])
        thermal = rig.thermal_pixels_at(pixel, 3.0)
        off = rig.parallax_pixels(3.0, (700.0, 400.0))
        near = pixel + np.stack(np.meshgrid(np.arange(-60, 61), np.arange(-60, 61)), -1)
        error = np.linalg.norm(rig.thermal_pixels(near) - thermal, axis=-1)
        found = near[np.unravel_index(error.argmin(), error.shape)]
        assert np.linalg.norm(found - pixel) == pytest.approx(off, abs=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs both cameras, or a homography"),
        ({"rgb": RGB}, "needs both cameras"),
        ({"homography": Registration()}, "needs both cameras"),
        ({"rgb": RGB, "thermal": THERMAL, "rotation": (1,) * 9}, "rotation: no rotation"),
        ({"rgb": RGB, "thermal": THERMAL, "rotation": (1, 2)}, "rotation: .*3 x 3"),
        ({"rgb": RGB, "thermal": THERMAL, "rotation": (1, 0, 0, 0, 1, 0, 0, 0, -1)}, "rotation: "),
        ({"rgb": RGB, "thermal": THERMAL, "translation": (60, 0, 0)}, "millimetres"),
        ({"rgb": RGB, "thermal": THERMAL, "translation": (1, float("nan"), 0)}, "translation: "),
        ({"rgb": RGB, "thermal": THERMAL, "time_offset_seconds": 50.0}, "time_offset_seconds"),
        ({"rgb": RGB, "thermal": THERMAL, "correction": (0,) * 9}, "singular"),
        (
            {
                "rgb": RGB,
                "thermal": THERMAL,
                "translation": (0, 2.0, 0),
                "plane": Plane("ground", height=1.0),
            },
            "near side",
        ),
        (
            {"homography": Registration((1, 0, 0, 0, 1, 0, 0, 0, 1), (8, 8), (8, 8)),
             "undistort_rgb": True},
            "need both cameras",
        ),
    ],
)  # fmt: skip
def test_impossible_rigs_are_rejected(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "wall"}, "plane: 'wall', expected one of infinity"),
        ({"kind": "distance"}, "distance is 0"),
        ({"kind": "ground", "height": float("nan")}, "height is nan"),
        ({"kind": "ground", "height": 1.0, "pitch_degrees": 100.0}, "pitch_degrees"),
    ],
)
def test_impossible_planes_are_rejected(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plane(**arguments)
