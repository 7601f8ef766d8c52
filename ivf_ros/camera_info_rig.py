"""Rig from the calibrations of both cameras: lenses of camera_info, extrinsics of TF or a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sensor_msgs.msg import CameraInfo

from ivf_core.rigs.calibration_files import camera_from_info
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import Rig
from ivf_core.rigs.transforms import FrameTree
from ivf_core.system.short_text import short_text
from ivf_ros.compat import message_class

__all__ = ["CameraInfoRig"]

_CAMERAS = ("rgb", "thermal")
_TRANSFORMS = "tf2_msgs/msg/TFMessage"


class CameraInfoRig:
    """Rig that is made when both calibrations and their extrinsics are known.

    The extrinsics are those of the static transform between the frames of both camera_info, or
    else those of a rig file, which also gives plane, time offset and `undistort_rgb`.

    Args:
        given: rig of the file, or None.

    Attributes:
        rig: rig made last, or None before.
        source: origin of its extrinsics, "/tf_static" or "registration_file".
        problem: reason why no rig can be made of the latest messages, with the remedy; "" if
            there is none.
    """

    def __init__(self, given: Rig | None = None) -> None:
        self._given = given
        self._infos: dict[str, tuple[CameraModel, str]] = {}  # and the frame id
        self._errors: dict[str, str] = {}
        self._frames = FrameTree()
        self.rig: Rig | None = None
        self.source = ""
        self.problem = ""
        self._update()

    @staticmethod
    def transforms_type() -> Any:
        """Return the class of the messages on /tf_static, or None without tf2_msgs."""
        return message_class(_TRANSFORMS)

    def take_info(self, camera: str, info: CameraInfo) -> None:
        """Take the calibration of a camera; nothing is computed while it is the same.

        Args:
            camera: "rgb" or "thermal".
            info: message of that camera.
        """
        try:
            taken = _camera_of(info), info.header.frame_id
        except ValueError as error:
            self._infos.pop(camera, None)
            self._errors[camera] = str(error)
            self._update()
            return
        if self._infos.get(camera) != taken:
            self._infos[camera] = taken
            self._errors.pop(camera, None)
            self._update()

    def take_transforms(self, message: Any) -> list[str]:
        """Take static transforms.

        Args:
            message: tf2_msgs/TFMessage: a list `transforms` of geometry_msgs/TransformStamped.

        Returns:
            A line for each transform that cannot be used.
        """
        errors = []
        for stamped in message.transforms:
            t, q = stamped.transform.translation, stamped.transform.rotation
            try:
                self._frames.add(
                    stamped.header.frame_id, stamped.child_frame_id,
                    (t.x, t.y, t.z), (q.x, q.y, q.z, q.w),
                )  # fmt: skip
            except ValueError as error:
                errors.append(str(error))
        self._update()
        return errors

    def _update(self) -> None:
        """Make the rig of what is known, or note what is missing."""
        self.problem = self._missing_infos()
        if self.problem:
            return
        rgb, thermal = (self._infos[camera][0] for camera in _CAMERAS)
        given = self._given if self._given is not None and self._given.rgb is not None else None
        missing, between = self._extrinsics()
        if missing and given is None:
            self.problem = (
                f"{missing}, and no extrinsics in registration_file: thermal images are stretched"
            )
            return
        try:
            rig = Rig(rgb, thermal)
            if given is not None:
                rig = replace(given, rgb=rgb, thermal=thermal, correction=None)
            if between is not None:
                rotation, translation = between
                rig = replace(rig, rotation=tuple(rotation.ravel()), translation=tuple(translation))
        except ValueError as error:
            self.problem = f"camera_info and /tf_static: {error}"
            return
        self.rig = rig
        self.source = "/tf_static" if between is not None else "registration_file"

    def _missing_infos(self) -> str:
        """Return which camera_info is missing or cannot be used, or ""."""
        if self._errors:
            return "; ".join(
                f"{camera}/camera_info: {self._errors[camera]}"
                for camera in _CAMERAS
                if camera in self._errors
            )
        absent = [f"{camera}/camera_info" for camera in _CAMERAS if camera not in self._infos]
        return f"waits for {' and '.join(absent)}" if absent else ""

    def _extrinsics(self) -> tuple[str, Any]:
        """Return why TF tells no extrinsics, or "" and rotation and translation."""
        rgb, thermal = (self._infos[camera][1] for camera in _CAMERAS)
        unnamed = [f"{camera}/camera_info" for camera in _CAMERAS if not self._infos[camera][1]]
        if unnamed:
            return f"{' and '.join(unnamed)}: no frame_id, expected the camera's frame of TF", None
        if rgb.lstrip("/") == thermal.lstrip("/"):
            return (
                f"both camera_info have the frame_id '{short_text(rgb, 80)}', expected a frame for "
                "each camera and a static transform between them"
            ), None
        between = self._frames.between(thermal, rgb)
        if between is not None:
            return "", between
        if self.transforms_type() is None:
            return (
                "/tf_static cannot be read without tf2_msgs (install ros-DISTRO-tf2-msgs, or give "
                "the extrinsics in registration_file)"
            ), None
        names = f"'{short_text(thermal, 80)}' to '{short_text(rgb, 80)}'"
        return f"no static transform from frame {names} on /tf_static", None


def _camera_of(info: CameraInfo) -> CameraModel:
    """Return the camera that a message describes, of the images as they are sent.

    The calibration is that of the whole sensor. `roi` is the part of it that is sent, counted in
    pixels before binning; all values 0 stand for the whole.

    Raises:
        ValueError: it is not calibrated, its lens is not supported, or `roi` is no part of it.
    """
    camera = camera_from_info((info.width, info.height), info.k, info.distortion_model, info.d)
    roi = info.roi
    area = roi.x_offset, roi.y_offset, roi.width, roi.height
    if any(area):
        fits = area[0] + area[2] <= info.width and area[1] + area[3] <= info.height
        if not (roi.width and roi.height and fits):
            raise ValueError(
                f"roi: {roi.width} x {roi.height} at ({roi.x_offset}, {roi.y_offset}), expected a "
                f"part of the sensor's {info.width} x {info.height}, or all values 0"
            )
        camera = camera.cropped(*area)
    bins = max(info.binning_x, 1), max(info.binning_y, 1)
    if bins == (1, 1):
        return camera
    size = camera.size[0] // bins[0], camera.size[1] // bins[1]
    if not all(size):
        raise ValueError(
            f"binning: {bins[0]} x {bins[1]} of {camera.size[0]} x {camera.size[1]} pixels"
        )
    # Columns and rows that fill no bin are not sent.
    return camera.cropped(0, 0, size[0] * bins[0], size[1] * bins[1]).resized(size)
