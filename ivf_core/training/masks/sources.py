"""What masks can be made of, with SAM and without.

SAM is the source of the paper. The others need no weights: random crops and
label masks are variants I-a and I-b of the ablation (SAGE, Table 3), superpixels
are regions of like colour. Every source gives the largest masks first.
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
    """Makes masks of one picture; the same ones whenever it sees the same picture."""

    def masks(self, content: np.ndarray) -> np.ndarray:
        """Masks of a picture, largest first.

        Args:
            content: H x W x 3 uint8 RGB, or what else the source reads.

        Returns:
            K x H x W bool.
        """


class CropMasks:
    """Rectangles anywhere in the picture, instead of what SAM would find (variant I-a).

    Args:
        count: how many.
        sides: range of a rectangle's sides relative to the picture's.
        seed: of everything drawn, beside the picture itself.
    """

    def __init__(self, count: int, sides: tuple[float, float], seed: int) -> None:
        self.count = count
        self.sides = sides
        self.seed = seed

    def masks(self, content: np.ndarray) -> np.ndarray:
        """`count` rectangles of H x W x 3 uint8: K x H x W bool."""
        # Drawn from the picture's own bytes: neither order nor number of workers counts.
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
    """The regions of class labels: pixels of one class that hang together (variant I-b).

    Args:
        count: the most masks that are kept.
        minimum_area: smaller regions are left out, in pixels.
        ignored: classes whose regions are left out, beside `UNLABELED`.
    """

    def __init__(self, count: int, minimum_area: int, ignored: Iterable[int] = ()) -> None:
        self.count = count
        self.minimum_area = minimum_area
        self.ignored = {*ignored, UNLABELED}

    def masks(self, content: np.ndarray) -> np.ndarray:
        """Regions of H x W uint8 class ids: K x H x W bool."""
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
    """SLIC superpixels: compact regions of like colour.

    Args:
        count: the most masks that are kept.
        segments: about how many a picture is cut into.
        compactness: how much nearness counts beside colour.

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
        """Superpixels of H x W x 3 uint8 RGB: K x H x W bool."""
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
    masks = sorted(found, key=np.count_nonzero, reverse=True)[:count]
    return np.stack(masks) if masks else np.zeros((0, *shape[:2]), bool)
