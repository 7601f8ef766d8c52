"""Intersection over union and accuracy of class ids."""

from __future__ import annotations

import numpy as np

from ivf_core.class_sets import UNLABELED

__all__ = ["ConfusionMatrix"]


class ConfusionMatrix:
    """Counts pixels by true and predicted class.

    Args:
        num_classes: ids 0 .. num_classes - 1.
        ignore: true label of pixels that do not count.

    Attributes:
        counts: num_classes x num_classes int64, rows true, columns predicted.
    """

    def __init__(self, num_classes: int, ignore: int = UNLABELED) -> None:
        self.ignore = ignore
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Count one picture.

        Args:
            predicted, truth: class ids of the same shape, integers.

        Raises:
            ValueError: shapes that differ, or an id outside the classes.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"predicted is {predicted.shape}, truth is {truth.shape}")
        classes = len(self.counts)
        counted = truth != self.ignore
        true_ids = truth[counted].astype(np.int64)
        ids = predicted[counted].astype(np.int64)
        for name, values in (("truth", true_ids), ("predicted", ids)):
            if values.size and not 0 <= values.min() <= values.max() < classes:
                raise ValueError(
                    f"{name} has ids {values.min()} to {values.max()}, expected 0 to {classes - 1}"
                )
        pairs = np.bincount(true_ids * classes + ids, minlength=classes * classes)
        self.counts += pairs.reshape(classes, classes)

    def iou(self) -> np.ndarray:
        """IoU by class, float64 in [0, 1]; NaN for a class that is neither true nor predicted."""
        hits = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        with np.errstate(invalid="ignore"):
            return np.where(union > 0, hits / union, np.nan)

    def mean_iou(self) -> float:
        """Mean IoU of the classes that occur; NaN where none does."""
        values = self.iou()
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    def class_accuracy(self) -> np.ndarray:
        """Share of each class's pixels that were found, float64 in [0, 1]; NaN for one never true.

        Also known as recall; its mean over the classes that occur is mAcc.
        """
        true = self.counts.sum(1)
        with np.errstate(invalid="ignore"):
            return np.where(true > 0, np.diag(self.counts) / true, np.nan)

    def accuracy(self) -> float:
        """Share of the counted pixels whose class was found; NaN where none was counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")
