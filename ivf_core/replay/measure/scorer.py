"""What is measured of each pair, and what of all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from ivf_core.class_sets import UNLABELED, ClassSet
from ivf_core.metrics.fusion import FUSION_METRICS, fusion_metrics
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.replay.measure.alignment import AlignmentMeter
from ivf_core.replay.measure.shutters import MotionLagMeter
from ivf_core.replay.measure.stability import FlipMeter

__all__ = ["OTHER", "Scene", "Scorer", "one_thread"]

OTHER = "other_"
"""Prefix of the metrics of another method's pictures."""

_STRIDE = 4  # of pixels looked at where all would cost and tell no more


@dataclass
class Scene:
    """A pair, what was made of it, and what else the bag has of the moment.

    Attributes:
        index, stamp_ns: of the pair.
        seconds: since the first message of the bag, by time of recording.
        offset_ms: thermal less RGB stamp.
        visible: H x W x 3 uint8 RGB.
        infrared: h x w as the camera sent it.
        registered: H x W uint8, the thermal picture as the model saw it.
        fused: H x W x 3 uint8 RGB, or None.
        labels: class ids, uint8 of any size, or None.
        truth: true class ids, or None.
        other: fused picture of another method, H x W x 3 uint8, or None.
    """

    index: int
    stamp_ns: int
    seconds: float
    offset_ms: float
    visible: np.ndarray
    infrared: np.ndarray
    registered: np.ndarray
    fused: np.ndarray | None
    labels: np.ndarray | None
    truth: np.ndarray | None = None
    other: np.ndarray | None = None


class Scorer:
    """Measures frames one after the other.

    Args:
        class_set: of the labels, or None.
        score_every: every which pair gets the metrics.
        with_other, with_truth: whether there may be such pictures.

    Attributes:
        columns: names of the values, in order.
        skipped: what could not be measured, and how often.
        unknown_ids: true class ids outside the class set, with their pixels.
        alignment, motion_lag: of the cameras.
    """

    def __init__(
        self,
        class_set: ClassSet | None,
        *,
        score_every: int,
        with_other: bool = False,
        with_truth: bool = False,
    ) -> None:
        self._class_set = class_set
        self._every = score_every
        self._flips = FlipMeter()
        self._before: np.ndarray | None = None
        self.alignment = AlignmentMeter()
        self.motion_lag = MotionLagMeter()
        self.skipped: Counter[str] = Counter()
        self.unknown_ids: Counter[int] = Counter()
        self.confusion = (
            ConfusionMatrix(len(class_set)) if class_set is not None and with_truth else None
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

    def measure(self, scene: Scene) -> dict[str, float]:
        """Values by column; those that were not measured are missing."""
        grey = cv2.cvtColor(scene.visible, cv2.COLOR_RGB2GRAY)
        values = {
            "infrared_saturated_share": _saturated_share(scene.infrared),
            "infrared_frozen": float(self._is_frozen(scene.infrared)),
            "rgb_dark": float(cv2.mean(grey)[0]),
        }
        small = [_quarter(picture) for picture in (grey, scene.registered)]
        thermal_ns = scene.stamp_ns + round(scene.offset_ms * 1e6)
        self.motion_lag.add(small[0], small[1], scene.stamp_ns, thermal_ns)
        if scene.labels is not None and self._class_set is not None:
            values |= _shares(scene.labels, self._class_set)
            values["flip_share"] = self._flips(grey, scene.labels)
            if scene.truth is not None and self.confusion is not None:
                values["miou"] = self._compare(scene.labels, scene.truth)
        if scene.index % self._every == 0:
            values["misregistration_px"] = self.alignment.add(grey, scene.registered)
            for prefix, picture in (("", scene.fused), (OTHER, scene.other)):
                if picture is not None:
                    values |= self._metrics(prefix, grey, scene.registered, picture)
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def segmentation(self) -> dict[str, Any] | None:
        """`segmentation` of summary.json."""
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

    def _is_frozen(self, infrared: np.ndarray) -> bool:
        before, self._before = self._before, infrared
        return before is not None and np.array_equal(before, infrared)

    def _metrics(
        self, prefix: str, grey: np.ndarray, registered: np.ndarray, picture: np.ndarray
    ) -> dict[str, float]:
        if picture.shape[:2] != grey.shape:
            self.skipped[
                f"{prefix or 'fused'} picture of another size than the RGB image".replace("_", " ")
            ] += 1
            return {}
        luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        sources = _tensor(grey), _tensor(registered)
        fused = _tensor(luma)
        values = {}
        for name in FUSION_METRICS:
            try:
                found = fusion_metrics(*sources, fused, names=[name])
            except ValueError as error:  # pictures too small for this one
                self.skipped[f"{name}: {error}"] += 1
                continue
            values[prefix + name] = float(found[name])
        return values

    def _compare(self, labels: np.ndarray, truth: np.ndarray) -> float:
        """Mean IoU of one frame; adds it to the confusion of all."""
        assert self.confusion is not None
        classes = len(self.confusion.counts)
        unknown = (truth >= classes) & (truth != UNLABELED)
        if unknown.any():
            for number, count in zip(*np.unique(truth[unknown], return_counts=True), strict=True):
                self.unknown_ids[int(number)] += int(count)
            truth = np.where(unknown, np.uint8(UNLABELED), truth)
        if labels.shape != truth.shape:
            size = truth.shape[1], truth.shape[0]
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        one = ConfusionMatrix(classes)
        one.update(labels, truth)
        self.confusion.counts += one.counts
        return one.mean_iou()


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes in the calling thread alone.

    Sums that several threads share differ in their last digits with the number of threads.
    Threads that begin meanwhile take over the number, so it is put back at the end.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _shares(labels: np.ndarray, class_set: ClassSet) -> Mapping[str, float]:
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel() / labels.size
    return {f"share_{name}": float(counts[k]) for k, name in enumerate(class_set.names)}


def _saturated_share(infrared: np.ndarray) -> float:
    """Share of pixels at the highest value: the type's, or a plateau at the frame's own.

    Cameras of 12 or 14 bits end below the type's highest value; a maximum that one
    pixel in a thousand shares is taken for such an end.
    """
    sample = infrared[::_STRIDE, ::_STRIDE]
    if infrared.dtype == np.uint8:
        return float(np.count_nonzero(sample == 255)) / sample.size
    with np.errstate(invalid="ignore"):
        share = float(np.count_nonzero(sample == np.nanmax(sample))) / sample.size
    return share if share >= 1e-3 else 0.0


def _quarter(picture: np.ndarray) -> np.ndarray:
    """At a quarter of the width and height."""
    size = tuple(max(1, length // _STRIDE) for length in picture.shape[::-1])
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _tensor(plane: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(plane.astype(np.float32))[None, None]


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
