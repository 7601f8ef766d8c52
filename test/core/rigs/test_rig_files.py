"""Tests of rig files: our own, those of Kalibr, ROS and OpenCV, and hostile ones."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ivf_core.images.registration import Registration, RegistrationError
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import Plane, Rig
from ivf_core.rigs.rig_files import read_rig, rig_text, write_rig

RGB = CameraModel((960, 600), (678.8, 677.9), (488.3, 307.9), "plumb_bob",
                  (-0.145, 0.084, 0.0017, 0.00046))  # fmt: skip
THERMAL = CameraModel((640, 512), (512.4, 512.3), (315.8, 259.0), "equidistant",
                      (0.01, -0.02, 0.003, -0.0004))  # fmt: skip
ROTATION = tuple(cv2.Rodrigues(np.array([0.01, -0.02, 0.03]))[0].ravel().tolist())
RIGS = {
    "infinity": Rig(RGB, THERMAL, ROTATION, (0.02, -0.0004, 1e-5)),
    "distance": Rig(RGB, THERMAL, ROTATION, (0.02, 0, 0), Plane("distance", distance=7.5)),
    "ground": Rig(
        RGB, THERMAL, plane=Plane("ground", height=1.6, pitch_degrees=-3.0),
        correction=(1, 0.001, 4, 0, 1, -2, 1e-6, 0, 1), time_offset_seconds=-0.0125,
        undistort_rgb=True,
    ),
    "homography": Rig(
        homography=Registration((1.25, 0.01, -80, 0, 1.26, -62.5, 1e-5, 0, 1), (640, 512),
                                (1280, 720)),
        time_offset_seconds=0.03,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGS)
def test_written_rigs_are_read_back(tmp_path: Path, name: str) -> None:
    write_rig(RIGS[name], tmp_path / "new" / "rig.yaml")
    assert read_rig(tmp_path / "new" / "rig.yaml") == RIGS[name]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rig.yaml"]


def test_registration_files_are_read_as_before(tmp_path: Path) -> None:
    registration = RIGS["homography"].homography
    registration.to_yaml(tmp_path / "old.yaml")
    assert read_rig(tmp_path / "old.yaml") == Rig(homography=registration)
    write_rig(Rig(homography=registration), tmp_path / "new.yaml")
    assert Registration.from_yaml(tmp_path / "new.yaml") == registration


def _camera_info(camera: CameraModel) -> str:
    entries = {
        "image_width": camera.size[0],
        "image_height": camera.size[1],
        "camera_name": "front",
        "camera_matrix": {"rows": 3, "cols": 3, "data": camera.camera_matrix.ravel().tolist()},
        "distortion_model": camera.distortion_model,
        "distortion_coefficients": {"rows": 1, "cols": 4, "data": list(camera.distortion)},
    }
    return yaml.safe_dump(entries)


def test_two_camera_info_files_with_extrinsics(tmp_path: Path) -> None:
    (tmp_path / "rgb.yaml").write_text(_camera_info(RGB))
    (tmp_path / "thermal.yaml").write_text(_camera_info(THERMAL))
    quaternion = "[0, 0, 0.7071067811865476, 0.7071067811865476]"
    (tmp_path / "rig.yaml").write_text(
        "rgb: {camera_info: rgb.yaml, size: [480, 300]}\n"
        "thermal: {camera_info: thermal.yaml, crop: [100, 50, 400, 300]}\n"
        f"rotation: {{quaternion: {quaternion}}}\n"
        "translation: [20, 0, 1e1]\ntranslation_scale: 0.001\nplane: infinity\n"
    )
    rig = read_rig(tmp_path / "rig.yaml")
    assert rig.rgb == RGB.resized((480, 300))
    assert rig.thermal == THERMAL.cropped(100, 50, 400, 300)
    assert rig.translation == pytest.approx((0.02, 0, 0.01))
    np.testing.assert_allclose(np.reshape(rig.rotation, (3, 3)) @ (1, 0, 0), (0, 1, 0), atol=1e-12)


KALIBR = """
cam0:
  camera_model: pinhole
  distortion_coeffs: [-0.145, 0.084, 0.0017, 0.00046]
  distortion_model: radtan
  intrinsics: [678.8, 677.9, 488.3, 307.9]
  resolution: [960, 600]
  rostopic: /eo/color/image_mono
  timeshift_cam_imu: 0.01
cam1:
  T_cn_cnm1:
  - [0.0, -1.0, 0.0, 0.02]
  - [1.0, 0.0, 0.0, -0.001]
  - [0.0, 0.0, 1.0, 1e-3]
  - [0.0, 0.0, 0.0, 1.0]
  camera_model: pinhole
  distortion_coeffs: [0.01, -0.02, 0.003, -0.0004]
  distortion_model: equidistant
  intrinsics: [512.4, 512.3, 315.8, 259.0]
  resolution: [640, 512]
  rostopic: /boson/image_raw
  timeshift_cam_imu: 0.003
"""


def test_kalibr_camchain(tmp_path: Path) -> None:
    (tmp_path / "camchain.yaml").write_text(KALIBR)
    rig = read_rig(tmp_path / "camchain.yaml")
    assert (rig.rgb, rig.thermal) == (RGB, THERMAL)
    assert rig.time_offset_seconds == pytest.approx(-0.007)
    in_thermal = np.array([0.5, 0.2, 3.0])
    in_rgb = np.reshape(rig.rotation, (3, 3)) @ in_thermal + rig.translation
    to_thermal = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    np.testing.assert_allclose(to_thermal @ in_rgb + (0.02, -0.001, 1e-3), in_thermal, atol=1e-12)


def test_roles_of_kalibrs_cameras(tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(KALIBR.replace("/boson/", "/right/"))
    with pytest.raises(RegistrationError, match="0 of cam0, cam1 have a thermal topic"):
        read_rig(tmp_path / "chain.yaml")
    (tmp_path / "rig.yaml").write_text(
        "calibration: chain.yaml\nthermal_camera: cam1\nplane: {kind: distance, distance: 9}\n"
    )
    rig = read_rig(tmp_path / "rig.yaml")
    assert (rig.thermal, rig.plane) == (THERMAL, Plane("distance", distance=9.0))
    # Other way round: the chain is inverted.
    (tmp_path / "rig.yaml").write_text("calibration: chain.yaml\nthermal_camera: 0\n")
    turned = read_rig(tmp_path / "rig.yaml")
    assert (turned.rgb, turned.thermal) == (THERMAL, RGB)
    back = np.reshape(turned.rotation, (3, 3)) @ np.reshape(rig.rotation, (3, 3))
    np.testing.assert_allclose(back, np.eye(3), atol=1e-12)
    (tmp_path / "rig.yaml").write_text("calibration: chain.yaml\nthermal_camera: cam7\n")
    with pytest.raises(RegistrationError, match="thermal_camera: 'cam7', expected one of cam0"):
        read_rig(tmp_path / "rig.yaml")


@pytest.mark.parametrize("suffix", ["yml", "xml"])
@pytest.mark.parametrize("thermal", [1, 2])
def test_opencv_stereo_files(tmp_path: Path, suffix: str, thermal: int) -> None:
    lens = np.array([[-0.4, 0.1, 1e-5, 0.0, 0.0]])
    other = np.array([[-0.4, 0.3, 0.0, 0.0, 0.1, 0.2, 0.1, 0.01]])
    first = CameraModel((640, 480), (500.0, 501.0), (320.0, 240.0), "plumb_bob",
                        tuple(lens[0]))  # fmt: skip
    second = CameraModel((640, 480), (400.0, 401.0), (310.0, 250.0), "rational_polynomial",
                         tuple(other[0]))  # fmt: skip
    rotation, translation = np.reshape(ROTATION, (3, 3)), np.array([[60.0], [1.0], [-2.0]])
    files = {
        f"intrinsics.{suffix}": {"M1": first.camera_matrix, "D1": lens,
                                 "M2": second.camera_matrix, "D2": other},
        f"extrinsics.{suffix}": {"R": rotation, "T": translation},
    }  # fmt: skip
    for name, entries in files.items():
        storage = cv2.FileStorage(str(tmp_path / name), cv2.FILE_STORAGE_WRITE)
        for key, value in entries.items():
            storage.write(key, value)
        storage.release()
    (tmp_path / "rig.yaml").write_text(
        f"calibration: [{', '.join(files)}]\nthermal_camera: {thermal}\n"
        "translation_scale: 0.001\nrgb: {size: [640, 480]}\nthermal: {size: [640, 480]}\n"
    )
    rig = read_rig(tmp_path / "rig.yaml")
    assert (rig.thermal, rig.rgb) == ((first, second) if thermal == 1 else (second, first))
    in_thermal = np.array([0.5, 0.2, 3.0])
    in_rgb = np.reshape(rig.rotation, (3, 3)) @ in_thermal + rig.translation
    one, two = (in_thermal, in_rgb) if thermal == 1 else (in_rgb, in_thermal)
    np.testing.assert_allclose(rotation @ one + translation[:, 0] / 1000, two, atol=1e-9)
    (tmp_path / "rig.yaml").write_text(f"calibration: [{', '.join(files)}]\n")
    with pytest.raises(RegistrationError, match="thermal_camera"):
        read_rig(tmp_path / "rig.yaml")


CAMERAS = (
    "rgb: {size: [64, 48], focal: [50, 50], center: [31.5, 23.5]}\n"
    "thermal: {size: [32, 24], focal: [25, 25], center: [15.5, 11.5]}\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys and values"),
        ("- 1", "expected keys and values"),
        ("a: [", "cannot be read"),
        ("[" * 50_000, "cannot be read"),
        ("#" * 200_000, "200000 bytes, expected at most"),
        ("a: 2001-99-99", "cannot be read"),
        ("rgb: &a [*a, *a]\nthermal: *a", "cannot be read|rgb: "),
        ("rgb: 1", "missing keys: thermal"),
        (CAMERAS + "speed: 3", "unknown keys: speed"),
        (CAMERAS.replace("[64, 48]", "[64]"), "rgb: size: .*expected 2 numbers"),
        (CAMERAS.replace("[64, 48]", "[64.5, 48]"), "rgb: size: .*width, height"),
        (CAMERAS.replace("[25, 25]", "[25, yes]"), "thermal: focal: True, expected a finite"),
        (CAMERAS.replace("[25, 25]", "[25, 1e999]"), "thermal: focal: .*finite"),
        (CAMERAS.replace("}", ", distortion: [1]}"), "rgb: distortion: 1 coefficients"),
        (CAMERAS.replace("}", ", distortion_model: [[]]}"), "rgb: distortion_model"),
        (CAMERAS + "rotation: [[1, 0], [0, 1]]", "rotation: .*expected 9 numbers"),
        (CAMERAS + "rotation: {quaternion: [0, 0, 0, 0]}", "quaternion: .*length 1"),
        (CAMERAS + "translation: 60", "translation: 60, expected 3 numbers"),
        (CAMERAS + "translation: [60, 0, 0]", "millimetres"),
        (CAMERAS + "plane: wall", "plane: 'wall'"),
        (CAMERAS + "plane: {kind: ground}", "missing keys: height, pitch_degrees"),
        (CAMERAS + "plane: {kind: [1]}", "plane: .*expected infinity"),
        (CAMERAS + "undistort_rgb: 1", "undistort_rgb: 1, expected true"),
        (CAMERAS + "time_offset_seconds: .inf", "time_offset_seconds: inf"),
        ("calibration: nowhere.yaml", "calibration 'nowhere.yaml' cannot be read: no such"),
        ("calibration: [1]", "expected the name of a file"),
        ("calibration: bad.yaml", "expected a camchain file"),
        ("rgb: {camera_info: bad.yaml}\nthermal: {}", "no camera_info file"),
        ("homography: [1, 0, 0]\nthermal_size: [8, 8]\nrgb_size: [8, 8]", "expected 3 x 3"),
        ("image_width: 3\ncamera_matrix: 1", "camera_info of one camera"),
        ("<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><opencv_storage/>", "declarations"),
        ("<other/>", "expected opencv_storage"),
        ("<opencv_storage><a>", "cannot be read"),
        (KALIBR.replace("pinhole", "omni"), "camera_model 'omni'"),
        (KALIBR.replace("equidistant", "fov"), "with 'fov', expected pinhole"),
        (KALIBR.replace("T_cn_cnm1", "T"), "cam1: no T_cn_cnm1"),
        (KALIBR.replace("resolution: [640, 512]", ""), "cam1 resolution: None"),
    ],
)
def test_bad_files_give_a_short_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RegistrationError, match=rf"(?s)bad\.yaml.*{message}") as caught:
        read_rig(path)
    assert len(str(caught.value)) < 600


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml.*no such file"):
        read_rig(tmp_path / "nowhere.yaml")


def test_text_of_a_rig_is_plain_yaml() -> None:
    for rig in RIGS.values():
        assert isinstance(yaml.safe_load(rig_text(rig)), dict)


ROOT = Path(__file__).resolve().parents[3]


def test_example_is_a_rig() -> None:
    rig = read_rig(ROOT / "config" / "rig_example.yaml")
    assert rig.plane == Plane("ground", height=1.6, pitch_degrees=4.0)
    assert (rig.rgb_size, rig.thermal_size) == ((1280, 720), (640, 512))


def test_parallax_of_the_guide_is_what_rigs_compute() -> None:
    text = (ROOT / "docs" / "calibration.md").read_text()
    camera = CameraModel((1280, 720), (900.0, 900.0), (639.5, 359.5))
    rows = re.findall(r"^\| (\d+) m \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 6
    for distance, cells in rows:
        expected = [
            Rig(camera, camera, translation=(b, 0, 0), plane=plane).parallax_pixels(float(distance))
            for b in (0.03, 0.05, 0.1)
            for plane in (Plane(), Plane("distance", distance=10.0))
        ]
        np.testing.assert_allclose([float(c) for c in cells.split("|")], expected, atol=0.051)
