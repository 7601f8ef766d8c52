"""Calibrate both cameras of a rig, and their extrinsics, from views of a board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.calibration.boards import Board, Detection, align_orders, detect_board
from ivf_core.rigs.camera import DISTORTION_MODELS, CameraModel
from ivf_core.rigs.rig import Rig

__all__ = ["BoardCalibration", "CalibrationError", "calibrate_rig"]

_LEAST_VIEWS = 5
_OUTLIER = 3.0  # times the median error of the views
_LEAST_OUTLIER = 0.5  # pixels
_LEAST_COMMON = 6  # points of a view that both cameras see
# Views of a board seldom determine the third coefficient.
_FLAGS = {"plumb_bob": cv2.CALIB_FIX_K3, "rational_polynomial": cv2.CALIB_RATIONAL_MODEL}


class CalibrationError(ValueError):
    """Error for views from which no rig can be calibrated."""


@dataclass(frozen=True)
class BoardCalibration:
    """Result of a calibration.

    Attributes:
        rig: both cameras and their extrinsics, registered at infinity.
        detections: of each view, the board in the RGB and in the thermal image, or None.
        errors: of each view, the root mean square distance in pixels of its points from
            where the rig puts them, in the RGB and in the thermal image; NaN without a detection.
        used: numbers of the views from which the extrinsics were computed.
        rejected: numbers of views that were left out for their errors.
        coverage: share of a grid of 8 x 6 fields of the image that has points, RGB and thermal.
    """

    rig: Rig
    detections: list[tuple[Detection | None, Detection | None]]
    errors: np.ndarray
    used: list[int]
    rejected: list[int]
    coverage: tuple[float, float]

    @property
    def residuals(self) -> tuple[float, float]:
        """Root mean square errors of the used views in pixels, RGB and thermal."""
        square = np.nanmean(self.errors[self.used] ** 2, axis=0)
        return float(np.sqrt(square[0])), float(np.sqrt(square[1]))


def calibrate_rig(
    views: Sequence[tuple[np.ndarray, np.ndarray]],
    board: Board,
    models: tuple[str, str] = ("plumb_bob", "plumb_bob"),
) -> BoardCalibration:
    """Calibrate a rig from views of a board that both cameras take at the same moment.

    Args:
        views: RGB (H x W x 3 uint8) and thermal (h x w uint8, uint16 or float32) images.
        board: the board.
        models: distortion models of the RGB and of the thermal camera, as
            `ivf_core.rigs.camera.DISTORTION_MODELS` names them.

    Raises:
        CalibrationError: the board is found in too few views, or the views do not determine
            the cameras; says how many were found.
    """
    for model in models:
        if model not in DISTORTION_MODELS:
            names = ", ".join(DISTORTION_MODELS)
            raise ValueError(f"distortion model '{model}': expected one of {names}")
    detections = [_detect_view(rgb, thermal, board) for rgb, thermal in views]
    sizes = [(views[0][side].shape[1], views[0][side].shape[0]) for side in (0, 1)] if views else []
    counts = [sum(view[side] is not None for view in detections) for side in (0, 1)]
    both = [n for n, (a, b) in enumerate(detections) if a is not None and b is not None]
    if min(*counts, len(both)) < _LEAST_VIEWS:
        raise CalibrationError(
            f"the {board.kind} of {board.columns}x{board.rows} was found in {counts[0]} RGB and "
            f"{counts[1]} thermal images of {len(views)} views, {len(both)} times in both; "
            f"expected at least {_LEAST_VIEWS} views with both. Is the board's size right, and "
            "does it stand out in the thermal images?"
        )
    rejected: list[int] = []
    while True:
        cameras = [
            _calibrate_camera(
                [d for n, view in enumerate(detections) if (d := view[side]) and n not in rejected],
                sizes[side],
                models[side],
            )
            for side in (0, 1)
        ]
        kept = [view for n, view in enumerate(detections) if n in both and n not in rejected]
        rig = _extrinsics(kept, cameras)
        errors = np.array([_view_errors(rig, view) for view in detections])
        worst = np.nan_to_num(errors).max(axis=1)
        limit = max(_OUTLIER * float(np.median(worst[both])), _LEAST_OUTLIER)
        outliers = [n for n in both if n not in rejected and worst[n] > limit]
        if not outliers or len(both) - len(rejected) - len(outliers) < _LEAST_VIEWS:
            break
        rejected += outliers
    coverage = [
        _coverage([d for view in detections if (d := view[side])], sizes[side]) for side in (0, 1)
    ]
    used = [n for n in both if n not in rejected]
    return BoardCalibration(
        rig, detections, errors, used, sorted(rejected), (coverage[0], coverage[1])
    )


def _detect_view(
    rgb: np.ndarray, thermal: np.ndarray, board: Board
) -> tuple[Detection | None, Detection | None]:
    first, second = detect_board(rgb, board), detect_board(thermal, board)
    if first is not None and second is not None:
        second = align_orders(first, second, board)
    return first, second


def _calibrate_camera(
    detections: Sequence[Detection], size: tuple[int, int], model: str
) -> CameraModel:
    """Calibrate the intrinsics of one camera."""
    board = [one.board for one in detections]
    image = [one.image for one in detections]
    try:
        if model == "equidistant":
            matrix, distortion = _calibrate_fisheye(board, image, size)
        else:
            _, matrix, distortion, _, _ = cv2.calibrateCamera(  # type: ignore[call-overload]
                board, image, size, None, None, flags=_FLAGS[model]
            )
    except cv2.error as error:
        raise CalibrationError(
            f"the views do not determine a camera of {size[0]}x{size[1]} ({error.err}); take more "
            "views, with the board tilted and at the image's borders"
        ) from error
    return _camera_model(size, matrix, distortion, model)


def _camera_model(
    size: tuple[int, int], matrix: np.ndarray, distortion: np.ndarray, model: str
) -> CameraModel:
    """Return the camera of OpenCV's matrix and coefficients, or raise `CalibrationError`."""
    count = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[model]
    try:
        return CameraModel(
            size,
            (float(matrix[0, 0]), float(matrix[1, 1])),
            (float(matrix[0, 2]), float(matrix[1, 2])),
            model,
            tuple(float(k) for k in np.ravel(distortion)[:count]),
        )
    except ValueError as error:
        raise CalibrationError(
            f"the views do not determine a camera of {size[0]}x{size[1]} ({error}); take more "
            "views, with the board tilted and at the image's borders"
        ) from error


def _calibrate_fisheye(
    board: Sequence[np.ndarray], image: Sequence[np.ndarray], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    # OpenCV 5 has moved these flags, and given them other values.
    place = cv2.fisheye if hasattr(cv2.fisheye, "CALIB_FIX_SKEW") else cv2
    flags = place.CALIB_RECOMPUTE_EXTRINSIC | place.CALIB_FIX_SKEW  # type: ignore[attr-defined]
    _, matrix, distortion, _, _ = cv2.fisheye.calibrate(
        [points.reshape(1, -1, 3).astype(np.float64) for points in board],
        [points.reshape(1, -1, 2).astype(np.float64) for points in image],
        size,
        np.eye(3),
        np.zeros((4, 1)),
        flags=flags,
    )
    return matrix, distortion


def _extrinsics(
    views: Sequence[tuple[Detection | None, Detection | None]], cameras: Sequence[CameraModel]
) -> Rig:
    """Compute rotation and translation from thermal to RGB coordinates.

    Where both lenses have one model, their intrinsics are refined with it: the sharper camera
    tells where the board is. Otherwise points are undistorted first, and the intrinsics stay.
    """
    board, seen = [], ([], [])  # type: ignore[var-annotated]
    for first, second in views:
        assert first is not None
        assert second is not None
        common, a, b = np.intersect1d(first.numbers, second.numbers, return_indices=True)
        if len(common) < _LEAST_COMMON:
            continue
        board.append(first.board[a])
        seen[0].append(first.image[a])
        seen[1].append(second.image[b])
    model = cameras[0].distortion_model
    joint = model == cameras[1].distortion_model and model != "equidistant"
    if joint:
        matrices = [camera.camera_matrix for camera in cameras]
        bends = [np.array(camera.distortion) for camera in cameras]
        flags = cv2.CALIB_USE_INTRINSIC_GUESS | _FLAGS[model]
    else:
        matrices = [np.diag((*camera.focal, 1.0)) for camera in cameras]
        bends = [np.zeros(5)] * 2
        flags = cv2.CALIB_FIX_INTRINSIC
        for points, camera in zip(seen, cameras, strict=True):
            points[:] = [
                (camera.unproject(one)[:, :2] * camera.focal).astype(np.float32) for one in points
            ]
    _, thermal, thermal_bend, rgb, rgb_bend, rotation, translation, _, _ = cv2.stereoCalibrate(
        board, seen[1], seen[0], matrices[1], bends[1], matrices[0], bends[0],
        cameras[0].size, flags=flags,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-9),
    )  # type: ignore[call-overload]  # fmt: skip
    found = list(cameras)
    if joint:
        found = [
            _camera_model(camera.size, matrix, bend, model)
            for camera, matrix, bend in zip(
                cameras, (rgb, thermal), (rgb_bend, thermal_bend), strict=True
            )
        ]
    return Rig(
        rgb=found[0],
        thermal=found[1],
        rotation=tuple(rotation.ravel().tolist()),
        translation=tuple(translation.ravel().tolist()),
    )


def _view_errors(rig: Rig, view: tuple[Detection | None, Detection | None]) -> tuple[float, float]:
    """Return the root mean square error of a view in both cameras, from one pose of the board."""
    assert rig.rgb is not None
    assert rig.thermal is not None
    first, second = view
    if first is None and second is None:
        return float("nan"), float("nan")
    turn, shift = np.reshape(rig.rotation, (3, 3)), np.asarray(rig.translation)
    if first is not None:
        rotation, translation = _pose(first, rig.rgb)
    else:
        assert second is not None
        rotation, translation = _pose(second, rig.thermal)
        rotation, translation = turn @ rotation, turn @ translation + shift
    errors = []
    for detection, camera, back in ((first, rig.rgb, False), (second, rig.thermal, True)):
        if detection is None:
            errors.append(float("nan"))
            continue
        points = detection.board @ rotation.T + translation
        if back:
            points = (points - shift) @ turn
        off = camera.project(points) - detection.image
        errors.append(float(np.sqrt(np.nanmean((off * off).sum(axis=1)))))
    return errors[0], errors[1]


def _pose(detection: Detection, camera: CameraModel) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation and translation of the board in a camera's coordinates."""
    rays = np.ascontiguousarray(camera.unproject(detection.image)[:, :2])
    _, turn, shift = cv2.solvePnP(
        detection.board.astype(np.float64), rays, np.eye(3), None, flags=cv2.SOLVEPNP_IPPE
    )  # type: ignore[call-overload]
    turn, shift = cv2.solvePnPRefineLM(
        detection.board.astype(np.float64), rays, np.eye(3), None, turn, shift
    )  # type: ignore[call-overload]
    return cv2.Rodrigues(turn)[0], shift.ravel()


def _coverage(detections: Sequence[Detection], size: tuple[int, int]) -> float:
    """Return the share of fields of the image in which any view has a point."""
    points = np.concatenate([one.image for one in detections])
    fields = np.clip(points / size * (8, 6), 0, (7, 5)).astype(int)
    return len({(x, y) for x, y in fields.tolist()}) / 48
