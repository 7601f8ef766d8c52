"""Rig files: read in our own format and in those of Kalibr, OpenCV and ROS, and written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ivf_core.images.registration import Registration, RegistrationError
from ivf_core.rigs.calibration_files import (
    Calibration,
    from_kalibr,
    from_opencv,
    is_camera_info,
    is_kalibr,
    is_opencv,
    number,
    numbers,
    read_camera_info,
    read_entries,
    size_of,
)
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import PLANES, Plane, Rig
from ivf_core.system.atomic import atomic_path
from ivf_core.system.short_text import short_repr, short_text

__all__ = ["read_rig", "rig_text", "write_rig"]

_HOMOGRAPHY_KEYS = ("homography", "thermal_size", "rgb_size")
_HOMOGRAPHY_OPTIONS = ("time_offset_seconds",)
_CAMERA_KEYS = ("size", "focal", "center", "distortion_model", "distortion")
_CAMERA_CHANGES = ("camera_info", "size", "crop")
_RIG_KEYS = (
    "calibration", "thermal_camera", "rgb_camera", "rgb", "thermal", "rotation", "translation",
    "translation_scale", "plane", "correction", "time_offset_seconds", "undistort_rgb",
)  # fmt: skip
_MOST_FILES = 4


def read_rig(path: str | os.PathLike[str]) -> Rig:
    """Read a rig file; docs/calibration.md describes its entries.

    Args:
        path: our own YAML with both cameras or with a homography, a camchain file of Kalibr
            whose topics say which camera is thermal, or OpenCV's stereo calibration.

    Raises:
        RegistrationError: the file, or one that it names, cannot be read or is not valid; a
            `ValueError` of a few words that name the file, the entry and what was expected.
    """
    path = Path(path)
    try:
        entries = read_entries(path)
        if "homography" in entries:
            return _homography_rig(entries)
        if is_kalibr(entries):
            return Rig(**vars(from_kalibr(entries)))
        if is_opencv(entries):
            return Rig(**vars(from_opencv(entries, None, {})))
        if is_camera_info(entries):
            raise ValueError(
                "camera_info of one camera: name those of both in a rig file, as "
                "`rgb: {camera_info: FILE}` and `thermal: {camera_info: FILE}`"
            )
        return _own_rig(entries, path.parent)
    except ValueError as error:
        raise RegistrationError(f"registration '{path}': {short_text(error, 400)}") from error


def write_rig(rig: Rig, path: str | os.PathLike[str]) -> None:
    """Write a rig file.

    Args:
        rig: the rig.
        path: YAML file to write; a missing folder is created.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(rig_text(rig), encoding="utf-8")


def rig_text(rig: Rig) -> str:
    """Return the YAML of a rig file.

    Args:
        rig: the rig.
    """
    import yaml

    entries: dict[str, Any] = {}
    if rig.homography is not None:
        assert rig.homography.homography is not None
        entries["homography"] = _rows(rig.homography.homography)
        entries |= {"thermal_size": list(rig.thermal_size), "rgb_size": list(rig.rgb_size)}
    else:
        assert rig.rgb is not None
        assert rig.thermal is not None
        entries = {"rgb": _camera_entries(rig.rgb), "thermal": _camera_entries(rig.thermal)}
        entries["rotation"] = _rows(rig.rotation)
        entries["translation"] = list(rig.translation)
        entries["plane"] = _plane_entries(rig.plane)
        if rig.correction is not None:
            entries["correction"] = _rows(rig.correction)
        if rig.undistort_rgb:
            entries["undistort_rgb"] = True
    if rig.time_offset_seconds:
        entries["time_offset_seconds"] = float(rig.time_offset_seconds)
    return yaml.safe_dump(entries, sort_keys=False, default_flow_style=None, width=100)


def _homography_rig(entries: Mapping[str, Any]) -> Rig:
    """Return the rig of a homography and its two sizes."""
    _check_keys(entries, (*_HOMOGRAPHY_KEYS, *_HOMOGRAPHY_OPTIONS), _HOMOGRAPHY_KEYS)
    homography = Registration(*(entries[key] for key in _HOMOGRAPHY_KEYS))
    offset = number("time_offset_seconds", entries.get("time_offset_seconds", 0.0))
    return Rig(homography=homography, time_offset_seconds=offset)


def _own_rig(entries: Mapping[str, Any], folder: Path) -> Rig:
    """Return the rig of our own entries, which complete or replace those of other files."""
    needed = ("calibration",) if "calibration" in entries else ("rgb", "thermal")
    _check_keys(entries, _RIG_KEYS, needed)
    fields: dict[str, Any] = {}
    if "calibration" in entries:
        fields = vars(_calibration(entries, folder)).copy()
    for role in ("rgb", "thermal"):
        if role in entries:
            fields[role] = _camera(role, entries[role], fields.get(role), folder)
    if "rotation" in entries:
        fields["rotation"] = _rotation(entries["rotation"])
    scale = number("translation_scale", entries.get("translation_scale", 1.0))
    translation = entries.get("translation", fields.get("translation", (0.0, 0.0, 0.0)))
    fields["translation"] = tuple(scale * t for t in numbers("translation", translation, 3))
    if "plane" in entries:
        fields["plane"] = _plane(entries["plane"])
    if "correction" in entries:
        fields["correction"] = numbers("correction", entries["correction"], 9)
    if "time_offset_seconds" in entries:
        fields["time_offset_seconds"] = number(
            "time_offset_seconds", entries["time_offset_seconds"]
        )
    undistort = entries.get("undistort_rgb", False)
    if not isinstance(undistort, bool):
        raise ValueError(f"undistort_rgb: {short_repr(undistort)}, expected true or false")
    return Rig(undistort_rgb=undistort, **fields)


def _calibration(entries: Mapping[str, Any], folder: Path) -> Calibration:
    """Return the calibration of the file, or the few files, that a rig file names."""
    names = entries["calibration"]
    names = names if isinstance(names, list) else [names]
    if not 0 < len(names) <= _MOST_FILES or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f"calibration: {short_repr(names)}, expected the name of a file")
    found: dict[str, Any] = {}
    for name in names:
        try:
            found |= read_entries(folder / name)
        except ValueError as error:
            raise ValueError(f"calibration '{short_text(name, 80)}' {error}") from error
    thermal, rgb = entries.get("thermal_camera"), entries.get("rgb_camera")
    if is_kalibr(found):
        return from_kalibr(found, _name(thermal), _name(rgb))
    if not is_opencv(found):
        raise ValueError(
            f"calibration {short_repr(names)}: expected a camchain file of Kalibr or the stereo "
            "calibration of OpenCV (M1, D1, M2, D2, R, T)"
        )
    roles = {role: entries.get(role) for role in ("rgb", "thermal")}
    sizes = {
        role: size_of(f"{role} size", camera["size"])
        for role, camera in roles.items()
        if isinstance(camera, dict) and "size" in camera
    }
    return from_opencv(found, thermal if isinstance(thermal, int) else None, sizes)


def _name(value: object) -> str | None:
    """Return the name of a camera of Kalibr's, also of its number."""
    return None if value is None else f"cam{value}" if type(value) is int else short_text(value, 40)


def _camera(role: str, entries: object, known: CameraModel | None, folder: Path) -> CameraModel:
    """Return a camera: all of it, or changes to one that a file describes."""
    if not isinstance(entries, dict):
        raise ValueError(f"{role}: {short_repr(entries)}, expected keys and values")
    try:
        if "camera_info" in entries:
            name = entries["camera_info"]
            if not isinstance(name, str) or not name:
                raise ValueError(f"camera_info: {short_repr(name)}, expected the name of a file")
            known = read_camera_info(folder / name)
        if known is not None and "focal" not in entries:
            _check_keys(entries, _CAMERA_CHANGES, ())
            return _changed(known, entries)
        _check_keys(entries, _CAMERA_KEYS, _CAMERA_KEYS[:3])
        return CameraModel(
            size_of("size", entries["size"]),
            _two(numbers("focal", entries["focal"], 2)),
            _two(numbers("center", entries["center"], 2)),
            short_text(entries.get("distortion_model", "plumb_bob"), 40),
            numbers("distortion", entries.get("distortion", [])),
        )
    except ValueError as error:
        raise ValueError(f"{role}: {error}") from error


def _changed(camera: CameraModel, entries: Mapping[str, Any]) -> CameraModel:
    """Return a camera of another file, cut to a part of its image and then scaled."""
    if "crop" in entries:
        x, y, width, height = numbers("crop", entries["crop"], 4)
        if not all(value == int(value) for value in (x, y)):
            raise ValueError(f"crop: {short_repr(entries['crop'])}, expected whole pixels")
        camera = camera.cropped(int(x), int(y), *size_of("crop", [width, height]))
    return camera.resized(size_of("size", entries["size"])) if "size" in entries else camera


def _two(values: tuple[float, ...]) -> tuple[float, float]:
    return values[0], values[1]


def _rotation(value: object) -> tuple[float, ...]:
    """Return the nine numbers of a matrix, or those of a quaternion."""
    if not isinstance(value, dict):
        return numbers("rotation", value, 9)
    from ivf_core.rigs.transforms import matrix_of_quaternion

    _check_keys(value, ("quaternion",), ("quaternion",))
    return tuple(
        matrix_of_quaternion(numbers("rotation quaternion", value["quaternion"], 4)).ravel()
    )


def _plane(value: object) -> Plane:
    """Return a plane, from its kind alone or with its numbers."""
    if isinstance(value, str):
        return Plane(short_text(value, 40))
    if not isinstance(value, dict) or value.get("kind") not in PLANES:
        raise ValueError(
            f"plane: {short_repr(value)}, expected infinity, {{kind: distance, distance: METRES}} "
            "or {kind: ground, height: METRES, pitch_degrees: DEGREES}"
        )
    kind = value["kind"]
    keys = {"infinity": (), "distance": ("distance",), "ground": ("height", "pitch_degrees")}[kind]
    _check_keys(value, ("kind", *keys), ("kind", *keys))
    return Plane(kind, **{key: number(f"plane {key}", value[key]) for key in keys})


def _check_keys(
    entries: Mapping[Any, Any], allowed: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    """Raise `ValueError` if entries are unknown or missing."""
    unknown = [short_text(key, 40) for key in entries if key not in allowed]
    missing = [key for key in needed if entries.get(key) is None]
    if unknown or missing:
        raise ValueError(
            f"unknown keys: {short_text(', '.join(unknown) or 'none')}; missing keys: "
            f"{', '.join(missing) or 'none'}; expected {', '.join(allowed)}"
        )


def _rows(values: tuple[float, ...]) -> list[list[float]]:
    return [list(values[row : row + 3]) for row in (0, 3, 6)]


def _camera_entries(camera: CameraModel) -> dict[str, Any]:
    return {
        "size": list(camera.size),
        "focal": list(camera.focal),
        "center": list(camera.center),
        "distortion_model": camera.distortion_model,
        "distortion": list(camera.distortion),
    }


def _plane_entries(plane: Plane) -> str | dict[str, Any]:
    if plane.kind == "infinity":
        return plane.kind
    if plane.kind == "distance":
        return {"kind": plane.kind, "distance": float(plane.distance)}
    return {
        "kind": plane.kind,
        "height": float(plane.height),
        "pitch_degrees": float(plane.pitch_degrees),
    }
