"""Tests of the rig that both camera_info and the transforms give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import Graph
from rig_messages import RGB, RIG, THERMAL, Transforms, camera_info, transform
from sensor_msgs.msg import CameraInfo
from small_bags import JAZZY

from ivf_core.rigs.rig import Plane, Rig
from ivf_ros import camera_info_rig
from ivf_ros.camera_info_rig import CameraInfoRig
from ivf_ros.compat import message_class
from ivf_ros.diagnostics import WARN

# A quarter turn about y, and one about x: from a mast's x ahead, z up to an optical frame.
OPTICAL = (-0.5, 0.5, -0.5, 0.5)


def _both(rig: CameraInfoRig, rgb: str = "rgb", thermal: str = "thermal") -> CameraInfoRig:
    rig.take_info("rgb", camera_info(RGB, rgb))
    rig.take_info("thermal", camera_info(THERMAL, thermal))
    return rig


def test_extrinsics_are_those_of_the_poses_in_a_common_frame() -> None:
    """The thermal camera is 5 cm to the right of the RGB camera and turned 10 degrees down."""
    rig = _both(CameraInfoRig())
    angle = np.radians(10)
    down = (-np.sin(angle / 2), 0.0, 0.0, np.cos(angle / 2))  # about x of the optical frame
    assert rig.rig is None
    assert rig.take_transforms(Transforms(
        transform("mast", "rgb", (0.2, 0.1, 1.5), OPTICAL),
        transform("/mast", "thermal_mount", (0.2, 0.05, 1.5), OPTICAL),
        transform("thermal_mount", "/thermal", (0.0, 0.0, 0.0), down),
    )) == []  # fmt: skip
    assert rig.problem == ""
    assert rig.rig is not None
    assert rig.rig.translation == pytest.approx((0.05, 0.0, 0.0))
    ahead = np.reshape(rig.rig.rotation, (3, 3)) @ (0, 0, 1)
    np.testing.assert_allclose(ahead, (0, np.sin(angle), np.cos(angle)), atol=1e-12)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("", "thermal"), "rgb/camera_info: no frame_id"),
        (("rgb", ""), "thermal/camera_info: no frame_id"),
        (("", ""), "rgb/camera_info and thermal/camera_info: no frame_id"),
        (("camera", "/camera"), "both camera_info have the frame_id 'camera'"),
    ],
)
def test_frames_that_tell_no_extrinsics(names: tuple[str, str], text: str) -> None:
    """Expect an error, not cameras at one place; the extrinsics of a file are used."""
    without = _both(CameraInfoRig(), *names)
    assert without.rig is None
    assert without.problem.startswith(text)
    assert without.problem.endswith("registration_file: thermal images are stretched")
    given = replace(RIG, plane=Plane("distance", distance=7.0))
    assert _both(CameraInfoRig(given), *names).rig == given
    homography = Rig(homography=_homography())  # has no extrinsics
    assert _both(CameraInfoRig(homography), *names).rig is None


def _homography() -> Any:
    from ivf_core.images.registration import Registration

    return Registration((1, 0, 0, 0, 1, 0, 0, 0, 1), (200, 160), (320, 240))


def test_fields_are_those_of_the_upstream_definition() -> None:
    """Take a message of the definition in geometry2, by way of its CDR bytes."""
    types = JAZZY.types
    stamped = types["geometry_msgs/msg/TransformStamped"](
        types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](0, 0), "rgb"), "thermal",
        types["geometry_msgs/msg/Transform"](
            types["geometry_msgs/msg/Vector3"](0.05, 0.01, -0.02),
            types["geometry_msgs/msg/Quaternion"](0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)),
        ),
    )  # fmt: skip
    kind = "tf2_msgs/msg/TFMessage"
    data = JAZZY.serialize_cdr(types[kind]([stamped]), kind)
    rig = _both(CameraInfoRig())
    assert rig.take_transforms(JAZZY.deserialize_cdr(data, kind)) == []
    assert rig.rig is not None
    assert rig.rig.translation == pytest.approx((0.05, 0.01, -0.02))
    expected = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # a quarter turn about z, child to parent
    np.testing.assert_allclose(np.reshape(rig.rig.rotation, (3, 3)), expected, atol=1e-12)


def test_missing_tf2_msgs_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        camera_info_rig, "message_class", lambda _: message_class("no_such_package/msg/TFMessage")
    )
    assert CameraInfoRig.transforms_type() is None
    rig = _both(CameraInfoRig())
    assert "cannot be read without tf2_msgs (install ros-DISTRO-tf2-msgs" in rig.problem
    assert "registration_file" in rig.problem


def test_frames_without_a_connection_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        camera_info_rig, "message_class", lambda _: message_class("sensor_msgs/msg/CameraInfo")
    )  # a package that is installed
    rig = _both(CameraInfoRig())
    assert "no static transform from frame 'thermal' to 'rgb' on /tf_static" in rig.problem
    bad = Transforms(transform("rgb", "thermal", quaternion=(0.0, 0.0, 0.0, 0.0)))
    (line,) = rig.take_transforms(bad)
    assert "transform from 'rgb' to 'thermal'" in line
    assert rig.rig is None


def test_cameras_that_are_not_calibrated_are_both_named() -> None:
    """K is zero by ROS's convention."""
    rig = CameraInfoRig(RIG)
    assert rig.problem == "waits for rgb/camera_info and thermal/camera_info"
    rig.take_info("thermal", CameraInfo(width=200, height=160))
    assert rig.problem.startswith("thermal/camera_info: not calibrated")
    rig.take_info("rgb", CameraInfo(width=320, height=240))
    assert "rgb/camera_info: not calibrated" in rig.problem
    assert "thermal/camera_info: not calibrated" in rig.problem
    rig.take_info("thermal", camera_info(THERMAL, "t"))
    assert "thermal" not in rig.problem
    rig.take_info("rgb", camera_info(RGB, "r"))
    assert (rig.problem, rig.rig) == ("", RIG)
    rig.take_info("rgb", CameraInfo(width=320, height=240))
    assert "rgb/camera_info: not calibrated" in rig.problem
    assert rig.rig == RIG  # the last one that was known


def test_sizes_that_are_missing_and_lenses_that_are_unknown_are_named() -> None:
    rig = CameraInfoRig(RIG)
    info = camera_info(RGB, "rgb")
    info.width = info.height = 0
    rig.take_info("rgb", info)
    assert "rgb/camera_info: size: (0, 0)" in rig.problem
    info = camera_info(RGB, "rgb")
    info.distortion_model = "omni"
    rig.take_info("rgb", info)
    assert "distortion_model: 'omni'" in rig.problem


def test_binned_and_cut_images_have_the_camera_of_their_pixels() -> None:
    """The calibration is that of the sensor; `roi` counts its pixels before binning."""
    info = camera_info(RGB.cropped(-40, -20, 701, 601), "f")
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 50, 30, 321, 240
    info.binning_x, info.binning_y = 2, 4
    rig = CameraInfoRig(RIG)
    rig.take_info("rgb", info)
    rig.take_info("thermal", camera_info(THERMAL, "t"))
    assert rig.rig is not None
    assert rig.rig.rgb is not None
    assert rig.rig.rgb.size == (160, 60)
    # The camera's image, cut and binned, is what the camera of the message sees.
    rays = np.array([[0.1, 0.05, 1.0], [-0.3, 0.2, 1.0], [0.0, 0.0, 1.0]])
    sensor = RGB.cropped(-40, -20, 701, 601).project(rays)
    expected = (sensor - (50, 30) + 0.5) / (2, 4) - 0.5
    np.testing.assert_allclose(rig.rig.rgb.project(rays), expected, atol=1e-9)


def test_binning_averages_as_the_camera_model_says() -> None:
    image = np.random.default_rng(0).integers(0, 255, (240, 320)).astype(np.float32)
    binned = image.reshape(120, 2, 160, 2).mean(axis=(1, 3))
    info = camera_info(RGB, "f")
    info.binning_x = info.binning_y = 2
    rig = CameraInfoRig(RIG)
    rig.take_info("rgb", info)
    rig.take_info("thermal", camera_info(THERMAL, "t"))
    assert rig.rig is not None
    assert rig.rig.rgb is not None
    fine, coarse = (camera.unproject(np.array([[40.0, 30.0]])) for camera in (RGB, rig.rig.rgb))
    x, y = RGB.project(coarse)[0]
    assert not np.allclose(fine, coarse)
    value = cv2.getRectSubPix(image, (2, 2), (float(x), float(y))).mean()
    assert value == pytest.approx(binned[30, 40], abs=0.1)


@pytest.mark.parametrize(
    "roi", [(0, 0, 0, 100), (10, 0, 0, 0), (200, 0, 121, 240), (0, 1, 320, 240)]
)
def test_regions_that_are_no_part_of_the_sensor_are_rejected(roi: tuple[int, ...]) -> None:
    info = camera_info(RGB, "rgb")
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = roi
    rig = CameraInfoRig(RIG)
    rig.take_info("rgb", info)
    assert "rgb/camera_info: roi: " in rig.problem
    assert "expected a part of the sensor's 320 x 240" in rig.problem


def test_bins_larger_than_the_image_are_rejected() -> None:
    info = camera_info(RGB, "rgb")
    info.binning_x = 400
    rig = CameraInfoRig(RIG)
    rig.take_info("rgb", info)
    assert "rgb/camera_info: binning: 400 x 1 of 320 x 240 pixels" in rig.problem


@pytest.mark.dds
def test_diagnostics_of_the_node_name_what_is_missing(graph: Graph, tiny_weights: Path) -> None:
    topics = {
        camera: graph.node.create_publisher(CameraInfo, f"/{camera}/camera_info", 10)
        for camera in ("rgb", "thermal")
    }
    graph.start_fusion(tiny_weights, registration="camera_info")

    def shown(text: str) -> bool:
        status = graph.status("registration")
        return status is not None and status.level == WARN and text in status.message

    def send(camera: str, info: CameraInfo, text: str) -> None:
        graph.until(lambda: topics[camera].publish(info) or shown(text))

    graph.until(lambda: shown("waits for rgb/camera_info and thermal/camera_info"))
    uncalibrated = CameraInfo(width=320, height=240)
    uncalibrated.header.frame_id = "rgb"
    send("rgb", uncalibrated, "rgb/camera_info: not calibrated")
    send("rgb", camera_info(RGB, "rgb"), "waits for thermal/camera_info")
    missing = "install ros-DISTRO-tf2-msgs"
    if message_class("tf2_msgs/msg/TFMessage") is not None:
        missing = "no static transform from frame 'thermal' to 'rgb'"
    send("thermal", camera_info(THERMAL, "thermal"), missing)
    assert shown("thermal images are stretched")
