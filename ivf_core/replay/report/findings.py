"""Findings of a replay in words: key figures, sentences, and a table of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ivf_core.html.filters import count, duration, percent
from ivf_core.replay.quantities import describe, metric_columns
from ivf_core.replay.saved_replay import ReplayDirectory

__all__ = ["metric_rows", "sentences", "tiles"]

Bands = Mapping[str, Mapping[str, float]]
"""Quantiles of reference scores by metric: p5, p25, median, p75 and p95."""


def tiles(replay: ReplayDirectory) -> list[tuple[str, str, str]]:
    """Return the key figures of a replay as (label, figure, remark); a remark may be ""."""
    summary = replay.summary
    pairing = summary["pairing"]
    received, pairs = pairing["received"], pairing["pairs"]
    fewest = min(received.values(), default=0)
    rows = [
        (
            "pairs",
            count(pairs),
            f"{percent(pairs / fewest)} of the images that could have a partner" if fewest else "",
        ),
        ("drive", duration(summary["bag"]["duration_seconds"]), ""),
    ]
    rate = (summary.get("throughput") or {}).get("pairs_per_second")
    if rate:
        rows.append(("speed", f"{rate:.3g} pairs/s", "reading and writing included"))
    model = (summary.get("timings") or {}).get("model")
    if model:
        rows.append(("model, median", f"{model['median']:.3g} ms", f"p95 {model['p95']:.3g} ms"))
    latency = (summary.get("live") or {}).get("latency_ms")
    if latency:
        rows.append(
            ("live latency, median", f"{latency['median']:.3g} ms", f"p95 {latency['p95']:.3g} ms")
        )
    if summary.get("segmentation"):
        rows.append(("mIoU", percent(summary["segmentation"]["miou"]), "on the bag's labels"))
    flips = replay.frames.get("flip_share")
    if flips is not None and np.isfinite(flips).any():
        rows.append(
            ("mask flips, median", percent(float(np.nanmedian(flips))), "of the pixels, per pair")
        )
    return rows


def sentences(replay: ReplayDirectory, bands: Bands) -> list[str]:
    """Return the findings of a replay, a sentence or two each.

    Args:
        replay: the replay.
        bands: quantiles of reference scores by metric.
    """
    return [
        *_pairing_words(replay.summary),
        *_settings_words(replay.summary),
        *_metric_words(replay, bands),
    ]


def metric_rows(replay: ReplayDirectory, bands: Bands) -> list[dict[str, Any]]:
    """Return the distribution of each metric beside the reference's, and the share that is worse.

    A pair is worse where its score is below the band's 5th percentile, or above its 95th
    percentile where less is better.

    Args:
        replay: the replay; metrics without a finite score are left out.
        bands: quantiles of reference scores by metric.

    Returns:
        By row: name, label, unit, mean, p5, median, p95, frames (pairs scored), band (or
        None), worse (share in [0, 1], or None without a band) and lower_is_better.
    """
    rows = []
    for name in metric_columns(replay.frames):
        values = replay.frames[name][np.isfinite(replay.frames[name])]
        if not len(values):
            continue
        band, quantity = bands.get(name), describe(name)
        worse = None
        if band:
            beyond = values < band["p5"] if quantity.better > 0 else values > band["p95"]
            worse = float(beyond.mean())
        p5, median, p95 = np.quantile(values, (0.05, 0.5, 0.95))
        rows.append(
            {
                "name": name,
                "label": quantity.label,
                "unit": quantity.unit,
                "mean": float(values.mean()),
                "p5": float(p5),
                "median": float(median),
                "p95": float(p95),
                "frames": len(values),
                "band": band,
                "worse": worse,
                "lower_is_better": quantity.better < 0,
            }
        )
    return rows


def _pairing_words(summary: Mapping[str, Any]) -> list[str]:
    pairing, topics = summary["pairing"], summary["topics"]
    received = pairing["received"]
    lost = {camera: sum(pairing["unmatched"].get(camera, {}).values()) for camera in received}
    lines = [
        f"{count(received.get('rgb', 0))} RGB and {count(received.get('thermal', 0))} thermal "
        f"images gave {count(pairing['pairs'])} pairs; {count(lost.get('rgb', 0))} RGB and "
        f"{count(lost.get('thermal', 0))} thermal images found no partner."
    ]
    failed = sum((summary.get("failed") or {}).values())
    if failed:
        lines.append(f"{count(failed)} pairs could not be processed.")
    if topics.get("guessed"):
        lines.append(
            f"The topics were guessed: RGB {topics['rgb']}, thermal {topics['thermal']}. "
            "Check the images below."
        )
    return lines


def _settings_words(summary: Mapping[str, Any]) -> list[str]:
    settings = summary.get("settings") or {}
    if not settings.get("weights"):
        return []
    engine = settings.get("engine")
    return [f"Weights {settings['weights']}" + (f" ran on {engine}." if engine else ".")]


def _metric_words(replay: ReplayDirectory, bands: Bands) -> list[str]:
    judged = [row for row in metric_rows(replay, bands) if row["worse"] is not None]
    if not judged:
        return []
    often = [row for row in judged if row["worse"] > 0.5]
    if not often:
        return [
            "By no fusion metric are most pairs worse than the range of SAGE's published student "
            "on test pairs of MSRS, RoadScene and TNO."
        ]
    named = ", ".join(f"{row['name']} ({percent(row['worse'])})" for row in often)
    return [
        "Most pairs are worse than the range of SAGE's published student on test pairs of MSRS, "
        f"RoadScene and TNO by {named}. Metrics depend on the scene: the range is only a hint."
    ]
