"""Read the node's reports from a recording of the live graph: latency, drops, load, settings.

The node reports all of it on /diagnostics and ~/latency_ms. A recording needs these topics
next to the results (our recorder writes them; so does `ros2 bag record`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ivf_core.bags.info import BagInfo, BagMessage
from ivf_core.bags.salvage import Bag
from ivf_core.bags.stamps import read_stamp, shift_stamp
from ivf_core.bags.typestore import decode
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.summary_warnings import warning
from ivf_core.system.short_text import short_text
from ivf_core.system.user_paths import is_file, user_path

__all__ = ["LiveGraph", "RecordedStamps", "live_warnings", "read_live"]

_FUSED = "/fused/image"
_DIAGNOSTICS = "/diagnostics"
_RESTAMPED = "/restamped_ns"
_STAGES = ("wait", "decode", "prepare", "model", "publish", "overhead")
_PERCENTILES = {"median": 50, "p95": 95, "p99": 99}
_CAMERAS = {"rgb": "RGB", "thermal": "thermal"}

_SETTINGS = {
    "tolerance_seconds": float,
    "offset_seconds": float,
    "minimum_interval_seconds": float,
    "queue_size": int,
    "thermal_mode": str,
    "low_percentile": float,
    "high_percentile": float,
    "gain_smoothing_seconds": float,
    "palette": str,
    "overlay_opacity": float,
}
"""Node parameters that a replay of its results must share, and their types."""


@dataclass
class LiveGraph:
    """Reports of one node in a recording.

    Attributes:
        summary: `live` of summary.json.
        parameters: the node's parameters, as text by name; empty if it did not report them.
        topics: image topics that it has subscribed to, by camera.
        weights: weights of the node; empty if unknown.
        engine: engine of the node; empty if unknown.
    """

    summary: dict[str, Any]
    parameters: Mapping[str, str] = field(default_factory=dict)
    topics: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""
    engine: str = ""

    def settings(self, asked: ReplaySettings) -> ReplaySettings:
        """Replace settings by those that the node has worked with.

        Args:
            asked: settings as given; topics and registration that it names stay.

        Raises:
            ValueError: a parameter cannot be read, or the node's rig file is not here; names it.
        """
        found: dict[str, Any] = {}
        for name, kind in _SETTINGS.items():
            if name not in self.parameters:
                continue
            try:
                found[name] = kind(self.parameters[name])
            except ValueError:
                raise ValueError(
                    f"the recorded parameter {name} is {self.parameters[name]!r}, "
                    f"expected {kind.__name__}"
                ) from None
        if "overlay_opacity" in found:
            found["opacity"] = found.pop("overlay_opacity")
        for camera, topic in self.topics.items():
            if getattr(asked, f"{camera}_topic") is None:
                found[f"{camera}_topic"] = topic
        file = self.parameters.get("registration_file")
        if asked.registration is None and file and self.parameters.get("registration") != "off":
            found["registration"] = user_path(file)
            if not is_file(found["registration"]):
                raise ValueError(
                    f"the recorded node registered by '{short_text(file)}', which is not here: "
                    "name a copy with --registration"
                )
        return replace(asked, **found)

    def registration_warnings(self, asked: ReplaySettings) -> list[dict[str, Any]]:
        """Return a warning if the node had a rig that is not in the recording.

        Args:
            asked: settings as given.
        """
        mode = self.parameters.get("registration")
        if asked.registration is not None or mode not in ("auto", "camera_info"):
            return []
        return [
            warning(
                "registration",
                f"The node ran with registration:={mode}, and its rig is not in the recording: "
                "metrics may compare with thermal images in another place; save the rig with "
                "~/save_registration and name it with --registration",
            )
        ]


def read_live(recording: Bag) -> LiveGraph | None:
    """Read the reports of the node whose fused images are recorded; None without reports.

    Args:
        recording: open for reading.

    Raises:
        BagError: the recording cannot be read.
    """
    node = _node_name(recording.info)
    latency = f"{node}/latency_ms"
    there = {topic.name for topic in recording.info.topics if topic.count}
    if node is None or _DIAGNOSTICS not in there:
        return None
    reports: list[_Report] = []
    latencies: list[float] = []
    times: list[int] = []  # when these were recorded
    for message in recording.raw([name for name in (_DIAGNOSTICS, latency) if name in there]):
        content = decode(message.message, message.type)
        if message.topic == latency:
            latencies.append(float(content.data))
            times.append(message.time_ns)
        else:
            reports += _reports(node, message.time_ns, content.status)
    if not reports:
        return None
    last = reports[-1]
    return LiveGraph(
        {
            "mode": last.pairs.get("mode", ""),
            "pairs_in": last.count("pairs_in"),
            "pairs_out": last.count("pairs_out"),
            "dropped": last.counts("dropped."),
            "frames_without_pair": last.counts("frames."),
            "images_received": {
                camera: int(values["received"])
                for camera, values in last.cameras.items()
                if "received" in values
            },
            **_latency(latencies, last),
            "timings_ms": {
                stage: spread for stage in _STAGES if (spread := last.spread(f"{stage}_ms"))
            },
            "rate_hz": _rate(times),
            "processor": {"node_cores": _cores(reports)},
            "memory_mib": max(float(r.pairs.get("memory_mib", 0)) for r in reports) or None,
        },
        parameters=last.settings,
        topics={c: v["topic"] for c, v in last.cameras.items() if "topic" in v},
        weights=last.pairs.get("weights", ""),
        engine=last.pairs.get("engine", ""),
    )


class RecordedStamps:
    """Recording with the stamps restored that the bag had before it was played.

    A player that shifts stamps to the present publishes the stamps before and after on
    ~/restamped_ns, for each RGB image. Messages that belong to none keep their stamps.

    Args:
        recording: open for reading; read once for the stamps.

    Attributes:
        info: summary of the recording.
    """

    def __init__(self, recording: Bag) -> None:
        self.info = recording.info
        self._recording = recording
        names = [t.name for t in self.info.topics if t.name.endswith(_RESTAMPED) and t.count]
        self._stamps: dict[int, int] = {}
        for message in recording.raw(names) if names else ():
            recorded, published = decode(message.message, message.type).data[:2]
            self._stamps[int(published)] = int(recorded)

    def raw(self, topics: list[str], since_ns: int = 0) -> Iterator[BagMessage]:
        """Yield messages of these topics as CDR bytes, with the stamps restored."""
        for message in self._recording.raw(topics, since_ns):
            with suppress(ValueError):  # too short for a stamp
                stamp = read_stamp(message.message)
                if stamp in self._stamps:
                    data = shift_stamp(message.message, self._stamps[stamp] - stamp)
                    message = message._replace(message=data)
            yield message


def live_warnings(live: Mapping[str, Any], received: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return warnings about images and pairs lost between the player and the results.

    Args:
        live: `live` of summary.json.
        received: number of images in the bag, by camera.
    """
    found = []
    for camera, came in live["images_received"].items():
        if came < received[camera]:
            found.append(
                warning(
                    "live_images_lost",
                    f"{came} of {received[camera]} {_CAMERAS[camera]} images reached the node; "
                    "the others were lost on the way (docs/transport.md)",
                )
            )
    if live["dropped"]:
        reasons = ", ".join(
            f"{count} {reason.replace('_', ' ')}" for reason, count in live["dropped"].items()
        )
        found.append(
            warning("live_dropped", f"The node dropped pairs, of {live['pairs_in']}: {reasons}")
        )
    return found


@dataclass
class _Report:
    """Report of the node in one message on /diagnostics."""

    time_ns: int
    pairs: dict[str, str]
    cameras: dict[str, dict[str, str]]
    settings: dict[str, str]

    def count(self, name: str) -> int:
        return int(self.pairs[name])

    def counts(self, prefix: str) -> dict[str, int]:
        return {
            key.removeprefix(prefix): int(value)
            for key, value in self.pairs.items()
            if key.startswith(prefix)
        }

    def spread(self, name: str) -> dict[str, float] | None:
        found = {key: self.pairs.get(f"{name}.{key}") for key in _PERCENTILES}
        known = {key: float(value) for key, value in found.items() if value is not None}
        return known or None


def _node_name(info: BagInfo) -> str | None:
    """Return the name of the node, with its namespace, that the fused images come from."""
    names = sorted(t.name for t in info.topics if t.name.endswith(_FUSED) and t.count)
    return names[0].removesuffix(_FUSED) if names else None


def _reports(node: str, time_ns: int, statuses: Iterable[Any]) -> Iterator[_Report]:
    """Yield the node's report among the statuses of a DiagnosticArray, if there is one."""
    parts = {
        status.name.removeprefix(f"{node}: "): {pair.key: pair.value for pair in status.values}
        for status in statuses
        if status.name.startswith(f"{node}: ")
    }
    if "pairs_in" in parts.get("pairs", {}):
        cameras = {
            camera: parts[f"{camera} camera"] for camera in _CAMERAS if f"{camera} camera" in parts
        }
        yield _Report(time_ns, parts["pairs"], cameras, parts.get("settings", {}))


def _latency(latencies: list[float], last: _Report) -> dict[str, Any]:
    """Return the latency of all pairs from their stamp, or else from their arrival.

    Latency from the stamp is unknown if stamps and clock have no time in common.
    """
    known = np.array(latencies)[np.isfinite(latencies)]
    if len(known):
        spread = {k: round(float(np.percentile(known, p)), 3) for k, p in _PERCENTILES.items()}
        return {"latency_ms": spread, "latency_from": "stamp"}
    arrival = last.spread("handling_ms")
    return {"latency_ms": arrival, "latency_from": "arrival" if arrival else None}


def _rate(times: list[int]) -> float | None:
    """Return the pairs per second that were published, from their times of recording."""
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    return round((len(times) - 1) * 1e9 / (times[-1] - times[0]), 3)


def _cores(reports: list[_Report]) -> float | None:
    """Return processor time by wall time, from the last report without pairs to the last pair."""
    known = [report for report in reports if "processor_seconds" in report.pairs]
    done = [report.count("pairs_out") + sum(report.counts("dropped.").values()) for report in known]
    if not known or not done[-1]:
        return None
    first = max((k for k, report in enumerate(known) if not report.count("pairs_in")), default=0)
    last = done.index(done[-1])
    seconds = (known[last].time_ns - known[first].time_ns) / 1e9
    if last <= first or not seconds > 0:
        return None
    used = [float(known[k].pairs["processor_seconds"]) for k in (first, last)]
    return round((used[1] - used[0]) / seconds, 3)
