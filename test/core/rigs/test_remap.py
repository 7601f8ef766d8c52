"""Tests of the remap of a rig: exact, cropped to the overlap, for any sizes, and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images.registration import Registration
from ivf_core.images.thermal import GainControl, ThermalNormalizer
from ivf_core.inference.pipeline import ImagePair, prepare
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.remap import RigRegistration, as_remap, read_registration
from ivf_core.rigs.rig import Plane, Rig
from ivf_core.rigs.rig_files import write_rig

RGB = CameraModel((320, 240), (260.0, 260.0), (160.0, 123.0), "plumb_bob",
                  (-0.2, 0.05, 0.001, 0.0))  # fmt: skip
THERMAL = CameraModel((200, 160), (190.0, 191.0), (98.0, 79.0), "plumb_bob",
                      (-0.43, 0.18, 0.0, 0.0))  # fmt: skip
RIG = Rig(RGB, THERMAL, tuple(cv2.Rodrigues(np.array([0.01, -0.02, 0.05]))[0].ravel()),
          (0.05, 0.0, 0.0), Plane("ground", height=1.5, pitch_degrees=5.0))  # fmt: skip


def _scene(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a smooth image of thermal pixels, which can be computed between them."""
    return 128 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7 + x / 30)


def _image(shape: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    x, y = (x + 0.5) * 200 / shape[1] - 0.5, (y + 0.5) * 160 / shape[0] - 0.5
    return np.rint(_scene(x, y)).astype(np.uint8)


def _pixels(size: tuple[int, int]) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).astype(float)


@pytest.mark.parametrize("size", [(240, 320), (540, 720), (97, 131), (60, 80)])
@pytest.mark.parametrize("shape", [(160, 200), (80, 100), (640, 800)])
def test_the_remap_is_the_map_of_the_rig(size: tuple[int, int], shape: tuple[int, int]) -> None:
    registration = RigRegistration(RIG)
    aligned, coverage = registration(_image(shape), size), registration.coverage(shape, size)
    at = RIG.resized((size[1], size[0]), (200, 160)).thermal_pixels(_pixels(size))
    truth = _scene(at[..., 0], at[..., 1])
    with np.errstate(invalid="ignore"):  # between the centres of thermal pixels
        inner = ((at > 1) & (at < (198, 158))).all(axis=-1)
    assert inner.mean() > 0.3
    assert coverage[inner].all()
    error = np.abs(aligned - truth)[inner]
    # A thermal image that is smaller than its copy is interpolated, a larger one averaged.
    assert np.percentile(error, 99) < 12 if min(shape[0], size[0]) < 100 else error.max() < 4
    assert not aligned[~coverage].any()


def test_coverage_is_where_the_thermal_camera_sees() -> None:
    registration = RigRegistration(RIG)
    coverage = registration.coverage((160, 200), (240, 320))
    at = RIG.thermal_pixels(_pixels((240, 320)))
    with np.errstate(invalid="ignore"):
        inside = ((at > -0.5) & (at < (199.5, 159.5))).all(axis=-1)
    assert 0.4 < inside.mean() < 0.95
    assert (coverage != inside).mean() < 1e-3
    assert registration.coverage((160, 200), (240, 320)) is coverage
    assert not coverage.flags.writeable
    assert coverage.flags.c_contiguous  # it is read with each image


def test_the_edge_of_the_view_does_not_fade() -> None:
    registration = RigRegistration(RIG)
    aligned = registration(np.full((160, 200), 200, np.uint8), (240, 320))
    coverage = registration.coverage((160, 200), (240, 320))
    assert set(np.unique(aligned[coverage])) == {200}


def test_seen_thermal_pixels_are_those_inside_the_rgb_image() -> None:
    wide = CameraModel((200, 160), (90.0, 90.0), (99.5, 79.5))  # sees more than RGB on all sides
    rig = Rig(CameraModel((320, 240), (260.0, 260.0), (159.5, 119.5)), wide)
    for size in ((240, 320), (30, 40)):  # more and fewer RGB pixels than thermal ones
        seen = RigRegistration(rig).seen((160, 200), size)
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        half = 90 * np.array([160, 120]) / 260  # half the RGB view in thermal pixels
        expected = [99.5 - half[0], 99.5 + half[0], 79.5 - half[1], 79.5 + half[1]]
        found = [columns[0], columns[-1], rows[0], rows[-1]]
        np.testing.assert_allclose(found, expected, atol=3)
        assert seen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    narrow = Rig(CameraModel((320, 240), (90.0, 90.0), (159.5, 119.5)),
                 CameraModel((200, 160), (190.0, 191.0), (98.0, 79.0)))  # fmt: skip
    assert RigRegistration(narrow).seen((160, 200), (240, 320)) is None


def test_gain_control_does_not_measure_what_only_the_thermal_camera_sees() -> None:
    wide = CameraModel((200, 160), (90.0, 90.0), (99.5, 79.5))
    rig = RigRegistration(Rig(CameraModel((320, 240), (260.0, 260.0), (159.5, 119.5)), wide))
    counts = np.random.default_rng(0).integers(7000, 7400, (160, 200)).astype(np.uint16)
    hot = counts.copy()
    hot[:, :30] += np.linspace(0, 6000, 30).astype(np.uint16)  # an oven outside the RGB image
    visible = np.zeros((240, 320, 3), np.uint8)
    images = []
    for image in (counts, hot):
        normalizer = ThermalNormalizer()
        images.append(prepare(ImagePair(visible, image), normalizer, rig).infrared)
        assert normalizer.gain.window[1] < 7450
    np.testing.assert_array_equal(*images)
    everywhere = GainControl()
    everywhere(hot)
    assert everywhere.window[1] > 9000


def test_a_homography_is_remapped_as_it_was_warped() -> None:
    matrix = (1.2, 0.1, 8, -0.1, 1.1, 20, 8e-4, 4e-4, 1)
    warp = Registration(matrix, (100, 80), (160, 120))
    remap = as_remap(warp)
    image = _image((80, 100))
    coverage = warp.coverage((80, 100), (120, 160))
    np.testing.assert_array_equal(remap.coverage((80, 100), (120, 160)), coverage)
    difference = cv2.absdiff(warp(image, (120, 160)), remap(image, (120, 160)))
    assert difference.max() <= 3
    stretch = Registration()
    assert as_remap(stretch) is stretch
    assert as_remap(remap) is remap


def test_uncovered_pixels_are_filled_with_the_undistorted_luma() -> None:
    rig = RigRegistration(Rig(RGB, THERMAL, undistort_rgb=True))
    visible = cv2.cvtColor(_image((240, 320)), cv2.COLOR_GRAY2RGB)
    aligned = prepare(ImagePair(visible, _image((160, 200))), ThermalNormalizer(), rig)
    flat = cv2.undistort(visible, RGB.camera_matrix, np.array(RGB.distortion))
    assert cv2.absdiff(aligned.visible, flat)[4:-4, 4:-4].max() <= 3
    outside = ~rig.coverage((160, 200), (240, 320))
    np.testing.assert_array_equal(aligned.infrared[outside], aligned.visible[outside][:, 0])
    assert aligned.registration_ms > 0


def test_raw_rgb_images_are_not_copied() -> None:
    visible = np.zeros((240, 320, 3), np.uint8)
    assert RigRegistration(RIG).undistort(visible) is visible
    labels = np.zeros((240, 320), np.uint8)
    assert RigRegistration(RIG).undistort_labels(labels) is labels


def test_labels_are_undistorted_without_new_ids() -> None:
    """Unlabeled pixels are where the lens shows nothing: here in the corners of a pincushion."""
    rig = RigRegistration(Rig(replace(RGB, distortion=(0.2, 0.0, 0.0, 0.0)), THERMAL,
                              undistort_rgb=True))  # fmt: skip
    image = _image((240, 320))
    labels = np.where(image > 127, np.uint8(7), np.uint8(2))
    flat = rig.undistort_labels(labels)
    assert flat.dtype == np.uint8
    assert set(np.unique(flat)) == {2, 7, 255}
    assert (flat[:2, :2] == 255).all()
    assert (flat[40:200, 50:270] != 255).all()
    undistorted = rig.undistort(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))[..., 0]
    inner = cv2.erode((flat != 255).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    clear = (np.abs(undistorted.astype(int) - 127) > 40) & inner
    assert clear.mean() > 0.01
    np.testing.assert_array_equal(flat[clear] == 7, undistorted[clear] > 127)


def test_cameras_that_look_apart_are_an_error() -> None:
    back = Rig(RGB, THERMAL, (-1, 0, 0, 0, 1, 0, 0, 0, -1))
    with pytest.raises(ValueError, match=r"200 x 160.*320 x 240.*no view in common"):
        RigRegistration(back)(np.zeros((160, 200), np.uint8), (240, 320))


def test_registration_is_read_from_files_or_by_size(tmp_path: Path) -> None:
    assert read_registration(None) == Registration()
    write_rig(RIG, tmp_path / "rig.yaml")
    registration = read_registration(tmp_path / "rig.yaml")
    assert registration.rig == RIG
    assert registration.rgb_size == (320, 240)
