"""Losses of a fused image for driving: contrast and polarity kept, nothing invented.

They go beside the metrics of `ivf_core.training.students.source_losses`. All images are luma in
grey levels, N x 1 x H x W float; every loss is a scalar of 0 or more, in grey levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["invented_light", "local_contrast", "lost_contrast", "sky_texture"]

_TOLERANCE = 2.0  # grey levels
_CONTRAST_KEPT = 0.8


def local_contrast(images: Tensor, scale: int) -> Tensor:
    """Compute the difference between the means of small and of wide surroundings.

    The small one is a block of `scale` x `scale` pixels, the wide one about 12 `scale` pixels.

    Args:
        images: N x C x H x W float, H and W multiples of 4 `scale`.
        scale: size of a block in pixels.

    Returns:
        N x C x H/scale x W/scale float, in the unit of the images.
    """
    inner = F.avg_pool2d(images, scale) if scale > 1 else images
    outer = F.avg_pool2d(F.avg_pool2d(inner, 4), 3, 1, 1, count_include_pad=False)
    return inner - F.interpolate(outer, size=inner.shape[-2:], mode="bilinear", align_corners=False)


def lost_contrast(
    visible: Tensor,
    infrared: Tensor,
    fused: Tensor,
    weights: Tensor,
    scales: tuple[int, ...] = (2, 4),
) -> Tensor:
    """Compute the contrast of the stronger camera that the fused image lacks, with its sign.

    mean w max(0, 0.8 |c| - sign(c) c_fused), where c is the local contrast of the camera in
    which it is larger in absolute value: dark clothes on a pale wall stay dark.

    Args:
        visible: visible luma.
        infrared: infrared images.
        fused: fused luma.
        weights: N x 1 x H x W, such as more for people.
        scales: see `local_contrast`.
    """
    total = fused.new_zeros(())
    for scale in scales:
        a, b, c = (local_contrast(x, scale) for x in (visible, infrared, fused))
        wanted = torch.where(a.abs() >= b.abs(), a, b)
        lack = (_CONTRAST_KEPT * wanted.abs() - wanted.sign() * c).clamp_min(0)
        total = total + (F.avg_pool2d(weights, scale) * lack).mean() / len(scales)
    return total


def invented_light(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Compute how far pixels are brighter than both sources, or darker, beyond 2 levels."""
    brighter = fused - torch.maximum(visible, infrared) - _TOLERANCE
    darker = torch.minimum(visible, infrared) - fused - _TOLERANCE
    return (brighter.clamp_min(0) + darker.clamp_min(0)).mean()


def sky_texture(visible: Tensor, fused: Tensor, sky: Tensor) -> Tensor:
    """Compute the gradients of the fused image that the visible one lacks, in the sky.

    Args:
        visible: visible luma.
        fused: fused luma.
        sky: N x 1 x H x W float, 1 in the sky.
    """
    total = fused.new_zeros(())
    difference = fused - visible
    for dim in (-2, -1):
        step = difference.diff(dim=dim).abs()
        inside = torch.minimum(
            sky.narrow(dim, 1, sky.shape[dim] - 1), sky.narrow(dim, 0, sky.shape[dim] - 1)
        )
        total = total + (step * inside).mean()
    return total
