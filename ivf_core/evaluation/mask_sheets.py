"""Sheets of masks: the pairs with most missed boxes and false objects, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ivf_core.class_sets import STREET, UNLABELED
from ivf_core.data.boxes import Box
from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.box_scores import BoxScorer, box_array
from ivf_core.evaluation.folders import read_images, run_weights
from ivf_core.evaluation.methods import Method, file_stem
from ivf_core.images.files import write_image
from ivf_core.images.overlay import draw_overlay, side_by_side, stack_rows
from ivf_core.metrics.detection import count_detections, false_components, pixel_slices

__all__ = ["draw_boxes", "draw_mask_sheets"]

_FOUND, _MISSED, _FALSE = (60, 230, 60), (255, 40, 40), (255, 200, 0)
_PANEL_HEIGHT = 270


def draw_mask_sheets(
    scorer: BoxScorer,
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    output: Path,
    *,
    examples: int,
    cameras: str = "both",
) -> list[tuple[str, Path]]:
    """Write `masks_METHOD.jpg` for each method: its worst pairs by boxes, and what it found.

    Args:
        scorer: scorer of these pairs.
        pairs: pairs as evaluated.
        methods: methods as evaluated.
        output: folder of the files.
        examples: number of pairs on a sheet; 0 writes none.
        cameras: as evaluated.

    Returns:
        A heading and the file of each sheet.

    Raises:
        ValueError: an image can no longer be read.
    """
    sheets = []
    for method in methods if examples else ():
        scored = [pair for pair in pairs if scorer.errors(method.name, pair.name) > 0]
        scored.sort(key=lambda pair: -scorer.errors(method.name, pair.name))
        rows = [_row(scorer, pair, method, cameras) for pair in scored[:examples]]
        if not rows:
            continue
        path = output / f"masks_{file_stem(method.name)}.jpg"
        write_image(path, stack_rows(rows))
        sheets.append((f"{method.name}: masks with most missed boxes and false objects", path))
    return sheets


def _row(scorer: BoxScorer, files: PairFiles, method: Method, cameras: str) -> np.ndarray:
    """Return the sources with the boxes, and the overlay with what was found and what is false."""
    images = read_images(files, [method], cameras=cameras, masks=True)
    if isinstance(images, str):
        raise ValueError(images)  # it was readable when the scores were computed
    run_weights(files.name, images, [method])
    mask = method.street_ids(images.masks[method.name])
    boxes = scorer.boxes.read(files.name, mask.shape)
    base = images.fused.get(method.name, images.visible)
    ids = np.where(mask == UNLABELED, np.uint8(UNLABELED), mask)
    panels = [
        images.visible,
        cv2.cvtColor(images.infrared, cv2.COLOR_GRAY2RGB),
        draw_boxes(draw_overlay(base, ids, STREET, 0.5), mask, boxes, method.street_names),
    ]
    scale = _PANEL_HEIGHT / mask.shape[0]
    small = [
        cv2.resize(panel, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for panel in panels
    ]
    errors = scorer.errors(method.name, files.name)
    titles = [f"{files.name} visible", "infrared", f"{method.name}: {errors} missed or false"]
    return side_by_side(small, titles)


def draw_boxes(
    image: np.ndarray, mask: np.ndarray, boxes: Sequence[Box], names: frozenset[str]
) -> np.ndarray:
    """Draw found boxes green, missed ones red, and the bounds of false objects yellow.

    Args:
        image: H x W x 3 uint8 RGB.
        mask: H x W uint8 ids of `STREET`.
        boxes: boxes of the image, named by classes of `STREET`.
        names: classes that the mask can have; boxes of others are not drawn.

    Returns:
        H x W x 3 uint8 RGB, a new array.
    """
    drawn = image.copy()
    for kind in sorted(names & {"person", "bicycle", "car"}):
        predicted = mask == STREET.names.index(kind)
        own = box_array(boxes, lambda box, kind=kind: box.name == kind)  # type: ignore[misc]
        inside = np.zeros(mask.shape, bool)
        for box in own:
            inside[pixel_slices(box, mask.shape)] = True
        for box, found in zip(own, count_detections(predicted, own, own[:0]).found, strict=True):
            _rectangle(drawn, box, kind, _FOUND if found else _MISSED)
        for box in false_components(predicted, inside):
            _rectangle(drawn, box, kind, _FALSE)
    return drawn


def _rectangle(image: np.ndarray, box: np.ndarray, kind: str, color: tuple[int, int, int]) -> None:
    left, top, right, bottom = (round(float(x)) for x in box)
    cv2.rectangle(image, (left, top), (right - 1, bottom - 1), color, 2)
    place = left, max(12, top - 3)
    cv2.putText(image, kind, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)
