"""Measure how a camera turns, from the optical flow between its images.

The flow of a moving camera has two parts. A turn moves the whole image alike. Driving moves each
point towards or away from the focus of expansion, by an amount that depends on its distance.
Only the first part is the same in two cameras with different views, so they are told
apart: in each cell, the component of the flow across the direction of the focus shows the turn
alone (Longuet-Higgins and Prazdny, Proc. R. Soc. B 208, 1980); the component along that direction
counts as little as it varies.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ivf_core.rigs.orientation_fields import thermal_grey

__all__ = ["TREND_SECONDS", "ImageMotion", "MotionRecorder", "camera_turns", "gaussian_means"]

TREND_SECONDS = 0.7
"""Width of the Gaussian mean that is subtracted: slower changes are of traffic, not of the rig."""

_WIDTH = 320  # pixels, at which flow is measured
# Pyramid level of the finest flow. At a quarter of the resolution, the motion of a tenth of a
# pixel between images of 160 columns came out up to 9 ms late.
_FINEST_SCALE = 1
_COLUMNS = 20  # cells, whose flow is averaged
_LONGEST_GAP = 2.5  # intervals; a longer one is a pause
_CLIP = 6.0  # median absolute deviations, beyond which a motion is an outlier
_FIELD_SECONDS = 2.0  # over which the slopes of the mean flow are averaged
_ROUNDS = 2  # of turn and place of the scene
_REWEIGHTINGS = 8
_LEAST_DEVIATION = 0.3  # of the median over the cells; cells without structure do not vary


class ImageMotion(NamedTuple):
    """Motion of a camera in N intervals between its images.

    Attributes:
        starts: N seconds, ascending.
        stops: N seconds; an interval may begin later than the one before ended, after a pause.
        rates: N x 2, turn to the right and down in image widths a second.
    """

    starts: np.ndarray
    stops: np.ndarray
    rates: np.ndarray


class MotionRecorder:
    """Record of the optical flow between a camera's images.

    Args:
        infrared: whether the images are thermal.
    """

    def __init__(self, *, infrared: bool) -> None:
        self._infrared = infrared
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._flow.setFinestScale(_FINEST_SCALE)
        self._previous: np.ndarray | None = None
        self._seconds: list[float] = []
        self._flows: list[np.ndarray | None] = []

    def add(self, seconds: float, image: np.ndarray) -> None:
        """Measure the flow since the image before.

        Args:
            seconds: stamp; an image that is not later than the one before is left out.
            image: H x W x 3 uint8 RGB, or h x w uint8, uint16 or float32.
        """
        if self._seconds and seconds <= self._seconds[-1]:
            return
        grey = thermal_grey(image) if self._infrared else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if grey.shape[1] > _WIDTH:
            size = _WIDTH, max(32, round(_WIDTH * grey.shape[0] / grey.shape[1]))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        if self._previous is not None:
            self._flows.append(self._cells(self._previous, grey))
        self._previous = grey
        self._seconds.append(seconds)

    def __len__(self) -> int:
        return len(self._seconds)

    def motion(self) -> ImageMotion | None:
        """Return the turn in each interval; pauses are left out, outliers cut.

        None without an interval of which the flow is known.
        """
        shapes = [cells.shape for cells in self._flows if cells is not None]
        if not shapes:
            return None
        shape = max(set(shapes), key=shapes.count)
        gaps = np.diff(self._seconds)
        known = gaps <= _LONGEST_GAP * np.median(gaps)
        known &= [cells is not None and cells.shape == shape for cells in self._flows]
        if not known.any():
            return None
        gaps, starts = gaps[known], np.array(self._seconds[:-1])[known]
        flows = [cells for cells, wanted in zip(self._flows, known, strict=True) if wanted]
        flow = np.array(flows, np.float64) / gaps[:, None, None, None]
        rates = camera_turns(starts + gaps / 2, gaps, flow)
        middle = np.median(rates, axis=0)
        spread = np.median(np.abs(rates - middle), axis=0) + 1e-3
        rates = np.clip(rates, middle - _CLIP * spread, middle + _CLIP * spread)
        return ImageMotion(starts, starts + gaps, rates)

    def _cells(self, before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
        """Return the mean flow in cells, rows x columns x 2 in image widths."""
        if before.shape != after.shape:
            return None
        flow = self._flow.calc(before, after, None)  # type: ignore[call-overload]
        height, width = after.shape
        size = _COLUMNS, max(1, round(_COLUMNS * height / width))
        return cv2.resize(flow, size, interpolation=cv2.INTER_AREA) / width


def gaussian_means(times: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """Return the means of values around each time, weighted by a Gaussian.

    Args:
        times: N seconds.
        values: N x ... values.
        width: standard deviation in seconds.
    """
    weights = np.exp(-0.5 * ((times[:, None] - times) / width) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights @ values.reshape(len(times), -1)).reshape(values.shape)


def camera_turns(times: np.ndarray, gaps: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return the turns of a camera that may drive at the same time, without slow changes.

    Args:
        times: N seconds, the middles of the intervals.
        gaps: N seconds, their lengths.
        flow: N x rows x columns x 2 mean flow of cells, in image widths a second.

    Returns:
        N x 2, to the right and down in image widths a second.
    """
    mean = gaussian_means(times, flow, TREND_SECONDS)
    changes = flow - mean
    count, rows, columns = flow.shape[:3]
    x, y = np.meshgrid(
        (np.arange(columns) + 0.5) / columns - 0.5, (np.arange(rows) + 0.5 - rows / 2) / columns
    )
    places = np.stack((x, y), -1).reshape(-1, 2)
    focus = _focus_of_expansion(places, np.median(mean, axis=0).reshape(-1, 2))
    slow = gaussian_means(times, flow, _FIELD_SECONDS)
    along = np.gradient(slow, axis=2) * columns if columns > 1 else np.zeros_like(slow)
    down = np.gradient(slow, axis=1) * columns if rows > 1 else np.zeros_like(slow)
    turns = np.median(changes.reshape(count, -1, 2), axis=1)
    for _ in range(_ROUNDS):
        # The mean flow belongs to the scene, which turns with its focus through the image. Seen
        # at fixed pixels, it would add a motion that is ahead of the turn by a quarter period.
        moved = turns * gaps[:, None]
        moved = np.cumsum(moved, axis=0) - moved / 2
        moved = (moved - gaussian_means(times, moved, TREND_SECONDS))[:, None, None]
        still = changes + along * moved[..., :1] + down * moved[..., 1:]
        turns = _robust_turns(places, focus, still.reshape(count, -1, 2))
    return turns


def _focus_of_expansion(places: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return the point from which the mean flow at M places leads away, or to which it leads."""
    across = np.stack((flow[:, 1], -flow[:, 0]), -1)
    right = (across * places).sum(axis=1)
    weights, focus = np.ones(len(places)), np.zeros(2)
    for _ in range(_REWEIGHTINGS):
        weighted = across * weights[:, None]
        focus = np.linalg.solve(weighted.T @ across + 1e-9 * np.eye(2), weighted.T @ right)
        off = across @ focus - right
        scale = 3 * np.median(np.abs(off)) + 1e-9
        weights = 1 / (1 + (off / scale) ** 2)
    return focus


def _robust_turns(places: np.ndarray, focus: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return the turns that explain flow N x M x 2, N x 2.

    Components along and across the direction of the focus have weights of their own: for each
    cell the inverse of its variance, for each residual that of Cauchy's distribution.
    """
    x, y = places.T
    # Motion of an image as wide as its focal length, when the camera turns about its three axes.
    basis = np.stack((1 + x * x, x * y, x * y, 1 + y * y, -y, x), -1).reshape(-1, 3, 2)
    away = places - focus
    away /= np.linalg.norm(away, axis=1, keepdims=True) + 1e-6
    directions = np.stack((away, np.stack((-away[:, 1], away[:, 0]), -1)))  # 2 x M x 2
    parts = np.einsum("dmi,mpi->dmp", directions, basis).reshape(-1, 3)
    products = (parts[:, :, None] * parts[:, None]).reshape(-1, 9)
    seen = np.einsum("dmi,nmi->ndm", directions, flow).reshape(len(flow), -1)
    turns = np.zeros((len(flow), 3))
    turns[:, :2] = np.median(flow, axis=1)
    for _ in range(_REWEIGHTINGS):
        off = seen - turns @ parts.T
        deviation = 1.4826 * np.median(np.abs(off), axis=0)
        deviation = np.maximum(deviation, _LEAST_DEVIATION * np.median(deviation) + 1e-6)
        weights = 1 / (deviation**2 * (1 + (off / (2 * deviation)) ** 2))
        normal = (weights @ products).reshape(-1, 3, 3)
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        turns = np.linalg.solve(normal, ((weights * seen) @ parts)[..., None])[..., 0]
    return turns[:, :2]
