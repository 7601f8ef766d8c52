"""Registration of the fusion node: read, made from camera_info, estimated, watched and saved."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import CameraInfo

from ivf_core.images.registration import Registration
from ivf_core.rigs.remap import AnyRegistration, RigRegistration, read_registration
from ivf_core.rigs.rig import Rig
from ivf_core.rigs.rig_files import rig_text, write_rig
from ivf_core.system.user_paths import user_path
from ivf_ros.camera_info_rig import CameraInfoRig
from ivf_ros.diagnostics import OK, WARN, Finding
from ivf_ros.parameters import FusionParameters
from ivf_ros.registration_watch import Outcome, RegistrationWatch

__all__ = ["RegistrationSlot"]

_WATCH_SECONDS = 60.0  # between two estimates
_LEAST_CONFIDENCE = 0.5  # of an estimate that is used
_FORGET_SECONDS = 300.0  # after which a suggestion without a newer estimate is no longer reported


class RegistrationSlot:
    """Holder of the registration in use, and of a suggested one.

    Only the executor's thread calls it, except for `offer`, which the worker's thread calls.

    Args:
        parameters: parameters of the node.
        logger: logger of the node.
        on_change: called with each registration that replaces another one.

    Attributes:
        registration: registration in use.
    """

    def __init__(
        self,
        parameters: FusionParameters,
        logger: Any,
        on_change: Callable[[AnyRegistration], None],
    ) -> None:
        self._parameters = parameters
        self._logger = logger
        self._on_change = on_change
        self.registration: AnyRegistration = Registration()
        self._origin = ""
        self._watch = RegistrationWatch(_WATCH_SECONDS)
        self._suggested: tuple[Outcome, float] | None = None  # and the time of its estimate
        self._last: Outcome | None = None
        self._topics: CameraInfoRig | None = None  # with registration:=camera_info

    def load(self) -> None:
        """Read the file that the parameters name, and start with it.

        Raises:
            ValueError: the file cannot be read or is not valid; names it.
        """
        path = self._parameters["registration_file"]
        mode = self._parameters["registration"]
        self._suggested = self._last = self._topics = None
        self._watch.reset()
        self.registration = Registration()
        self._origin = "by the sizes of the images"
        if path and mode != "off":
            self.registration = read_registration(user_path(path))
            self._origin = f"file {path}"
        if mode == "camera_info":
            self._topics = CameraInfoRig(_rig(self.registration))
            self.registration, self._origin = Registration(), "by the sizes of the images"
        self._on_change(self.registration)

    @property
    def time_offset_seconds(self) -> float:
        """Time to add to thermal stamps: the parameter's, or else that of the rig."""
        return self._parameters["offset_seconds"] or self.registration.time_offset_seconds

    def transforms_type(self) -> Any:
        """Return the class of the messages on /tf_static if they are needed, or None."""
        if self._topics is None:
            return None
        found = self._topics.transforms_type()
        if found is None:
            self._logger.warning(
                "registration:=camera_info without tf2_msgs: transforms cannot be received; the "
                "extrinsics come from registration_file (or install ros-DISTRO-tf2-msgs)"
            )
        return found

    def take_transforms(self, message: Any) -> None:
        """Take static transforms.

        Args:
            message: tf2_msgs/TFMessage.
        """
        if self._topics is None:
            return
        for error in self._topics.take_transforms(message):
            self._logger.warning(f"/tf_static: {error}")
        self._use_topics(self._topics)

    def take_camera_info(self, camera: str, info: CameraInfo) -> None:
        """Take the calibration of a camera; nothing happens while it is the same.

        Args:
            camera: "rgb" or "thermal".
            info: message of that camera.
        """
        if self._topics is None:
            return
        self._topics.take_info(camera, info)
        self._use_topics(self._topics)

    def published_info(self, info: CameraInfo) -> CameraInfo:
        """Return the calibration of the fused image: without distortion if that is removed.

        Args:
            info: message of the RGB camera.
        """
        registration = self.registration
        if not isinstance(registration, RigRegistration) or not registration.rig.undistort_rgb:
            return info
        camera = registration.rig.rgb_output
        assert camera is not None
        if info.width and info.height:
            camera = camera.resized((info.width, info.height))
        changed = copy.deepcopy(info)
        matrix = camera.camera_matrix
        changed.width, changed.height = camera.size
        changed.distortion_model, changed.d = "plumb_bob", [0.0] * 5
        changed.k = matrix.ravel().tolist()
        changed.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        changed.p = [value for row in matrix.tolist() for value in (*row, 0.0)]
        return changed

    def offer(self, visible: Any, infrared: Any, seconds: float) -> None:
        """Take a pair for the watch; called by the worker's thread after publication.

        Args:
            visible: H x W x 3 uint8 RGB, as it was fused.
            infrared: h x w, as it was received.
            seconds: stamp of the pair.
        """
        values = self._parameters.values
        if values["registration"] != "auto":
            return
        estimated = isinstance(self.registration, RigRegistration)
        if estimated and values["registration_update"] == "off":
            return
        self._watch.offer(visible, infrared, seconds, self.registration)

    def check(self) -> None:
        """Take the outcome of an estimate: use it, or keep it as a suggestion.

        A suggestion is used, too, once `registration_update` becomes "apply".
        """
        update = self._parameters["registration_update"]
        suggestion = self._suggestion()
        if suggestion is not None and update == "apply":
            self._correct(suggestion)
        elif update == "off":
            self._suggested = None
        outcome = self._watch.take()
        if outcome is None or self._parameters["registration"] != "auto":
            return
        self._last = outcome
        if outcome.registration is None or outcome.confidence < _LEAST_CONFIDENCE:
            reason = outcome.text or f"confidence {outcome.confidence:.2f}"
            self._logger.info(f"registration: the images give no reliable estimate: {reason}")
            if not isinstance(self.registration, RigRegistration):
                self._watch.reset()  # the next pairs may show more
            return
        if not isinstance(self.registration, RigRegistration):
            self._use(outcome, "estimated from the images")
            return
        limit = self._parameters["registration_drift_pixels"]
        if outcome.drift_pixels <= limit:
            self._suggested = None
            return
        if update == "apply":
            self._correct(outcome)
            return
        if self._suggested is None:
            self._logger.warning(
                f"registration: off by {outcome.drift_pixels:.1f} pixels; ~/save_registration "
                "writes the suggested rig file, registration_update:=apply uses it"
            )
        self._suggested = outcome, time.monotonic()

    def save(self) -> tuple[bool, str]:
        """Write the suggested rig, or else the one in use, to `registration_save_file`.

        Returns:
            Success, and a message for the caller of the service.
        """
        registration = self._to_save()
        if registration is None:
            return False, "no rig to save: thermal images are stretched to the size of RGB images"
        try:
            path = user_path(self._parameters["registration_save_file"])
            write_rig(registration.rig, path)
        except (OSError, ValueError) as error:
            return False, f"registration_save_file: {error}"
        kind = "suggested rig" if self._suggestion() is not None else "rig in use"
        return True, f"{kind} written to {path}; use it with registration_file:={path}"

    def finding(self) -> Finding:
        """Return level, message and values for diagnostics."""
        values = {
            "registration": self._parameters["registration"],
            "origin": self._origin,
            "time_offset_seconds": f"{self.time_offset_seconds:g}",
        }
        if isinstance(self.registration, RigRegistration):
            values |= _described(self.registration.rig)
        if self._parameters["registration"] == "auto":
            values["watch"] = self._watch.progress()
        if self._last is not None:
            values["estimate.confidence"] = f"{self._last.confidence:.2f}"
            if not math.isnan(self._last.drift_pixels):
                values["estimate.drift_pixels"] = f"{self._last.drift_pixels:.2f}"
            if self._last.text:
                values["estimate.problem"] = self._last.text
        if self._topics is not None and self._topics.problem:
            return WARN, f"{self._origin}; {self._topics.problem}", values
        outcome = self._suggestion()
        if outcome is not None:
            assert outcome.registration is not None
            values["suggested"] = rig_text(outcome.registration.rig)
            return WARN, (
                f"off by {outcome.drift_pixels:.1f} pixels (confidence "
                f"{outcome.confidence:.2f}): ~/save_registration writes the suggested rig file"
            ), values  # fmt: skip
        return OK, self._origin, values

    def stop(self) -> None:
        """Drop the pairs that were collected, and the outcome of a running estimate."""
        self._watch.reset()

    def close(self) -> None:
        """Wait for a running estimate: a process that ends before its thread may abort."""
        self._watch.close()

    def _suggestion(self) -> Outcome | None:
        """Return the suggestion unless it is old: the cameras may have moved again since."""
        if self._suggested is None or time.monotonic() - self._suggested[1] > _FORGET_SECONDS:
            return None
        return self._suggested[0]

    def _to_save(self) -> RigRegistration | None:
        suggestion = self._suggestion()
        if suggestion is not None:
            return suggestion.registration
        return self.registration if isinstance(self.registration, RigRegistration) else None

    def _correct(self, outcome: Outcome) -> None:
        """Use the corrected registration of an outcome."""
        self._use(outcome, f"corrected by {outcome.drift_pixels:.1f} pixels")

    def _use(self, outcome: Outcome, origin: str) -> None:
        """Use the registration of an outcome."""
        assert outcome.registration is not None
        self.registration = outcome.registration
        self._origin = f"{origin} (confidence {outcome.confidence:.2f})"
        self._suggested = None
        self._logger.info(f"registration: {self._origin}")
        self._on_change(self.registration)

    def _use_topics(self, topics: CameraInfoRig) -> None:
        """Use the rig of the topics if it is another one."""
        if topics.rig is None or topics.rig == _rig(self.registration):
            return
        self._origin = f"camera_info of both cameras, extrinsics of {topics.source}"
        self.registration = RigRegistration(topics.rig)
        self._logger.info(f"registration: {self._origin}")
        self._on_change(self.registration)


def _rig(registration: AnyRegistration) -> Rig | None:
    """Return the rig of a registration, or None of one by size."""
    return registration.rig if isinstance(registration, RigRegistration) else None


def _described(rig: Rig) -> dict[str, str]:
    """Return what diagnostics tell about a rig."""
    values = {
        "rgb_size": f"{rig.rgb_size[0]} x {rig.rgb_size[1]}",
        "thermal_size": f"{rig.thermal_size[0]} x {rig.thermal_size[1]}",
    }
    if rig.homography is not None:
        return {**values, "kind": "homography"}
    for distance in (5, 20):
        values[f"parallax_pixels.{distance}_m"] = f"{float(rig.parallax_pixels(distance)):.1f}"
    return {**values, "kind": "two cameras", "plane": rig.plane.kind}
