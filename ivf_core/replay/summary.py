"""Build summary.json: the figures and warnings of a whole replay."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.images.alignment import Alignment
from ivf_core.metrics.fusion import FUSION_METRICS
from ivf_core.replay.live import LiveGraph, live_warnings
from ivf_core.replay.measure.scorer import OTHER, Scorer
from ivf_core.replay.provenance import fingerprint, versions
from ivf_core.replay.result_sources import ResultSource
from ivf_core.replay.saved_replay import FORMAT
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.stages.fuse import FuseStage
from ivf_core.replay.stages.read import ReadStage
from ivf_core.replay.stages.score import TIMINGS, ScoreStage
from ivf_core.replay.summary_warnings import (
    frame_warnings,
    pairing_warnings,
    single_camera_warnings,
    warning,
)
from ivf_core.rigs.remap import AnyRegistration, RigRegistration

__all__ = ["Durations", "FinishedReplay", "build_summary"]


class Durations(NamedTuple):
    """Time that the stages of a replay took together.

    Attributes:
        seconds: duration of the run.
        processor_seconds: processor time by stage: "read", "write", "score" by their
            threads, and "fuse" the rest of the process.
    """

    seconds: float
    processor_seconds: Mapping[str, float]


_PARALLAX_METRES = (2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class FinishedReplay:
    """Stages of a replay whose threads have ended, and their settings.

    Attributes:
        read: first stage.
        fuse: second stage.
        score: last stage.
        results: source of the results.
        asked: settings as given.
        used: settings as used.
        files: fingerprints of the files that `asked` names.
        live: reports of the recorded node, or None.
        durations: time that the stages took.
    """

    read: ReadStage
    fuse: FuseStage
    score: ScoreStage
    results: ResultSource
    asked: ReplaySettings
    used: ReplaySettings
    files: dict[str, str]
    live: LiveGraph | None
    durations: Durations


def build_summary(replay: FinishedReplay) -> dict[str, Any]:
    """Return the content of summary.json.

    Args:
        replay: finished replay, with its tables on disk.
    """
    read, score, live = replay.read, replay.score, replay.live
    scorer = score.scorer
    columns = _read_columns(score.folder / "frames.csv", ["index", *scorer.columns])
    times = _read_columns(score.folder / "timings.csv", TIMINGS)
    pairing = read.log.to_json(scorer.motion_lag.result())
    for camera, count in read.cameras.beside.items():
        unmatched = pairing["unmatched"][camera]
        unmatched["not_in_use"] = unmatched.get("not_in_use", 0) + count
    alignment = scorer.alignment.result()
    failed = replay.read.failures.counts + replay.fuse.failures.counts
    return {
        "format": FORMAT,
        "versions": versions(),
        "bag": _bag_entry(read),
        "topics": read.topics.to_json(),
        "settings": {
            **replay.used.to_json(),
            "weights": (live and live.weights) or replay.results.weights,
            "engine": (live and live.engine) or replay.results.engine,
            "score_every": score.sampling.score_every,
        },
        "asked": {**replay.asked.to_json(), "files": replay.files},
        "pairing": pairing,
        "single_camera": read.cameras.to_json(),
        "failed": dict(sorted(failed.items())),
        "left_out": _left_out_lines(replay, failed),
        "classes": _classes_entry(replay.results.class_set),
        "segmentation": scorer.segmentation(),
        "metrics": _metric_entry(columns),
        "other": _metric_entry(columns, OTHER) or None,
        "timings": {
            name.removesuffix("_ms"): _spread(values, low=False) for name, values in times.items()
        },
        "throughput": _throughput_entry(times, replay.durations, replay.results.at_once),
        "live": live.summary if live else None,
        "registration": _alignment_entry(replay, alignment) if alignment else None,
        "rig": _rig_entry(read.registration, scorer),
        "notable": [
            {"frame": index, "reasons": reasons}
            for index, reasons in score.notable.frames().items()
        ],
        "warnings": [
            *_input_warnings(replay, failed),
            *single_camera_warnings(read.cameras.to_json()),
            *pairing_warnings(pairing, read.offset_seconds),
            *frame_warnings(columns, alignment),
            *(live_warnings(live.summary, read.counts) if live else []),
            *(live.registration_warnings(replay.asked) if live else []),
        ],
    }


def _bag_entry(read: ReadStage) -> dict[str, Any]:
    info = read.info
    return {
        "path": info.path.name,
        "format": info.format,
        "duration_seconds": round(info.duration_seconds, 6),
        "start_ns": info.start_ns,
        "messages": info.messages,
        "fingerprint": fingerprint(info.path),
    }


def _alignment_entry(replay: FinishedReplay, alignment: Alignment) -> dict[str, Any]:
    """Return the registration check, with the commands that mend it where images are off."""
    bag = shlex.quote(replay.read.info.path.name)
    topics = [
        f" --{camera}-topic {shlex.quote(topic)}"
        for camera in ("rgb", "thermal")
        if (topic := getattr(replay.asked, f"{camera}_topic"))
    ]
    file = replay.used.registration
    rig = "" if file is None else f" --rig {shlex.quote(str(file))}"
    commands = [
        f"ivf register {bag}{rig}{''.join(topics)} --output rig",
        f"ivf replay {bag} --registration rig/rig.yaml{''.join(topics)} --output registered",
    ]
    return {**alignment.to_json(), "commands": commands if alignment.is_off else []}


def _rig_entry(registration: AnyRegistration, scorer: Scorer) -> dict[str, Any]:
    """Return how thermal images were registered, and how much of the images both cameras see."""
    entry: dict[str, Any] = {
        "kind": "sizes",
        "seen_share": _share(scorer.seen_share),
        "scored_share": _share(scorer.scored_share),
    }
    if not isinstance(registration, RigRegistration):
        return entry
    rig = registration.rig
    entry |= {
        "kind": "homography",
        "rgb_size": list(rig.rgb_size),
        "thermal_size": list(rig.thermal_size),
        "time_offset_seconds": rig.time_offset_seconds,
    }
    if rig.rgb is None or rig.thermal is None:
        return entry
    off = rig.parallax_pixels(np.array(_PARALLAX_METRES, np.float64))
    return {
        **entry,
        "kind": "cameras",
        "lenses": {"rgb": rig.rgb.distortion_model, "thermal": rig.thermal.distortion_model},
        "undistort_rgb": rig.undistort_rgb,
        "corrected": rig.correction is not None,
        "baseline_m": round(rig.baseline, 4),
        "plane": rig.plane.kind,
        "parallax": [
            {"distance_m": distance, "pixels": round(float(pixels), 2)}
            for distance, pixels in zip(_PARALLAX_METRES, off, strict=True)
            if np.isfinite(pixels)
        ],
    }


def _share(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _classes_entry(class_set: ClassSet | None) -> dict[str, Any]:
    return {
        "names": list(class_set.names) if class_set else [],
        "colors": [list(color) for color in class_set.colors] if class_set else [],
    }


def _throughput_entry(
    times: dict[str, np.ndarray], durations: Durations, at_once: int
) -> dict[str, Any]:
    """Return pairs per second and processor time a pair.

    The speed of the pipeline is that of its mean duration.
    """
    pipeline = times["prepare_ms"] + times["model_ms"]
    known = pipeline[np.isfinite(pipeline)]
    speed = at_once * 1e3 / float(known.mean()) if len(known) else None
    pairs = len(pipeline)
    processor = durations.processor_seconds
    return {
        "pairs_per_second": round(pairs / durations.seconds, 2),
        "seconds": round(durations.seconds, 3),
        "pipeline_pairs_per_second": round(speed, 2) if speed is not None else None,
        "pairs_at_once": at_once,
        "processor_ms": {k: round(v / pairs * 1e3, 3) for k, v in processor.items() if pairs},
    }


def _metric_entry(columns: dict[str, np.ndarray], prefix: str = "") -> dict[str, Any]:
    """Return the spread of the metrics with this prefix; without one, also of flip_share."""
    names = [name for name in columns if name.removeprefix(prefix) in FUSION_METRICS]
    names = [name for name in names if name.startswith(prefix)]
    if not prefix:
        names += ["flip_share"]
    entries = {
        name.removeprefix(prefix): _spread(columns[name]) for name in names if name in columns
    }
    return {name: entry for name, entry in entries.items() if entry is not None}


def _left_out_lines(replay: FinishedReplay, failed: Counter[str]) -> list[str]:
    read, scorer = replay.read, replay.score.scorer
    details = {**replay.read.failures.details, **replay.fuse.failures.details}
    lines = list(read.left_out)
    for (topic, reason), count in sorted(read.pairs.left_out.items()):
        lines.append(f"{topic}: {count} messages are {reason.replace('_', ' ')}")
    for reason, count in sorted(failed.items()):
        lines.append(f"{count} pairs or images, {reason}: {details[reason]}")
    for reason, count in sorted(scorer.skipped.items()):
        lines.append(f"{count} times not measured: {reason}")
    for number, pixels in sorted(scorer.unknown_ids.items()):
        lines.append(f"labels: id {number} is in no class set, {pixels} pixels not counted")
    for role, matcher in read.references.items():
        unused = matcher.received - matcher.matched
        if unused > 0:
            lines.append(f"{role}: {unused} images belong to no pair")
    return lines


def _input_warnings(replay: FinishedReplay, failed: Counter[str]) -> list[dict[str, Any]]:
    found = []
    if replay.read.left_out:
        found.append(warning("damaged", "; ".join(replay.read.left_out)))
    if replay.read.info.differences:
        found.append(warning("index", "; ".join(replay.read.info.differences)))
    found += [warning("topics", doubt) for doubt in replay.read.topics.doubts]
    for topic, count in sorted(replay.read.pairs.unstamped.items()):
        found.append(
            warning(
                "zero_stamps",
                f"{topic}: {count} images have no stamp and were paired by their time of "
                "recording; the node pairs by stamps only",
            )
        )
    if failed:
        without = "have no recorded result" if replay.results.recorded else "could not be fused"
        found.append(warning("failed", f"{failed.total()} pairs {without}, see `failed`"))
    pixels = replay.fuse.left_out
    if pixels.pairs:
        found.append(
            warning(
                "no_scene",
                f"{pixels.pairs} thermal images have pixels that look like no scene (a fill value, "
                f"a constant row or isolated extremes), {pixels.most} at most: they were left "
                "out of the gain control",
                pixels.frames,
            )
        )
    if replay.score.not_compared:
        found.append(
            warning("labels_classes", f"Masks are not scored: {replay.score.not_compared}")
        )
    if replay.results.class_set is None:
        found.append(warning("no_head", "The weights have no segmentation head: no masks"))
    return found


def _read_columns(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read columns of a CSV file as float64, NaN where a field is empty."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows)
        places = {name: header.index(name) for name in names if name in header}
        # Numbers, not their texts, are kept: long bags have many.
        flat = np.fromiter(
            (float(row[k]) if row[k] else np.nan for row in rows for k in places.values()),
            np.float64,
        )
    table = flat.reshape(-1, max(1, len(places)))
    return {name: table[:, k] for k, name in enumerate(places)}


def _spread(values: np.ndarray, *, low: bool = True) -> dict[str, float | int] | None:
    """Return mean and percentiles of the finite values, or None without any.

    With `low`, the fifth percentile and the number of values as well.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    percentiles = {"p5": 5, "median": 50, "p95": 95} if low else {"median": 50, "p95": 95}
    return {
        "mean": _rounded(values.mean()),
        **{name: _rounded(np.percentile(values, p)) for name, p in percentiles.items()},
        **({"frames": len(values)} if low else {}),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
