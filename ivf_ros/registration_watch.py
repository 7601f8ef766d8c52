"""Watch on the registration: pairs collected from the stream, estimated beside it.

The worker offers pairs and returns at once; a thread of low priority estimates from
copies of a few of them; the executor's thread takes the outcome.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ivf_core.images.registration import Registration, covered_rectangle, size_change
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.rigs.estimation import EstimationError, HomographyEstimate, estimate_homography
from ivf_core.rigs.remap import AnyRegistration, RigRegistration
from ivf_core.rigs.rig import Rig

__all__ = ["Outcome", "RegistrationWatch"]

_PAIRS = 12
_PAIR_SECONDS = 0.5  # between two pairs of one estimate, by their stamps
_WIDTH = 640  # of the copies of the images, at most
_NICE = 10
_GRID = 17  # points along each side at which a drift is measured

_Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """Result of one estimate.

    Attributes:
        registration: registration that the estimate suggests, with its map; None if there is none.
        drift_pixels: mean distance in RGB pixels by which the suggestion moves the registered
            image; NaN without a registration before.
        confidence: confidence in the estimate, 0 to 1.
        text: reason if there is no estimate.
    """

    registration: RigRegistration | None
    drift_pixels: float
    confidence: float
    text: str = ""


class RegistrationWatch:
    """Estimates of the registration from the pairs of a stream, one at a time.

    Memory is bounded: it holds at most twelve pairs of at most 640 columns.

    Args:
        period_seconds: time between two estimates, by the pairs' stamps.
    """

    def __init__(self, period_seconds: float) -> None:
        self._period = period_seconds
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._sizes: tuple[tuple[int, ...], ...] = ()
        self._last = -np.inf  # stamp of the last pair
        self._next = -np.inf  # stamp from which pairs are collected again
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None
        self._generation = 0

    # The worker's thread

    def offer(
        self,
        visible: np.ndarray,
        infrared: np.ndarray,
        seconds: float,
        registration: AnyRegistration,
    ) -> None:
        """Take a copy of a pair if one is needed, and start an estimate when there are enough.

        Args:
            visible: H x W x 3 uint8 RGB, as it is fused.
            infrared: h x w, as it was received.
            seconds: stamp of the pair.
            registration: registration in use.
        """
        if seconds < self._last:  # a bag that starts again
            self.reset()
        if seconds < max(self._last + _PAIR_SECONDS, self._next) or self._is_busy():
            return
        self._last = seconds
        sizes = (visible.shape[:2], infrared.shape[:2])
        with self._lock:
            if sizes != self._sizes:
                self._pairs, self._sizes = [], sizes
            self._pairs.append((_reduced(visible), _reduced(infrared)))
            if len(self._pairs) < _PAIRS:
                return
            pairs, self._pairs = self._pairs, []
            self._next = seconds + self._period
            arguments = (self._generation, pairs, sizes, registration)
            self._thread = threading.Thread(
                target=self._run, args=arguments, name="registration", daemon=True
            )
        self._thread.start()

    # The executor's thread

    def take(self) -> Outcome | None:
        """Return the outcome of an estimate that has ended since the last call, or None."""
        with self._lock:
            outcome, self._outcome = self._outcome, None
            return outcome

    def progress(self) -> str:
        """Return in a few words where the estimate stands."""
        with self._lock:
            if self._is_busy():
                return "estimating"
            return f"{len(self._pairs)} of {_PAIRS} pairs collected"

    def close(self) -> None:
        """Wait for a running estimate, whose outcome is dropped."""
        self.reset()
        if self._thread is not None:
            self._thread.join()

    # Any thread

    def reset(self) -> None:
        """Drop the pairs, and the outcome of a running estimate; start again."""
        with self._lock:
            self._pairs, self._outcome = [], None
            self._last = self._next = -np.inf
            self._generation += 1

    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(
        self,
        generation: int,
        pairs: list[_Pair],
        sizes: tuple[tuple[int, ...], ...],
        registration: AnyRegistration,
    ) -> None:
        """Estimate, in a thread that yields to all others."""
        with contextlib.suppress(AttributeError, OSError):  # elsewhere than on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            outcome = estimate_outcome(pairs, sizes, registration)
        except EstimationError as error:
            outcome = Outcome(None, float("nan"), 0.0, str(error))
        except Exception as error:  # whatever it is, the stream continues
            outcome = Outcome(None, float("nan"), 0.0, f"{type(error).__name__}: {error}")
        with self._lock:
            if generation == self._generation:
                self._outcome = outcome


def estimate_outcome(
    pairs: list[_Pair], sizes: tuple[tuple[int, ...], ...], registration: AnyRegistration
) -> Outcome:
    """Estimate a rig from pairs, or the correction of the rig in use.

    Args:
        pairs: copies of RGB (H x W x 3 uint8) and thermal images as they were received.
        sizes: (height, width) of the original RGB and thermal images.
        registration: registration in use; by size alone, a homography is estimated.

    Raises:
        EstimationError: nothing can be estimated from the pairs.
    """
    rgb_size, thermal_size = ((size[1], size[0]) for size in sizes)
    small = pairs[0][0].shape[1], pairs[0][0].shape[0]
    grow = size_change(small, rgb_size)
    if not isinstance(registration, RigRegistration):
        found = estimate_homography(pairs)
        thermal = pairs[0][1].shape[1], pairs[0][1].shape[0]
        matrix = grow @ found.homography @ size_change(thermal_size, thermal)
        rig = Rig(homography=Registration(tuple(matrix.ravel()), thermal_size, rgb_size))
        return Outcome(ready(rig, sizes), float("nan"), found.confidence)
    coverage = registration.coverage(pairs[0][1].shape[:2], (small[1], small[0]))
    found, corner = _correction(pairs, registration, coverage)
    move = np.array([[1, 0, corner[0]], [0, 1, corner[1]], [0, 0, 1.0]])
    matrix = move @ found.homography @ np.linalg.inv(move)
    drift = _mean_motion(matrix, small, coverage) * rgb_size[0] / small[0]
    rig = registration.rig.resized(rgb_size, registration.rig.thermal_size)
    rig = rig.corrected(grow @ matrix @ np.linalg.inv(grow))
    return Outcome(ready(rig, sizes), drift, found.confidence)


def ready(rig: Rig, sizes: tuple[tuple[int, ...], ...]) -> RigRegistration:
    """Return the registration of a rig whose map is computed already.

    Args:
        rig: the rig.
        sizes: (height, width) of the RGB and of the thermal images.
    """
    registration = RigRegistration(rig)
    registration.coverage((sizes[1][0], sizes[1][1]), (sizes[0][0], sizes[0][1]))
    return registration


def _correction(
    pairs: list[_Pair], registration: RigRegistration, coverage: np.ndarray | None
) -> tuple[HomographyEstimate, tuple[int, int]]:
    """Estimate the motion that is left after registration, in the part that both cameras see.

    Returns the estimate, and the corner (x, y) of that part.
    """
    size = pairs[0][0].shape[0], pairs[0][0].shape[1]
    part = covered_rectangle(coverage, size)
    if part is None:
        raise EstimationError("the view that both cameras share is too small")
    normalizer = ThermalNormalizer("percentile")
    cut = [
        (visible[part], registration(normalizer(infrared), size)[part])
        for visible, infrared in pairs
    ]
    return estimate_homography(cut, initial=np.eye(3)), (part[1].start, part[0].start)


def _mean_motion(
    homography: np.ndarray, size: tuple[int, int], coverage: np.ndarray | None
) -> float:
    """Return the mean distance in pixels by which a homography moves covered points.

    Where the thermal camera sees nothing, the estimate is an extrapolation.
    """
    x, y = (np.linspace(0, n - 1, _GRID) for n in size)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    if coverage is not None:
        column, row = points.round().astype(int).T
        points = points[coverage[row, column]]
    moved: Any = cv2.perspectiveTransform(points[:, None], homography)[:, 0]
    return float(np.linalg.norm(moved - points, axis=-1).mean())


def _reduced(image: np.ndarray) -> np.ndarray:
    """Return a copy of an image with at most 640 columns."""
    if image.shape[1] <= _WIDTH:
        return image.copy()
    size = _WIDTH, max(1, round(image.shape[0] * _WIDTH / image.shape[1]))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
