"""Measure each pair of a replay, and sum up over all pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

from ivf_core.class_sets import UNLABELED, ClassSet, mapping_between
from ivf_core.images.alignment import AlignmentMeter
from ivf_core.images.registration import covered_rectangle
from ivf_core.metrics.fusion import FUSION_METRICS, fusion_metrics
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.replay.frames import FusedFrame
from ivf_core.replay.measure.shutters import MotionLagMeter
from ivf_core.replay.measure.stability import FlipMeter

__all__ = ["OTHER", "Scorer", "one_thread"]

OTHER = "other_"
"""Prefix of the columns with the metrics of another method's images."""

_LEAST_SIDE = 32  # pixels of the rectangle that both cameras see
_STRIDE = 4  # pixels are subsampled by this where all of them would tell no more


class Scorer:
    """Meter of the frames of a bag, one after the other.

    What compares both cameras is measured in the largest rectangle that both see: elsewhere the
    prepared thermal image is a copy of the visible luma. True class ids count where both see.

    Args:
        class_set: class set of the labels, or None.
        score_every: every Nth pair gets the metrics.
        with_other: there may be another method's images.
        with_truth: there may be true class ids.
        truth_classes: class set of these; None: `class_set`.

    Raises:
        ValueError: true class ids cannot be mapped onto `class_set`.

    Attributes:
        columns: names of the values, in order.
        skipped: number of values that could not be measured, by reason.
        unknown_ids: number of pixels by true class id outside the class set.
        alignment: sums for the registration of both cameras.
        motion_lag: sums for the delay between both cameras.
        confusion: confusion matrix of all pairs with true class ids, or None.
        seen_share: share of the RGB image that both cameras see, of the last pair; None without.
        scored_share: share of it that is compared.
    """

    def __init__(
        self,
        class_set: ClassSet | None,
        *,
        score_every: int,
        with_other: bool = False,
        with_truth: bool = False,
        truth_classes: ClassSet | None = None,
    ) -> None:
        self._class_set = class_set
        self._true_set = truth_classes or class_set
        self._mapping, never_true = None, set[int]()
        if with_truth and class_set is not None and truth_classes is not None:
            self._mapping = mapping_between(truth_classes, class_set)
        if self._mapping is not None and class_set is not None:
            never_true = set(range(len(class_set))) - set(self._mapping.table.tolist())
        self._every = score_every
        self._flips = FlipMeter()
        self._before: np.ndarray | None = None
        self._coverage: np.ndarray | None = None
        self._part: tuple[slice, slice] | None = None
        self.seen_share: float | None = None
        self.scored_share: float | None = None
        self.alignment = AlignmentMeter()
        self.motion_lag = MotionLagMeter()
        self.skipped: Counter[str] = Counter()
        self.unknown_ids: Counter[int] = Counter()
        self.confusion = (
            ConfusionMatrix(len(class_set), void=never_true)
            if class_set is not None and with_truth
            else None
        )
        shares = [f"share_{name}" for name in class_set.names] if class_set else []
        self.columns = [
            *FUSION_METRICS,
            *([OTHER + name for name in FUSION_METRICS] if with_other else []),
            *shares,
            "flip_share",
            *(["miou"] if self.confusion is not None else []),
            "infrared_saturated_share",
            "infrared_frozen",
            "rgb_dark",
            "misregistration_px",
        ]

    def measure(self, frame: FusedFrame) -> dict[str, float]:
        """Measure the next frame.

        Args:
            frame: frames must come in their order.

        Returns:
            Values by column; those that were not measured are missing.
        """
        grey = cv2.cvtColor(frame.visible, cv2.COLOR_RGB2GRAY)
        if frame.alone:  # what compares both cameras has no meaning
            seen = grey if frame.alone == "rgb" else frame.registered
            return _finite(self._of_labels(frame, seen))
        values = {
            "infrared_saturated_share": _saturated_share(frame.infrared),
            "infrared_frozen": float(self._is_frozen(frame.infrared)),
            "rgb_dark": float(cv2.mean(grey)[0]),
        }
        values |= self._of_labels(frame, grey)
        part = self._compared(frame.coverage, (grey.shape[0], grey.shape[1]))
        if part is None:
            self.skipped["the view that both cameras share is too small"] += 1
            return _finite(values)
        both = grey[part], frame.registered[part]
        small = [_quarter(image) for image in both]
        thermal_ns = frame.stamp_ns + round(frame.offset_ms * 1e6)
        self.motion_lag.add(small[0], small[1], frame.stamp_ns, thermal_ns)
        if frame.index % self._every == 0:
            values["misregistration_px"] = self.alignment.add(*both, grey.shape[1])
            for prefix, image in (("", frame.fused), (OTHER, frame.other)):
                if image is None:
                    continue
                if image.shape[:2] == grey.shape:
                    values |= self._metrics(prefix, *both, image[part])
                    continue
                name = "another method's" if prefix else "fused"
                self.skipped[f"{name} image of another size than the RGB image"] += 1
        return _finite(values)

    def _compared(
        self, coverage: np.ndarray | None, size: tuple[int, int]
    ) -> tuple[slice, slice] | None:
        """Return rows and columns in which both cameras are compared; None if there are few."""
        if coverage is None or coverage is not self._coverage:
            part = covered_rectangle(coverage, size)
            share = 0.0
            if part is not None:
                sides = [edge.stop - edge.start for edge in part]
                share = sides[0] * sides[1] / (size[0] * size[1])
                part = None if coverage is not None and min(sides) < _LEAST_SIDE else part
            self._coverage, self._part = coverage, part
            self.seen_share = 1.0 if coverage is None else float(coverage.mean())
            self.scored_share = share if part is not None else 0.0
        return self._part

    def segmentation(self) -> dict[str, Any] | None:
        """Return `segmentation` of summary.json, or None without true class ids."""
        if self.confusion is None or self._class_set is None or not self.confusion.counts.any():
            return None
        counts = self.confusion.counts
        names = self._class_set.names
        true = counts.sum(axis=1)
        return {
            "miou": _number(self.confusion.mean_iou()),
            "iou": dict(zip(names, map(_number, self.confusion.iou()), strict=True)),
            "accuracy": {
                name: _number(counts[k, k] / true[k]) if true[k] else None
                for k, name in enumerate(names)
            },
            "confusion": counts.tolist(),
            "pixels": int(counts.sum()),
        }

    def _of_labels(self, frame: FusedFrame, grey: np.ndarray) -> dict[str, float]:
        """Return what is measured of class ids, by column; `grey` shows their motion."""
        if frame.labels is None or self._class_set is None:
            return {}
        values = {**_shares(frame.labels, self._class_set)}
        values["flip_share"] = self._flips(grey, frame.labels)
        if frame.truth is not None and self.confusion is not None:
            values["miou"] = self._compare(frame.labels, _seen(frame.truth, frame.coverage))
        return values

    def _is_frozen(self, infrared: np.ndarray) -> bool:
        before, self._before = self._before, infrared
        return before is not None and np.array_equal(before, infrared)

    def _metrics(
        self, prefix: str, grey: np.ndarray, registered: np.ndarray, image: np.ndarray
    ) -> dict[str, float]:
        """Return the fusion metrics of a fused image, by column with this prefix."""
        luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        try:
            found = fusion_metrics(grey, registered, luma)
        except ValueError:  # the images are too small for some
            found = {}
            for name in FUSION_METRICS:
                try:
                    found |= fusion_metrics(grey, registered, luma, names=[name])
                except ValueError as error:
                    self.skipped[f"{name}: {error}"] += 1
        return {prefix + name: value for name, value in found.items()}

    def _compare(self, labels: np.ndarray, truth: np.ndarray) -> float:
        """Return the mean IoU of one frame, and add the frame to the confusion of all."""
        assert self.confusion is not None
        assert self._true_set is not None
        classes = len(self._true_set)
        unknown = (truth >= classes) & (truth != UNLABELED)
        if unknown.any():
            for number, count in zip(*np.unique(truth[unknown], return_counts=True), strict=True):
                self.unknown_ids[int(number)] += int(count)
            truth = np.where(unknown, np.uint8(UNLABELED), truth)
        if self._mapping is not None:
            truth = self._mapping.apply(truth)
        if labels.shape != truth.shape:
            size = truth.shape[1], truth.shape[0]
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        one = ConfusionMatrix(len(self.confusion.counts), void=self.confusion.void)
        one.update(labels, truth)
        self.confusion.counts += one.counts
        return one.mean_iou()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenCV compute in the calling thread alone; a context manager.

    The threads are better used by the model, which runs meanwhile. The number is that of the
    process, so it is restored at the end.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _seen(truth: np.ndarray, coverage: np.ndarray | None) -> np.ndarray:
    """Return true class ids, unlabeled where the thermal camera sees nothing."""
    if coverage is None:
        return truth
    size = truth.shape[1], truth.shape[0]
    seen = cv2.resize(coverage.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.where(seen > 0, truth, np.uint8(UNLABELED))


def _shares(labels: np.ndarray, class_set: ClassSet) -> Mapping[str, float]:
    """Return the share of pixels of each class, by column."""
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel() / labels.size
    return {f"share_{name}": float(counts[k]) for k, name in enumerate(class_set.names)}


def _saturated_share(infrared: np.ndarray) -> float:
    """Return the share of pixels at the highest value: the type's, or the frame's own.

    Cameras of 12 or 14 bits saturate below the type's highest value: the frame's maximum
    counts as saturation if one pixel in a thousand has it.
    """
    sample = infrared[::_STRIDE, ::_STRIDE]
    if infrared.dtype == np.uint8:
        return float(np.count_nonzero(sample == 255)) / sample.size
    with np.errstate(invalid="ignore"):
        share = float(np.count_nonzero(sample == np.nanmax(sample))) / sample.size
    return share if share >= 1e-3 else 0.0


def _quarter(image: np.ndarray) -> np.ndarray:
    """Shrink an image to a quarter of its width and height."""
    size = tuple(max(1, length // _STRIDE) for length in image.shape[::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
