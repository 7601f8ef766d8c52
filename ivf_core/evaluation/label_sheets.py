"""Sheets of masks beside the true classes: the pairs with the lowest mean IoU, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.class_matching import comparable_ids, true_ids
from ivf_core.evaluation.folders import EvaluationResult, read_images, run_weights
from ivf_core.evaluation.methods import Method
from ivf_core.images.files import write_image
from ivf_core.images.overlay import draw_overlay, side_by_side, stack_rows

__all__ = ["draw_label_sheet"]

_PANEL_HEIGHT = 270
_OPACITY = 0.55


def draw_label_sheet(
    result: EvaluationResult,
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    output: Path,
    *,
    examples: int,
    cameras: str = "both",
) -> list[tuple[str, Path]]:
    """Write `labels.jpg`: the labels of some pairs and the masks of all methods, as overlays.

    Args:
        result: an evaluation of these pairs; without labels there is no sheet.
        pairs: pairs as evaluated.
        methods: methods as evaluated.
        output: folder of the file.
        examples: number of pairs on the sheet; 0 writes none.
        cameras: as evaluated.

    Returns:
        A heading and the file, or nothing.

    Raises:
        ValueError: an image can no longer be read.
    """
    if result.class_set is None or not examples:
        return []
    masked = [m for m in range(len(methods)) if result.masked[m].any()]
    scores = {
        int(p): float(np.mean([result.confusion(m, int(p)).mean_iou() for m in masked]))
        for p in np.flatnonzero(result.commonly_masked)
    }
    worst = sorted((p for p in scores if np.isfinite(scores[p])), key=lambda p: scores[p])
    if not worst:
        return []
    chosen = [methods[m] for m in masked]
    rows = [_row(pairs[p], chosen, result.class_set, cameras, scores[p]) for p in worst[:examples]]
    path = output / "labels.jpg"
    write_image(path, stack_rows(rows))
    return [("Masks beside the labels: the pairs with the lowest mean IoU", path)]


def _row(
    files: PairFiles, methods: Sequence[Method], class_set: ClassSet, cameras: str, score: float
) -> np.ndarray:
    """Return the visible image, and the labels and each method's mask over it."""
    images = read_images(files, methods, class_set, cameras=cameras, masks=True)
    if isinstance(images, str):
        raise ValueError(images)  # it was readable when the scores were computed
    run_weights(files.name, images, methods)
    assert images.labels is not None
    ids = [true_ids(images.labels, class_set)]
    for method in methods:
        mask = images.masks[method.name]
        if method.class_set is not None and method.class_set.names != class_set.names:
            mask = comparable_ids(method.street_ids(mask), images.labels, class_set)
        ids.append(mask)
    panels = [
        images.visible,
        *(draw_overlay(images.visible, one, class_set, _OPACITY) for one in ids),
    ]
    scale = _PANEL_HEIGHT / images.visible.shape[0]
    small = [
        cv2.resize(panel, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for panel in panels
    ]
    names = [method.name for method in methods]
    return side_by_side(small, [f"{files.name}: mIoU {score:.3f}", "labels", *names])
