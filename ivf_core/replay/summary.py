"""summary.json: what a replay found, as figures and in plain words."""

from __future__ import annotations

import csv
import hashlib
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core import __version__
from ivf_core.bags.info import BagInfo
from ivf_core.metrics.fusion import FUSION_METRICS
from ivf_core.models.checkpoints import find_weights
from ivf_core.replay.measure.alignment import Alignment
from ivf_core.replay.measure.notable import DARK_LUMA, SATURATED_SHARE
from ivf_core.replay.settings import ReplaySettings

__all__ = [
    "FORMAT",
    "bag_entry",
    "fingerprint",
    "frame_warnings",
    "input_fingerprints",
    "metric_entry",
    "pairing_warnings",
    "read_columns",
    "spread",
    "versions",
]

FORMAT = 1

_FINGERPRINT_BYTES = 1 << 20
_PACKAGES = ("numpy", "opencv-python-headless", "rosbags", "torch", "openvino", "onnxruntime")
_MOST_FRAMES = 50
_FEW_PAIRED = 0.9
_WORTH_SECONDS = 0.002


def versions() -> dict[str, str]:
    """Of this package, Python, and what computes the results."""
    found = {"ivf": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def input_fingerprints(settings: ReplaySettings) -> dict[str, str]:
    """Of the files that settings name: weights, registration, and another recording."""
    files = {"registration": settings.registration}
    if settings.recorded is None:
        files["weights"] = find_weights(settings.weights)
    elif settings.recorded:
        files["recorded"] = Path(settings.recorded)
    return {name: fingerprint(path) for name, path in files.items() if path is not None}


def bag_entry(info: BagInfo) -> dict[str, Any]:
    """`bag` of summary.json."""
    return {
        "path": info.path.name,
        "format": info.format,
        "duration_seconds": round(info.duration_seconds, 6),
        "start_ns": info.start_ns,
        "messages": info.messages,
        "fingerprint": fingerprint(info.path),
    }


def fingerprint(path: Path) -> str:
    """Tells one bag from another: names, sizes and ends of its files, hashed."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_FINGERPRINT_BYTES))
            stream.seek(max(0, size - _FINGERPRINT_BYTES))
            digest.update(stream.read(_FINGERPRINT_BYTES))
    return digest.hexdigest()[:32]


def read_columns(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Columns of a CSV file as float64, NaN where a field is empty."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows)
        places = {name: header.index(name) for name in names if name in header}
        # A number a field, not its text: long bags have many.
        flat = np.fromiter(
            (float(row[k]) if row[k] else np.nan for row in rows for k in places.values()),
            np.float64,
        )
    table = flat.reshape(-1, max(1, len(places)))
    return {name: table[:, k] for k, name in enumerate(places)}


def spread(values: np.ndarray, *, low: bool = True) -> dict[str, float | int] | None:
    """Mean and percentiles of the values that there are, and their number."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    percentiles = {"p5": 5, "median": 50, "p95": 95} if low else {"median": 50, "p95": 95}
    return {
        "mean": _rounded(values.mean()),
        **{name: _rounded(np.percentile(values, p)) for name, p in percentiles.items()},
        **({"frames": len(values)} if low else {}),
    }


def metric_entry(columns: dict[str, np.ndarray], prefix: str = "") -> dict[str, Any]:
    """`metrics` of summary.json: the metrics and, of ours, the other values of frames."""
    names = [name for name in columns if name.removeprefix(prefix) in FUSION_METRICS]
    names = [name for name in names if name.startswith(prefix)]
    if not prefix:
        names += ["flip_share"]
    entries = {
        name.removeprefix(prefix): spread(columns[name]) for name in names if name in columns
    }
    return {name: entry for name, entry in entries.items() if entry is not None}


def frame_warnings(
    columns: dict[str, np.ndarray], alignment: Alignment | None
) -> list[dict[str, Any]]:
    """What is wrong with pictures, from the columns of frames.csv."""
    if not len(columns.get("index", ())):
        return []
    index = columns["index"].astype(int)
    found = []

    def add(code: str, where: np.ndarray, text: str) -> None:
        if where.any():
            share = where.mean()
            found.append(
                warning(code, f"{text} in {int(where.sum())} frames ({share:.0%})", index[where])
            )

    saturated = columns["infrared_saturated_share"] > SATURATED_SHARE
    add(
        "infrared_saturated",
        saturated,
        f"More than {SATURATED_SHARE:.0%} of the thermal image is saturated",
    )
    add(
        "infrared_frozen",
        columns["infrared_frozen"] > 0.5,
        "The thermal image is the same as the one before",
    )
    add(
        "rgb_dark",
        columns["rgb_dark"] < DARK_LUMA,
        f"The RGB image is dark (mean luma below {DARK_LUMA:.0f})",
    )
    if alignment is not None and alignment.homography is not None:
        found.append(
            warning(
                "misregistered",
                f"The thermal image lies {alignment.median_px:.1f} px off the RGB image; "
                "a homography that brings it there is under `registration`",
            )
        )
    return found


def pairing_warnings(pairing: dict[str, Any], offset_seconds: float) -> list[dict[str, Any]]:
    """What is wrong with stamps and pairing, from `pairing` of summary.json."""
    found = []
    received, pairs = pairing["received"], pairing["pairs"]
    names = {"rgb": "RGB", "thermal": "thermal"}
    silent = [camera for camera, count in received.items() if not count]
    for camera in silent:
        found.append(warning("no_images", f"There is no usable {names[camera]} image in the bag"))
    difference = pairing["clock_difference_seconds"]
    if abs(difference + offset_seconds) > 1.0 and not silent:
        found.append(
            warning(
                "clocks_differ",
                f"The thermal camera's clock is {_duration(abs(difference))} "
                f"{'ahead of' if difference > 0 else 'behind'} the RGB camera's: "
                "set offset_seconds, or synchronise the clocks",
            )
        )
    if not pairs and not silent:
        found.append(warning("no_pairs", "No two images are close enough in time to make a pair"))
    elif pairs < _FEW_PAIRED * min(received.values()):
        found.append(
            warning(
                "unmatched",
                f"{pairs} pairs of {received['rgb']} RGB and {received['thermal']} thermal "
                "images: many have no partner",
            )
        )
    for camera, count in pairing["stamps_back"].items():
        if count:
            found.append(warning("stamps_back", f"{names[camera]} stamps go back {count} times"))
    suggested = pairing["suggested_offset_seconds"]
    if suggested is not None and abs(suggested - offset_seconds) >= _WORTH_SECONDS:
        basis = pairing["suggested_offset_basis"]
        doubt = ", which leaves whole periods open" if basis == "stamps" else ""
        found.append(
            warning(
                "offset",
                f"The shutters seem to be apart: offset_seconds {suggested:g} would bring both "
                f"images of a moment together (from {basis}{doubt})",
            )
        )
    for camera in names:
        gaps = [gap["seconds"] for gap in pairing["gaps"] if gap["topic"] == camera]
        if gaps:
            found.append(
                warning(
                    "gaps",
                    f"The {names[camera]} camera is silent {len(gaps)} times for longer than "
                    f"two and a half periods, at most {max(gaps):.2f} s",
                )
            )
    return found


def warning(code: str, text: str, frames: Sequence[int] | np.ndarray = ()) -> dict[str, Any]:
    """An entry of `warnings`; of many frames the first."""
    return {"code": code, "text": text, "frames": [int(frame) for frame in frames[:_MOST_FRAMES]]}


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.2f} s"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
