"""Calibration files of other tools: Kalibr's camchain, OpenCV's stereo files, ROS's camera_info.

All are untrusted: a file is read as plain data, of limited size, and every value is checked.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ivf_core.rigs.camera import LARGEST_SIDE, CameraModel
from ivf_core.system.short_text import short_repr, short_text
from ivf_core.system.yaml_text import parse_yaml

__all__ = [
    "Calibration",
    "camera_from_info",
    "from_kalibr",
    "from_opencv",
    "is_camera_info",
    "is_kalibr",
    "is_opencv",
    "number",
    "numbers",
    "read_camera_info",
    "read_entries",
    "size_of",
]

_LARGEST_FILE = 100_000  # bytes; a calibration has a few thousand at most
_MOST_NUMBERS = 32
_THERMAL_WORDS = re.compile(r"therm|boson|lepton|flir|lwir|infrared|(?<![a-z])(ir|tir)(?![a-z])")
_KALIBR_CAMERA = re.compile(r"cam\d{1,2}")
_KALIBR_MODELS = {"radtan": "plumb_bob", "equidistant": "equidistant", "none": "plumb_bob"}
_ROS_MODELS = {"": "plumb_bob", "fisheye": "equidistant"}
_MATRIX_NAMES = ("M{}", "K{}", "cameraMatrix{}", "camera_matrix_{}", "CM{}")
_DISTORTION_NAMES = ("D{}", "distCoeffs{}", "dist_coeffs_{}", "distortion_coefficients_{}")


@dataclass(frozen=True)
class Calibration:
    """Both cameras of a calibration file.

    Attributes:
        rgb: the RGB camera.
        thermal: the thermal camera.
        rotation: rotation from thermal to RGB coordinates, nine numbers row by row.
        translation: translation from thermal to RGB coordinates, in the file's unit.
        time_offset_seconds: time to add to thermal stamps.
    """

    rgb: CameraModel
    thermal: CameraModel
    rotation: tuple[float, ...]
    translation: tuple[float, ...]
    time_offset_seconds: float = 0.0


# Files


def read_entries(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the entries of a YAML file, or of OpenCV's YAML or XML.

    Args:
        path: file of at most 100 kB.

    Returns:
        The entries; matrices of OpenCV are mappings with rows, cols and data.

    Raises:
        ValueError: the file cannot be read, or is no mapping; a short text without the path.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise ValueError(f"{size} bytes, expected at most {_LARGEST_FILE}")
        text = path.read_text(encoding="utf-8")
        is_xml = text.lstrip().startswith("<")
        # OpenCV writes a directive and a tag that are no YAML.
        plain = re.sub(r"\A%YAML[: ]\S*", "", text).replace("!!opencv-matrix", "")
        entries = _parse_xml(text) if is_xml else parse_yaml(plain)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise ValueError(f"cannot be read: {short_text(error)}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{short_repr(entries)}, expected keys and values")
    return {str(key): value for key, value in entries.items()}


def _parse_xml(text: str) -> dict[str, Any]:
    """Parse OpenCV's XML, of which only matrices, numbers and texts count."""
    if "<!" in text.replace("<!--", ""):
        raise ValueError("has XML declarations, expected a file of cv::FileStorage")
    root = ElementTree.fromstring(text)
    if root.tag != "opencv_storage":
        raise ValueError(f"XML of {short_text(root.tag, 40)}, expected opencv_storage")
    entries: dict[str, Any] = {}
    for element in root:
        data = element.find("data")
        if data is None:
            parts = (element.text or "").split()
            entries[element.tag] = parts if len(parts) != 1 else parts[0]
        else:
            entries[element.tag] = {"data": (data.text or "").split()}
    return entries


# Values


def number(name: str, value: object) -> float:
    """Return a finite number, also from a text such as 1e-5, which YAML does not take for one.

    Args:
        name: name of the entry for the error.
        value: the entry.

    Raises:
        ValueError: it is none; names the entry.
    """
    result = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            result = float(value if not isinstance(value, str) else value[:60])
        except (OverflowError, ValueError):
            result = math.nan
    if not math.isfinite(result):
        raise ValueError(f"{name}: {short_repr(value)}, expected a finite number")
    return result


def numbers(name: str, value: object, count: int | None = None) -> tuple[float, ...]:
    """Return finite numbers from a list, from rows of a matrix, or from a matrix of OpenCV or ROS.

    Args:
        name: name of the entry for the error.
        value: the entry.
        count: how many are expected; None takes up to 32.

    Raises:
        ValueError: it is something else; names the entry.
    """
    given = value.get("data") if isinstance(value, Mapping) else value
    flat: list[object] = []
    for row in given[: _MOST_NUMBERS + 1] if isinstance(given, (list, tuple)) else ():
        flat += row[: _MOST_NUMBERS + 1] if isinstance(row, (list, tuple)) else [row]
    expected = f"{count} numbers" if count is not None else "a list of numbers"
    if not isinstance(given, (list, tuple)) or len(flat) != (
        count if count is not None else min(len(flat), _MOST_NUMBERS)
    ):
        raise ValueError(f"{name}: {short_repr(value)}, expected {expected}")
    return tuple(number(name, one) for one in flat)


def size_of(name: str, value: object) -> tuple[int, int]:
    """Return width and height.

    Args:
        name: name of the entry for the error.
        value: the entry.

    Raises:
        ValueError: it is something else; names the entry.
    """
    width, height = numbers(name, value, 2)
    if not all(n == int(n) and 0 < n <= LARGEST_SIDE for n in (width, height)):
        raise ValueError(f"{name}: {short_repr(value)}, expected [width, height] in pixels")
    return int(width), int(height)


# ROS


def is_camera_info(entries: Mapping[str, Any]) -> bool:
    """Return whether entries are those of a camera_info file of ROS.

    Args:
        entries: as `read_entries` returns them.
    """
    return "camera_matrix" in entries and "image_width" in entries


def read_camera_info(path: str | os.PathLike[str]) -> CameraModel:
    """Read a camera_info file, as `camera_calibration` and `camera_info_manager` write it.

    Args:
        path: YAML file.

    Raises:
        ValueError: it is none, or not valid; a short text without the path.
    """
    entries = read_entries(path)
    if not is_camera_info(entries):
        raise ValueError("no camera_info file: expected image_width, image_height, camera_matrix")
    return camera_from_info(
        size_of("image_width, image_height", [entries["image_width"], entries.get("image_height")]),
        numbers("camera_matrix", entries["camera_matrix"], 9),
        str(entries.get("distortion_model", "plumb_bob")),
        numbers("distortion_coefficients", entries.get("distortion_coefficients", [])),
    )


def camera_from_info(
    size: tuple[int, int], matrix: Sequence[float], model: str, distortion: Sequence[float]
) -> CameraModel:
    """Return the camera that a CameraInfo describes.

    Args:
        size: width and height in pixels.
        matrix: K, nine numbers row by row.
        model: distortion model, with ROS's names.
        distortion: D, of any length.

    Raises:
        ValueError: the camera is not calibrated (K is zero), or its lens is not supported.
    """
    if not matrix[0]:
        raise ValueError("not calibrated: the focal length is 0")
    model = _ROS_MODELS.get(model, model)
    coefficients = tuple(distortion)
    if not any(coefficients) and model != "equidistant":
        model, coefficients = "plumb_bob", ()
    focal, center = (matrix[0], matrix[4]), (matrix[2], matrix[5])
    return CameraModel(size, focal, center, short_text(model, 40), coefficients)


# Kalibr


def is_kalibr(entries: Mapping[str, Any]) -> bool:
    """Return whether entries are those of a camchain file of Kalibr.

    Args:
        entries: as `read_entries` returns them.
    """
    return (
        "cam0" in entries and isinstance(entries["cam0"], dict) and "intrinsics" in entries["cam0"]
    )


def from_kalibr(
    entries: Mapping[str, Any], thermal: str | None = None, rgb: str | None = None
) -> Calibration:
    """Return the rig of a camchain file of Kalibr.

    Args:
        entries: as `read_entries` returns them.
        thermal: name of the thermal camera, such as cam1; by default the one whose topic has
            a word such as thermal, boson or flir.
        rgb: name of the RGB camera; by default the other one of two.

    Raises:
        ValueError: an entry is missing or not supported, or the cameras are not clear.
    """
    names = sorted((n for n in entries if _KALIBR_CAMERA.fullmatch(n)), key=lambda n: int(n[3:]))
    thermal, rgb = _kalibr_roles(entries, names, thermal, rgb)
    poses, pose = {}, np.eye(4)
    for name in names:
        camera = entries[name]
        if not isinstance(camera, dict):
            raise ValueError(f"{name}: {short_repr(camera)}, expected keys and values")
        if name != names[0]:
            if "T_cn_cnm1" not in camera:
                raise ValueError(f"{name}: no T_cn_cnm1, the transform from the camera before it")
            pose = np.reshape(numbers(f"{name} T_cn_cnm1", camera["T_cn_cnm1"], 16), (4, 4)) @ pose
        poses[name] = pose
    try:
        between = poses[rgb] @ np.linalg.inv(poses[thermal])
    except np.linalg.LinAlgError as error:
        raise ValueError("T_cn_cnm1: singular, expected a rigid transform") from error
    shifts = [
        number(f"{name} timeshift_cam_imu", entries[name].get("timeshift_cam_imu", 0.0))
        for name in (thermal, rgb)
    ]
    return Calibration(
        _kalibr_camera(rgb, entries[rgb]),
        _kalibr_camera(thermal, entries[thermal]),
        tuple(between[:3, :3].ravel().tolist()),
        tuple(between[:3, 3].tolist()),
        shifts[0] - shifts[1],
    )


def _kalibr_roles(
    entries: Mapping[str, Any], names: list[str], thermal: str | None, rgb: str | None
) -> tuple[str, str]:
    """Return the names of the thermal and the RGB camera."""
    if thermal is None:
        topics = {n: str(entries[n].get("rostopic", "")) for n in names if _is_map(entries[n])}
        found = [n for n, topic in topics.items() if _THERMAL_WORDS.search(topic.lower())]
        if len(found) != 1:
            raise ValueError(
                f"{len(found)} of {', '.join(names)} have a thermal topic: name the camera in "
                "`thermal_camera` of a rig file with `calibration: FILE`"
            )
        thermal = found[0]
    others = [name for name in names if name != thermal]
    if rgb is None and thermal in names:
        if len(others) != 1:
            raise ValueError(
                f"cameras {', '.join(names)}: name that of RGB in `rgb_camera` of a rig file with "
                "`calibration: FILE`"
            )
        rgb = others[0]
    for role, name in (("thermal_camera", thermal), ("rgb_camera", rgb)):
        if name not in names:
            raise ValueError(f"{role}: {short_repr(name)}, expected one of {', '.join(names)}")
    assert rgb is not None
    if rgb == thermal:
        raise ValueError(f"rgb_camera and thermal_camera are both {rgb}")
    return thermal, rgb


def _kalibr_camera(name: str, camera: Mapping[str, Any]) -> CameraModel:
    """Return a camera of a camchain file."""
    kind, lens = camera.get("camera_model"), camera.get("distortion_model", "none")
    if kind != "pinhole" or lens not in _KALIBR_MODELS:
        raise ValueError(
            f"{name}: camera_model {short_repr(kind)} with {short_repr(lens)}, expected pinhole "
            f"with one of {', '.join(_KALIBR_MODELS)}"
        )
    fx, fy, cx, cy = numbers(f"{name} intrinsics", camera.get("intrinsics"), 4)
    distortion = numbers(f"{name} distortion_coeffs", camera.get("distortion_coeffs", []))
    size = size_of(f"{name} resolution", camera.get("resolution"))
    try:
        return CameraModel(size, (fx, fy), (cx, cy), _KALIBR_MODELS[lens], distortion)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


# OpenCV


def is_opencv(entries: Mapping[str, Any]) -> bool:
    """Return whether entries have the matrices of two cameras, as OpenCV's samples name them.

    Args:
        entries: as `read_entries` returns them.
    """
    return all(_first(entries, _MATRIX_NAMES, camera) is not None for camera in (1, 2))


def from_opencv(
    entries: Mapping[str, Any], thermal: int | None, sizes: Mapping[str, tuple[int, int]]
) -> Calibration:
    """Return the rig of OpenCV's stereo files, where R and T lead from camera 1 to camera 2.

    Args:
        entries: of one file or of two: M1, D1, M2, D2 (or K1, cameraMatrix1, distCoeffs1 and so
            on), R and T, and imageSize or image_width and image_height.
        thermal: number of the thermal camera, 1 or 2.
        sizes: sizes of the images by "rgb" and "thermal", where the files have none.

    Raises:
        ValueError: an entry is missing or not valid.
    """
    if thermal not in (1, 2):
        raise ValueError(
            f"thermal_camera: {short_repr(thermal)}, expected 1 or 2: OpenCV's files do not say "
            "which camera is thermal; write a rig file with `calibration: FILE` and "
            "`thermal_camera`"
        )
    cameras = {}
    for role, index in (("thermal", thermal), ("rgb", 3 - thermal)):
        matrix = numbers(f"matrix of camera {index}", _first(entries, _MATRIX_NAMES, index), 9)
        lens = numbers(
            f"distortion of camera {index}", _first(entries, _DISTORTION_NAMES, index) or []
        )
        model = "rational_polynomial" if len(lens) == 8 else "plumb_bob"
        if entries.get("fisheye") or entries.get("fisheye_model") in (1, "1"):
            model = "equidistant"
        if len(lens) > 8 and not any(lens[8:]):  # thin prisms and tilt, which are not used
            model, lens = "rational_polynomial", lens[:8]
        size = sizes.get(role) or _opencv_size(entries, role)
        cameras[role] = camera_from_info(size, matrix, model, lens)
    for name in ("R", "T"):
        if name not in entries:
            raise ValueError(f"no {name}: expected R and T from camera 1 to camera 2")
    rotation = np.reshape(numbers("R", entries["R"], 9), (3, 3))
    translation = np.array(numbers("T", entries["T"], 3))
    if thermal == 2:
        rotation, translation = rotation.T, -rotation.T @ translation
    return Calibration(
        cameras["rgb"],
        cameras["thermal"],
        tuple(rotation.ravel().tolist()),
        tuple(translation.tolist()),
    )


def _opencv_size(entries: Mapping[str, Any], role: str) -> tuple[int, int]:
    """Return the size of both images, or raise `ValueError`."""
    for name in ("imageSize", "image_size", "size"):
        if name in entries:
            return size_of(name, entries[name])
    if "image_width" in entries:
        return size_of("image_width", [entries["image_width"], entries.get("image_height")])
    raise ValueError(f"no size of the images: write `{role}: {{size: [width, height]}}`")


def _first(entries: Mapping[str, Any], names: Sequence[str], camera: int) -> Any:
    """Return the entry of a camera under the first name that exists, or None."""
    return next((entries[n.format(camera)] for n in names if n.format(camera) in entries), None)


def _is_map(value: object) -> bool:
    return isinstance(value, dict)
