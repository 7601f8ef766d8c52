"""Diagnostics of the fusion node: counters, timings, the message, and repeated warnings."""

from __future__ import annotations

import math
import os
import re
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from ivf_core.system.usage import processor_seconds, resident_mb
from ivf_ros.qos import overriding_options

__all__ = [
    "ERROR",
    "OK",
    "WARN",
    "DiagnosticsPublisher",
    "Finding",
    "FindingLog",
    "PairStatistics",
    "WarningLog",
    "by_reason",
    "percentiles",
    "process_report",
]

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

Finding = tuple[bytes, str, Mapping[str, str]]
"""Level, message and values of one DiagnosticStatus."""

_TIMINGS = (
    "latency_ms",
    "overhead_ms",
    "wait_ms",
    "decode_ms",
    "prepare_ms",
    "registration_ms",
    "model_ms",
    "publish_ms",
    "health_ms",
    "handling_ms",
)
_KEPT_TIMINGS = 2000
_NO_FAULTS = frozenset(
    {"replaced_by_newer", "skipped_by_load_policy", "no_subscriber", "deactivated", "out_of_order"}
)
_BACKLOG_TO_REPORT = 50
_WARNING_PERIOD_SECONDS = 10.0
_CALM_SECONDS = 2.0


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile (nearest rank), or nothing without values.

    Args:
        values: numbers in any order.
    """
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
    """Return the counters of a report whose names start with a prefix.

    Args:
        values: report of a DiagnosticStatus, by key.
        prefix: beginning of the names; the result leaves it out.
    """
    return {
        key.removeprefix(prefix): int(value)
        for key, value in values.items()
        if key.startswith(prefix)
    }


def process_report() -> dict[str, str]:
    """Return processor time and memory of this process, by the keys of diagnostics."""
    return {
        "processor_seconds": f"{processor_seconds(os.getpid()):.2f}",
        "memory_mib": f"{resident_mb(os.getpid()):.1f}",
    }


class PairStatistics:
    """Counters of pairs: in = out + dropped by reason + pending. Any thread may use them.

    A frame that is fused without a partner counts as a pair, and is counted on its own as
    well, under the camera that took it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.pairs_in = 0
        self.pairs_out = 0
        self.masks_out = 0
        self.alone_in: Counter[str] = Counter()
        self.alone_out: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.repaired_frames = 0
        self.left_out_frames = 0
        self._out_times: deque[float] = deque(maxlen=_KEPT_TIMINGS)
        self._faults_before = 0
        self._failing_since: float | None = None  # first fault since the last result
        self._off_clock = False
        self._timings = {name: deque[float](maxlen=_KEPT_TIMINGS) for name in _TIMINGS}

    def came_in(self, alone: str = "") -> None:
        """Count a pair that the synchronizer has delivered, or a frame without a partner.

        Args:
            alone: camera of the frame, "rgb" or "thermal"; "" for a pair.
        """
        with self._lock:
            self.pairs_in += 1
            if alone:
                self.alone_in[alone] += 1

    def drop(self, reason: str, count: int = 1) -> None:
        """Count dropped pairs.

        Args:
            reason: name of the counter.
            count: number of pairs; 0 changes nothing.
        """
        if count:
            with self._lock:
                self.dropped[reason] += count
                if reason not in _NO_FAULTS and self._failing_since is None:
                    self._failing_since = time.monotonic()

    def went_out(
        self,
        timings: Mapping[str, float],
        *,
        repaired: bool,
        left_out: bool = False,
        masked: bool = False,
        alone: str = "",
    ) -> None:
        """Count a published pair.

        Args:
            timings: milliseconds by stage, with the names of the report.
            repaired: whether non-finite thermal pixels were filled.
            left_out: whether the gain control took thermal pixels for no scene.
            masked: whether its mask was published, or what is made of it.
            alone: as in `came_in`.
        """
        with self._lock:
            self.pairs_out += 1
            self.masks_out += masked
            if alone:
                self.alone_out[alone] += 1
            self.repaired_frames += repaired
            self.left_out_frames += left_out
            self._out_times.append(time.monotonic())
            self._failing_since = None
            self._off_clock = "latency_ms" not in timings
            for name, value in timings.items():
                self._timings[name].append(value)

    def settled(self) -> int:
        """Return the number of pairs that were published or dropped."""
        with self._lock:
            return self.pairs_out + sum(self.dropped.values())

    def check(self, timeout: float = math.inf) -> tuple[bytes, str]:
        """Return level and message: the faults since the last check, and the counts.

        Args:
            timeout: seconds of faults without a result after which the level is ERROR.
        """
        with self._lock:
            faults = sum(n for reason, n in self.dropped.items() if reason not in _NO_FAULTS)
            pending = self.pairs_in - self.pairs_out - sum(self.dropped.values())
            text = f"{self.pairs_in} pairs in, {self.pairs_out} out"
            if self.alone_in:
                counts = ", ".join(f"{n} {camera} only" for camera, n in self.alone_in.items())
                text += f" (of these in: {counts})"
            if self.dropped:
                reasons = ", ".join(f"{n} {reason}" for reason, n in self.dropped.most_common())
                text += f"; dropped: {reasons}"
            level = WARN if faults > self._faults_before else OK
            self._faults_before = faults
            if pending > _BACKLOG_TO_REPORT:
                level = WARN
                text += (
                    f"; {pending} pairs wait: the bag is played faster than the model runs "
                    "(the player's as_fast_as_taken waits for it)"
                )
            failing = self._failing_since
            if failing is not None and time.monotonic() - failing > timeout:
                level = ERROR
                text += f"; no result for {time.monotonic() - failing:.1f} s"
            if self._off_clock:
                text += (
                    "; no latency: stamps and clock are more than a minute apart (use_sim_time?)"
                )
            return level, text

    def report(self) -> dict[str, str]:
        """Return counters and percentiles as text, by the keys of diagnostics."""
        with self._lock:
            timings = {name: list(values) for name, values in self._timings.items()}
            pending = self.pairs_in - self.pairs_out - sum(self.dropped.values())
            values = {
                "pairs_in": str(self.pairs_in),
                "pairs_out": str(self.pairs_out),
                "pairs_pending": str(pending),
                "masks_out": str(self.masks_out),
                "repaired_thermal_frames": str(self.repaired_frames),
                "thermal_frames_with_fill": str(self.left_out_frames),
            }
            for name, counter in (("in", self.alone_in), ("out", self.alone_out)):
                values |= {f"single_camera.{c}_{name}": str(n) for c, n in sorted(counter.items())}
            times = self._out_times
            seconds = times[-1] - times[0] if times else 0.0
            values["throughput_hz"] = f"{(len(times) - 1) / seconds if seconds else 0.0:.3f}"
            values |= {f"dropped.{reason}": str(n) for reason, n in sorted(self.dropped.items())}
        for name, numbers in timings.items():
            values |= {f"{name}.{key}": f"{v:.3f}" for key, v in percentiles(numbers).items()}
        return values


class WarningLog:
    """Warnings of which each kind is logged once in ten seconds; counters tell the rest.

    Any thread may use it.

    Args:
        logger: logger of the node.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}

    def warn(self, kind: str, text: str) -> None:
        """Log a warning unless one of its kind was logged a short time ago.

        Args:
            kind: key of the warning.
            text: message for the log.
        """
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(kind, -_WARNING_PERIOD_SECONDS) < _WARNING_PERIOD_SECONDS:
                return
            self._last[kind] = now
        self._logger.warning(text)


class FindingLog:
    """Log of findings: a line when one begins, gets worse or has another cause, and at its end.

    Args:
        logger: logger of the node.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._open: dict[str, _OpenFinding] = {}

    def note(self, part: str, level: bytes, text: str, now: float) -> None:
        """Take the present finding of a part.

        Args:
            part: name of the part, such as "rgb camera".
            level: level for diagnostics.
            text: message for diagnostics.
            now: monotonic time in seconds.
        """
        known = self._open.setdefault(part, _OpenFinding())
        if level == OK:
            known.fine_since = known.fine_since or now
            if now - known.fine_since >= _CALM_SECONDS:
                del self._open[part]
                if known.logged:
                    self._logger.info(f"{part}: in order again" + (f" ({text})" if text else ""))
            return
        cause = re.sub(r"[-\d.]+", "", text)
        known.fine_since = None
        lately = now - known.logged.get(cause, -math.inf) < _WARNING_PERIOD_SECONDS
        if level <= known.level and (cause == known.cause or lately):
            return
        known.level, known.cause = max(level, known.level), cause
        known.logged[cause] = now
        # rclpy allows one severity for each call
        if level == ERROR:
            self._logger.error(f"{part}: {text}")
        else:
            self._logger.warning(f"{part}: {text}")


@dataclass
class _OpenFinding:
    """Finding that has not ended, with the times at which its causes were logged."""

    level: bytes = OK
    cause: str = ""
    logged: dict[str, float] = field(default_factory=dict)
    fine_since: float | None = None


class DiagnosticsPublisher:
    """Publisher of a node's findings on /diagnostics.

    Args:
        node: owner of the publisher.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(
            DiagnosticArray, "/diagnostics", 10, qos_overriding_options=overriding_options()
        )

    def publish(self, findings: Mapping[str, Finding]) -> None:
        """Publish one DiagnosticStatus for each finding.

        Args:
            findings: findings by the name of the part, such as "pairs".
        """
        name = self._node.get_fully_qualified_name()
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=level,
                name=f"{name}: {part}",
                message=text,
                hardware_id=name,
                values=[KeyValue(key=key, value=value) for key, value in values.items()],
            )
            for part, (level, text, values) in findings.items()
        ]
        self._publisher.publish(message)
