"""Health of a thermal camera relative to the scene and to the other camera.

Polarity and registration cannot be told from a frame alone with certainty: evidence is
gathered over seconds, and measured now and then instead of on each frame.
"""

from __future__ import annotations

import math
from collections import deque

import cv2
import numpy as np

from ivf_core.images.alignment import ShiftMeter
from ivf_core.images.registration import covered_rectangle
from ivf_core.images.symptoms import HealthRecord, Lasting, Severity, Symptom

__all__ = ["PairHealth", "PolarityMeter"]

_GAP_SECONDS = 5.0

_ALIGNMENT_SECONDS = 2.0
_MISREGISTERED_SHARE = 12 / 640
"""Shift, as a share of the width, that is reported.

The networks are trained with less; single pairs of MSRS and RoadScene measure up to 9.4 of
640 pixels, the same pairs moved by 24 pixels at least 16.
"""

_POLARITY_SECONDS = 0.5
_MEMORY_SECONDS = 15.0
_LEAST_OBSERVATIONS = 12
_SUSPECT = -0.3
_TRUST_AGAIN = -0.1
_SIZE = (160, 120)
_LEAST_RANGE = 8.0  # levels, so that noise of a uniform image is no evidence
_SKY_ROWS = 30
_SKY_BLOCK = 10
_SKY_SHARE = 0.3  # of the blocks at the top that must be flat
_FLAT_DEVIATION = 0.03  # of the range
_SKY_LEVEL = 0.15  # of the range
_USUAL_SKEW = 3.0
_LEAST_PERSON = 20  # pixels at `_SIZE`
_DARKER = 0.1  # of the range


class PolarityMeter:
    """Evidence for white-hot or black-hot images, gathered over the last seconds.

    Three kinds, each of which is wrong at times: a flat area at the top is the sky, which is
    colder than the ground; small things that stand out are warm more often than cold (the
    skewness of what a blur takes away); persons of the mask are warmer than what is around
    them. The last speaks for black-hot only: a network that takes heat for persons finds them
    in either polarity. Indoors, or on ground hotter than people, the evidence can be absent
    or wrong, so that black-hot is suspected, never certain.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._evidence: deque[tuple[float, float]] = deque()
        self.suspected = False

    def add(self, infrared: np.ndarray, seconds: float, persons: np.ndarray | None = None) -> float:
        """Take a frame.

        Args:
            infrared: H x W uint8, the normalised thermal image.
            seconds: stamp of the frame.
            persons: h x w bool or uint8, the pixels of persons in the same view, or None.

        Returns:
            Mean of the evidence, -1 (black-hot) to 1 (white-hot); NaN while there is too little.
        """
        self._evidence.append((seconds, _evidence(infrared, persons)))
        while self._evidence[0][0] < seconds - _MEMORY_SECONDS:
            self._evidence.popleft()
        if len(self._evidence) < _LEAST_OBSERVATIONS:
            return math.nan
        mean = sum(value for _, value in self._evidence) / len(self._evidence)
        self.suspected = mean < (_TRUST_AGAIN if self.suspected else _SUSPECT)
        return mean


class PairHealth:
    """Black-hot and misregistered thermal images, from prepared pairs.

    Limits: a shift is found up to a sixteenth of the width along either axis, and only where
    both cameras see outlines; one of a part of the image, or a rotation, is not found.

    One thread calls it.
    """

    def __init__(self) -> None:
        self._polarity = PolarityMeter()
        self._shift = ShiftMeter()
        self._coverage: np.ndarray | None = None  # and its rectangle
        self._part: tuple[slice, slice] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._polarity.reset()
        self._shift.reset()
        self._misregistered = Lasting(2 * _ALIGNMENT_SECONDS)
        self._last: float | None = None
        self._next_polarity = self._next_shift = -math.inf
        self._values: dict[str, float] = {}
        self._limit = math.inf

    def add(
        self,
        visible: np.ndarray | None,
        infrared: np.ndarray,
        seconds: float,
        *,
        coverage: np.ndarray | None = None,
        persons: np.ndarray | None = None,
    ) -> HealthRecord:
        """Take the next pair and return the health after it.

        Args:
            visible: H x W x 3 uint8 RGB; None if this camera is absent or unusable.
            infrared: H x W uint8, the prepared thermal image.
            seconds: stamp of the pair.
            coverage: H x W bool, the pixels that the thermal camera sees; None for all.
            persons: h x w, pixels of persons in the mask, or None without a mask.
        """
        if self._last is not None and not 0 <= seconds - self._last <= _GAP_SECONDS:
            self.reset()
        self._last = seconds
        part = self._covered(coverage, infrared)
        if part is not None and seconds >= self._next_polarity:
            self._next_polarity = seconds + _POLARITY_SECONDS
            if persons is not None and coverage is not None:
                size = infrared.shape[1], infrared.shape[0]
                mask = persons.astype(np.uint8)
                persons = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)[part]
            self._values["polarity"] = self._polarity.add(infrared[part], seconds, persons)
        if part is not None and visible is not None and seconds >= self._next_shift:
            self._next_shift = seconds + _ALIGNMENT_SECONDS
            grey = cv2.cvtColor(visible[part], cv2.COLOR_RGB2GRAY)
            shift = self._shift.add(grey, infrared[part], infrared.shape[1])
            self._values["shift_px"] = shift
            self._limit = _MISREGISTERED_SHARE * infrared.shape[1]
            self._misregistered.update(None if math.isnan(shift) else shift > self._limit, seconds)
        found = []
        if self._polarity.suspected:
            text = "black-hot suspected: warm things seem dark"
            found.append(Symptom("black_hot", Severity.FAULT, text))
        if self._misregistered.active:
            shift = self._values["shift_px"]
            measured = "" if math.isnan(shift) else f" by {shift:.0f} pixels"
            found.append(Symptom("misregistered", Severity.FAULT, f"misregistered{measured}"))
        known = {name: value for name, value in self._values.items() if not math.isnan(value)}
        return HealthRecord.of(seconds, found, known)

    def _covered(
        self, coverage: np.ndarray | None, infrared: np.ndarray
    ) -> tuple[slice, slice] | None:
        """Return the part of an image that both cameras see; None without one.

        Elsewhere the prepared thermal image shows the visible luma.
        """
        if coverage is None:
            return slice(None), slice(None)
        if coverage is not self._coverage:
            size = infrared.shape[0], infrared.shape[1]
            self._coverage, self._part = coverage, covered_rectangle(coverage, size)
        return self._part


def _evidence(infrared: np.ndarray, persons: np.ndarray | None) -> float:
    """Return the evidence of one image, -1 (black-hot) to 1 (white-hot)."""
    image = cv2.resize(infrared, _SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
    low, high = np.percentile(image, (1, 99))
    span = max(float(high - low), _LEAST_RANGE)
    evidence = _sky(image, span) + _skew(image)
    if persons is not None:
        evidence += _persons(image, persons, span)
    return max(-1.0, min(1.0, evidence))


def _sky(image: np.ndarray, span: float) -> float:
    """Return 1 for a flat top colder than the ground, -1 for a warmer one, 0 without."""
    rows, columns = _SKY_ROWS // _SKY_BLOCK, _SIZE[0] // _SKY_BLOCK
    blocks = image[:_SKY_ROWS].reshape(rows, _SKY_BLOCK, columns, _SKY_BLOCK)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    flat = blocks.std(axis=1) < _FLAT_DEVIATION * span
    if flat.mean() < _SKY_SHARE:
        return 0.0
    level = (np.median(blocks[flat].mean(axis=1)) - np.median(image[_SIZE[1] // 2 :])) / span
    return float(-np.sign(level)) if abs(level) > _SKY_LEVEL else 0.0


def _skew(image: np.ndarray) -> float:
    """Return half of the sign of small things that stand out, less for a low skewness."""
    detail = image - cv2.GaussianBlur(image, (0, 0), 12)
    variance = float(np.square(detail).mean())
    if variance < 1:
        return 0.0
    skew = float((detail * detail * detail).mean()) / variance**1.5
    return max(-0.5, min(0.5, skew / _USUAL_SKEW))


def _persons(image: np.ndarray, persons: np.ndarray, span: float) -> float:
    """Return -0.5 if persons are darker than what is around them, otherwise 0."""
    mask = cv2.resize(persons.astype(np.uint8), _SIZE, interpolation=cv2.INTER_NEAREST)
    mask = (mask > 0).astype(np.uint8)
    if cv2.countNonZero(mask) < _LEAST_PERSON:
        return 0.0
    near = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    ring = cv2.dilate(mask, np.ones((9, 9), np.uint8)) - near
    if not ring.any():
        return 0.0
    difference = float(cv2.mean(image, mask)[0] - cv2.mean(image, ring)[0])
    return -0.5 if difference < -_DARKER * span else 0.0
