"""Objects in masks, compared with boxes: recall, precision of pixels, false objects."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = [
    "FOUND_SHARE",
    "MINIMUM_FALSE_PIXELS",
    "DetectionCounts",
    "count_detections",
    "false_components",
    "pixel_slices",
]

FOUND_SHARE = 0.25
"""Share of a box's pixels of which more must carry its class for the box to be found."""

MINIMUM_FALSE_PIXELS = 100
"""Smallest connected component that counts as a false object."""


@dataclass(frozen=True)
class DetectionCounts:
    """Counts of one class in one mask.

    Attributes:
        found: N bool, whether each box was found.
        predicted: number of pixels of the class.
        inside: number of these that are inside some box of the class.
        inside_other: number of these that are outside, but inside a box of another class.
        false_objects: number of connected components that touch no box of the class.
    """

    found: np.ndarray
    predicted: int
    inside: int
    inside_other: int
    false_objects: int


def count_detections(
    predicted: np.ndarray,
    boxes: np.ndarray,
    others: np.ndarray,
    *,
    found_share: float = FOUND_SHARE,
    minimum_false_pixels: int = MINIMUM_FALSE_PIXELS,
) -> DetectionCounts:
    """Compare the pixels of one class with the boxes of one image.

    Args:
        predicted: H x W bool, the pixels of the class.
        boxes: N x 4 float boxes of the class: left, top, right, bottom in pixels.
        others: M x 4 float boxes of other classes.
        found_share: share of a box's pixels of which more must be predicted.
        minimum_false_pixels: smallest connected component (8 neighbours) that counts.

    Returns:
        The counts.
    """
    own, other = np.zeros(predicted.shape, bool), np.zeros(predicted.shape, bool)
    for box in others:
        other[pixel_slices(box, predicted.shape)] = True
    found = np.zeros(len(boxes), bool)
    for index, box in enumerate(boxes):
        place = pixel_slices(box, predicted.shape)
        own[place] = True
        found[index] = predicted[place].mean() > found_share
    inside = predicted & own
    return DetectionCounts(
        found,
        int(predicted.sum()),
        int(inside.sum()),
        int((predicted & ~own & other).sum()),
        len(false_components(predicted, own, minimum_false_pixels)),
    )


def false_components(
    predicted: np.ndarray, inside: np.ndarray, minimum_pixels: int = MINIMUM_FALSE_PIXELS
) -> np.ndarray:
    """Return the connected components (8 neighbours) that touch no box.

    Args:
        predicted: H x W bool, the pixels of a class.
        inside: H x W bool, the pixels in its boxes.
        minimum_pixels: smallest component that counts.

    Returns:
        N x 4 int, their bounds: left, top, right, bottom.
    """
    count, components, stats, _ = cv2.connectedComponentsWithStats(
        predicted.astype(np.uint8), connectivity=8
    )
    touching = np.bincount(components[inside], minlength=count) > 0
    large = stats[:, cv2.CC_STAT_AREA] >= minimum_pixels
    alone = large & ~touching
    alone[0] = False  # the background
    left, top, width, height = stats[alone, :4].T
    return np.stack((left, top, left + width, top + height), axis=1)


def pixel_slices(box: np.ndarray, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of a box: edges are rounded, and one pixel is the least.

    Args:
        box: left, top, right and bottom in pixels.
        size: height and width of the image.

    Raises:
        ValueError: the box has no pixel in the image.
    """
    height, width = size[:2]
    left, top, right, bottom = np.floor(np.asarray(box, float) + 0.5).astype(int)
    rows = slice(max(0, min(top, height - 1)), min(height, max(bottom, top + 1)))
    columns = slice(max(0, min(left, width - 1)), min(width, max(right, left + 1)))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise ValueError(f"box {tuple(map(float, box))} has no pixel in {width} x {height}")
    return rows, columns
