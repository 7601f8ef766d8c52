"""Pair stamps by the node's policy, and analyse the stamps of the two cameras."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from ivf_core.pairing import Pair, TimePairer
from ivf_core.replay.measure.shutters import MotionLag, OffsetSuggestion, suggest_offset

__all__ = ["CAMERAS", "PairingLog"]

CAMERAS = ("rgb", "thermal")

_STREAMS = {"rgb": "visible", "thermal": "infrared"}
_BINS = 40
_RATE_BINS = 240
_GAP_IN_PERIODS = 2.5
_MOST_GAPS = 200


class PairingLog:
    """`TimePairer` that keeps all stamps: 16 bytes per image, 24 per pair.

    Args:
        tolerance_seconds: largest difference of stamps within a pair.
        offset_seconds: added to thermal stamps.
        minimum_interval_seconds: least time between two pairs.
        queue_size: images that may wait for a partner, per camera.
        start_ns: time of the bag's first message.
    """

    def __init__(
        self,
        *,
        tolerance_seconds: float,
        offset_seconds: float,
        minimum_interval_seconds: float,
        queue_size: int,
        start_ns: int,
    ) -> None:
        self._pairer: TimePairer[Any] = TimePairer(
            round(tolerance_seconds * 1e9),
            queue_size,
            round(offset_seconds * 1e9),
            round(minimum_interval_seconds * 1e9),
        )
        self._start = start_ns
        self._stamps = {camera: array("q") for camera in CAMERAS}
        self._times = {camera: array("q") for camera in CAMERAS}
        self._paired = {camera: array("q") for camera in CAMERAS}
        self._pair_times = array("q")

    def add(self, camera: str, stamp_ns: int, time_ns: int, item: Any) -> list[Pair]:
        """Take a camera's next image and return the pairs that it completes.

        Args:
            camera: "rgb" or "thermal".
            stamp_ns: stamp of the image.
            time_ns: time of recording.
            item: the image, which is in the pair.
        """
        self.note(camera, stamp_ns, time_ns)
        add = self._pairer.add_visible if camera == "rgb" else self._pairer.add_infrared
        return self._recorded(add(stamp_ns, (time_ns, item)))

    def note(self, camera: str, stamp_ns: int, time_ns: int) -> None:
        """Keep the stamp of an image that is not to be paired.

        Args:
            camera: "rgb" or "thermal".
            stamp_ns: stamp of the image.
            time_ns: time of recording.
        """
        self._stamps[camera].append(stamp_ns)
        self._times[camera].append(time_ns)

    def reset(self, reason: str) -> None:
        """Drop all images that wait for a partner.

        Args:
            reason: name of the counter.
        """
        self._pairer.reset(reason)

    def flush(self) -> list[Pair]:
        """Return the pairs that are left at the end of the bag."""
        return self._recorded(self._pairer.flush())

    @property
    def pairs(self) -> int:
        """Number of pairs so far."""
        return self._pairer.paired

    @property
    def jumps(self) -> dict[str, int]:
        """Number of times that the stamps went back, by camera."""
        return {camera: self._pairer.jumps[_STREAMS[camera]] for camera in CAMERAS}

    @property
    def received(self) -> dict[str, int]:
        """Number of images so far, by camera."""
        return {camera: len(self._stamps[camera]) for camera in CAMERAS}

    @property
    def unmatched(self) -> dict[str, dict[str, int]]:
        """Number of images without a partner, by camera and reason."""
        found: dict[str, dict[str, int]] = {camera: {} for camera in CAMERAS}
        for key, count in sorted(self._pairer.dropped.items()):
            reason, _, stream = key.rpartition("_")
            found["rgb" if stream == "visible" else "thermal"][reason] = count
        return found

    def clock_difference_seconds(self) -> float:
        """Estimate the thermal clock minus the RGB clock from the times of recording.

        The error is the difference of the two cameras' delays up to the recorder.
        """
        ages = [
            np.median(_as_array(self._stamps[camera]) - _as_array(self._times[camera]))
            if len(self._stamps[camera])
            else np.nan
            for camera in CAMERAS
        ]
        difference = float(ages[1] - ages[0]) / 1e9
        return difference if np.isfinite(difference) else 0.0

    def suggestion(self, motion_lag: MotionLag | None) -> OffsetSuggestion | None:
        """Estimate the offset between the shutters, or return None where it is ambiguous.

        Args:
            motion_lag: delay between the motion in both cameras' images, where known.
        """
        return suggest_offset(
            {camera: _as_array(self._stamps[camera]) for camera in CAMERAS},
            self.clock_difference_seconds(),
            motion_lag,
        )

    def to_json(self, motion_lag: MotionLag | None) -> dict[str, Any]:
        """Return `pairing` of summary.json.

        Args:
            motion_lag: delay between the motion in both cameras' images, where known.
        """
        suggestion = self.suggestion(motion_lag)
        return {
            "received": self.received,
            "pairs": self.pairs,
            "unmatched": self.unmatched,
            "offset_histogram": self._histogram(),
            "suggested_offset_seconds": suggestion.seconds if suggestion else None,
            "suggested_offset_basis": suggestion.basis if suggestion else None,
            "clock_difference_seconds": round(self.clock_difference_seconds(), 6),
            "stamps_back": self.jumps,
            "gaps": self.gaps(),
            "rate": _rates({**self._times, "pairs": self._pair_times}, self._start),
        }

    def gaps(self) -> list[dict[str, Any]]:
        """Return the longest silences of more than two and a half periods, by time of recording."""
        found = [
            gap
            for camera in CAMERAS
            for gap in _gaps(camera, _as_array(self._times[camera]), self._start)
        ]
        found.sort(key=lambda gap: -gap["seconds"])
        return sorted(found[:_MOST_GAPS], key=lambda gap: (gap["start_seconds"], gap["topic"]))

    def _recorded(self, pairs: list[Pair]) -> list[Pair]:
        """Record the stamps of pairs, and return the pairs of the items alone."""
        made = []
        for (time_ns, visible), (_, infrared), *stamps in pairs:
            self._pair_times.append(time_ns)
            for camera, stamp in zip(CAMERAS, stamps, strict=True):
                self._paired[camera].append(stamp)
            made.append(Pair(visible, infrared, *stamps))
        return made

    def _histogram(self) -> dict[str, list[float] | list[int]]:
        """Return the histogram of thermal minus RGB stamps within pairs, in ms."""
        offsets = _as_array(self._paired["thermal"]) - _as_array(self._paired["rgb"])
        if not len(offsets):
            return {"edges_ms": [], "counts": []}
        reach = max(self._pairer.tolerance_ns / 1e6, 0.5)
        center = -self._pairer.offset_ns / 1e6
        counts, edges = np.histogram(offsets / 1e6, _BINS, (center - reach, center + reach))
        return {"edges_ms": np.round(edges, 6).tolist(), "counts": counts.tolist()}


def _gaps(camera: str, times: np.ndarray, start_ns: int) -> list[dict[str, Any]]:
    """Return the silences of a camera from its times of recording in ns."""
    steps = np.diff(times)
    if not len(steps):
        return []
    return [
        {
            "topic": camera,
            "start_seconds": round(float(times[at] - start_ns) / 1e9, 6),
            "seconds": round(float(steps[at]) / 1e9, 6),
        }
        for at in np.flatnonzero(steps > _GAP_IN_PERIODS * np.median(steps))
    ]


def _rates(times_ns: Mapping[str, array[int]], start_ns: int) -> dict[str, list[float]]:
    """Return images and pairs per second over the time of recording.

    Args:
        times_ns: times of recording in ns, of "rgb", "thermal" and "pairs".
        start_ns: time of the bag's first message.
    """
    times = {name: (_as_array(values) - start_ns) / 1e9 for name, values in times_ns.items()}
    if not any(len(times[camera]) for camera in CAMERAS):
        return {"seconds": [], "rgb_hz": [], "thermal_hz": [], "pairs_hz": []}
    spans = {name: _spans(values) for name, values in times.items()}
    end = max(float(ends[-1]) for _, ends in spans.values() if len(ends))
    bins = int(np.clip(end, 1, _RATE_BINS))
    edges = np.linspace(0.0, max(end, 1e-3), bins + 1)
    return {
        "seconds": np.round((edges[:-1] + edges[1:]) / 2, 3).tolist(),
        **{f"{name}_hz": np.round(_rate(*span, edges), 3).tolist() for name, span in spans.items()},
    }


def _spans(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end of the period of each image, the last of the usual length."""
    times = np.sort(times)
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    # An image before a gap does not stand for the gap.
    longest = _GAP_IN_PERIODS * usual
    return times, times + np.minimum(np.append(steps, usual), longest)


def _rate(starts: np.ndarray, ends: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the images a second between edges, each image spread over its period.

    Whole images would give 22 or 23 a second for 22.5. Time before the first image and after
    the last one does not count.
    """
    if not len(starts) or not ends[-1] > starts[0]:
        return np.histogram(starts, edges)[0] / np.diff(edges)
    places = np.stack([starts, ends], axis=1).reshape(-1)
    counts = np.repeat(np.arange(len(starts) + 1), 2)[1:-1]
    made = np.diff(np.interp(edges, places, counts))
    inside = np.clip(edges, starts[0], ends[-1])
    seconds = np.diff(inside)
    return np.divide(made, seconds, out=np.zeros_like(made), where=seconds > 0)


def _as_array(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)
