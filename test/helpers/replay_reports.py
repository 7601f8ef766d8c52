"""Directories such as `ivf replay` writes, of a short synthetic drive, with real scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ivf_core.class_sets import MFNET
from ivf_core.images.files import write_image
from ivf_core.images.overlay import draw_overlay
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.metrics.fusion import fusion_metrics
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.scenes import SyntheticDrive

START = 1_700_000_000_123_456_789
STAMP_STEP = 50_000_001  # ns; not a multiple of the spacing of float64 at such a stamp


def write_replay(
    folder: Path, pipeline: FusionPipeline, drive: SyntheticDrive, rgb_topic: str = "/rgb/image_raw"
) -> Path:
    """Write the replay of a drive: every second pair is scored, every third has images."""
    confusion = ConfusionMatrix(len(MFNET))
    rows, timings = [], []
    before = None
    for number, frame in enumerate(drive):
        seconds = number * STAMP_STEP / 1e9
        result = pipeline(ImagePair(frame.visible, frame.infrared, seconds))
        assert result.labels is not None
        assert result.fused is not None
        labels = resize_labels(result.labels, frame.infrared.shape)
        confusion.update(labels, frame.labels)
        row: dict[str, Any] = {
            "index": number,
            "stamp_ns": START + number * STAMP_STEP,
            "seconds": f"{seconds:.6f}",
            "offset_ms": f"{2 + np.sin(number):.3f}",
        }
        other = cv2.addWeighted(frame.visible, 0.5, frame.infrared[..., None].repeat(3, 2), 0.5, 0)
        row |= _scores(frame.visible, result, result.fused, number)
        row |= {f"other_{k}": v for k, v in _scores(frame.visible, result, other, number).items()}
        shares = np.bincount(labels.ravel(), minlength=len(MFNET)) / labels.size
        row |= {f"share_{n}": f"{s:.6f}" for n, s in zip(MFNET.names, shares, strict=True)}
        row["flip_share"] = "" if before is None else f"{(labels != before).mean():.6f}"
        row["infrared_saturated_share"] = f"{(frame.infrared == 255).mean():.6f}"
        row["infrared_frozen"] = 0
        row["rgb_dark"] = f"{frame.visible.mean():.3f}"
        rows.append(row)
        timings.append(
            {"index": number, "prepare_ms": result.prepare_ms, "model_ms": result.model_ms}
        )
        before = labels
        if number % 3 == 0:
            overlay = draw_overlay(result.fused, labels, MFNET, 0.5)
            images = (frame.visible, frame.infrared, result.fused, overlay, other)
            for kind, image in zip(
                ("rgb", "thermal", "fused", "overlay", "other"), images, strict=True
            ):
                write_image(folder / f"images/{number:06d}_{kind}.jpg", image)
    _write_table(folder / "frames.csv", rows)
    _write_table(folder / "timings.csv", timings)
    summary = _summary(rows, timings, confusion, rgb_topic)
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def _scores(visible: np.ndarray, result: Any, fused: np.ndarray, number: int) -> dict[str, Any]:
    if number % 2:
        return dict.fromkeys(("SD", "VIF", "Qabf", "Nabf"), "")
    images = (cv2.cvtColor(visible, cv2.COLOR_RGB2GRAY), result.infrared,
              cv2.cvtColor(fused, cv2.COLOR_RGB2GRAY))  # fmt: skip
    scores = fusion_metrics(*images, names=("SD", "VIF", "Qabf", "Nabf"))
    return {name: f"{value:.6f}" for name, value in scores.items()}


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _quantiles(values: list[float]) -> dict[str, float]:
    p5, median, p95 = np.quantile(values, (0.05, 0.5, 0.95))
    return {"mean": float(np.mean(values)), "p5": float(p5), "median": float(median),
            "p95": float(p95), "frames": len(values)}  # fmt: skip


def _summary(
    rows: list[dict[str, Any]],
    timings: list[dict[str, Any]],
    confusion: ConfusionMatrix,
    rgb_topic: str,
) -> dict[str, Any]:
    count, last = len(rows), len(rows) - 1
    seconds = [float(row["seconds"]) for row in rows]

    def scores(prefix: str) -> dict[str, Any]:
        names = ("SD", "VIF", "Qabf", "Nabf")
        return {
            n: _quantiles([float(row[prefix + n]) for row in rows if row[prefix + n]])
            for n in names
        }

    accuracy = np.diag(confusion.counts) / np.maximum(confusion.counts.sum(1), 1)
    offsets = [float(row["offset_ms"]) for row in rows]
    counts, edges = np.histogram(offsets, 10)
    return {
        "format": 1,
        "versions": {"ivf_ros": "0.1.0", "torch": torch.__version__},
        "bag": {"path": "synthetic_drive", "format": "mcap", "duration_seconds": seconds[-1],
                "start_ns": START, "messages": 2 * count + 3},
        "topics": {"rgb": rgb_topic, "thermal": "/thermal/image_raw", "guessed": True,
                   "candidates": [rgb_topic, "/thermal/image_raw"], "labels": "/labels",
                   "other_fused": "/other/image"},
        "settings": {"weights": "fast", "engine": "torch", "precision": "fp32",
                     "tolerance_seconds": 0.02, "offset_seconds": 0.0, "registration": None},
        "pairing": {
            "received": {"rgb": count + 2, "thermal": count + 1}, "pairs": count,
            "unmatched": {"rgb": {"unmatched": 2}, "thermal": {"duplicate": 1}},
            "offset_histogram": {"edges_ms": edges.tolist(), "counts": counts.tolist()},
            "suggested_offset_seconds": -0.002,
            "gaps": [{"topic": rgb_topic, "start_seconds": (seconds[1] + seconds[2]) / 2 - 0.01,
                      "seconds": 0.02}],
            "rate": {"seconds": seconds, "rgb_hz": [20.0] * count, "thermal_hz": [20.0] * count,
                     "pairs_hz": [19.5] * count},
        },
        "failed": {}, "left_out": ["message 7 of /rgb/image_raw: truncated"],
        "classes": {"names": list(MFNET.names), "colors": [list(c) for c in MFNET.colors]},
        "segmentation": {
            "miou": confusion.mean_iou(),
            "iou": dict(zip(MFNET.names, np.nan_to_num(confusion.iou()).tolist(), strict=True)),
            "accuracy": dict(zip(MFNET.names, accuracy.tolist(), strict=True)),
            "confusion": confusion.counts.tolist(), "pixels": int(confusion.counts.sum()),
        },
        "metrics": scores(""), "other": scores("other_"),
        "timings": {n: _quantiles([t[f"{n}_ms"] for t in timings]) for n in ("prepare", "model")},
        "throughput": {"pairs_per_second": 52.1},
        "live": None,
        "registration": {
            "median_px": 3.2, "confidence": 0.8, "frames": count,
            "commands": ["ivf register synthetic_drive --output rig"],
        },
        "rig": {"kind": "sizes", "seen_share": 1.0, "scored_share": 1.0},
        "notable": [{"frame": last, "reasons": ["lowest VIF of the drive"]},
                    {"frame": 3, "reasons": ["largest jump of SD", "3 % more pixels flip"]}],
        "warnings": [{"code": "unmatched", "text": "2 RGB images found no partner.",
                      "frames": [1, 3]}],
    }  # fmt: skip
