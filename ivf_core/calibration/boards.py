"""Boards for calibration, and their detection in RGB and thermal images.

A heated checkerboard, a board with holes in front of something warm, or printed markers under
a lamp may be dark on bright in one camera and bright on dark in the other, and small in
thermal images: detection tries both polarities, and enlarged images.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.rigs.orientation_fields import thermal_grey

__all__ = ["BOARD_KINDS", "Board", "Detection", "align_orders", "detect_board"]

BOARD_KINDS = ("checkerboard", "circles", "asymmetric_circles", "charuco", "apriltag")
"""Kinds of boards; see `Board`."""

_LEAST_POINTS = 6
_ENLARGED = 640  # pixels of width up to which images are enlarged
_LARGEST_FACTOR = 4
_TAG_BORDER = 0.11  # of a tag's side: its border, one of ten fields, has no other edges


@dataclass(frozen=True)
class Board:
    """Flat board with points at known places.

    Attributes:
        kind: "checkerboard": inner corners; "circles": a grid of circles; "asymmetric_circles":
            OpenCV's, whose odd rows are shifted; "charuco": a checkerboard with ArUco markers;
            "apriltag": a grid of AprilTags (family 36h11).
        columns: inner corners, circles, squares (charuco) or tags (apriltag) in a row.
        rows: of them in a column.
        spacing: metres between neighbours: of corners, circles (between the rows of
            asymmetric ones) or squares; of apriltag, the side of a tag.
        marker: side of a marker of charuco in metres; of apriltag, the gap between two tags.
        dictionary: name of the markers' dictionary of OpenCV, of charuco.

    Raises:
        ValueError: an impossible board; names the value and what was expected.
    """

    kind: str
    columns: int
    rows: int
    spacing: float
    marker: float = 0.0
    dictionary: str = "DICT_4X4_100"

    def __post_init__(self) -> None:
        if self.kind not in BOARD_KINDS:
            raise ValueError(f"board '{self.kind}': expected one of {', '.join(BOARD_KINDS)}")
        least = 1 if self.kind == "apriltag" else 2
        if min(self.columns, self.rows) < least or max(self.columns, self.rows) > 100:
            raise ValueError(f"board of {self.columns}x{self.rows}: expected {least} to 100 each")
        if not 0 < self.spacing < 10:
            raise ValueError(f"board: spacing is {self.spacing} m, expected 0 to 10 m")
        if self.has_markers and not 0 < self.marker < 10:
            raise ValueError(f"{self.kind} board: marker is {self.marker} m, expected 0 to 10 m")
        if self.kind == "charuco" and not self.marker < self.spacing:
            raise ValueError("charuco board: markers are as large as squares, expected smaller")
        if self.has_markers and not hasattr(cv2.aruco, "CharucoDetector"):
            raise ValueError(f"{self.kind} board: this OpenCV has no markers, needs 4.7 or later")
        if self.kind == "charuco" and not hasattr(cv2.aruco, self.dictionary):
            raise ValueError(f"dictionary '{self.dictionary}': OpenCV has none of that name")

    @property
    def has_markers(self) -> bool:
        """Flag of a board whose points have numbers, so that a part of it is enough."""
        return self.kind in ("charuco", "apriltag")

    @property
    def points(self) -> np.ndarray:
        """Places of all points of a board without markers in metres, N x 3 float32."""
        column, row = np.meshgrid(np.arange(self.columns), np.arange(self.rows))
        across = (2 * column + row % 2) if self.kind == "asymmetric_circles" else column
        flat = np.stack((across.ravel(), row.ravel(), np.zeros(column.size)), -1)
        return (flat * self.spacing).astype(np.float32)

    def marker_board(self) -> cv2.aruco.Board:
        """Return OpenCV's board of markers."""
        size = (self.columns, self.rows)
        if self.kind == "charuco":
            words = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
            return cv2.aruco.CharucoBoard(size, self.spacing, self.marker, words)
        words = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
        return cv2.aruco.GridBoard(size, self.spacing, self.marker, words)


@dataclass(frozen=True)
class Detection:
    """Points of a board in an image.

    Attributes:
        numbers: N int, the points' numbers on the board.
        board: N x 3 float32, their places on the board in metres.
        image: N x 2 float32 pixels.
    """

    numbers: np.ndarray
    board: np.ndarray
    image: np.ndarray


def detect_board(image: np.ndarray, board: Board) -> Detection | None:
    """Find a board in an image.

    Args:
        image: H x W x 3 uint8 RGB, or thermal h x w uint8, uint16 or float32.
        board: the board.

    Returns:
        Its points; None if it is not found, or too little of it.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else thermal_grey(image)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) * (255 / max(float(high - low), 1.0)), 0, 255).astype(np.uint8)
    factor = min(_LARGEST_FACTOR, max(1, round(_ENLARGED / grey.shape[1])))
    find = {
        "checkerboard": _find_checkerboard,
        "circles": _find_circles,
        "asymmetric_circles": _find_circles,
    }.get(board.kind, _find_markers)
    for scale in sorted({1, factor}, reverse=True):
        large = grey
        if scale > 1:
            size = grey.shape[1] * scale, grey.shape[0] * scale
            large = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC)
        for inverted in (False, True):
            found = find(255 - large if inverted else large, board)
            if found is not None and len(found.image) >= _LEAST_POINTS:
                # Pixel centres are at integers, in the enlarged image as well.
                points = (found.image + 0.5) / scale - 0.5
                return Detection(found.numbers, found.board, points.astype(np.float32))
    return None


def align_orders(first: Detection, second: Detection, board: Board) -> Detection:
    """Return the second camera's detection with its points in the order of the first one's.

    A checkerboard of the other polarity, and a symmetric grid, look the same after half a turn.
    The cameras are upright relative to each other, so the rows must run alike.

    Args:
        first: detection in one camera.
        second: detection in the other one.
        board: the board, of which both show the same view.
    """
    if board.has_markers or board.kind == "asymmetric_circles":
        return second
    runs = [one.image[board.columns - 1] - one.image[0] for one in (first, second)]
    if float(runs[0] @ runs[1]) >= 0:
        return second
    return Detection(second.numbers, second.board, second.image[::-1].copy())


def _find_checkerboard(grey: np.ndarray, board: Board) -> Detection | None:
    size, flags = (board.columns, board.rows), cv2.CALIB_CB_NORMALIZE_IMAGE
    found, corners = cv2.findChessboardCornersSB(grey, size, flags=flags)
    if not found:  # exhaustive, which takes ten times as long
        flags |= cv2.CALIB_CB_EXHAUSTIVE
        found, corners = cv2.findChessboardCornersSB(grey, size, flags=flags)
    if not found:
        return None
    grid = corners.reshape(board.rows, board.columns, 2)
    apart = min(float(np.linalg.norm(np.diff(grid, axis=axis), axis=2).min()) for axis in (0, 1))
    return _whole(_refined(grey, corners, 0.4 * apart), board)


def _find_circles(grey: np.ndarray, board: Board) -> Detection | None:
    parameters = cv2.SimpleBlobDetector.Params()
    parameters.maxArea = grey.size / (4 * board.columns * board.rows)
    parameters.minArea = 12
    parameters.minDistBetweenBlobs = 4
    detector = cv2.SimpleBlobDetector.create(parameters)
    asymmetric = board.kind == "asymmetric_circles"
    flags = cv2.CALIB_CB_ASYMMETRIC_GRID if asymmetric else cv2.CALIB_CB_SYMMETRIC_GRID
    for more in (0, cv2.CALIB_CB_CLUSTERING):
        found, centres = cv2.findCirclesGrid(
            grey, (board.columns, board.rows), flags=flags | more, blobDetector=detector
        )
        if found:
            return _whole(centres, board)
    return None


def _find_markers(grey: np.ndarray, board: Board) -> Detection | None:
    markers = board.marker_board()
    if isinstance(markers, cv2.aruco.CharucoBoard):
        corners, ids, _, _ = cv2.aruco.CharucoDetector(markers).detectBoard(grey)
        if ids is None or not len(ids):
            return None
        numbers = ids.ravel()
        places = np.array(markers.getChessboardCorners(), np.float32)[numbers]
        return Detection(numbers, places, corners.reshape(-1, 2))
    found, ids, _ = cv2.aruco.ArucoDetector(
        cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    ).detectMarkers(grey)
    known = {int(number): np.array(place) for number, place in
             zip(np.ravel(markers.getIds()), markers.getObjPoints(), strict=True)}  # fmt: skip
    tags = [] if ids is None else list(zip(ids.ravel().tolist(), found, strict=True))
    tags = [(number, quad) for number, quad in tags if number in known]
    if not tags:
        return None
    return Detection(
        np.concatenate([np.arange(4) + 4 * number for number, _ in tags]),
        np.concatenate([known[number] for number, _ in tags]).astype(np.float32),
        np.concatenate([_refined_tag(grey, quad) for _, quad in tags]),
    )


def _refined_tag(grey: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Return the corners of a tag to sub-pixels, 4 x 2."""
    corners = quad.reshape(4, 2)
    side = float(np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).min())
    return _refined(grey, corners, _TAG_BORDER * side)


def _refined(grey: np.ndarray, corners: np.ndarray, reach: float) -> np.ndarray:
    """Return corners to sub-pixels, N x 2.

    The window must reach no neighbour: the fit takes each edge in it for one of this corner.
    """
    window = int(np.clip(reach, 2, 11))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-3)
    start = np.ascontiguousarray(corners.reshape(-1, 1, 2), np.float32)
    return cv2.cornerSubPix(grey, start, (window, window), (-1, -1), criteria).reshape(-1, 2)


def _whole(corners: np.ndarray, board: Board) -> Detection:
    """Return the detection of all points of a board."""
    points = corners.reshape(-1, 2)
    return Detection(np.arange(len(points)), board.points, points)
