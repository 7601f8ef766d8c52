"""Choice of the cameras in use: both in pairs, or one alone while the other fails.

The node decides by the times of arrival, a replay by the times of recording.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Collection
from enum import Enum

__all__ = ["CAMERAS", "CameraChoice", "Route", "StampOrder"]

CAMERAS = ("rgb", "thermal")

_LEAST_SILENCE_SECONDS = 0.5  # a shorter one is a lost frame or a quick flat-field correction
_SILENT_PERIODS = 3
_INTERVALS = 15
_LEAST_INTERVALS = 3  # with fewer, a camera has as long as for its first frame
_PAUSE_SECONDS = 5.0  # no interval is so long
_JUMP_SECONDS = 1.0  # a stamp that is earlier by more is a jump in time


class Route(Enum):
    """Way of an arriving frame.

    Attributes:
        PAIR: to pairing.
        ALONE: fused without a partner.
        BESIDE: not fused; it is examined beside a frame of the other camera.
    """

    PAIR = "pair"
    ALONE = "alone"
    BESIDE = "beside"


class CameraChoice:
    """Choice of the cameras in use, from the arrivals of frames and the health of cameras.

    A camera is silent when no new frame of it has come for 0.5 s and three of its periods
    while the other one delivered; before its period is known, for `first_seconds`. It is heard
    again with its next frame. One camera is used alone while the other is silent, or
    unusable while it is not. While both are unusable, they stay in pairs.

    One thread calls it.

    Attributes:
        alone: camera that is used alone, or "" for both.
        beside: frames that were not fused because their camera is not in use, by camera.
    """

    def __init__(self) -> None:
        self.alone = ""
        self.beside: Counter[str] = Counter()
        self._streams = {camera: _Arrivals() for camera in CAMERAS}

    @property
    def silent(self) -> frozenset[str]:
        """Cameras that are silent while the other one delivers."""
        return frozenset(camera for camera in CAMERAS if self._streams[camera].silent)

    def take(
        self,
        camera: str,
        stamp: float,
        now: float,
        *,
        first_seconds: float,
        unusable: Collection[str] = (),
        enabled: bool = True,
    ) -> Route:
        """Take an arriving frame and return its way.

        Args:
            camera: "rgb" or "thermal".
            stamp: stamp of the frame in seconds.
            now: time of arrival in seconds, from a clock that only advances.
            first_seconds: time that a camera may take for its first frame.
            unusable: cameras whose images tell nothing.
            enabled: whether one camera may be used alone.
        """
        this, other = self._streams[camera], self._streams[_other(camera)]
        fresh = this.take(stamp, now, first_seconds)
        limit = other.longest_interval(first_seconds)
        since = this.run_start if other.last is None else max(this.run_start, other.last)
        other.silent = other.silent or now - since > limit
        self.alone = self._choose(unusable) if enabled else ""
        if not self.alone:
            return Route.PAIR
        if self.alone == camera and fresh:
            return Route.ALONE
        self.beside[camera] += 1
        return Route.BESIDE

    def _choose(self, unusable: Collection[str]) -> str:
        """Return the camera to use alone, or "" for both."""
        for camera in CAMERAS:
            if self._streams[_other(camera)].silent:
                return camera
        usable = [camera for camera in CAMERAS if camera not in unusable]
        return usable[0] if len(usable) == 1 else ""


class StampOrder:
    """Order of the stamps of results across changes of the cameras in use."""

    def __init__(self) -> None:
        self._last: tuple[str, float] | None = None  # camera alone, stamp in seconds

    def leads_back(self, alone: str, stamp: float) -> bool:
        """Return whether a frame is earlier than what other cameras have shown; it is left out.

        Args:
            alone: camera whose frame is fused alone, or "" for a pair.
            stamp: stamp of the result in seconds.
        """
        last = self._last
        if last is not None and last[0] != alone and 0 <= last[1] - stamp < _JUMP_SECONDS:
            return True
        self._last = alone, stamp
        return False


class _Arrivals:
    """Arrivals of one camera's frames."""

    def __init__(self) -> None:
        self.last: float | None = None  # monotonic time of the last new frame
        self.run_start = 0.0  # of the frames that have come without a long interval
        self.silent = False
        self._stamp: float | None = None
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)

    def take(self, stamp: float, now: float, first_seconds: float) -> bool:
        """Take a frame and return whether it is new, not the repeated stamp of a dead driver."""
        if stamp == self._stamp:
            return False
        if self.last is None or now - self.last > self.longest_interval(first_seconds):
            self.run_start = now
        if self.last is not None and now - self.last < _PAUSE_SECONDS:
            self._intervals.append(now - self.last)
        self.last, self._stamp, self.silent = now, stamp, False
        return True

    def longest_interval(self, first_seconds: float) -> float:
        """Return the longest time between two frames that is no silence, in seconds."""
        if len(self._intervals) < _LEAST_INTERVALS:
            return max(first_seconds, _LEAST_SILENCE_SECONDS)
        period = statistics.median(self._intervals)
        return max(_LEAST_SILENCE_SECONDS, _SILENT_PERIODS * period)


def _other(camera: str) -> str:
    return CAMERAS[1 - CAMERAS.index(camera)]
