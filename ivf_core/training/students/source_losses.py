"""Losses of a fused image against its sources, for training without a teacher."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["darkening", "edge_preservation"]

_EDGE_FLOOR = 0.1  # in grey levels of 0..255


def edge_preservation(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Compute the share of the sources' edges that is kept, Q^AB/F with a gradient everywhere.

    This is `ivf_core.metrics.edges.qabf` (Xydeas and Petrovic, 2000) with four changes: the
    difference of orientations comes from the cosine of the gradients instead of two
    arctangents, strengths have a floor of 0.1 grey levels, the two sigmoids have no factors
    below 1, and borders are repeated instead of zero.

    Args:
        visible: luma of the visible images, N x 1 x H x W float in 0..255.
        infrared: infrared images, N x 1 x H x W float in 0..255.
        fused: fused luma, N x 1 x H x W float in 0..255.

    Returns:
        A scalar in [0, 1), the mean over the batch; higher is better.
    """
    (x, y), (fused_x, fused_y) = (
        _sobel(image) for image in (torch.cat((visible, infrared), dim=1), fused)
    )
    strength, fused_strength = (
        (a.square() + b.square() + _EDGE_FLOOR**2).sqrt() for a, b in ((x, y), (fused_x, fused_y))
    )
    relative = torch.minimum(strength, fused_strength) / torch.maximum(strength, fused_strength)
    cosine = (x * fused_x + y * fused_y).abs() / (strength * fused_strength)
    # The derivative of the arc cosine is infinite at 1.
    alignment = 1 - torch.acos(cosine.clamp(max=1 - 1e-4)) / (math.pi / 2)
    quality = torch.sigmoid(15 * (relative - 0.5)) * torch.sigmoid(22 * (alignment - 0.8))
    kept = (quality * strength).sum(dim=(1, 2, 3)) / strength.sum(dim=(1, 2, 3))
    return kept.mean()


def darkening(fused: Tensor, visible: Tensor, *, radius: int = 8) -> Tensor:
    """Compute how much darker than the visible images the fused images are locally.

    mean max(0, A(visible) - A(fused)), where A is the average of the (2 radius + 1)^2 pixels
    around each pixel, with reflection at the borders.

    Args:
        fused: fused luma, N x 1 x H x W float, with H and W above `radius`.
        visible: luma of the visible images, of the same shape.
        radius: radius of the neighbourhood in pixels.

    Returns:
        A scalar, 0 or more, in the unit of the images.
    """
    means = (
        F.avg_pool2d(F.pad(x, (radius,) * 4, mode="reflect"), 2 * radius + 1, stride=1)
        for x in (visible, fused)
    )
    return (next(means) - next(means)).clamp_min(0).mean()


def _sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the derivatives along rows and along columns by Sobel, with repeated borders."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    down = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return down[..., 2:] - down[..., :-2], across[..., 2:, :] - across[..., :-2, :]
