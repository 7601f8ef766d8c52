"""Page and JSON of a comparison of replays, and the exit status: `ivf replay --compare A B`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ivf_core.defaults import BLOCK_SECONDS
from ivf_core.html.chart_data import ascending, chart, packed
from ivf_core.html.embedding import embed_images
from ivf_core.html.filters import FILTERS, flat
from ivf_core.html.render import write_page
from ivf_core.replay.compare.bootstrap import CONFIDENCE, SAMPLES, SEED, Interval
from ivf_core.replay.compare.differences import Comparison, QuantityDifference, compare
from ivf_core.replay.compare.thresholds import ThresholdResult, check_thresholds, read_thresholds
from ivf_core.replay.quantities import describe
from ivf_core.replay.saved_replay import ReplayDirectory
from ivf_core.system.atomic import write_json
from ivf_core.system.results import check_output

__all__ = ["compare_replays"]

_PAGE, _DATA = "compare.html", "compare.json"
_FRAMES = 12
_APART = 24  # the drive's length over the least time between two frames that are shown
_REASONS = 3
_IMAGE_BYTES = 5_500_000
_SHOWN = ("fused", "overlay")


def compare_replays(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    output: str | os.PathLike[str],
    thresholds: str | os.PathLike[str] | None = None,
    *,
    block_seconds: float = BLOCK_SECONDS,
) -> int:
    """Write OUTPUT/compare.html and compare.json, which show how replay B differs from replay A.

    Args:
        a: directory that `ivf replay` wrote, the baseline.
        b: directory that `ivf replay` wrote, to compare with A.
        output: OUTPUT, a folder; created where it is missing.
        thresholds: YAML file, see `ivf_core.replay.compare.thresholds`.
        block_seconds: length of the bootstrap's blocks.

    Returns:
        0 when all thresholds hold or there are none, 1 when one does not.

    Raises:
        ValueError: a directory, the file of thresholds or block_seconds is wrong, or OUTPUT
            has a compare.html that is not ours; names it. Nothing is written.
    """
    check_output(Path(output), [_PAGE], _DATA)
    limits = read_thresholds(thresholds) if thresholds is not None else []
    comparison = compare(ReplayDirectory.read(a), ReplayDirectory.read(b), block_seconds)
    results = check_thresholds(limits, comparison.quantities, comparison.known)
    frames = _frames(comparison)
    output = Path(output)
    outputs = {"outputs": [_DATA, _PAGE]}
    write_json(output / _DATA, outputs | _as_json(comparison, results, frames))
    _write_html(output / _PAGE, comparison, results, frames)
    for result in results:
        print(result)
    return 0 if all(result.holds for result in results) else 1


# ----------------------------------------------------------------- frames that differ most


def _frames(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the pairs with images in both replays that differ most, in the order of time.

    The difference of each measure, that of the fused images included, is divided by its
    largest value in the drive. The pairs with the highest means are chosen, at a least
    distance in time.
    """
    a, b = comparison.a, comparison.b
    rows = [
        (one, two)
        for one, two in zip(*(rows.tolist() for rows in comparison.matched), strict=True)
        if "fused" in a.images.get(int(a.index[one]), {})
        and "fused" in b.images.get(int(b.index[two]), {})
    ]
    if not rows:
        return []
    one, two = np.array(rows).T
    changes = {
        name: b.frames[name][two] - a.frames[name][one]
        for name in a.frames
        if name in b.frames and describe(name).section in ("metrics", "stability", "shares")
    }
    changes["fused"] = np.array(
        [_image_change(a.images[int(a.index[i])], b.images[int(b.index[j])]) for i, j in rows]
    )
    shares = {}
    for name, change in changes.items():
        size = np.nan_to_num(np.abs(change))
        if size.max() > 0:
            shares[name] = size / size.max()
    if not shares:
        return []
    score = np.mean(list(shares.values()), axis=0)
    seconds = a.seconds[one]
    apart = float(np.ptp(a.seconds)) / _APART
    chosen: list[int] = []
    for place in np.argsort(-score, kind="stable").tolist():
        if score[place] > 0 and all(abs(seconds[place] - seconds[c]) >= apart for c in chosen):
            chosen.append(place)
        if len(chosen) == _FRAMES:
            break
    return [
        {
            "stamp_ns": int(a.stamps[one[place]]),
            "seconds": float(seconds[place]),
            "frame_a": int(a.index[one[place]]),
            "frame_b": int(b.index[two[place]]),
            "reasons": [
                _reason(comparison, name, int(one[place]), int(two[place]), changes[name][place])
                for name in sorted(shares, key=lambda name: -shares[name][place])[:_REASONS]
                if shares[name][place] > 0
            ],
        }
        for place in sorted(chosen)
    ]


def _image_change(a: Mapping[str, Path], b: Mapping[str, Path]) -> float:
    """Return the mean absolute difference of fused images in grey levels; NaN if sizes differ."""
    one, two = (cv2.imread(str(images["fused"]), cv2.IMREAD_COLOR) for images in (a, b))
    if one is None or two is None or one.shape != two.shape:
        return math.nan
    return float(cv2.absdiff(one, two).mean())


def _reason(comparison: Comparison, name: str, one: int, two: int, change: float) -> str:
    value = FILTERS["value"]
    if name == "fused":
        return f"fused images {change:.1f} levels apart"
    quantity = describe(name)
    label = name if quantity.section == "metrics" else quantity.label
    a, b = comparison.a.frames[name][one], comparison.b.frames[name][two]
    return f"{label} {value(float(a), quantity.unit)} → {value(float(b), quantity.unit)}"


# ----------------------------------------------------------------- JSON and page


def _as_json(
    comparison: Comparison, results: list[ThresholdResult], frames: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "format": 1,
        "a": str(comparison.a.path),
        "b": str(comparison.b.path),
        "same_footage": comparison.same_footage,
        "pairs_compared": len(comparison.matched[0]),
        "confidence": CONFIDENCE,
        "block_seconds": comparison.block_seconds,
        "resamples": SAMPLES,
        "seed": SEED,
        "quantities": {
            name: {
                "a": compared.a,
                "b": compared.b,
                "value": _bounds(compared.value),
                "difference": _bounds(compared.difference),
                "ratio": _bounds(compared.ratio),
                "pairs": compared.count,
                "blocks": round(compared.blocks, 1),
                "verdict": compared.verdict,
            }
            for name, compared in comparison.quantities.items()
        },
        "thresholds": [
            {**asdict(r.threshold), "found": _bounds(r.found), "holds": r.holds} for r in results
        ],
        "frames": frames,
    }


def _bounds(found: Interval | None) -> dict[str, float | None] | None:
    """Return an interval for JSON, with None for infinity."""
    if found is None:
        return None
    return {k: v if math.isfinite(v) else None for k, v in found._asdict().items()}


def _write_html(
    path: Path, comparison: Comparison, results: list[ThresholdResult], frames: list[dict[str, Any]]
) -> None:
    a, b = comparison.a, comparison.b
    write_page(
        path,
        "replay_comparison.html.j2",
        title=f"{b.path.name} against {a.path.name}",
        kind="comparison of replays",
        comparison=comparison,
        results=results,
        frames=frames,
        rows=[_row(compared) for compared in comparison.quantities.values()],
        differing=_differing(a.summary, b.summary),
        data=_chart_data(comparison, frames),
        images=embed_images(
            _images(comparison), [frame["frame_a"] for frame in frames], _IMAGE_BYTES
        ),
        confidence=CONFIDENCE,
    )


def _row(compared: QuantityDifference) -> dict[str, Any]:
    """Return a row of the page's table; the bar is in percent of its width, 0 in the middle."""
    quantity, (estimate, low, high) = describe(compared.name), compared.difference
    reach = max(abs(low), abs(high))
    bar = None
    if compared.count and 0 < reach < math.inf:
        places = {"at": estimate, "low": low, "high": high}
        bar = {key: 50 + 46 * value / reach for key, value in places.items()}
    return {
        "compared": compared,
        "quantity": quantity,
        "bar": bar,
        "differs": reach > 0,
    }


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the settings, versions and facts of bag and topics that differ: name, A's, B's."""
    tables = [
        dict(flat({key: s[key] for key in ("bag", "topics", "settings", "versions")}))
        for s in (a, b)
    ]
    names = list(dict.fromkeys((*tables[0], *tables[1])))
    rows = [(name, *(table.get(name, "none") for table in tables)) for name in names]
    return [(name, one, two) for name, one, two in rows if one != two]


def _images(comparison: Comparison) -> dict[int, dict[str, Path]]:
    """Return by A's pair number the kinds of images that both replays have, of both."""
    a, b = comparison.a, comparison.b
    found = {}
    for one, two in zip(*(rows.tolist() for rows in comparison.matched), strict=True):
        pair = int(a.index[one])
        left, right = a.images.get(pair, {}), b.images.get(int(b.index[two]), {})
        kinds = [kind for kind in _SHOWN if kind in left and kind in right]
        if kinds:
            found[pair] = {
                f"{side}_{kind}": files[kind]
                for kind in kinds
                for side, files in (("a", left), ("b", right))
            }
    return found


def _chart_data(comparison: Comparison, frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the data of replay.js: charts with a line per replay; none for different footage."""
    a, b = comparison.a, comparison.b
    one, two = comparison.matched
    columns: dict[str, Any] = {}
    charts, quantities = [], []
    both_a, both_b = a.columns(), b.columns()
    for name, values in both_a.items():
        if name not in comparison.quantities or name not in both_b or not len(one):
            continue
        sides = {"a": values[one], "b": both_b[name][two]}
        if np.array_equal(sides["a"], sides["b"], equal_nan=True):
            continue
        columns |= {f"{side}_{name}": packed(side_values) for side, side_values in sides.items()}
        columns[f"change_{name}"] = packed(sides["b"] - sides["a"])
        quantity = describe(name)
        label = name if quantity.section == "metrics" else quantity.label
        charts.append(
            chart(
                name,
                "metrics",
                quantity.label,
                quantity.unit,
                [{"label": side.upper(), "column": f"{side}_{name}"} for side in sides],
            )
        )
        quantities.append(
            {
                "column": f"change_{name}",
                "label": label,
                "title": f"{quantity.label}: B minus A",
                "unit": quantity.unit,
            }
        )
    kinds = {f"{side}_{kind}": f"{side.upper()}, {kind}" for kind in _SHOWN for side in "ab"}
    return {
        "index": a.index[one].tolist(),
        "seconds": ascending(a.seconds[one]),
        "columns": columns,
        "quantities": quantities,
        "kinds": kinds,
        "charts": charts,
        "gaps": [],
        "notable": {frame["frame_a"]: frame["reasons"] for frame in frames},
    }
