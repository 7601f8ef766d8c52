"""Boxes around the objects in a mask: people, bicycles, cars and trucks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.defaults import DETECTION_MINIMUM_PIXELS

__all__ = ["OBJECT_NAMES", "ObjectBox", "find_objects"]

OBJECT_NAMES = {
    "person": "person",
    "bicycle": "bicycle",
    "bike": "bicycle",
    "motorcycle": "bicycle",
    "car": "car",
    "truck": "truck",
    "bus": "truck",
}
"""Names of objects by the name of the class, grouped as in the class set `street`."""

_LINKING = np.ones((3, 3), np.uint8)  # joins parts that are at most two pixels of the mask apart


@dataclass(frozen=True)
class ObjectBox:
    """Box around one object, in pixels of the image.

    Its edges are those of pixels: a box around the whole image begins at 0, 0 and has the
    image's width and height.

    Attributes:
        class_id: id in the mask.
        name: one of the values of `OBJECT_NAMES`.
        score: mean confidence of its pixels, 0 to 1.
        left: position of the left edge.
        top: position of the upper edge.
        width: width in pixels.
        height: height in pixels.
    """

    class_id: int
    name: str
    score: float
    left: float
    top: float
    width: float
    height: float


def find_objects(
    labels: np.ndarray,
    confidence: np.ndarray,
    class_set: ClassSet,
    size: tuple[int, int],
    *,
    minimum_pixels: float = DETECTION_MINIMUM_PIXELS,
) -> list[ObjectBox]:
    """Find the connected components of each class in `OBJECT_NAMES`.

    Pixels of a class that touch, also at a corner, or are at most two pixels of the mask apart
    belong to one object: a pole in front of a person divides no person. People who
    overlap in the image are one object, too.

    Args:
        labels: h x w uint8 class ids.
        confidence: h x w uint8 confidence in these, 255 is certain.
        class_set: names of the ids.
        size: height and width of the image that the mask belongs to, which the boxes refer to.
        minimum_pixels: smallest area of an object, in pixels of the image.

    Returns:
        The boxes, those with the highest score first.

    Raises:
        ValueError: labels and confidence are not as above.
    """
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise ValueError(f"labels are {labels.shape} {labels.dtype}, expected H x W uint8")
    if confidence.dtype != np.uint8 or confidence.shape != labels.shape:
        raise ValueError(
            f"confidence is {confidence.shape} {confidence.dtype}, expected {labels.shape} uint8"
        )
    scale_y, scale_x = size[0] / labels.shape[0], size[1] / labels.shape[1]
    found = []
    for class_id, class_name in enumerate(class_set.names):
        if (name := OBJECT_NAMES.get(class_name)) is None:
            continue
        mask = (labels == class_id).view(np.uint8)
        for component in _components(mask, confidence, minimum_pixels / (scale_x * scale_y)):
            score, left, top, width, height = component
            found.append(
                ObjectBox(
                    class_id, name, score,
                    left * scale_x, top * scale_y, width * scale_x, height * scale_y,
                )
            )  # fmt: skip
    return sorted(found, key=lambda box: -box.score)


def _components(
    mask: np.ndarray, confidence: np.ndarray, minimum_pixels: float
) -> Iterator[tuple[float, int, int, int, int]]:
    """Yield score, left, top, width and height of the components, in pixels of the mask."""
    if cv2.countNonZero(mask) < max(minimum_pixels, 1):
        return
    _, components = cv2.connectedComponents(cv2.dilate(mask, _LINKING), connectivity=8)
    rows, columns = np.nonzero(mask)
    ids = components[rows, columns]
    order = np.argsort(ids, kind="stable")
    rows, columns, ids = rows[order], columns[order], ids[order]
    starts = np.flatnonzero(np.diff(ids, prepend=0))  # ids of components start at 1
    areas = np.diff(starts, append=len(ids))
    sums = np.add.reduceat(confidence[rows, columns].astype(np.int64), starts)
    left, right = (f.reduceat(columns, starts) for f in (np.minimum, np.maximum))
    top, bottom = (f.reduceat(rows, starts) for f in (np.minimum, np.maximum))
    scores = sums / (255 * areas)
    bounds = np.stack((left, top, right - left + 1, bottom - top + 1), axis=1)
    for index in np.flatnonzero(areas >= minimum_pixels):
        x, y, width, height = bounds[index].tolist()
        yield float(scores[index]), x, y, width, height
