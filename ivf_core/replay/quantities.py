"""Measured quantities: for each column its name in words, its unit, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ivf_core.metrics.fusion import FUSION_METRICS

__all__ = ["Quantity", "Section", "describe", "metric_columns"]

Section = Literal["pairing", "metrics", "shares", "stability", "labels", "inputs", "speed"]


@dataclass(frozen=True)
class Quantity:
    """A column of frames.csv or timings.csv.

    Attributes:
        column: name of the column.
        label: name in words.
        section: section of the report with its chart.
        unit: short unit; "%" for shares, which are stored from 0 to 1.
        better: 1 if more is better, -1 if less is, 0 if neither.
    """

    column: str
    label: str
    section: Section
    unit: str = ""
    better: int = 0


_METRICS = {
    "EN": ("entropy", "bits"),
    "SD": ("standard deviation", "levels"),
    "SF": ("spatial frequency", "levels"),
    "AG": ("average gradient", "levels"),
    "MI": ("mutual information", "bits"),
    "SCD": ("correlations of differences", ""),
    "CC": ("correlation", ""),
    "PSNR": ("peak signal to noise", "dB"),
    "SSIM": ("structural similarity", ""),
    "MS-SSIM": ("SSIM over scales", ""),
    "VIF": ("visual information fidelity", ""),
    "Qabf": ("edges kept", ""),
    "Nabf": ("edges added", ""),
}

_OTHERS = (
    Quantity("offset_ms", "Thermal stamp minus RGB stamp", "pairing", "ms"),
    Quantity("flip_share", "Pixels that change class", "stability", "%", -1),
    Quantity("miou", "Mean IoU with the labels of the bag", "labels", "%", 1),
    Quantity("misregistration_px", "Shift between RGB and thermal", "inputs", "px", -1),
    Quantity("infrared_saturated_share", "Saturated thermal pixels", "inputs", "%", -1),
    Quantity("infrared_frozen", "Thermal image repeated", "inputs", "", -1),
    Quantity("rgb_dark", "Mean luma of RGB", "inputs", "levels"),
    # Only in comparisons.
    Quantity("pairs", "Pairs", "pairing", "", 1),
    Quantity("failed", "Pairs that failed", "pairing", "", -1),
    Quantity("unmatched_rgb", "RGB images without a partner", "pairing", "", -1),
    Quantity("unmatched_thermal", "Thermal images without a partner", "pairing", "", -1),
    Quantity("unpaired_hz", "RGB images without a partner, per second", "pairing", "Hz", -1),
    Quantity("live_dropped", "Pairs that the node dropped", "speed", "", -1),
    Quantity("miou_all", "Mean IoU with the labels of the bag, over all pixels", "labels", "%", 1),
    Quantity("pairs_per_second", "Pairs per second", "speed", "Hz", 1),
    Quantity(
        "pipeline_pairs_per_second", "Pairs per second of the pipeline alone", "speed", "Hz", 1
    ),
)
_KNOWN: Mapping[str, Quantity] = {
    **{
        name: Quantity(
            name,
            f"{name}, {_METRICS[name][0]}",
            "metrics",
            _METRICS[name][1],
            1 if metric.higher_is_better else -1,
        )
        for name, metric in FUSION_METRICS.items()
    },
    **{quantity.column: quantity for quantity in _OTHERS},
}


def describe(column: str) -> Quantity:
    """Return the description of a column, also of one that this version does not know.

    Args:
        column: name of a column of frames.csv or timings.csv.
    """
    if column in _KNOWN:
        return _KNOWN[column]
    if column.startswith("share_"):
        label = column.removeprefix("share_").replace("_", " ")
        return Quantity(column, f"Share of {label}", "shares", "%")
    if column.endswith("_ms"):
        label = column.removesuffix("_ms").replace("_", " ")
        return Quantity(column, label, "speed", "ms", -1)
    return Quantity(column, column.replace("_", " "), "inputs")


def metric_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns that are fusion metrics, in the order of FUSION_METRICS.

    Args:
        columns: names of columns.
    """
    present = set(columns)
    return [name for name in FUSION_METRICS if name in present]
