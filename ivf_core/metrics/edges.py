"""Edge metrics: edges of the sources that fusion preserves (Qabf), and artefacts (Nabf)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.metrics.inputs import check_images

__all__ = ["nabf", "qabf"]


def qabf(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Compute Qabf: edge information preserved from the sources (Xydeas and Petrovic, 2000).

    With G and A the relative strength and orientation of an edge in source and fused
    image, Q = 0.9994 / (1 + exp(-15 (G - 0.5))) x 0.9879 / (1 + exp(-22 (A - 0.8))), and
    the value is the mean of Q over both sources, weighted by the strength of their edges
    (L = 1). The images get a border of zeros for Sobel's operators, as in the common
    implementations. Edges of equal strength have G = 1; IVIF_ZOO sets G to their strength
    instead, which changes the value by 5e-4 at most.

    Args:
        visible: N x 1 x H x W float in 0..255, at least 2 x 2.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.

    Returns:
        N values in [0, 1); NaN where both sources are black.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(2, visible=visible, infrared=infrared, fused=fused)
    both = torch.cat((visible, infrared), dim=1)
    (strength, angle), (fused_strength, fused_angle) = (
        _edges(F.pad(x, (1, 1, 1, 1))) for x in (both, fused)
    )
    alignment = 1 - (angle - fused_angle).abs() / (math.pi / 2)
    quality = 0.9994 * torch.sigmoid(15 * (_relative(strength, fused_strength) - 0.5))
    quality = quality * (0.9879 * torch.sigmoid(22 * (alignment - 0.8)))
    return (quality * strength).sum(dim=(1, 2, 3)) / strength.sum(dim=(1, 2, 3))


def nabf(
    visible: Tensor, infrared: Tensor, fused: Tensor, *, minimum_weight: float = 0.001
) -> Tensor:
    """Compute Nabf: artefacts, edges of the fused image that neither source has, N^AB/F.

    Petrovic and Xydeas, ICCV 2005, as modified by Shreyamsha Kumar, SIViP 2013: the loss
    1 - Q, weighted by the strength of the sources' edges to the power 1.5, where the fused
    image's edge is stronger than both. Q is the root of the product of
    0.9999 / (1 + exp(-19 (G - 0.5))) and 0.9995 / (1 + exp(-22 (A - 0.5))). Sobel's operators
    are divided by 8, and images are mirrored at their borders.

    Args:
        visible: N x 1 x H x W float in 0..255, at least 3 x 3.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.
        minimum_weight: weight of pixels whose edge is weaker than 2; IVIF_ZOO's value of 0
            ignores them.

    Returns:
        N values in [0, 1], lower is better; NaN if all weights are 0.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(3, visible=visible, infrared=infrared, fused=fused)
    both = torch.cat((visible, infrared), dim=1)
    (strength, angle), (fused_strength, fused_angle) = (
        _edges(F.pad(x, (1, 1, 1, 1), mode="reflect") / 8) for x in (both, fused)
    )
    alignment = ((angle - fused_angle).abs() - math.pi / 2).abs() / (math.pi / 2)
    quality = 0.9999 * torch.sigmoid(19 * (_relative(strength, fused_strength) - 0.5))
    quality = (quality * (0.9995 * torch.sigmoid(22 * (alignment - 0.5)))).sqrt()
    weight = torch.where(strength >= 2, strength**1.5, minimum_weight)
    invented = fused_strength > strength.amax(dim=1, keepdim=True)
    loss = (1 - quality) * weight * invented
    return loss.sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute strength and orientation of edges by Sobel's operators, one pixel from the border.

    Returns:
        The strength, and the angle in (-pi/2, pi/2]; pi/2 if there is no horizontal slope.
    """
    rows = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]
    columns = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    horizontal = rows[..., 2:] - rows[..., :-2]
    vertical = columns[..., :-2, :] - columns[..., 2:, :]
    angle = torch.atan(vertical / horizontal).where(horizontal != 0, math.pi / 2)
    # hypot is not used, since equal sums of squares must give equal strengths.
    return (horizontal.square() + vertical.square()).sqrt(), angle


def _relative(strength: Tensor, fused_strength: Tensor) -> Tensor:
    """Divide the weaker edge by the stronger one, giving [0, 1]; 0 if there is no edge."""
    stronger = torch.maximum(strength, fused_strength)
    return (torch.minimum(strength, fused_strength) / stronger).where(stronger > 0, 0)
