"""Losses of a fused picture against its sources alone, where there is nothing to imitate."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["darkening", "edge_preservation"]

_EDGE_FLOOR = 0.1  # grey levels


def edge_preservation(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """How much of the sources' edges is kept: Q^AB/F with a gradient everywhere.

    As `ivf_core.metrics.edges.qabf`, but the orientations are compared by their cosine instead
    of two arctangents, and strengths have a floor of 0.1 grey levels.

    Args:
        visible, infrared, fused: N x 1 x H x W float in 0..255.

    Returns:
        A scalar in [0, 1), the mean over the batch.
    """
    (x, y), (fused_x, fused_y) = (
        _sobel(picture) for picture in (torch.cat((visible, infrared), dim=1), fused)
    )
    strength, fused_strength = (
        (a.square() + b.square() + _EDGE_FLOOR**2).sqrt() for a, b in ((x, y), (fused_x, fused_y))
    )
    relative = torch.minimum(strength, fused_strength) / torch.maximum(strength, fused_strength)
    cosine = (x * fused_x + y * fused_y).abs() / (strength * fused_strength)
    # The arc cosine's slope is infinite at 1.
    alignment = 1 - torch.acos(cosine.clamp(max=1 - 1e-4)) / (math.pi / 2)
    quality = torch.sigmoid(15 * (relative - 0.5)) * torch.sigmoid(22 * (alignment - 0.8))
    kept = (quality * strength).sum(dim=(1, 2, 3)) / strength.sum(dim=(1, 2, 3))
    return kept.mean()


def darkening(fused: Tensor, visible: Tensor, *, radius: int = 8) -> Tensor:
    """How much darker than the visible picture the fused one is, neighbourhood by neighbourhood.

    The mean of max(0, visible - fused) of their means over (2 radius + 1)^2 pixels.

    Args:
        fused, visible: N x 1 x H x W float, the sides above `radius`.

    Returns:
        A scalar from 0 up, in the pictures' unit.
    """
    means = (
        F.avg_pool2d(F.pad(x, (radius,) * 4, mode="reflect"), 2 * radius + 1, stride=1)
        for x in (visible, fused)
    )
    return (next(means) - next(means)).clamp_min(0).mean()


def _sobel(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes along rows and columns by Sobel's operators; the border is repeated."""
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    down = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return down[..., 2:] - down[..., :-2], across[..., 2:, :] - across[..., :-2, :]
