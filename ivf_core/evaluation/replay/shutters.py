"""The fixed offset between the shutters of two cameras, from stamps and from motion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

__all__ = ["OffsetSuggestion", "suggest_offset"]

_LEAST_IMAGES = 10
_LEAST_PAIRS = 60
_LARGEST_LAG_SECONDS = 0.5
_STEPS_A_PERIOD = 8
_STEADY_SHARE = 0.1  # of a period: spread of the stamps' phase that still is one offset
_LEAST_CORRELATION = 0.35
_FAR_SECONDS = 2.0


class OffsetSuggestion(NamedTuple):
    """What to add to thermal stamps, and how it is known.

    Attributes:
        seconds: the offset, as for `offset_seconds`.
        basis: "stamps": thermal stamps keep this distance to the nearest RGB stamp;
            "motion": what moves does so in both pictures with this delay;
            "stamps and motion": the delay chosen among those that the stamps allow;
            "recording": the clocks differ, by what the recorder's clock says.
        spread_seconds: how far single images depart from it; half a step of the
            search for "motion", NaN for "recording".
        correlation: of the motion at that delay, NaN where it was not used.
    """

    seconds: float
    basis: str
    spread_seconds: float
    correlation: float


def suggest_offset(
    stamps: Mapping[str, np.ndarray],
    paired: Mapping[str, np.ndarray],
    motion: Mapping[str, np.ndarray],
    clock_difference_seconds: float,
) -> OffsetSuggestion | None:
    """The offset that brings both cameras' images of one moment together.

    Two cameras with one frequency keep a phase, which the stamps tell to a
    fraction of a millisecond, but not how many periods lie between two images of
    one moment: that takes the pictures. Motion in both (the mean difference to the
    picture before) is compared at every delay up to half a second.

    Args:
        stamps: of all images in ns, by camera ("rgb", "thermal").
        paired: of the images in pairs.
        motion: of the images in pairs, NaN where unknown.
        clock_difference_seconds: of the thermal clock, by time of recording.

    Returns:
        None where stamps and motion leave it open.
    """
    if min(len(stamps["rgb"]), len(stamps["thermal"])) < _LEAST_IMAGES:
        return None
    if abs(clock_difference_seconds) > _FAR_SECONDS:
        return _between_clocks(stamps, clock_difference_seconds)
    period = float(np.median(np.diff(np.sort(stamps["rgb"])))) / 1e9
    if period <= 0:
        return None
    phase, spread = _phase(stamps["rgb"], stamps["thermal"], period)
    steady = spread <= _STEADY_SHARE * period
    lag, correlation = _motion_lag(paired, motion, period)
    if np.isnan(lag):
        if not steady:
            return None
        return OffsetSuggestion(_rounded(-phase), "stamps", spread, np.nan)
    if not steady:
        return OffsetSuggestion(_rounded(-lag), "motion", period / _STEPS_A_PERIOD / 2, correlation)
    periods = round((lag - phase) / period)
    return OffsetSuggestion(
        _rounded(-(phase + periods * period)), "stamps and motion", spread, correlation
    )


def _between_clocks(stamps: Mapping[str, np.ndarray], difference: float) -> OffsetSuggestion:
    """Bring the clocks together, then to the nearest phase where it is steady."""
    moved = stamps["thermal"] - round(difference * 1e9)
    period = float(np.median(np.diff(np.sort(stamps["rgb"])))) / 1e9
    if period > 0:
        phase, spread = _phase(stamps["rgb"], moved, period)
        if spread <= _STEADY_SHARE * period:
            difference += phase
    return OffsetSuggestion(_rounded(-difference), "recording", np.nan, np.nan)


def _phase(rgb: np.ndarray, thermal: np.ndarray, period: float) -> tuple[float, float]:
    """Thermal less nearest RGB stamp in seconds: circular median, and its spread."""
    rgb = np.sort(rgb)
    after = np.clip(np.searchsorted(rgb, thermal), 1, len(rgb) - 1)
    behind, ahead = thermal - rgb[after - 1], rgb[after] - thermal
    nearest = np.where(behind <= ahead, behind, -ahead) / 1e9
    nearest = nearest[np.abs(nearest) <= period]
    if len(nearest) < _LEAST_IMAGES:
        return 0.0, np.inf
    turns = np.exp(2j * np.pi * nearest / period)
    middle = float(np.angle(turns.mean())) / (2 * np.pi) * period
    off = (nearest - middle + period / 2) % period - period / 2
    phase = middle + float(np.median(off))
    spread = float(np.percentile(np.abs(off - np.median(off)), 75))
    return phase, spread


def _motion_lag(
    paired: Mapping[str, np.ndarray], motion: Mapping[str, np.ndarray], period: float
) -> tuple[float, float]:
    """By how much thermal motion comes later, in seconds, and its correlation; or NaN, NaN."""
    none = (np.nan, np.nan)
    if len(motion["rgb"]) < _LEAST_PAIRS or len(motion["rgb"]) != len(paired["rgb"]):
        return none
    origin = int(paired["rgb"][0])
    series = {}
    for camera, values in motion.items():
        known = np.isfinite(values)
        seconds = (paired[camera] - origin)[known] / 1e9
        # Motion is of the time between two images.
        seconds, level = seconds - period / 2, np.log(values[known].astype(np.float64) + 1e-3)
        order = np.argsort(seconds, kind="stable")
        if len(seconds) < _LEAST_PAIRS:
            return none
        series[camera] = seconds[order], _without_trend(level[order], round(1.0 / period))
    step = period / _STEPS_A_PERIOD
    start = max(seconds[0] for seconds, _ in series.values())
    end = min(seconds[-1] for seconds, _ in series.values())
    largest = min(_LARGEST_LAG_SECONDS, (end - start) / 4)
    count = int(largest / step)
    grid = np.arange(start + largest, end - largest, step)
    if count < 1 or len(grid) < _LEAST_PAIRS:
        return none
    rgb = np.interp(grid, *series["rgb"])
    lags = np.arange(-count, count + 1) * step
    scores = np.array(
        [np.corrcoef(rgb, np.interp(grid + lag, *series["thermal"]))[0, 1] for lag in lags]
    )
    if not np.isfinite(scores).all():
        return none
    best = int(scores.argmax())
    away = np.abs(lags - lags[best]) > 1.5 * period
    rival = float(scores[away].max()) if away.any() else -1.0
    if scores[best] < _LEAST_CORRELATION or scores[best] < rival + 0.1 or best in (0, 2 * count):
        return none
    return float(lags[best] + _vertex(*scores[best - 1 : best + 2]) * step), float(scores[best])


def _without_trend(values: np.ndarray, width: int) -> np.ndarray:
    """Less a moving mean, so that what remains is motion and not exposure or speed."""
    width = max(3, width | 1)
    padded = np.pad(values, width // 2, mode="edge")
    return values - np.convolve(padded, np.full(width, 1 / width), mode="valid")


def _vertex(left: float, middle: float, right: float) -> float:
    """Where the parabola through three neighbours has its top, in steps."""
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0


def _rounded(seconds: float) -> float:
    return round(seconds, 4) + 0.0
