"""Warnings of summary.json about stamps, pairing and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ivf_core.images.alignment import Alignment
from ivf_core.replay.measure.notable import DARK_LUMA, SATURATED_SHARE

__all__ = ["frame_warnings", "pairing_warnings", "single_camera_warnings", "warning"]

_CAMERAS = {"rgb": "RGB", "thermal": "thermal"}
_MOST_FRAMES = 50
_MOST_PERIODS = 5
_FEW_PAIRED = 0.9
_WORTH_SECONDS = 0.002


def warning(code: str, text: str, frames: Sequence[int] | np.ndarray = ()) -> dict[str, Any]:
    """Return an entry of `warnings`.

    Args:
        code: short key.
        text: a sentence for the user.
        frames: numbers of the pairs concerned; the first 50 are kept.
    """
    return {"code": code, "text": text, "frames": [int(frame) for frame in frames[:_MOST_FRAMES]]}


def single_camera_warnings(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a warning for each camera that was fused alone.

    Args:
        entry: `single_camera` of summary.json.
    """
    found = []
    for camera, count in entry["fused"].items():
        periods = [period for period in entry["periods"] if period["camera"] == camera]
        if count:
            reasons = ", ".join(
                f"{period['reason']} ({period['start_seconds']:.1f} to "
                f"{period['end_seconds']:.1f} s)"
                for period in periods[:_MOST_PERIODS]
            )
            more = len(periods) - _MOST_PERIODS
            found.append(
                warning(
                    "single_camera",
                    f"{count} {_CAMERAS[camera]} images were fused alone: {reasons}"
                    + (f" and {more} more times" if more > 0 else ""),
                )
            )
    return found


def frame_warnings(
    columns: dict[str, np.ndarray], alignment: Alignment | None
) -> list[dict[str, Any]]:
    """Return warnings about the images.

    Args:
        columns: columns of frames.csv, N values each.
        alignment: result of the registration check, or None.
    """
    if not len(columns.get("index", ())):
        return []
    faults = (
        (
            "infrared_saturated",
            columns["infrared_saturated_share"] > SATURATED_SHARE,
            f"More than {SATURATED_SHARE:.0%} of the thermal image is saturated",
        ),
        (
            "infrared_frozen",
            columns["infrared_frozen"] > 0.5,
            "The thermal image is the same as the one before",
        ),
        (
            "rgb_dark",
            columns["rgb_dark"] < DARK_LUMA,
            f"The RGB image is dark (mean luma below {DARK_LUMA:.0f})",
        ),
    )
    index = columns["index"].astype(int)
    found = [
        warning(code, f"{text} in {int(where.sum())} frames ({where.mean():.0%})", index[where])
        for code, where, text in faults
        if where.any()
    ]
    if alignment is not None and alignment.is_off:
        found.append(
            warning(
                "misregistered",
                f"The thermal image is {alignment.median_px:.1f} px off the RGB image; "
                "`ivf register` estimates a rig file: the command is under `registration`",
            )
        )
    return found


def pairing_warnings(pairing: dict[str, Any], offset_seconds: float) -> list[dict[str, Any]]:
    """Return warnings about stamps and pairing.

    Args:
        pairing: `pairing` of summary.json.
        offset_seconds: offset that the pairing has used.
    """
    silent = [camera for camera, count in pairing["received"].items() if not count]
    return [
        *(
            warning("no_images", f"There is no usable {_CAMERAS[camera]} image in the bag")
            for camera in silent
        ),
        *([] if silent else _clock_warnings(pairing, offset_seconds)),
        *_match_warnings(pairing, bool(silent)),
        *_offset_warnings(pairing, offset_seconds),
        *_gap_warnings(pairing),
    ]


def _clock_warnings(pairing: dict[str, Any], offset_seconds: float) -> list[dict[str, Any]]:
    difference = pairing["clock_difference_seconds"]
    if abs(difference + offset_seconds) <= 1.0:
        return []
    return [
        warning(
            "clocks_differ",
            f"The thermal camera's clock is {_duration(abs(difference))} "
            f"{'ahead of' if difference > 0 else 'behind'} the RGB camera's: "
            "set offset_seconds, or synchronise the clocks",
        )
    ]


def _match_warnings(pairing: dict[str, Any], silent: bool) -> list[dict[str, Any]]:
    """Return warnings about images without a partner and stamps that go back."""
    found = []
    received, pairs = pairing["received"], pairing["pairs"]
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
            text = f"{_CAMERAS[camera]} stamps go back {count} times"
            found.append(warning("stamps_back", text))
    return found


def _offset_warnings(pairing: dict[str, Any], offset_seconds: float) -> list[dict[str, Any]]:
    suggested = pairing["suggested_offset_seconds"]
    if suggested is None or abs(suggested - offset_seconds) < _WORTH_SECONDS:
        return []
    basis = pairing["suggested_offset_basis"]
    doubt = ", which may be off by whole periods" if basis == "stamps" else ""
    return [
        warning(
            "offset",
            f"The shutters seem to be apart: offset_seconds {suggested:g} would bring both "
            f"images of a moment together (from {basis}{doubt})",
        )
    ]


def _gap_warnings(pairing: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for camera, name in _CAMERAS.items():
        gaps = [gap["seconds"] for gap in pairing["gaps"] if gap["topic"] == camera]
        if gaps:
            found.append(
                warning(
                    "gaps",
                    f"The {name} camera is silent for longer than two and a half periods "
                    f"(gaps: {len(gaps)}, the longest {max(gaps):.2f} s)",
                )
            )
    return found


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.2f} s"
