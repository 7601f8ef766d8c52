"""Estimate a rig file from a recording of a scene, and show it for a person to judge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ivf_core.calibration.recordings import CAMERAS, Recording
from ivf_core.calibration.registration_page import write_registration_page
from ivf_core.images.registration import Registration, RegistrationError
from ivf_core.rigs.estimation import HomographyEstimate, estimate_homography
from ivf_core.rigs.image_motion import MotionRecorder
from ivf_core.rigs.orientation_fields import thermal_grey
from ivf_core.rigs.remap import RigRegistration
from ivf_core.rigs.rig import Rig
from ivf_core.rigs.rig_files import write_rig
from ivf_core.rigs.time_offset import TimeOffsetEstimate, estimate_time_offset
from ivf_core.system.atomic import write_json
from ivf_core.system.results import file_names, new_results

__all__ = ["LEAST_CONFIDENCE", "REGISTER_OUTPUTS", "RegisterSettings", "register_recording"]

REGISTER_OUTPUTS = ("rig.yaml", "index.html")
"""Names of the results beside summary.json."""

LEAST_CONFIDENCE = 0.5
"""Confidence below which the rig file is only written where it is asked for."""

_LEAST_OFFSET_CONFIDENCE = 0.5
_SMALLEST_OFFSET = 0.002  # seconds; less is within the error
_REFERENCE_WIDTH = 640


@dataclass(frozen=True)
class RegisterSettings:
    """Settings of a registration.

    Attributes:
        model: motion to estimate, a key of `ivf_core.rigs.motion_fit.MOTION_MODELS`.
        pairs: largest number of pairs.
        tolerance_seconds: largest difference of stamps within a pair.
        offset_seconds: time to add to thermal stamps; None estimates it where there are stamps.
        motion_seconds: length of the part from which the time offset is estimated.
        write_unsure: write the rig file at a low confidence, too.
        images: number of pairs that the page shows.
    """

    model: str = "homography"
    pairs: int = 30
    tolerance_seconds: float = 0.05
    offset_seconds: float | None = None
    motion_seconds: float = 30.0
    write_unsure: bool = False
    images: int = 6


@dataclass
class _Result:
    """Estimates, and what they were made from."""

    rig: Rig
    before: Rig | None
    homography: HomographyEstimate
    offset: TimeOffsetEstimate | None
    pairs: list[tuple[np.ndarray, np.ndarray]]
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def sure(self) -> bool:
        return self.homography.confidence >= LEAST_CONFIDENCE


def register_recording(
    recording: Recording,
    output: Path,
    settings: RegisterSettings,
    rig: Rig | None = None,
    rig_file: Path | None = None,
) -> dict[str, Any]:
    """Estimate registration and time offset, and write the results.

    Args:
        recording: images of both cameras.
        output: directory for `REGISTER_OUTPUTS` and summary.json; those of an earlier run are
            replaced, and nothing else is.
        settings: settings of the registration.
        rig: a rig to refine, or None to start without one.
        rig_file: file of that rig, which the output must not contain.

    Returns:
        The content of summary.json.

    Raises:
        ValueError: the recording has no usable pairs, or the output holds other files.
    """
    inputs = [*recording.inputs, *([rig_file] if rig_file is not None else [])]
    with new_results(output, REGISTER_OUTPUTS, inputs) as folder:
        result = _estimate(recording, settings, rig)
        written = result.sure or settings.write_unsure
        if written:
            write_rig(result.rig, folder / "rig.yaml")
        summary = _summary(result, recording, settings, written)
        write_registration_page(
            folder / "index.html", summary, result.rig, result.before, _shown(result, settings)
        )
        summary["outputs"] = [*file_names(folder), "summary.json"]
        write_json(folder / "summary.json", summary)
    return summary


def _estimate(recording: Recording, settings: RegisterSettings, rig: Rig | None) -> _Result:
    start = time.perf_counter()
    offset = None
    used = settings.offset_seconds
    known = 0.0 if rig is None else rig.time_offset_seconds
    if used is None and recording.stamps is not None:
        offset = _time_offset(recording, settings.motion_seconds)
        if offset.confidence >= _LEAST_OFFSET_CONFIDENCE:
            used = offset.offset_seconds if abs(offset.offset_seconds) > _SMALLEST_OFFSET else 0.0
    used = known if used is None else used
    after_offset = time.perf_counter()
    pairs = recording.pairs(settings.pairs, settings.tolerance_seconds, used)
    loaded = time.perf_counter()
    if rig is None:
        estimate = estimate_homography(pairs, model=settings.model)
        found, before = _plain_rig(estimate), None
    else:
        height, width = pairs[0][0].shape[:2]
        before = rig.resized((width, height), pairs[0][1].shape[1::-1])
        remap = RigRegistration(before)
        pairs = [(remap.undistort(rgb), thermal) for rgb, thermal in pairs]
        aligned = [
            (rgb, remap(np.maximum(thermal_grey(thermal), 1), (height, width)))
            for rgb, thermal in pairs
        ]
        estimate = estimate_homography(aligned, model=settings.model, initial=np.eye(3))
        found = before.corrected(estimate.homography)
    finished = time.perf_counter()
    result = _Result(
        replace(found, time_offset_seconds=float(used)), before, estimate, offset, pairs
    )
    result.seconds = {
        "time_offset": after_offset - start,
        "reading": loaded - after_offset,
        "homography": finished - loaded,
    }
    result.warnings = _warnings(result, settings)
    return result


def _plain_rig(estimate: HomographyEstimate) -> Rig:
    """Return the rig of a homography, or raise `ValueError` if it is none of two cameras."""
    matrix = tuple(estimate.homography.ravel().tolist())
    try:
        return Rig(homography=Registration(matrix, estimate.thermal_size, estimate.rgb_size))
    except RegistrationError as error:
        raise ValueError(
            f"no registration was found ({error}): the outlines of the two cameras do not agree"
        ) from error


def _time_offset(recording: Recording, length: float) -> TimeOffsetEstimate:
    """Estimate the offset from the middle part of a recording."""
    assert recording.stamps is not None
    stamps = recording.stamps
    if not all(len(stamps[camera]) for camera in CAMERAS):
        return estimate_time_offset(iter(()), iter(()))
    first = max(times.min() for times in stamps.values())
    last = min(times.max() for times in stamps.values())
    start = max(first, (first + last - length) / 2)
    recorders = []
    for camera in CAMERAS:
        times = stamps[camera]
        inside = np.flatnonzero((times >= start) & (times <= start + length)).tolist()
        recorder = MotionRecorder(infrared=camera == "thermal")
        for number, image in recording.read(camera, inside):
            recorder.add(float(times[number]), image)
        recorders.append(recorder)
    return estimate_time_offset(*recorders)


def _warnings(result: _Result, settings: RegisterSettings) -> list[str]:
    """Return a sentence for each reason to doubt the result."""
    estimate, lines = result.homography, []
    if not result.sure:
        lines.append(
            f"The confidence is {estimate.confidence:.2f}, below {LEAST_CONFIDENCE}: the two "
            "cameras' outlines do not agree on one registration. Record a scene with more "
            "outlines that both cameras see (buildings, poles, cars, people), by day, and "
            "while the rig moves."
        )
    if estimate.pairs_used < 10:
        lines.append(f"Only {estimate.pairs_used} pairs; ten or more give a steadier result.")
    offset = result.offset
    if offset is not None and offset.confidence < _LEAST_OFFSET_CONFIDENCE:
        lines.append(
            "The time offset could not be told from the motion of the images, and is taken as "
            f"{result.rig.time_offset_seconds * 1e3:g} ms: the recording must hold motion of "
            "the whole rig, such as turns or shaking."
        )
    return lines


def _summary(
    result: _Result, recording: Recording, settings: RegisterSettings, written: bool
) -> dict[str, Any]:
    estimate, offset = result.homography, result.offset
    scale = _REFERENCE_WIDTH / estimate.rgb_size[0]
    matrix = result.rig.homography
    return {
        "source": [str(path) for path in recording.inputs],
        "kind": recording.kind,
        "read": recording.settings,
        "model": settings.model,
        "rig_written": written,
        "confidence": round(estimate.confidence, 3),
        "holdout_error_pixels": _rounded(estimate.holdout_error_pixels),
        "holdout_error_pixels_at_640": _rounded(estimate.holdout_error_pixels * scale),
        "disagreement_pixels": _rounded(estimate.disagreement_pixels),
        "agreement": round(estimate.agreement, 3),
        "pairs": estimate.pairs_used,
        "rgb_size": list(result.rig.rgb_size),
        "thermal_size": list(result.rig.thermal_size),
        "homography": None
        if matrix is None or matrix.homography is None
        else [list(matrix.homography[row : row + 3]) for row in (0, 3, 6)],
        "time_offset": {
            "used_ms": round(result.rig.time_offset_seconds * 1e3, 2),
            "estimated_ms": None if offset is None else round(offset.offset_seconds * 1e3, 2),
            "confidence": None if offset is None else round(offset.confidence, 3),
            "spread_ms": None if offset is None else _rounded(offset.spread_seconds * 1e3),
        },
        "warnings": result.warnings,
        "left_out": recording.left_out,
        "seconds": {name: round(value, 2) for name, value in result.seconds.items()},
    }


def _rounded(value: float) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None


def _shown(
    result: _Result, settings: RegisterSettings
) -> Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return RGB, thermal as before, and registered thermal images of some pairs."""
    count = min(settings.images, len(result.pairs))
    chosen = np.unique(np.linspace(0, len(result.pairs) - 1, count).round().astype(int))
    width, height = result.rig.rgb_size
    size = (height, width)
    after = RigRegistration(result.rig)
    before = None if result.before is None else RigRegistration(result.before)
    shown = []
    for index in chosen:
        rgb, thermal = result.pairs[index]
        grey = np.maximum(thermal_grey(thermal), 1)
        first = cv2.resize(grey, (width, height)) if before is None else before(grey, size)
        shown.append((rgb, first, after(grey, size)))
    return shown
