"""Losses of a fused image against its sources, for training without a teacher."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["darkening", "edge_preservation", "scd", "vif"]

_EDGE_FLOOR = 0.1  # in grey levels of 0..255
_VIF_WINDOWS = (17, 9, 5, 3)
_VIF_NOISE = 2.0
_VIF_FLAT = 1e-10


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


def vif(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Compute VIF, the mean over both sources and the batch, with a gradient.

    This is `ivf_core.metrics.structure.vif` (Sheikh and Bovik, TIP 2006): over the windows of
    four scales, sum log(1 + g^2 s / (v + 2)) / sum log(1 + s / 2), where s is a source's
    variance, and g = cov / s and v = var - g cov the gain and the noise of the fused image.

    Args:
        visible: luma of the visible images, N x 1 x H x W float in 0..255, at least 41 x 41.
        infrared: infrared images, of the same shape and range.
        fused: fused luma, of the same shape and range.

    Returns:
        A scalar, 0 or more; higher is better. It is NaN if a source is constant.
    """
    both = torch.cat((visible, infrared), dim=1)
    kept = torch.zeros_like(both[..., 0, 0])
    total = torch.zeros_like(kept)
    for size in _VIF_WINDOWS:
        if size != _VIF_WINDOWS[0]:
            both, fused = (_smooth(x, size)[..., ::2, ::2] for x in (both, fused))
        mean, fused_mean, square, fused_square, product = (
            _smooth(x, size) for x in (both, fused, both.square(), fused.square(), both * fused)
        )
        variance = (square - mean.square()).clamp_min(0)
        covariance = product - mean * fused_mean
        # A negative gain counts as 0; the other two are below 0 only by rounding.
        gain = (covariance / (variance + _VIF_FLAT)).clamp_min(0)
        noise = (fused_square - fused_mean.square() - gain * covariance).clamp_min(0)
        signal = gain.square() * variance
        kept = kept + torch.log1p(signal / (noise + _VIF_NOISE)).sum(dim=(-2, -1))
        total = total + torch.log1p(variance / _VIF_NOISE).sum(dim=(-2, -1))
    return (kept / total).mean(dim=1).mean()


def scd(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Compute SCD, the mean over the batch, with a gradient.

    This is `ivf_core.metrics.fusion.scd` (Aslantas and Bendes, AEU 2015):
    r(fused - infrared, visible) + r(fused - visible, infrared), r being the correlation
    coefficient.

    Args:
        visible: luma of the visible images, N x 1 x H x W float.
        infrared: infrared images, of the same shape.
        fused: fused luma, of the same shape.

    Returns:
        A scalar in [-2, 2]; higher is better. It is NaN if a source or a difference is
        constant.
    """
    values = _correlation(fused - infrared, visible) + _correlation(fused - visible, infrared)
    return values.mean()


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


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Compute the correlation coefficient of each pair of images."""
    a, b = a.flatten(1), b.flatten(1)
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    # norm() is not used, since it adds up float32 to four digits only.
    lengths = (a.square().sum(dim=1).sqrt(), b.square().sum(dim=1).sqrt())
    return (a * b).sum(dim=1) / lengths[0] / lengths[1]


def _smooth(x: Tensor, size: int) -> Tensor:
    """Compute means weighted by a Gaussian of `size` / 5 pixels, where `size` weights fit.

    It adds shifted copies. On a CPU this is many times as fast as a convolution of one
    channel, and on a GPU it never uses TF32, whose ten bits are too few for the variances.
    """
    place = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-place.square() / (2 * (size / 5) ** 2))
    window = (weights / weights.sum()).tolist()
    for dim in (-2, -1):
        length = x.shape[dim] - size + 1
        total = x.narrow(dim, 0, length) * window[0]
        for shift, weight in enumerate(window[1:], start=1):
            total = total.add(x.narrow(dim, shift, length), alpha=weight)
        x = total
    return x


def _sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the derivatives along rows and along columns by Sobel, with repeated borders."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    down = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return down[..., 2:] - down[..., :-2], across[..., 2:, :] - across[..., :-2, :]
