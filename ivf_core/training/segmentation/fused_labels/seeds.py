"""Boxes as masks: the warm or segmented region inside the box of an object.

A box is not a mask, but says where one is. Inside it the segmenters' pixels of its class and,
for people, the region that thermal contrast sets apart are the object. Where neither holds, the
region is cut out (GrabCut) or the core of the box is taken, and the rest of it is ignored.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ivf_core.class_sets import STREET

__all__ = ["Seed", "box_slices", "core_of", "grow_seed", "warm_region"]

_PERSON, _BICYCLE = STREET.names.index("person"), STREET.names.index("bicycle")

_FILLING = {_PERSON: (0.25, 0.85), _BICYCLE: (0.25, 0.95)}
_FILLING_OF_VEHICLES = (0.55, 1.0)
_CONTRAST = 10  # grey levels between a person and what is around it
_VOTES = 0.4
_RING = 0.35


class Seed(NamedTuple):
    """Mask of one object.

    Attributes:
        mask: H x W bool, pixels of the object.
        doubt: H x W bool, pixels of its box that may be the object's.
        confidence: of the mask, 0..1.
    """

    mask: np.ndarray
    doubt: np.ndarray
    confidence: float


def box_slices(corners: np.ndarray, size: tuple[int, ...], margin: float = 0.0) -> tuple:
    """Return the rows and columns of a box of at least one pixel inside an image.

    Args:
        corners: left, top, right, bottom in pixels.
        size: height and width of the image.
        margin: share of the box's sides to add at each side.
    """
    left, top, right, bottom = (float(value) for value in corners)
    across, down = margin * (right - left), margin * (bottom - top)
    spans = []
    for low, high, length in (
        (top - down, bottom + down, size[0]),
        (left - across, right + across, size[1]),
    ):
        start = min(max(0, int(np.floor(low))), length - 1)
        spans.append(slice(start, max(start + 1, min(length, int(np.ceil(high))))))
    return tuple(spans)


def core_of(
    corners: np.ndarray, size: tuple[int, int], scale: tuple[float, float], power: float
) -> np.ndarray:
    """Return a superellipse in a box, H x W bool.

    Args:
        corners: left, top, right, bottom in pixels.
        size: height and width of the image.
        scale: height and width relative to the box's.
        power: 2 for an ellipse; more is nearer to the box.
    """
    left, top, right, bottom = (float(value) for value in corners)
    y, x = np.ogrid[: size[0], : size[1]]
    down = np.abs(y + 0.5 - (top + bottom) / 2) / max(0.5, (bottom - top) / 2 * scale[0])
    across = np.abs(x + 0.5 - (left + right) / 2) / max(0.5, (right - left) / 2 * scale[1])
    return down**power + across**power <= 1


def warm_region(infrared: np.ndarray, corners: np.ndarray) -> np.ndarray | None:
    """Return the region in a box that is warmer than what is around it.

    Args:
        infrared: H x W uint8.
        corners: left, top, right, bottom in pixels.

    Returns:
        H x W bool, or None where the box's core has no contrast.
    """
    size = infrared.shape
    inner, outer = box_slices(corners, size), box_slices(corners, size, _RING)
    core = core_of(corners, size, (0.8, 0.4), 2.0)
    ring = np.zeros(size, bool)
    ring[outer] = True
    ring[inner] = False
    if not ring.any() or not core.any():
        return None
    smooth = cv2.GaussianBlur(infrared, (0, 0), 0.8)
    inside, outside = np.percentile(smooth[core], 65), np.median(smooth[ring])
    if inside - outside < _CONTRAST:
        return None
    warm = np.zeros(size, np.uint8)
    warm[inner] = smooth[inner] > (inside + outside) / 2
    _, regions = cv2.connectedComponents(warm, connectivity=8)
    touched = np.unique(regions[core])
    return np.isin(regions, touched[touched > 0])


def grow_seed(
    corners: np.ndarray,
    index: int,
    votes: np.ndarray,
    visible: np.ndarray,
    infrared: np.ndarray | None,
) -> Seed:
    """Find the mask of an object in its box.

    Args:
        corners: left, top, right, bottom in pixels.
        index: class of the object in `STREET`.
        votes: H x W float32, share of the segmenters' votes for the class.
        visible: H x W x 3 uint8 RGB.
        infrared: H x W uint8, or None.
    """
    size = votes.shape
    inner = box_slices(corners, size)
    box = np.zeros(size, bool)
    box[inner] = True
    lowest, highest = _FILLING.get(index, _FILLING_OF_VEHICLES)
    area = np.count_nonzero(box)

    def fills(mask: np.ndarray | None) -> bool:
        return mask is not None and bool(lowest <= np.count_nonzero(mask) / area <= highest)

    segmented = box & (votes >= _VOTES)
    warm = warm_region(infrared, corners) if index == _PERSON and infrared is not None else None
    both = segmented | warm if warm is not None else None
    edge = cv2.dilate(segmented.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & box
    for mask, confidence in ((both, 0.95), (warm, 0.9), (segmented, 0.9)):
        if mask is not None and fills(mask):
            if index not in _FILLING:
                return Seed(_close(mask) & box, box, confidence)
            return Seed(mask, edge if index == _PERSON else box, confidence)
    if index == _PERSON:
        cut = _cut_out(corners, visible, infrared)
        if cut is not None and fills(cut):
            return Seed(cut | segmented, box, 0.7)
        return Seed(core_of(corners, size, (0.95, 0.6), 2.0) | segmented, box, 0.6)
    if index == _BICYCLE:
        return Seed(core_of(corners, size, (0.9, 0.9), 2.5) | segmented, box, 0.6)
    return Seed(core_of(corners, size, (0.95, 0.97), 3.0) | segmented, box, 0.8)


def _close(mask: np.ndarray) -> np.ndarray:
    """Fill gaps and holes of a mask of a vehicle."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return cv2.drawContours(closed, outlines, -1, 1, cv2.FILLED).astype(bool)


def _cut_out(
    corners: np.ndarray, visible: np.ndarray, infrared: np.ndarray | None
) -> np.ndarray | None:
    """Cut the object out of its box by GrabCut; return None if the box is too small."""
    size = visible.shape[:2]
    outer = box_slices(corners, size, 0.6)
    planes = visible[outer].copy()
    if min(planes.shape[:2]) < 12:
        return None
    if infrared is not None:  # blue tells least: heat takes its place
        planes[..., 2] = infrared[outer]
    state = np.full(planes.shape[:2], cv2.GC_BGD, np.uint8)
    whole = np.full(size, cv2.GC_BGD, np.uint8)
    whole[box_slices(corners, size)] = cv2.GC_PR_BGD
    whole[core_of(corners, size, (0.9, 0.7), 2.0)] = cv2.GC_PR_FGD
    whole[core_of(corners, size, (0.6, 0.2), 2.0)] = cv2.GC_FGD
    state[:] = whole[outer]
    if not (state == cv2.GC_BGD).any() or not (state == cv2.GC_FGD).any():
        return None
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(
            planes,
            state,
            (0, 0, 1, 1),
            np.zeros((1, 65)),
            np.zeros((1, 65)),
            3,
            cv2.GC_INIT_WITH_MASK,
        )
    except cv2.error:  # too few pixels for its mixtures
        return None
    mask = np.zeros(size, bool)
    mask[outer] = (state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)
    return mask
