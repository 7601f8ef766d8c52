"""Recall of boxes at a precision: offsets of the classes' logits that reach it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from ivf_core.class_sets import STREET
from ivf_core.data.boxes import STREET_OBJECTS
from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.box_scores import TIMES, BoxFiles, box_array
from ivf_core.evaluation.folders import PairImages
from ivf_core.evaluation.grid import Cell, Grid, Share
from ivf_core.evaluation.methods import Method
from ivf_core.metrics.detection import FOUND_SHARE, pixel_slices

if TYPE_CHECKING:
    from ivf_core.models.checkpoints import FusionModel

__all__ = ["TARGET_PRECISIONS", "MarginCounts", "OperatingPointScorer", "logit_function"]

TARGET_PRECISIONS: Mapping[str, float] = {"person": 0.90, "bicycle": 0.85, "car": 0.90}
"""Precisions at which recall is stated, by class."""

# Margins in the histograms; logits rarely differ by more, and one bin is 0.01.
_LARGEST = 20.0
_BINS = 4000


class _BoxMargin(NamedTuple):
    time: str
    margin: float


@dataclass
class MarginCounts:
    """Margins of one class: its logit minus the largest logit of the other classes.

    With an offset added to its logits, the class is predicted where the margin is above minus
    the offset. The other classes stay as they are.

    Attributes:
        boxes: the margin below which a box is not found any more, by box.
        inside: `_BINS` counts of pixels by margin, in boxes of the class.
        outside: as many, elsewhere.
    """

    boxes: list[_BoxMargin] = field(default_factory=list)
    inside: np.ndarray = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    outside: np.ndarray = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, margins: np.ndarray, boxes: np.ndarray, time: str = "") -> None:
        """Add an image.

        Args:
            margins: H x W float32.
            boxes: N x 4 boxes of the class: left, top, right, bottom in pixels.
            time: time of day.
        """
        covered = np.zeros(margins.shape, bool)
        for box in boxes:
            place = pixel_slices(box, margins.shape)
            covered[place] = True
            values = margins[place].ravel()
            needed = math.floor(FOUND_SHARE * values.size) + 1
            margin = np.partition(values, values.size - needed)[values.size - needed]
            self.boxes.append(_BoxMargin(time, float(margin)))
        bins = np.floor((margins + _LARGEST) * (_BINS / (2 * _LARGEST)))
        bins = bins.clip(0, _BINS - 1).astype(np.int64)
        self.inside += np.bincount(bins[covered], minlength=_BINS)
        self.outside += np.bincount(bins[~covered], minlength=_BINS)

    def recall(self, offset: float, time: str | None = None) -> Share:
        """Return the share of boxes found with an offset, of all times of day or of one."""
        margins = [box.margin for box in self.boxes if time in (None, box.time)]
        return Share(sum(bool(margin > -offset) for margin in margins), len(margins))

    def precisions(self) -> np.ndarray:
        """Return the precision of pixels if those of each bin and above are predicted.

        Returns:
            `_BINS` float64; NaN where no pixel is predicted.
        """
        inside = np.cumsum(self.inside[::-1])[::-1]
        total = inside + np.cumsum(self.outside[::-1])[::-1]
        return np.divide(inside, total, out=np.full(_BINS, np.nan), where=total > 0)

    def precision(self, offset: float) -> float:
        """Return the precision of pixels with an offset, to a bin's width."""
        index = math.ceil((_LARGEST - offset) * (_BINS / (2 * _LARGEST)) - 1e-6)
        return float(self.precisions()[min(max(index, 0), _BINS - 1)])

    def offset(self, target: float) -> float:
        """Return the largest offset with this precision of pixels; NaN if none has it."""
        enough = np.flatnonzero(self.precisions() >= target)
        return _LARGEST - int(enough[0]) * (2 * _LARGEST / _BINS) if len(enough) else math.nan


class OperatingPointScorer:
    """Scorer of weights by the recall that their classes reach at a precision.

    PyTorch computes the logits.

    Args:
        methods: methods; those without weights or head have no rows.
        boxes: boxes of the pairs; pairs without a file are not scored.
        times: time of day by pair.
        targets: precision by class.

    Raises:
        ValueError: no method has weights with a head, or a class has no boxes.
    """

    needs_masks = False

    def __init__(
        self,
        methods: Sequence[Method],
        boxes: BoxFiles,
        times: Mapping[str, str],
        targets: Mapping[str, float] = TARGET_PRECISIONS,
    ) -> None:
        if unknown := sorted(set(targets) - set(STREET_OBJECTS)):
            raise ValueError(
                f"precision of {', '.join(unknown)}: expected {', '.join(STREET_OBJECTS)}"
            )
        self._boxes, self._times, self._targets = boxes, times, targets
        self._graphs = {
            method.name: (method, logit_function(method.source))
            for method in methods
            if method.pipeline is not None and method.street is not None
        }
        if not self._graphs:
            raise ValueError("recall at a precision: no method has weights with a head")
        self._counts: dict[tuple[str, str], MarginCounts] = defaultdict(MarginCounts)

    def add(self, files: PairFiles, images: PairImages, masks: Mapping[str, np.ndarray]) -> None:
        """Score the logits of a pair; see `PairScorer`."""
        if files.name not in self._boxes:
            return
        height, width = images.visible.shape[:2]
        boxes = self._boxes.read(files.name, (height, width))
        for name, (method, logits_of) in self._graphs.items():
            logits = logits_of(images.visible, images.infrared)
            assert method.street is not None
            ids = method.street.table[: len(logits)]
            for kind in self._targets:
                own = ids == STREET.names.index(kind)
                if own.any():
                    margins = logits[own].max(axis=0) - logits[~own].max(axis=0)
                    margins = cv2.resize(margins, (width, height), interpolation=cv2.INTER_NEAREST)
                    kept = box_array(boxes, lambda box, kind=kind: box.name == kind)  # type: ignore[misc]
                    self._counts[name, kind].add(margins, kept, self._times.get(files.name, ""))

    def grids(self) -> list[Grid]:
        """Return the table, a row for each method and class."""
        grid = Grid(
            "operating_points",
            "Boxes: recall at a precision",
            ("method", "class"),
            ("target", "offset", "recall", *TIMES, "precision", "recall at 0", "precision at 0"),
            notes=[
                "The offset is added to the class's logit, the largest one with which the "
                "precision of pixels reaches the target; each class by itself.",
            ],
        )
        for name in self._graphs:
            for kind, target in self._targets.items():
                if (name, kind) in self._counts:
                    figures = _figures(self._counts[name, kind], target)
                    grid.rows.append((name, kind, target, *figures))
        return [grid]


def logit_function(weights: str | FusionModel) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function that computes the class logits of a pair with PyTorch.

    Args:
        weights: shipped name, a file, or networks in memory; with a head.

    Returns:
        Function of H x W x 3 uint8 RGB and H x W uint8 thermal images that returns
        C x H/2 x W/2 float32 logits, of the size of the class ids.
    """
    import torch

    from ivf_core.models.checkpoints import load_model
    from ivf_core.models.graph import FusionGraph

    class LogitHead(torch.nn.Module):
        """Head that gives its logits, N x H/2 x W/2 x C, in place of class ids."""

        def __init__(self, head: torch.nn.Module) -> None:
            super().__init__()
            self.head = head

        def class_ids(self, *inputs: torch.Tensor) -> torch.Tensor:
            """Return the logits."""
            return self.head(*inputs).permute(0, 2, 3, 1)

    graph = FusionGraph(load_model(weights) if isinstance(weights, str) else weights)
    assert graph.head is not None
    graph.head = LogitHead(graph.head)  # type: ignore[assignment]

    def logits_of(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            inputs = (torch.from_numpy(image.copy())[None] for image in (visible, infrared))
            logits = graph(*inputs, want_fused=False)[1]
        return np.ascontiguousarray(logits[0].permute(2, 0, 1).float().numpy())

    return logits_of


def _figures(counts: MarginCounts, target: float) -> list[Cell]:
    offset = counts.offset(target)
    if math.isnan(offset):
        reached: list[Cell] = [offset, Share(0, len(counts.boxes)), *("" for _ in TIMES), math.nan]
    else:
        reached = [
            offset,
            counts.recall(offset),
            *(counts.recall(offset, time) for time in TIMES),
            counts.precision(offset),
        ]
    return [*reached, counts.recall(0.0), counts.precision(0.0)]
