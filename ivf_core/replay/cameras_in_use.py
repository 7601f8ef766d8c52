"""Choice of the cameras in use along a bag, by the times of recording and the images' health."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ivf_core.camera_choice import CAMERAS, CameraChoice, Route, StampOrder
from ivf_core.images.camera_health import CameraHealth
from ivf_core.images.symptoms import HealthRecord, Severity

__all__ = ["CamerasInUse"]

_FIRST_SECONDS = 2.0  # for a camera's first image, as the node's timeout_seconds
_MOST_PERIODS = 200


class CamerasInUse:
    """Choice of the cameras in use along a bag, by the node's rules.

    Args:
        enabled: whether one camera may be used alone.
        start_ns: time of the bag's first message.

    Attributes:
        beside: number of images that were not fused because their camera is not in use.
        fused: number of images that were fused alone, by camera.
    """

    def __init__(self, *, enabled: bool, start_ns: int) -> None:
        self._enabled = enabled
        self._start_ns = start_ns
        self._choice = CameraChoice()
        self._meters = {"rgb": CameraHealth("visible"), "thermal": CameraHealth("infrared")}
        self._records = {camera: HealthRecord() for camera in CAMERAS}
        self._order = StampOrder()
        self._periods: list[dict[str, Any]] = []
        self.beside = self._choice.beside
        self.fused: Counter[str] = Counter()

    @property
    def alone(self) -> str:
        """Camera that is used alone, or "" for both."""
        return self._choice.alone

    def take(self, camera: str, stamp_ns: int, time_ns: int) -> Route:
        """Take the next image of a camera and return its way.

        Args:
            camera: "rgb" or "thermal".
            stamp_ns: its stamp.
            time_ns: its time of recording.
        """
        if not self._enabled:
            return Route.PAIR
        before = self.alone
        route = self._choice.take(
            camera,
            stamp_ns / 1e9,
            time_ns / 1e9,
            first_seconds=_FIRST_SECONDS,
            unusable=[c for c in CAMERAS if self._records[c].severity == Severity.UNUSABLE],
        )
        seconds = round((time_ns - self._start_ns) / 1e9, 6)
        if self.alone != before and self.alone:
            self._periods.append(
                {"camera": self.alone, "start_seconds": seconds, "reason": self._reason()}
            )
        if self._periods and (before or self.alone):
            self._periods[-1]["end_seconds"] = seconds
        return route

    def examine(self, camera: str, image: np.ndarray, stamp_ns: int) -> None:
        """Examine a decoded image.

        Args:
            camera: "rgb" or "thermal".
            image: as for `CameraHealth.add`.
            stamp_ns: its stamp.
        """
        if self._enabled:
            self._records[camera] = self._meters[camera].add(image, stamp_ns / 1e9)

    def unreadable(self, camera: str, reason: str, stamp_ns: int) -> None:
        """Take note of an image that cannot be decoded.

        Args:
            camera: "rgb" or "thermal".
            reason: what is wrong with it.
            stamp_ns: its stamp.
        """
        if self._enabled:
            self._records[camera] = self._meters[camera].unreadable(reason, stamp_ns / 1e9)

    def leads_back(self, alone: str, stamp_ns: int) -> bool:
        """Return whether a result would be earlier than that of other cameras; see `StampOrder`."""
        return self._enabled and self._order.leads_back(alone, stamp_ns / 1e9)

    def to_json(self) -> dict[str, Any]:
        """Return `single_camera` of summary.json."""
        return {
            "policy": "fuse" if self._enabled else "stop",
            "fused": {camera: self.fused[camera] for camera in CAMERAS},
            "not_in_use": {camera: self.beside[camera] for camera in CAMERAS},
            "periods": self._periods[:_MOST_PERIODS],
        }

    def _reason(self) -> str:
        """Return why the other camera is not in use."""
        other = CAMERAS[1 - CAMERAS.index(self.alone)]
        silent = other in self._choice.silent
        return f"{other} is {'silent' if silent else self._records[other].text}"
