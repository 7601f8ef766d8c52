"""What the node knows about itself: counters, timings, and what is wrong with its inputs."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

__all__ = ["CameraWatch", "PairStatistics", "percentiles", "status"]

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

_TIMINGS = (
    "latency_ms",
    "overhead_ms",
    "wait_ms",
    "decode_ms",
    "prepare_ms",
    "model_ms",
    "publish_ms",
)
_KEPT_TIMINGS = 2000
_NO_FAULTS = frozenset({"replaced_by_newer", "no_subscriber", "deactivated"})
_WATCHED_FRAMES = 90
_LOSS_TO_REPORT = 0.05

LOSS_REMEDY = (
    "Fast DDS drops messages larger than its shared-memory segment: start the camera drivers "
    "and this node with FASTRTPS_DEFAULT_PROFILES_FILE set to the package's config/fastdds.xml "
    "(docs/transport.md)"
)


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile (nearest rank); empty where there are no values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "p95": ordered[round(0.95 * last)],
        "p99": ordered[round(0.99 * last)],
    }


class PairStatistics:
    """Counts every pair: in = out + dropped by reason + pending. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.pairs_in = 0
        self.pairs_out = 0
        self.dropped: Counter[str] = Counter()
        self.repaired_frames = 0
        self._first_out = self._last_out = 0.0
        self._timings = {name: deque[float](maxlen=_KEPT_TIMINGS) for name in _TIMINGS}

    def came_in(self) -> None:
        with self._lock:
            self.pairs_in += 1

    def drop(self, reason: str, count: int = 1) -> None:
        if count:
            with self._lock:
                self.dropped[reason] += count

    def went_out(self, timings: Mapping[str, float], *, repaired: bool) -> None:
        """Count a published pair.

        Args:
            timings: milliseconds by stage, names as in the report.
            repaired: whether non-finite thermal pixels were filled.
        """
        with self._lock:
            self.pairs_out += 1
            self.repaired_frames += repaired
            self._last_out = time.monotonic()
            self._first_out = self._first_out or self._last_out
            for name, value in timings.items():
                self._timings[name].append(value)

    def check(self) -> tuple[bytes, str]:
        """Level and message: pairs lost to faults, not to speed, are worth a warning."""
        with self._lock:
            faults = sum(n for reason, n in self.dropped.items() if reason not in _NO_FAULTS)
            text = f"{self.pairs_in} pairs in, {self.pairs_out} out"
            if self.dropped:
                reasons = ", ".join(f"{n} {reason}" for reason, n in self.dropped.most_common())
                text += f"; dropped: {reasons}"
            return (WARN if faults else OK), text

    def report(self) -> dict[str, str]:
        """Counters and percentiles as text by key."""
        with self._lock:
            timings = {name: list(values) for name, values in self._timings.items()}
            pending = self.pairs_in - self.pairs_out - sum(self.dropped.values())
            values = {
                "pairs_in": str(self.pairs_in),
                "pairs_out": str(self.pairs_out),
                "pairs_pending": str(pending),
                "repaired_thermal_frames": str(self.repaired_frames),
            }
            seconds = self._last_out - self._first_out
            rate = (self.pairs_out - 1) / seconds if seconds > 0 else 0.0
            values["throughput_hz"] = f"{rate:.3f}"
            values |= {f"dropped.{reason}": str(n) for reason, n in sorted(self.dropped.items())}
        for name, numbers in timings.items():
            values |= {f"{name}.{key}": f"{v:.3f}" for key, v in percentiles(numbers).items()}
        return values


@dataclass
class CameraWatch:
    """Watches one camera's topic for silence, loss and publishers that do not match.

    Called from the executor's thread only.

    Attributes:
        topic: the resolved image topic.
        received: images so far.
        lost_events: losses that the middleware itself reported.
        mismatches: publishers whose QoS does not match, policy names by report.
    """

    topic: str
    received: int = 0
    lost_events: int = 0
    mismatch: str = ""
    mismatches: int = 0
    last_arrival: float | None = None
    _stamps: deque[float] = field(default_factory=lambda: deque(maxlen=_WATCHED_FRAMES))
    _info_stamps: deque[float] = field(default_factory=lambda: deque(maxlen=_WATCHED_FRAMES))

    def image(self, stamp: float, now: float) -> None:
        """An image came; stamp and arrival in seconds."""
        self.received += 1
        self.last_arrival = now
        self._note(self._stamps, stamp)

    def camera_info(self, stamp: float) -> None:
        """A CameraInfo came: small, so it arrives where images are lost."""
        self._note(self._info_stamps, stamp)

    @staticmethod
    def _note(stamps: deque[float], stamp: float) -> None:
        if stamps and stamp < stamps[-1]:  # a bag loops
            stamps.clear()
        stamps.append(stamp)

    def lost_share(self) -> float:
        """Estimated share of the recent images that never arrived, from gaps between stamps.

        The camera's period is taken from its CameraInfo where there is one, else
        from the images; intervals much longer than the short ones are gaps.
        """
        infos, images = self._info_stamps, self._stamps
        reference = infos if len(infos) >= 10 else images
        if len(images) < 5 or len(reference) < 5 or images[-1] <= images[0]:
            return 0.0
        intervals = sorted(b - a for a, b in zip(reference, list(reference)[1:], strict=False))
        short = intervals[len(intervals) // 10]
        if short <= 0:
            return 0.0
        period = statistics.mean(i for i in intervals if short <= i < 1.6 * short)
        expected = round((images[-1] - images[0]) / period) + 1
        return max(0.0, 1 - len(images) / expected)

    def check(self, now: float, since: float, timeout: float, publishers: int) -> tuple[bytes, str]:
        """Level and message for diagnostics.

        Args:
            now, since: the time, and when watching began, in seconds.
            timeout: silence of this many seconds is reported.
            publishers: publishers on the topic now.
        """
        last = self.last_arrival
        silence = now - (since if last is None else last)
        if silence > timeout:
            if self.mismatches:
                return ERROR, self._mismatch_text()
            if publishers == 0:
                return WARN, f"no publisher on {self.topic}"
            if last is None:
                return ERROR, (
                    f"{publishers} publisher(s) on {self.topic}, but no image has arrived in "
                    f"{silence:.1f} s. {LOSS_REMEDY}"
                )
            return WARN, f"no image on {self.topic} for {silence:.1f} s"
        if self.mismatches:
            return WARN, self._mismatch_text()
        share = self.lost_share()
        if share > _LOSS_TO_REPORT:
            return WARN, f"{share:.0%} of the images on {self.topic} are lost. {LOSS_REMEDY}"
        return OK, "receiving" if last is not None else f"waiting for {self.topic}"

    def _mismatch_text(self) -> str:
        return (
            f"a publisher on {self.topic} offers a QoS that does not match this subscription "
            f"(policy: {self.mismatch}); set qos_overrides.{self.topic}.subscription.* or the "
            "publisher's"
        )

    def report(self) -> dict[str, str]:
        return {
            "topic": self.topic,
            "received": str(self.received),
            "lost_share_estimate": f"{self.lost_share():.3f}",
            "lost_events": str(self.lost_events),
            "qos_mismatches": str(self.mismatches),
        }


def status(
    name: str, hardware: str, level: bytes, message: str, values: Mapping[str, str]
) -> DiagnosticStatus:
    """A DiagnosticStatus of these parts."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
