"""What the node knows about itself: counters, timings, and what is wrong with its inputs."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.qos import (
    QoSCompatibility,
    QoSProfile,
    qos_check_compatible,
    qos_profile_sensor_data,
)
from rclpy.topic_endpoint_info import TopicEndpointInfo

__all__ = ["OK", "CameraWatch", "PairStatistics", "by_reason", "percentiles", "status"]

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

_TIMINGS = (
    "latency_ms",
    "overhead_ms",
    "wait_ms",
    "decode_ms",
    "prepare_ms",
    "model_ms",
    "publish_ms",
    "handling_ms",
)
_KEPT_TIMINGS = 2000
_NO_FAULTS = frozenset({"replaced_by_newer", "no_subscriber", "deactivated"})
_BACKLOG_TO_REPORT = 50
_WATCHED_FRAMES = 60
_LOSS_TO_REPORT = 0.05
_PAUSE_SECONDS = 0.5
"""A longer gap is a pause of the camera (thermal ones close their shutter now and then)."""

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


def by_reason(values: Mapping[str, str], prefix: str) -> dict[str, int]:
    """The counters of a report whose names start with `prefix`, without it."""
    return {
        key.removeprefix(prefix): int(value)
        for key, value in values.items()
        if key.startswith(prefix)
    }


class PairStatistics:
    """Counts every pair: in = out + dropped by reason + pending. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.pairs_in = 0
        self.pairs_out = 0
        self.dropped: Counter[str] = Counter()
        self.repaired_frames = 0
        self._out_times: deque[float] = deque(maxlen=_KEPT_TIMINGS)
        self._faults_before = 0
        self._off_clock = False
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
            self._out_times.append(time.monotonic())
            self._off_clock = "latency_ms" not in timings
            for name, value in timings.items():
                self._timings[name].append(value)

    def settled(self) -> int:
        """Pairs that went out or were dropped."""
        with self._lock:
            return self.pairs_out + sum(self.dropped.values())

    def check(self) -> tuple[bytes, str]:
        """Level and message: what went wrong since the last check, and the counts."""
        with self._lock:
            faults = sum(n for reason, n in self.dropped.items() if reason not in _NO_FAULTS)
            pending = self.pairs_in - self.pairs_out - sum(self.dropped.values())
            text = f"{self.pairs_in} pairs in, {self.pairs_out} out"
            if self.dropped:
                reasons = ", ".join(f"{n} {reason}" for reason, n in self.dropped.most_common())
                text += f"; dropped: {reasons}"
            level = WARN if faults > self._faults_before else OK
            self._faults_before = faults
            if pending > _BACKLOG_TO_REPORT:
                level = WARN
                text += (
                    f"; {pending} pairs wait: the bag is played faster than the model works "
                    "(the player's as_fast_as_taken waits for it)"
                )
            if self._off_clock:
                text += (
                    "; no latency: stamps and clock are more than a minute apart (use_sim_time?)"
                )
            return level, text

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
            times = self._out_times
            seconds = times[-1] - times[0] if times else 0.0
            values["throughput_hz"] = f"{(len(times) - 1) / seconds if seconds else 0.0:.3f}"
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
        qos: of the subscription.
        received: images so far.
        lost_events: losses that the middleware itself reported.
        last_arrival: monotonic time of the last image in seconds, None before the first.
    """

    topic: str
    qos: QoSProfile = field(default_factory=lambda: qos_profile_sensor_data)
    received: int = 0
    lost_events: int = 0
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
        """Estimated share of the recent images that never arrived.

        Where the camera sends a CameraInfo with each image, these are counted;
        else gaps between stamps are, in units of the short intervals.
        """
        images, infos = list(self._stamps), list(self._info_stamps)
        if len(images) < 5 or images[-1] <= images[0]:
            return 0.0
        if len(infos) >= 10 and infos[-1] >= images[-1] - _PAUSE_SECONDS:
            since = max(images[0], infos[0])
            sent = sum(since <= stamp <= images[-1] for stamp in infos)
            came = sum(since <= stamp for stamp in images)
            return max(0.0, 1 - came / sent) if sent else 0.0
        intervals = [b - a for a, b in pairwise(images)]
        short = sorted(intervals)[len(intervals) // 10]
        if short <= 0:
            return 0.0
        period = statistics.mean(i for i in intervals if short <= i < 1.6 * short)
        lost = sum(round(i / period) - 1 for i in intervals if i < _PAUSE_SECONDS)
        return max(0.0, lost / (len(images) + lost))

    def check(
        self, now: float, since: float, timeout: float, publishers: Sequence[TopicEndpointInfo]
    ) -> tuple[bytes, str]:
        """Level and message for diagnostics.

        Args:
            now, since: the time, and when watching began, in seconds.
            timeout: silence of this many seconds is reported.
            publishers: those on the topic now.
        """
        last = self.last_arrival
        silence = now - (since if last is None else last)
        mismatched = self._mismatched(publishers)
        if mismatched and len(mismatched) == len(publishers):
            return ERROR, "; ".join(mismatched)
        if silence > timeout:
            if not publishers:
                return WARN, f"no publisher on {self.topic}"
            if last is None:
                return ERROR, (
                    f"{len(publishers)} publisher(s) on {self.topic}, but no image has arrived "
                    f"in {silence:.1f} s. {LOSS_REMEDY}"
                )
            return WARN, f"no image on {self.topic} for {silence:.1f} s"
        if mismatched:
            return WARN, "; ".join(mismatched)
        share = self.lost_share()
        if share > _LOSS_TO_REPORT:
            return WARN, f"{share:.0%} of the images on {self.topic} are lost. {LOSS_REMEDY}"
        return OK, "receiving" if last is not None else f"waiting for {self.topic}"

    def _mismatched(self, publishers: Sequence[TopicEndpointInfo]) -> list[str]:
        """A sentence for each publisher whose offer does not match."""
        sentences = []
        for publisher in publishers:
            verdict, reason = qos_check_compatible(publisher.qos_profile, self.qos)
            if verdict == QoSCompatibility.ERROR:
                sentences.append(
                    f"{publisher.node_name} offers a QoS on {self.topic} that does not match "
                    f"({reason.rstrip(';')}): change it there, or here by "
                    f"qos_overrides.{self.topic}.subscription.*"
                )
        return sentences

    def report(self) -> dict[str, str]:
        """What diagnostics shows of the camera."""
        return {
            "topic": self.topic,
            "received": str(self.received),
            "lost_share_estimate": f"{self.lost_share():.3f}",
            "lost_events": str(self.lost_events),
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
