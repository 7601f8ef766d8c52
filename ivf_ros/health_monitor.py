"""Health of both cameras in the node: examined, logged, published and reported."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ivf_core.camera_choice import CAMERAS
from ivf_core.images.camera_health import CameraHealth
from ivf_core.images.pair_health import PairHealth
from ivf_core.images.symptoms import REMEDIES, HealthRecord, Severity, Symptom
from ivf_ros.diagnostics import ERROR, OK, WARN, Finding

__all__ = ["HealthMonitor"]

_LEVELS = {Severity.OK: OK, Severity.NOTE: OK, Severity.FAULT: WARN, Severity.UNUSABLE: ERROR}
_OF_PAIR = "thermal"  # black-hot and misregistered are symptoms of the thermal image


class HealthMonitor:
    """Health of both cameras of a node from activation to deactivation.

    The worker's thread calls `examine`, `unreadable` and `examine_pair`; the executor's
    thread calls the other methods.

    Args:
        logger: logger of the node.
        publish: publishes a JSON text on `~/camera_health`; called by both threads.
    """

    def __init__(self, logger: Any, publish: Callable[[str], None]) -> None:
        self._logger = logger
        self._publish = publish
        self._meters = {"rgb": CameraHealth("visible"), "thermal": CameraHealth("infrared")}
        self._pair = PairHealth()
        self._lock = threading.Lock()  # guards all below
        self._records = {camera: HealthRecord() for camera in (*CAMERAS, "pair")}
        self._silent: frozenset[str] = frozenset()
        self._alone = ""
        self._examined = False

    # The worker's thread

    def examine(self, camera: str, image: np.ndarray, seconds: float) -> None:
        """Examine a frame.

        Args:
            camera: "rgb" or "thermal".
            image: the decoded frame.
            seconds: its stamp.
        """
        self._take(camera, self._meters[camera].add(image, seconds))

    def unreadable(self, camera: str, reason: str, seconds: float) -> None:
        """Take note of a frame that could not be decoded.

        Args:
            camera: "rgb" or "thermal".
            reason: what is wrong with it.
            seconds: its stamp.
        """
        self._take(camera, self._meters[camera].unreadable(reason, seconds))

    def examine_pair(
        self, visible: np.ndarray | None, infrared: np.ndarray, seconds: float, **details: Any
    ) -> None:
        """Examine a prepared pair; see `PairHealth.add` for the arguments.

        Args:
            visible: H x W x 3 uint8 RGB, or None.
            infrared: H x W uint8, prepared.
            seconds: stamp of the pair.
            **details: coverage and persons.
        """
        if "rgb" in self.unusable():
            visible = None
        self._take("pair", self._pair.add(visible, infrared, seconds, **details))

    # Any thread

    def unusable(self) -> frozenset[str]:
        """Return the cameras whose images tell nothing."""
        with self._lock:
            return frozenset(
                camera for camera in CAMERAS if self._records[camera].severity == Severity.UNUSABLE
            )

    # The executor's thread

    def set_cameras(self, alone: str, silent: frozenset[str]) -> None:
        """Take over which cameras are in use and which are silent.

        Args:
            alone: camera that is used alone, or "" for both.
            silent: cameras that are silent.
        """
        with self._lock:
            before = self._alone
            if (alone, silent) == (before, self._silent):
                return
            self._alone, self._silent = alone, silent
            reason = self._reason()
        if alone != before:
            if alone:
                self._logger.warning(
                    f"single camera: {alone} only{reason} (single_camera:=stop turns this off)"
                )
            else:
                self._logger.info("both cameras are in use again")
        self.publish()

    def publish(self) -> None:
        """Publish the present health."""
        self._publish(self.to_json())

    def to_json(self) -> str:
        """Return the present health as JSON: cameras in use, and for each camera what it has."""
        with self._lock:
            cameras = {camera: self._described(camera) for camera in CAMERAS}
            in_use = f"{self._alone} only" if self._alone else "both"
        return json.dumps({"cameras": in_use, **cameras})

    def finding(self, policy: str) -> Finding:
        """Return level, message and values about the cameras in use, for diagnostics.

        Args:
            policy: value of the parameter `single_camera`.
        """
        with self._lock:
            values = {"single_camera": policy, "cameras": self._alone or "both"}
            if self._silent == frozenset(CAMERAS):
                return ERROR, f"no camera delivers{self._reason()}", values
            if self._alone:
                return WARN, f"single camera: {self._alone} only{self._reason()}", values
            if self._silent:
                return ERROR, f"both cameras are needed{self._reason()}", values
            if any(self._is_unusable(camera) for camera in CAMERAS):
                return WARN, f"both cameras are needed{self._reason()}", values
            return OK, "both cameras", values

    def add_to(self, camera: str, finding: Finding) -> Finding:
        """Return the finding of a camera's watch with the camera's health added.

        Args:
            camera: "rgb" or "thermal".
            finding: level, message and values.
        """
        level, text, values = finding
        with self._lock:
            found = [s for s in self._symptoms(camera) if s.name != "silent"]
            for symptom in found:
                level = max(level, _LEVELS[symptom.severity])
                text += f"; {symptom.text}"
                if symptom.severity > Severity.NOTE:
                    text += f" ({REMEDIES[symptom.name]})"
            health = {"health": ", ".join(s.name for s in found) or "ok"}
            if not self._examined:
                health = {"health": "not examined yet"}
            health |= {f"health.{n}": f"{v:.4g}" for n, v in self._values(camera).items()}
        return level, text, {**values, **health}

    # Inside

    def _take(self, part: str, record: HealthRecord) -> None:
        """Store a record; log and publish it if the symptoms have changed."""
        with self._lock:
            before, self._records[part] = self._records[part], record
            self._examined = True
        if record.names == before.names and record.severity == before.severity:
            return
        camera = _OF_PAIR if part == "pair" else part
        for symptom in record.symptoms:
            if symptom.name in before.names and record.severity <= before.severity:
                continue
            text = f"{camera} camera: {symptom.text}"
            if symptom.severity > Severity.NOTE:  # rclpy allows one severity for each call
                self._logger.warning(f"{text}: {REMEDIES[symptom.name]}")
            else:
                self._logger.info(text)
        if gone := [name for name in before.names if name not in record.names]:
            self._logger.info(f"{camera} camera: no longer {', '.join(gone)}")
        self.publish()

    def _symptoms(self, camera: str) -> list[Symptom]:
        """Return the symptoms of a camera, the worst first; with the lock held."""
        found = list(self._records[camera].symptoms)
        if camera in self._silent:
            found.insert(0, Symptom("silent", Severity.UNUSABLE, "silent"))
        if camera == _OF_PAIR:
            found += self._records["pair"].symptoms
        return found

    def _described(self, camera: str) -> dict[str, Any]:
        """Return what `to_json` says about a camera; with the lock held."""
        found = self._symptoms(camera)
        severity = max((symptom.severity for symptom in found), default=Severity.OK)
        return {
            "severity": severity.name.lower(),
            "symptoms": [
                {
                    "name": symptom.name,
                    "severity": symptom.severity.name.lower(),
                    "text": symptom.text,
                    "remedy": REMEDIES[symptom.name],
                }
                for symptom in found
            ],
            "stamp": self._records[camera].seconds,
            "values": {name: round(float(v), 4) for name, v in self._values(camera).items()},
        }

    def _values(self, camera: str) -> Mapping[str, float]:
        """Return the measured values of a camera; with the lock held."""
        values = self._records[camera].values
        return {**values, **self._records["pair"].values} if camera == _OF_PAIR else values

    def _is_unusable(self, camera: str) -> bool:
        return self._records[camera].severity == Severity.UNUSABLE

    def _reason(self) -> str:
        """Return the reason for using one camera, with the lock held."""
        bad: Collection[str] = [
            f"{camera} is {'silent' if camera in self._silent else self._records[camera].text}"
            for camera in CAMERAS
            if camera in self._silent or (camera != self._alone and self._is_unusable(camera))
        ]
        return f": {', '.join(bad)}" if bad else ""
