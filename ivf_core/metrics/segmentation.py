"""Intersection over union and accuracy of class ids."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np

from ivf_core.class_sets import UNLABELED

__all__ = ["ConfusionMatrix"]

_LARGEST_BYTE = 255
_EXACT = 2**24  # OpenCV counts in float32, which holds whole numbers up to this


class ConfusionMatrix:
    """Counts of pixels by true and predicted class.

    Args:
        num_classes: number of classes; ids are 0 .. num_classes - 1.
        ignore: true label of pixels that are not counted.
        void: classes that are never true; predicting them is wrong, and they have no IoU of
            their own.

    Attributes:
        counts: num_classes x num_classes int64, rows true, columns predicted.
    """

    def __init__(
        self, num_classes: int, ignore: int = UNLABELED, void: Collection[int] = ()
    ) -> None:
        self.ignore = ignore
        self.void = tuple(void)
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Count the pixels of one image.

        Args:
            predicted: class ids, integers of any shape.
            truth: class ids of the same shape, or `ignore`.

        Raises:
            ValueError: shapes that differ, or an id outside the classes.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"predicted is {predicted.shape}, truth is {truth.shape}")
        if predicted.dtype == truth.dtype == np.uint8 and 0 <= self.ignore <= _LARGEST_BYTE:
            self.counts += self._checked(_joint_counts(truth, predicted))
            return
        classes = len(self.counts)
        counted = truth != self.ignore
        true_ids = truth[counted].astype(np.int64)
        ids = predicted[counted].astype(np.int64)
        for name, values in (("truth", true_ids), ("predicted", ids)):
            if values.size:
                _check_ids(name, values.min(), values.max(), classes)
        pairs = np.bincount(true_ids * classes + ids, minlength=classes * classes)
        self.counts += pairs.reshape(classes, classes)

    def _checked(self, table: np.ndarray) -> np.ndarray:
        """Return the part of a 256 x 256 table of counts that is counted, or raise."""
        table[self.ignore] = 0
        classes = len(self.counts)
        for name, axis in (("truth", 1), ("predicted", 0)):
            ids = np.flatnonzero(table.any(axis=axis))
            if len(ids):
                _check_ids(name, ids[0], ids[-1], classes)
        return table[:classes, :classes]

    def iou(self) -> np.ndarray:
        """Return IoU by class, float64 in [0, 1]; NaN if a class is neither true nor predicted."""
        hits = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        union[list(self.void)] = 0
        with np.errstate(invalid="ignore"):
            return np.where(union > 0, hits / union, np.nan)

    def accuracy(self) -> np.ndarray:
        """Return the share of true pixels found, by class, float64 in [0, 1]; NaN if none is true.

        A class that is predicted but never true has an IoU of 0 and no accuracy.
        """
        true = self.counts.sum(1)
        with np.errstate(invalid="ignore"):
            return np.where(true > 0, np.diag(self.counts) / true, np.nan)

    def mean_iou(self) -> float:
        """Return the mean IoU of the classes that occur; NaN if none does."""
        return _mean(self.iou())

    def mean_accuracy(self) -> float:
        """Return the mean accuracy of the classes that are true anywhere; NaN if none is."""
        return _mean(self.accuracy())

    def pixel_accuracy(self) -> float:
        """Return the share of labelled pixels that are predicted right; NaN if there are none."""
        pixels = self.counts.sum()
        return float(np.diag(self.counts).sum() / pixels) if pixels else float("nan")


def _joint_counts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count pairs of uint8 values: a 256 x 256 table of int64."""
    table = np.zeros((_LARGEST_BYTE + 1,) * 2, np.int64)
    images = [np.ascontiguousarray(image).reshape(1, -1) for image in (truth, predicted)]
    for start in range(0, truth.size, _EXACT):
        parts = [image[:, start : start + _EXACT] for image in images]
        counts = cv2.calcHist(parts, [0, 1], None, list(table.shape), [0, 256, 0, 256])
        table += counts.astype(np.int64)
    return table


def _check_ids(name: str, lowest: int, highest: int, classes: int) -> None:
    if not 0 <= lowest <= highest < classes:
        raise ValueError(f"{name} has ids {lowest} to {highest}, expected 0 to {classes - 1}")


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
