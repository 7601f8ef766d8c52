"""Views of a calibration board by two cameras that are known exactly."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from ivf_core.calibration.boards import Board
from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import Rig

_PER_SPACING = 40  # pixels of the drawing
_MARGIN = 2.0  # spacings around the points


def board_views(rig: Rig, board: Board, count: int, seed: int = 0) -> list[tuple]:
    """Render RGB (bright board) and thermal images (inverted, soft, noisy) of a board."""
    rng = np.random.default_rng(seed)
    texture, origin = _drawing(board)
    points = _points(board)
    views = []
    while len(views) < count:
        pose = _random_pose(rng, points, rig)
        if pose is None:
            continue
        rotation, translation = pose
        turn, shift = np.reshape(rig.rotation, (3, 3)), np.asarray(rig.translation)
        rgb = _render(rig.rgb, rotation, translation, texture, origin, board)
        thermal = _render(
            rig.thermal, turn.T @ rotation, turn.T @ (translation - shift), texture, origin, board
        )
        grey = 40 + 0.7 * rgb + rng.normal(0, 2, rgb.shape)
        warm = 0.35 * (255 - cv2.GaussianBlur(thermal, (0, 0), 0.5)) + rng.normal(
            0, 1, thermal.shape
        )
        views.append(
            (
                np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2),
                (7000 + 10 * warm).round().astype(np.uint16),
            )
        )
    return views


def _points(board: Board) -> np.ndarray:
    if not board.has_markers:
        return board.points
    return np.concatenate([np.reshape(p, (-1, 3)) for p in board.marker_board().getObjPoints()])


def _drawing(board: Board) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the drawing, and the board's origin in it in pixels."""
    size = _PER_SPACING
    points = _points(board) / board.spacing
    width, height = ((points.max(axis=0)[:2] + 2 * _MARGIN) * size).round().astype(int).tolist()
    origin = _MARGIN * size, _MARGIN * size
    image = np.full((height, width), 255, np.uint8)
    if board.kind == "checkerboard":
        for row in range(-1, board.rows):
            for column in range(-1, board.columns):
                if (row + column) % 2 == 0:
                    x, y = (round(origin[0] + column * size), round(origin[1] + row * size))
                    image[y : y + size, x : x + size] = 0
    elif board.has_markers:
        inner = (points.max(axis=0)[:2] * size).round().astype(int)
        if board.kind == "charuco":
            inner = np.array([board.columns, board.rows]) * size
            image = np.full(
                (inner[1] + 2 * round(origin[1]), inner[0] + 2 * round(origin[0])), 255, np.uint8
            )
        drawn = board.marker_board().generateImage(tuple(int(n) for n in inner), marginSize=0)
        x, y = round(origin[0]), round(origin[1])
        image[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn
    else:
        for point in points:
            middle = (np.array(origin) + point[:2] * size - 0.5) * 16
            cv2.circle(
                image,
                tuple(middle.round().astype(int).tolist()),
                round(0.28 * size * 16),
                0,
                -1,
                cv2.LINE_AA,
                4,
            )
    return image, origin


def _random_pose(
    rng: np.random.Generator, points: np.ndarray, rig: Rig
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a pose at which both cameras see all points, or None."""
    angles = rng.uniform(-1, 1, 3) * (0.6, 0.6, 0.25)
    rotation = cv2.Rodrigues(angles)[0]
    extent = float(np.ptp(points[:, :2], axis=0).max())
    depth = extent * rng.uniform(1.1, 2.4)
    place = np.array([*(rng.uniform(-0.5, 0.5, 2) * depth), depth])
    translation = place - rotation @ points.mean(axis=0)
    seen = points @ rotation.T + translation
    turn, shift = np.reshape(rig.rotation, (3, 3)), np.asarray(rig.translation)
    for camera, where in ((rig.rgb, seen), (rig.thermal, (seen - shift) @ turn)):
        pixels = camera.project(where)
        border = 0.04 * camera.size[0]
        if not ((pixels > border) & (pixels < np.array(camera.size) - border)).all():
            return None
    return rotation, translation


def _render(
    camera: CameraModel,
    rotation: np.ndarray,
    translation: np.ndarray,
    texture: np.ndarray,
    origin: tuple[float, float],
    board: Board,
) -> np.ndarray:
    """Return the image of the board through the lens, float64, with 4 x 4 samples a pixel."""
    rays = _rays(camera, 4)
    # The plane's point (x, y) is in the direction [r1 r2 t] (x, y, 1).
    to_board = np.linalg.inv(np.column_stack((rotation[:, :2], translation)))
    scale = _PER_SPACING / board.spacing
    # The centre of the drawing's pixel i is at i + 0.5 from its edge.
    to_drawing = np.array([[scale, 0, origin[0] - 0.5], [0, scale, origin[1] - 0.5], [0, 0, 1]])
    places = cv2.perspectiveTransform(rays, to_drawing @ to_board)
    drawn = cv2.remap(texture, places, None, cv2.INTER_LINEAR, borderValue=128)
    return cv2.resize(drawn.astype(np.float64), camera.size, interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=4)
def _rays(camera: CameraModel, fine: int) -> np.ndarray:
    """Return X/Z and Y/Z of fine x fine samples of each pixel, float32."""
    width, height = camera.size
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    # Between pixels, directions are linear to a thousandth of a pixel.
    whole = camera.unproject(pixels)[..., :2].astype(np.float32)
    return cv2.resize(whole, (width * fine, height * fine), interpolation=cv2.INTER_LINEAR)
