"""Sources of masks that need no weights of SAM.

SAGE takes its masks from SAM (`ivf_core.training.masks.sam`). Random crops and label masks are
the variants I (a) and I (b) of its ablation (Table 3); superpixels are regions of similar
colour. Every source gives the largest masks first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import cv2
import numpy as np

from ivf_core.class_sets import UNLABELED

__all__ = ["CropMasks", "LabelMasks", "MaskSource", "SuperpixelMasks"]


class MaskSource(Protocol):
    """Source of the masks of an image, which are the same whenever the image is the same."""

    def masks(self, content: np.ndarray) -> np.ndarray:
        """Return the masks of an image, largest first.

        Args:
            content: H x W x 3 uint8 RGB, or H x W uint8 class ids for a source that reads labels.

        Returns:
            K x H x W bool.
        """


class CropMasks:
    """Source of random rectangles in place of SAM's masks, variant I (a) of SAGE's Table 3.

    Args:
        count: number of rectangles.
        sides: range of a rectangle's sides, relative to those of the image.
        seed: seed of the random numbers, which depend on the image as well.
    """

    def __init__(self, count: int, sides: tuple[float, float], seed: int) -> None:
        self.count = count
        self.sides = sides
        self.seed = seed

    def masks(self, content: np.ndarray) -> np.ndarray:
        """Return `count` rectangles in an image H x W x 3 uint8: count x H x W bool."""
        # The image's bytes are part of the seed, so that order and number of workers do not
        # matter.
        digest = hashlib.sha256(np.ascontiguousarray(content).data).digest()
        random = np.random.default_rng([self.seed, *digest])
        masks = np.zeros((self.count, *content.shape[:2]), bool)
        for mask in masks:
            spans = []
            for side in mask.shape:
                length = max(1, round(side * random.uniform(*self.sides)))
                start = int(random.integers(side - length + 1))
                spans.append(slice(start, start + length))
            mask[tuple(spans)] = True
        return _largest(masks, self.count, content.shape)


class LabelMasks:
    """Source of connected regions of one class, variant I (b) of SAGE's Table 3.

    Args:
        count: largest number of masks.
        minimum_area: area in pixels below which a region is left out.
        ignored: classes whose regions are left out, besides `UNLABELED`.
    """

    def __init__(self, count: int, minimum_area: int, ignored: Iterable[int] = ()) -> None:
        self.count = count
        self.minimum_area = minimum_area
        self.ignored = {*ignored, UNLABELED}

    def masks(self, content: np.ndarray) -> np.ndarray:
        """Return the 8-connected regions of H x W uint8 class ids: K x H x W bool."""
        found = []
        for label in np.unique(content):
            if int(label) in self.ignored:
                continue
            of_class = (content == label).astype(np.uint8)
            number, regions, stats, _ = cv2.connectedComponentsWithStats(of_class, connectivity=8)
            for region in range(1, number):
                if stats[region, cv2.CC_STAT_AREA] >= self.minimum_area:
                    found.append(regions == region)
        return _largest(found, self.count, content.shape)


class SuperpixelMasks:
    """Source of SLIC superpixels, compact regions of similar colour (Achanta et al., 2012).

    Args:
        count: largest number of masks.
        segments: approximate number of superpixels of an image.
        compactness: weight of distance against difference in colour.

    Raises:
        ValueError: scikit-image is missing.
    """

    def __init__(self, count: int, segments: int, compactness: float) -> None:
        try:
            from skimage.segmentation import slic
        except ImportError as error:
            raise ValueError(
                f"superpixels need a package of the extra 'training': "
                f"pip install scikit-image ({error})"
            ) from error
        self.count = count
        self.segments = segments
        self.compactness = compactness
        self._slic = slic

    def masks(self, content: np.ndarray) -> np.ndarray:
        """Return the superpixels of an image H x W x 3 uint8 RGB: K x H x W bool."""
        regions = self._slic(
            content,
            n_segments=self.segments,
            compactness=self.compactness,
            start_label=0,
            channel_axis=-1,
        )
        areas = np.bincount(regions.ravel())
        largest = np.argsort(-areas, kind="stable")[: self.count]
        return regions[None] == largest[:, None, None]


def _largest(found: Iterable[np.ndarray], count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Stack the `count` largest masks, largest first: K x H x W bool, also for none."""
    masks = sorted(found, key=np.count_nonzero, reverse=True)[:count]
    return np.stack(masks) if masks else np.zeros((0, *shape[:2]), bool)
