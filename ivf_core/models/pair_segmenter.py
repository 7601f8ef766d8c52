"""Interface of networks that segment a pair of images: SARTM, FusionSAM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.class_sets import ClassSet

__all__ = ["MINIMUM_SIDE", "PairLogits", "PairSegmenter"]

MINIMUM_SIDE = 32
"""Smallest height and width of a pair that every such network accepts."""


class PairLogits(NamedTuple):
    """Outputs of a network for a batch of pairs.

    Attributes:
        main: logits of the classes, N x C x H x W float.
        auxiliary: logits of a second head, N x C x H x W float; None without one.
        fused: fused luma in [0, 1], N x 1 x H x W float; None of networks that fuse features only.
        features: fused features of the deepest scale, N x D x h x w float with
            h = ceil(H / s) and w = ceil(W / s) for a `PairSegmenter.feature_stride` of s; or None.
    """

    main: Tensor
    auxiliary: Tensor | None = None
    fused: Tensor | None = None
    features: Tensor | None = None


class PairSegmenter(nn.Module, ABC):
    """Network from visible and infrared images to logits of classes.

    Training and test take the same path, `forward`. Images whose sides are no multiples of
    `stride` are mirrored at the bottom and the right, and the outputs cropped.

    Args:
        class_set: classes of the logits; travels with the weights.

    Attributes:
        stride: divisor of the sides that `segment` takes, at most `MINIMUM_SIDE`.
        feature_stride: pixels from one cell of `features` to the next.
    """

    stride: int = MINIMUM_SIDE
    feature_stride: int = 16

    def __init__(self, class_set: ClassSet) -> None:
        super().__init__()
        self.class_set = class_set

    @abstractmethod
    def segment(self, visible: Tensor, infrared: Tensor) -> PairLogits:
        """Compute the outputs of pairs whose sides are multiples of `stride`.

        Logits and fused luma may be smaller than the images; `forward` resizes them bilinearly.
        """

    def forward(self, visible: Tensor, infrared: Tensor) -> PairLogits:
        """Compute the outputs of a batch of pairs.

        Args:
            visible: N x 3 x H x W float RGB in [0, 1], H and W at least `MINIMUM_SIDE`.
            infrared: N x 1 x H x W float in [0, 1].

        Raises:
            ValueError: shapes other than these.
        """
        _check(visible, infrared)
        size = visible.shape[2:]
        below, right = (-size[0] % self.stride, -size[1] % self.stride)
        if below or right:
            border = (0, right, 0, below)
            visible, infrared = (F.pad(x, border, mode="reflect") for x in (visible, infrared))
        out = self.segment(visible, infrared)
        padded = visible.shape[2:]

        def fit(x: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            if x.shape[2:] != padded:
                x = F.interpolate(x, padded, mode="bilinear", align_corners=False)
            return x[..., : size[0], : size[1]]

        features = out.features
        if features is not None:
            rows, columns = (-(-side // self.feature_stride) for side in size)
            features = features[..., :rows, :columns]
        main = fit(out.main)
        assert main is not None
        return PairLogits(main, fit(out.auxiliary), fit(out.fused), features)

    def classify(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Compute the logits that a pair is classified by, N x C x H x W float.

        These are the main ones of `forward`; networks with several heads may combine them. Scores
        and caches take them.

        Args:
            visible: see `forward`.
            infrared: see `forward`.
        """
        return self(visible, infrared).main


def _check(visible: Tensor, infrared: Tensor) -> None:
    count, channels, *size = visible.shape if visible.ndim == 4 else (0, 0)
    if (
        channels != 3
        or tuple(infrared.shape) != (count, 1, *size)
        or min(size, default=0) < MINIMUM_SIDE
    ):
        raise ValueError(
            f"visible is {tuple(visible.shape)} and infrared {tuple(infrared.shape)}: expected "
            f"N x 3 x H x W and N x 1 x H x W with sides of at least {MINIMUM_SIDE} pixels"
        )
