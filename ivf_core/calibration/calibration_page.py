"""Page of a calibration from a board: cameras, errors of each view, and detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ivf_core.calibration.board_calibration import BoardCalibration
from ivf_core.calibration.boards import Board, Detection
from ivf_core.html.embedding import data_uri
from ivf_core.html.render import write_page
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.orientation_fields import thermal_grey

__all__ = ["calibration_summary", "write_calibration_page"]

_WIDTH = 360  # pixels of an image in the page
_MOST_VIEWS = 40
_FINE_COVERAGE = 0.6


def calibration_summary(
    result: BoardCalibration, board: Board, names: Sequence[str]
) -> dict[str, Any]:
    """Return the content of summary.json.

    Args:
        result: the calibration.
        board: its board.
        names: names of the views.
    """
    rig = result.rig
    turn = np.reshape(rig.rotation, (3, 3))
    angle = math.degrees(math.acos(float(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
    return {
        "board": f"{board.kind} {board.columns}x{board.rows}, {board.spacing:g} m",
        "views": len(names),
        "used": [names[number] for number in result.used],
        "rejected": [names[number] for number in result.rejected],
        "residual_pixels": {
            camera: round(value, 3)
            for camera, value in zip(("rgb", "thermal"), result.residuals, strict=True)
        },
        "coverage": {
            camera: round(value, 3)
            for camera, value in zip(("rgb", "thermal"), result.coverage, strict=True)
        },
        "baseline_metres": round(rig.baseline, 5),
        "angle_degrees": round(angle, 4),
        "errors": {
            name: [None if math.isnan(value) else round(value, 3) for value in row]
            for name, row in zip(names, result.errors.tolist(), strict=True)
        },
        "warnings": _warnings(result),
    }


def write_calibration_page(
    path: Path,
    summary: dict[str, Any],
    result: BoardCalibration,
    views: Sequence[tuple[np.ndarray, np.ndarray]],
    names: Sequence[str],
) -> None:
    """Write the page, with its images inside it.

    Args:
        path: HTML file to write.
        summary: from `calibration_summary`.
        result: the calibration.
        views: RGB and thermal image of each view.
        names: names of the views.
    """
    rig = result.rig
    assert rig.rgb is not None
    assert rig.thermal is not None
    shown = [
        {
            "name": name,
            "state": "left out" if number in result.rejected else "",
            "images": [
                {"uri": _marked(image, detection), "error": error}
                for image, detection, error in zip(
                    view, result.detections[number], result.errors[number].tolist(), strict=True
                )
            ],
        }
        for number, (name, view) in enumerate(zip(names, views, strict=True))
    ][:_MOST_VIEWS]
    write_page(
        path,
        "calibration.html.j2",
        title=f"Calibration of a rig from {len(result.used)} views",
        summary=summary,
        cameras=[("RGB", _camera_rows(rig.rgb)), ("Thermal", _camera_rows(rig.thermal))],
        extrinsics=[
            ("Position of the thermal camera (x right, y down, z ahead)",
             ", ".join(f"{value * 1e3:.1f} mm" for value in rig.translation)),
            ("Baseline", f"{rig.baseline * 1e3:.1f} mm"),
            ("Angle between the cameras", f"{summary['angle_degrees']:.3f} degrees"),
        ],
        views=shown,
    )  # fmt: skip


def _warnings(result: BoardCalibration) -> list[str]:
    lines = []
    for camera, share in zip(("RGB", "thermal"), result.coverage, strict=True):
        if share < _FINE_COVERAGE:
            lines.append(
                f"The board was seen in {100 * share:.0f} % of the {camera} image: distortion is "
                "uncertain elsewhere. Take views with the board at the borders and in the corners."
            )
    if len(result.used) < 15:
        lines.append(f"Only {len(result.used)} views; 15 to 30 give a steadier result.")
    worst = max(result.residuals)
    if worst > 1.0:
        lines.append(
            f"The residual of {worst:.2f} pixels is large: were both images of each view taken "
            "at the same moment, and is the board flat?"
        )
    return lines


def _camera_rows(camera: CameraModel) -> list[tuple[str, str]]:
    width, height = camera.size
    return [
        ("Size", f"{width} x {height}"),
        ("Focal lengths", ", ".join(f"{value:.2f} px" for value in camera.focal)),
        ("Centre", ", ".join(f"{value:.2f} px" for value in camera.center)),
        ("Distortion", camera.distortion_model),
        ("Coefficients", ", ".join(f"{value:.4f}" for value in camera.distortion) or "none"),
    ]


def _marked(image: np.ndarray, detection: Detection | None) -> str:
    """Return the data URI of an image with the detected points, joined in their order."""
    grey = image if image.ndim == 3 else np.repeat(thermal_grey(image)[..., None], 3, axis=2)
    scale = _WIDTH / grey.shape[1]
    size = _WIDTH, max(1, round(grey.shape[0] * scale))
    small = cv2.cvtColor(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    if detection is not None:
        points = ((detection.image + 0.5) * scale - 0.5).round().astype(int)
        cv2.polylines(
            small, [points[:, None].astype(np.int32)], False, (80, 180, 255), 1, cv2.LINE_AA
        )
        for index, point in enumerate(points.tolist()):
            color = (0, 0, 255) if index == 0 else (80, 255, 80)
            cv2.circle(small, point, 3 if index == 0 else 2, color, -1, cv2.LINE_AA)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return data_uri(data, ".jpg")
