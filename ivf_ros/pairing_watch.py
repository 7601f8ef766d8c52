"""Watch on the pairing: why both cameras arrive and no pair, or hardly any, is made."""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from ivf_core.camera_choice import CAMERAS
from ivf_core.pairing import PairingCounters
from ivf_ros.diagnostics import ERROR, OK, WARN

__all__ = ["PairingSettings", "PairingWatch"]

_STREAMS = {"rgb": "visible", "thermal": "infrared"}
_KEPT = 60
_WINDOW_SECONDS = 2.0
_WINDOW_FRAMES = 8
_FEW = 0.5
"""Share of the frames of the slower camera below which pairs are few.

Each frame of the slower camera has a partner if the tolerance is half of the other one's period.
"""

_WAITING = (OK, "waiting for both cameras")
_LARGEST_OFFSET = 10.0
_LARGEST_QUEUE = 1000
_LOSS = 0.2
_SINCE_BOOT = 1e8  # seconds: the clock of a driver that began three years ago or later


@dataclass(frozen=True)
class PairingSettings:
    """Parameters of the node that decide on pairs.

    Attributes:
        tolerance: `tolerance_seconds`.
        offset: `offset_seconds`.
        queue_size: `queue_size`.
    """

    tolerance: float
    offset: float
    queue_size: int


@dataclass(frozen=True)
class _Window:
    """State of the counters at a moment."""

    now: float
    counters: PairingCounters


class PairingWatch:
    """Watch on pairs and arrivals, which names a cause while pairs are few.

    Only the executor's thread may use it.
    """

    def __init__(self) -> None:
        self._arrivals: dict[str, deque[tuple[float, float]]] = {
            camera: deque(maxlen=_KEPT) for camera in CAMERAS
        }
        self._last_delivery: float | None = None
        self._window: _Window | None = None
        self._verdict = _WAITING

    def image(self, camera: str, stamp: float, now: float) -> None:
        """Note the arrival of an image.

        Args:
            camera: "rgb" or "thermal".
            stamp: stamp of the image in seconds.
            now: monotonic time of its arrival in seconds.
        """
        self._arrivals[camera].append((stamp, now))

    def delivered(self, now: float) -> None:
        """Note that a pair, or a frame without a partner, went to the worker.

        Args:
            now: monotonic time in seconds.
        """
        self._last_delivery = now

    def check(
        self,
        now: float,
        since: float,
        timeout: float,
        counters: PairingCounters,
        settings: PairingSettings,
        lost: Mapping[str, float],
    ) -> tuple[bytes, str]:
        """Return level and message for diagnostics.

        Args:
            now: monotonic time in seconds.
            since: monotonic time at which watching began, in seconds.
            timeout: time without an image or pair that is reported, in seconds.
            counters: counters of the pairing.
            settings: parameters in force.
            lost: estimated share of lost images by camera, 0 to 1.
        """
        silent = [
            camera
            for camera, arrivals in self._arrivals.items()
            if not arrivals or now - arrivals[-1][1] > timeout
        ]
        if silent:
            self._window, self._verdict = None, _WAITING
            idle = now - (since if self._last_delivery is None else self._last_delivery)
            cameras = " and ".join(silent)
            if idle > timeout:
                return ERROR, f"nothing to fuse for {idle:.1f} s: no images of {cameras}"
            return OK, f"no images of {cameras}"
        if self._window is None:
            self._window = _Window(now, counters)
        self._judge(now, counters, settings, lost)
        return self._verdict

    def _judge(
        self,
        now: float,
        counters: PairingCounters,
        settings: PairingSettings,
        lost: Mapping[str, float],
    ) -> None:
        """Judge the window if it is long enough, and begin another."""
        assert self._window is not None
        before = self._window.counters
        received = {
            camera: counters.received[stream] - before.received[stream]
            for camera, stream in _STREAMS.items()
        }
        if now - self._window.now < _WINDOW_SECONDS or min(received.values()) < _WINDOW_FRAMES:
            return
        made = counters.paired - before.paired
        text = f"{made} pairs of {received['rgb']} RGB and {received['thermal']} thermal images"
        dropped = Counter(counters.dropped)
        dropped.subtract(before.dropped)
        self._window = _Window(now, counters)
        if made >= _FEW * min(received.values()):
            self._verdict = (OK, text)
            return
        cause = self._cause(received, dropped, settings, lost)
        self._verdict = (WARN if made else ERROR, f"{text}: {cause}")

    def _cause(
        self,
        received: Mapping[str, int],
        dropped: Counter[str],
        settings: PairingSettings,
        lost: Mapping[str, float],
    ) -> str:
        """Return the cause of few pairs, and the parameter and value that mend it."""
        for camera in CAMERAS:
            if (cause := self._bad_stamps(camera, received[camera], dropped)) is not None:
                return cause
        ages = [
            statistics.median(now - stamp for stamp, now in self._arrivals[camera])
            for camera in CAMERAS
        ]
        behind = ages[1] - ages[0] - settings.offset
        if abs(ages[1] - ages[0]) > _LARGEST_OFFSET:
            return self._two_clocks(behind)
        for camera, share in lost.items():
            if share > _LOSS:
                return f"{share:.0%} of the {camera} images are lost, see the status of that camera"
        waited = dropped["queue_full_visible"] + dropped["queue_full_infrared"]
        if waited > _FEW * min(received.values()):
            return self._late(behind, settings)
        apart = self._differences(settings.offset)
        if not apart:
            return self._late(behind, settings)
        return _shifted(apart, settings)

    def _bad_stamps(self, camera: str, received: int, dropped: Counter[str]) -> str | None:
        """Return the cause if the stamps of a camera cannot be used, else None."""
        stamps = [stamp for stamp, _ in self._arrivals[camera]]
        if not any(stamps):
            return (
                f"all {camera} stamps are zero: the driver must set header.stamp, which no "
                "parameter replaces"
            )
        if len(set(stamps)) <= len(stamps) / 2:
            return (
                f"{camera} stamps repeat themselves ({len(set(stamps))} different ones in "
                f"{len(stamps)} images): the driver must set header.stamp for each image"
            )
        stream = _STREAMS[camera]
        disorder = sum(dropped[f"{reason}_{stream}"] for reason in ("out_of_order", "outlier"))
        if disorder > _FEW * received:
            return (
                f"{camera} stamps are out of order ({disorder} of {received} images): look for a "
                "second publisher on its topic, or a driver whose clock is set"
            )
        return None

    def _two_clocks(self, behind: float) -> str:
        """Return the cause if the stamps of the cameras come from two clocks."""
        latest = {camera: self._arrivals[camera][-1][0] for camera in CAMERAS}
        young = [camera for camera, stamp in latest.items() if stamp < _SINCE_BOOT]
        hint = ""
        if len(young) == 1:
            hint = f" ({young[0]} stamps count from a start, {latest[young[0]]:.1f} s ago)"
        word = "behind" if behind > 0 else "ahead of"
        return (
            f"thermal stamps are {abs(behind):.3f} s {word} RGB stamps{hint}: let both drivers "
            f"stamp with one clock; offset_seconds reaches {_LARGEST_OFFSET:.0f} s only"
        )

    def _late(self, behind: float, settings: PairingSettings) -> str:
        """Return the cause if one camera's images come when the other's are gone."""
        late, waiting = ("thermal", "rgb") if behind > 0 else ("rgb", "thermal")
        needed = math.ceil(abs(behind) / self._period(waiting)) + 5
        queue = f"queue_size:={min(needed, _LARGEST_QUEUE)} if they are late"
        return (
            f"{late} images arrive {abs(behind):.3f} s after the {waiting} images of the same "
            f"stamps, beyond a queue of {settings.queue_size}: set {queue}, or "
            f"offset_seconds:={settings.offset + behind:.3f} if their stamps are wrong"
        )

    def _period(self, camera: str) -> float:
        """Return the median time between two images of a camera."""
        times = [now for _, now in self._arrivals[camera]]
        return max(1e-3, statistics.median(b - a for a, b in pairwise(times)))

    def _differences(self, offset: float) -> list[float]:
        """Return RGB minus corrected thermal stamp of neighbours in time, in seconds."""
        visible = [stamp for stamp, _ in self._arrivals["rgb"]]
        infrared = [stamp + offset for stamp, _ in self._arrivals["thermal"]]
        few, many = sorted((visible, infrared), key=len)
        if len(few) == len(many):  # of equal numbers, the slower camera covers more time
            few, many = sorted((visible, infrared), key=lambda s: min(s) - max(s))
        inside = [stamp for stamp in few if min(many) <= stamp <= max(many)]
        apart = [min((other - stamp for other in many), key=abs) for stamp in inside]
        return apart if few is infrared else [-difference for difference in apart]


def _shifted(apart: list[float], settings: PairingSettings) -> str:
    """Return the cause if stamps are further apart than the tolerance."""
    middle = statistics.median(apart)
    spread = sorted(abs(difference - middle) for difference in apart)[int(0.9 * (len(apart) - 1))]
    largest = sorted(map(abs, apart))[int(0.9 * (len(apart) - 1))]
    needed = math.ceil(largest * 1e3 + 0.5) / 1e3
    tolerance = f"tolerance_seconds:={needed:.3f}"
    if spread <= max(settings.tolerance, 0.002):
        side = "behind" if middle > 0 else "ahead of"
        return (
            f"thermal stamps are {abs(middle) * 1e3:.1f} ms {side} RGB stamps, and "
            f"tolerance_seconds is {settings.tolerance:g}: set "
            f"offset_seconds:={settings.offset + middle:.3f} if the delay between the shutters "
            f"is fixed, or {tolerance}"
        )
    return (
        f"the nearest stamps are up to {largest * 1e3:.1f} ms apart, and tolerance_seconds is "
        f"{settings.tolerance:g}: trigger both cameras together, or set {tolerance}"
    )
