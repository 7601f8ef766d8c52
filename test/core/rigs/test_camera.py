"""Tests of the camera models against OpenCV, and of their inversion and limits."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ivf_core.rigs.camera import CameraModel

SIZE = (640, 512)
LENSES = {
    "none": ("plumb_bob", ()),
    "boson": ("plumb_bob", (-0.4316, 0.17798, -0.000186, 0.000116, 0.0)),
    "wide": ("plumb_bob", (-0.28, 0.07, 0.001, -0.002)),
    "folding": ("plumb_bob", (-0.4, 0.05, 0.001, -0.002)),
    "pincushion": ("plumb_bob", (0.2, 0.05, 0.0005, 0.0, 0.01)),
    "rational": ("rational_polynomial", (0.52, -2.71, 0.0004, -0.0003, 1.52, 0.40, -2.52, 1.45)),
    "fisheye": ("equidistant", (0.03, -0.01, 0.004, -0.001)),
    "ideal fisheye": ("equidistant", ()),
}


def _camera(name: str) -> CameraModel:
    return CameraModel(SIZE, (510.0, 508.0), (311.8, 261.6), *LENSES[name])


def _points(extent: float) -> np.ndarray:
    points = np.random.default_rng(0).uniform(-extent, extent, (500, 3))
    points[:, 2] = np.random.default_rng(1).uniform(1, 30, 500)
    points[:, :2] *= points[:, 2:]
    return points


@pytest.mark.parametrize("name", LENSES)
def test_projection_is_that_of_opencv(name: str) -> None:
    camera, points = _camera(name), _points(0.6)
    model, distortion = LENSES[name]
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    lens = np.array(distortion or (0.0,) * 4)
    arguments = (np.zeros(3), np.zeros(3), camera.camera_matrix, lens)
    if model == "equidistant":
        expected = project(points[None], *arguments)[0][0]
    else:
        expected = project(points, *arguments)[0][:, 0]
    np.testing.assert_allclose(camera.project(points), expected, atol=1e-6)


@pytest.mark.parametrize("name", LENSES)
def test_unprojection_inverts_projection_over_the_whole_image(name: str) -> None:
    camera = _camera(name)
    pixels = np.stack(np.meshgrid(np.arange(0, 640, 13.0), np.arange(0, 512, 13.0)), axis=-1)
    rays = camera.unproject(pixels)
    assert rays.shape == (*pixels.shape[:2], 3)
    shown = np.isfinite(rays).all(axis=-1)
    # The corners of an image that folds back inside it show nothing.
    assert shown.mean() > 0.85 if name == "folding" else shown.all()
    np.testing.assert_allclose(camera.project(rays)[shown], pixels[shown], atol=1e-3)


def test_directions_beyond_the_fold_are_not_shown() -> None:
    """A polynomial with a negative k1 folds back: directions far outside would land inside."""
    camera = _camera("folding")
    far = np.array([[1.5, 0.0, 1.0], [0.0, -1.4, 1.0], [1.1, 1.1, 1.0]])
    assert np.isnan(camera.project(far)).all()
    lens = np.array(LENSES["folding"][1])
    folded = cv2.projectPoints(far, np.zeros(3), np.zeros(3), camera.camera_matrix, lens)[0]
    inside = (folded >= 0) & (folded < (640, 512))  # for OpenCV they are in the image
    assert inside.all(axis=-1).any()


def test_points_behind_the_camera_are_not_shown() -> None:
    for name in LENSES:
        assert np.isnan(_camera(name).project(np.array([0.1, 0.1, -1.0]))).all()


def test_pixels_that_no_direction_reaches_are_not_unprojected() -> None:
    camera = CameraModel((1000, 1000), (300.0, 300.0), (499.5, 499.5), "plumb_bob",
                         (-0.4, 0.0, 0.0, 0.0))  # fmt: skip
    assert np.isnan(camera.unproject(np.array([0.0, 0.0]))[:2]).all()
    assert np.isfinite(camera.unproject(np.array([499.0, 350.0]))).all()


def test_resized_and_cropped_cameras_show_the_same_directions() -> None:
    camera, points = _camera("boson"), _points(0.5)
    pixels = camera.project(points)
    half = camera.resized((320, 256)).project(points)
    np.testing.assert_allclose(half, (pixels + 0.5) / 2 - 0.5, atol=1e-9)
    part = camera.cropped(-160, 44, 960, 400)
    assert part.size == (960, 400)
    np.testing.assert_allclose(part.project(points), pixels - (-160, 44), atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 5), (1, 1), (0, 0)), "size: "),
        (((64.0, 48), (50, 50), (31, 23)), "size: "),
        (((64, 48), (0, 50), (31, 23)), "focal: "),
        (((64, 48), (50,), (31, 23)), "focal: "),
        (((64, 48), (float("nan"), 50), (31, 23)), "focal: .*finite"),
        (((64, 48), (50, 50), (1e5, 23)), "center: "),
        (((64, 48), (50, 50), (31, 23), "fov", (0.9,)), "distortion_model: 'fov', expected one"),
        (((64, 48), (50, 50), (31, 23), "plumb_bob", (1, 2)), "2 coefficients, expected 0 or 4"),
        (((64, 48), (50, 50), (31, 23), "plumb_bob", ("a",) * 4), "distortion: .*numbers"),
    ],
)
def test_impossible_cameras_are_rejected(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CameraModel(*arguments)
