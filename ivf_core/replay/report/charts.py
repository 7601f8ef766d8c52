"""Charts of a report, as data for replay.js: see `ivf_core.html.chart_data`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.html.chart_data import ascending, chart, numbers, packed
from ivf_core.images.overlay import draw_overlay
from ivf_core.replay.quantities import Quantity, Section, describe, metric_columns
from ivf_core.replay.saved_replay import IMAGE_KINDS, ReplayDirectory

__all__ = ["class_colors", "report_data"]

_OTHER = "other_"  # prefix of columns with the metrics of another method
_KIND_NAMES = ("RGB", "Thermal", "Fused", "Overlay", "Other method")


def report_data(
    replay: ReplayDirectory, bands: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return all data of replay.js except the images, ready for JSON.

    Args:
        replay: the replay to show.
        bands: quantiles of reference scores by metric.

    Returns:
        index and seconds of the pairs; columns: their values by name, as from `packed`;
        quantities: columns to list next to the images; kinds: labels of the kinds of images;
        charts: see `chart`; gaps: [start, end] in seconds;
        notable: reasons by pair number.
    """
    columns = {name: values for name, values in replay.columns().items() if _any(values)}
    summary = replay.summary
    return {
        "index": replay.index.tolist(),
        "seconds": ascending(replay.seconds),
        "columns": {name: packed(values) for name, values in columns.items()},
        "quantities": [
            {
                "column": name,
                "label": name if words.section == "metrics" else words.label,
                "title": words.label,
                "unit": words.unit,
            }
            for name in columns
            if (words := describe(name)).section != "shares" and not name.startswith(_OTHER)
        ],
        "kinds": dict(zip(IMAGE_KINDS, _KIND_NAMES, strict=True)),
        "charts": [
            *_pairing_charts(summary["pairing"], columns),
            *_metric_charts(columns, bands),
            *_share_charts(columns, summary.get("classes")),
            *_single_charts(columns, "stability"),
            *_single_charts(columns, "labels"),
            *_single_charts(columns, "inputs"),
            *_speed_charts(replay.timings),
        ],
        "gaps": sorted(
            [gap["start_seconds"], gap["start_seconds"] + gap["seconds"]]
            for gap in summary["pairing"].get("gaps", [])
        ),
        "notable": {entry["frame"]: entry["reasons"] for entry in summary.get("notable", [])},
    }


def class_colors(classes: Mapping[str, Any]) -> list[str]:
    """Return the colours of classes in overlays, in CSS notation; untinted classes are grey.

    Args:
        classes: names and colors of the classes, as in summary.json.
    """
    names = tuple(classes["names"])
    if not names:
        return []
    colors = tuple(tuple(int(value) for value in color) for color in classes["colors"])
    ids = np.arange(len(names), dtype=np.uint8)[None]
    grey = np.full((1, len(names), 3), 128, np.uint8)
    tinted = draw_overlay(grey, ids, ClassSet("report", names, colors), 1.0)[0]  # type: ignore[arg-type]
    return ["#" + bytes(color).hex() for color in tinted]


def _any(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).any())


def _single(quantity: Quantity) -> dict[str, Any]:
    return chart(
        quantity.column,
        quantity.section,
        quantity.label,
        quantity.unit,
        [{"label": "", "column": quantity.column}],
    )


def _single_charts(columns: Iterable[str], section: Section) -> list[dict[str, Any]]:
    """Return a chart for each column of a section."""
    words = [describe(name) for name in columns if not name.startswith(_OTHER)]
    return [_single(quantity) for quantity in words if quantity.section == section]


def _pairing_charts(
    pairing: Mapping[str, Any], columns: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    charts = []
    histogram = pairing.get("offset_histogram") or {}
    if any(histogram.get("counts", ())):
        edges = np.asarray(histogram["edges_ms"], np.float64)
        suggested = pairing.get("suggested_offset_seconds")
        # The setting is added to thermal stamps: it removes an offset of the opposite sign.
        marks = [] if suggested is None else [{"x": -1000 * suggested, "label": "suggested"}]
        charts.append(
            chart(
                "offset_histogram",
                "pairing",
                "Offsets: thermal stamp minus RGB stamp",
                "pairs",
                [{"label": "pairs", "values": list(histogram["counts"])}],
                kind="bars",
                note="ms",
                x=numbers((edges[:-1] + edges[1:]) / 2),  # type: ignore[arg-type]
                marks=marks,
            )
        )
    if "offset_ms" in columns:
        charts.append(_single(describe("offset_ms")))
    rate = pairing.get("rate") or {}
    if rate.get("seconds"):
        charts.append(
            chart(
                "rate",
                "pairing",
                "Images and pairs a second",
                "Hz",
                [
                    {"label": label, "values": numbers(rate[key])}
                    for label, key in (
                        ("RGB", "rgb_hz"),
                        ("thermal", "thermal_hz"),
                        ("pairs", "pairs_hz"),
                    )
                ],
                x=numbers(rate["seconds"]),  # type: ignore[arg-type]
            )
        )
    return charts


def _metric_charts(
    columns: Mapping[str, np.ndarray], bands: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    charts = []
    for name in metric_columns(columns):
        words = describe(name)
        series = [{"label": "this replay", "column": name}]
        if _OTHER + name in columns:
            series.append({"label": "other method", "column": _OTHER + name})
        charts.append(
            chart(
                name,
                "metrics",
                words.label,
                words.unit,
                series if len(series) > 1 else [{**series[0], "label": ""}],
                band=bands.get(name),
                note="lower is better" if words.better < 0 else "",
            )
        )
    return charts


def _share_charts(
    columns: Mapping[str, np.ndarray], classes: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Return one chart of all classes, without the first where it stands for the background."""
    if not classes or not classes["names"]:
        return []
    series = [
        {"label": name.replace("_", " "), "column": f"share_{name}", "color": color}
        for name, color in zip(classes["names"], class_colors(classes), strict=True)
        if f"share_{name}" in columns
    ]
    note = ""
    if series and series[0]["label"].lower() in ("unlabeled", "unlabelled", "background"):
        note = f"without {series.pop(0)['label']}"
    if not series:
        return []
    return [chart("shares", "shares", "Share of pixels", "%", series, kind="stack", note=note)]


def _speed_charts(timings: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    series = [
        {"label": describe(name).label, "column": name}
        for name, values in timings.items()
        if _any(values)
    ]
    return [chart("timings", "speed", "Time of each pair", "ms", series)] if series else []
