"""Faults of fused images that viewers see: lost contrast of objects, burnt areas, flicker."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ivf_core.metrics.detection import pixel_slices

__all__ = [
    "BRIGHTER_LEVELS",
    "BURNT_LEVEL",
    "KEPT_CONTRAST",
    "MINIMUM_CONTRAST",
    "STATIC_LEVELS",
    "Flicker",
    "ObjectRegion",
    "brighter_pixels",
    "burnt_pixels",
    "keeps_contrast",
    "object_region",
    "static_flicker",
]

BURNT_LEVEL = 250
"""Smallest grey level of a burnt pixel."""

BRIGHTER_LEVELS = 10
"""Grey levels above both sources from which on a fused pixel is too bright."""

KEPT_CONTRAST = 0.5
"""Share of the better camera's contrast that a fused image must keep of an object."""

MINIMUM_CONTRAST = 8.0
"""Contrast in grey levels of the better camera below which an object is not judged."""

STATIC_LEVELS = 3
"""Difference of successive frames in grey levels at which a source moves."""

# Semi-axes of the ellipse inside a box, as shares of its width and height, and the ring's
# width as a share of the box's size. People fill about half of the width of their boxes.
_ELLIPSE = (0.3, 0.4)
_RING = 0.25


def burnt_pixels(grey: np.ndarray) -> int:
    """Count the pixels of at least `BURNT_LEVEL`.

    Args:
        grey: H x W uint8.
    """
    return int(np.count_nonzero(grey >= BURNT_LEVEL))


def brighter_pixels(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> int:
    """Count the fused pixels that are over `BRIGHTER_LEVELS` brighter than both sources.

    Args:
        visible: H x W uint8.
        infrared: H x W uint8.
        fused: H x W uint8.
    """
    limit = np.maximum(visible, infrared).astype(np.int16) + BRIGHTER_LEVELS
    return int(np.count_nonzero(fused > limit))


class ObjectRegion(NamedTuple):
    """Pixels of an object and of its surroundings.

    Attributes:
        place: rows and columns of a part of the image.
        inside: h x w bool in this part, the ellipse in the middle of the box.
        ring: h x w bool in this part, the surroundings of the box without other boxes.
    """

    place: tuple[slice, slice]
    inside: np.ndarray
    ring: np.ndarray

    def contrast(self, grey: np.ndarray) -> float:
        """Return the mean of the object minus that of its ring, in grey levels.

        Args:
            grey: H x W uint8.
        """
        part = grey[self.place]
        return float(part[self.inside].mean()) - float(part[self.ring].mean())


def object_region(
    box: np.ndarray, others: np.ndarray, size: tuple[int, ...]
) -> ObjectRegion | None:
    """Return the regions that an object's contrast is measured in.

    Args:
        box: left, top, right and bottom in pixels.
        others: N x 4, boxes of other objects, which do not belong to the ring.
        size: height and width of the image.

    Returns:
        The regions; None if one of them has no pixel.
    """
    left, top, right, bottom = box
    across, down = _RING * (right - left), _RING * (bottom - top)
    place = pixel_slices(np.array((left - across, top - down, right + across, bottom + down)), size)
    rows, columns = place
    y, x = np.mgrid[rows, columns] + 0.5
    ellipse = ((x - (left + right) / 2) / (_ELLIPSE[0] * (right - left))) ** 2 + (
        (y - (top + bottom) / 2) / (_ELLIPSE[1] * (bottom - top))
    ) ** 2
    ring = np.ones(x.shape, bool)
    for other in (box, *others):
        ring &= ~((x > other[0]) & (x < other[2]) & (y > other[1]) & (y < other[3]))
    inside = ellipse <= 1
    return ObjectRegion(place, inside, ring) if inside.any() and ring.any() else None


def keeps_contrast(
    region: ObjectRegion, visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray
) -> bool | None:
    """Return whether a fused image keeps half of the better camera's contrast of an object.

    The sign must be kept as well: what is dark on a bright ground there must not become
    bright.

    Args:
        region: regions of the object.
        visible: H x W uint8.
        infrared: H x W uint8.
        fused: H x W uint8.

    Returns:
        The answer; None where no camera has a contrast of `MINIMUM_CONTRAST`.
    """
    better = max((region.contrast(visible), region.contrast(infrared)), key=abs)
    if abs(better) < MINIMUM_CONTRAST:
        return None
    return region.contrast(fused) * math.copysign(1, better) >= KEPT_CONTRAST * abs(better)


class Flicker(NamedTuple):
    """Sums of the absolute differences of successive frames where no source moves.

    Attributes:
        fused: sum over the fused image, in grey levels.
        visible: sum over the visible image.
        infrared: sum over the infrared image.
        pixels: number of pixels.
    """

    fused: int
    visible: int
    infrared: int
    pixels: int


def static_flicker(
    before: tuple[np.ndarray, np.ndarray, np.ndarray],
    now: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Flicker:
    """Sum up the differences of two successive frames where no source moves.

    Args:
        before: visible, infrared and fused image of the frame before, H x W uint8 each.
        now: those of this frame.
    """
    visible, infrared, fused = (
        np.abs(b.astype(np.int16) - a) for a, b in zip(before, now, strict=True)
    )
    static = (visible < STATIC_LEVELS) & (infrared < STATIC_LEVELS)
    first, second, third = (int(x[static].sum()) for x in (fused, visible, infrared))
    return Flicker(first, second, third, int(static.sum()))
