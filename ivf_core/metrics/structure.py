"""How much of the sources' structure a fused picture keeps: SSIM, MS-SSIM, VIF.

Each compares the fused picture with one source at a time. `sources` says what becomes of
the two values: their mean, or their sum, which many fusion papers report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.metrics.inputs import check_pictures

__all__ = [
    "MS_SSIM_MINIMUM_SIZE",
    "SSIM_MINIMUM_SIZE",
    "VIF_MINIMUM_SIZE",
    "ms_ssim",
    "ssim",
    "vif",
]

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_SSIM_WINDOW = 11
_MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_VIF_WINDOWS = (17, 9, 5, 3)
_VIF_NOISE = 2.0
_VIF_FLAT = 1e-10

_Smooth = Callable[[Tensor], Tensor]

SSIM_MINIMUM_SIZE = _SSIM_WINDOW
MS_SSIM_MINIMUM_SIZE = 161
"""Halved four times, the window still fits."""
VIF_MINIMUM_SIZE = 41
"""Smoothed and halved three times, the window of the last scale still fits."""


def ssim(
    visible: Tensor,
    infrared: Tensor,
    fused: Tensor,
    *,
    sources: Literal["mean", "sum"] = "mean",
    scaled_twice: bool = False,
) -> Tensor:
    """Structural similarity to the two sources (Wang et al., TIP 2004, equation 13).

    Window 11 x 11, Gaussian of 1.5 pixels, only where it fits; K1 = 0.01, K2 = 0.03.

    Args:
        visible, infrared, fused: N x 1 x H x W float in 0..255, at least 11 x 11.
        sources: the mean of both values, or their sum.
        scaled_twice: multiply by 255 again, as IVIF_ZOO does. Its constants then hardly
            count, and in flat regions the rounding decides: this runs as it does there, on
            the CPU, in float32 and picture by picture.

    Returns:
        N values; the mean in [-1, 1].

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(SSIM_MINIMUM_SIZE, visible=visible, infrared=infrared, fused=fused)
    both, fused, smooth = _prepare(visible, infrared, fused, scaled_twice)
    return _join(_ssim_terms(both, fused, smooth)[0], sources).to(visible)


def ms_ssim(
    visible: Tensor,
    infrared: Tensor,
    fused: Tensor,
    *,
    sources: Literal["mean", "sum"] = "mean",
    scaled_twice: bool = False,
) -> Tensor:
    """SSIM at five scales (Wang, Simoncelli and Bovik, Asilomar 2003, equation 7).

    Negative terms count as 0, and a side of odd length gets a border of zeros before it is
    halved, both as in pytorch-msssim, which IVIF_ZOO took over.

    Args:
        visible, infrared, fused: N x 1 x H x W float in 0..255, at least 161 x 161.
        sources, scaled_twice: as for `ssim`.

    Returns:
        N values; the mean in [0, 1].

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(MS_SSIM_MINIMUM_SIZE, visible=visible, infrared=infrared, fused=fused)
    both, fused, smooth = _prepare(visible, infrared, fused, scaled_twice)
    last = len(_MS_SSIM_EXPONENTS) - 1
    value = torch.ones_like(both[..., 0, 0])
    for scale, exponent in enumerate(_MS_SSIM_EXPONENTS):
        whole, contrast = _ssim_terms(both, fused, smooth)
        value = value * F.relu(whole if scale == last else contrast) ** exponent
        if scale < last:
            both, fused = _halve(both), _halve(fused)
    return _join(value, sources).to(visible)


def vif(
    visible: Tensor,
    infrared: Tensor,
    fused: Tensor,
    *,
    sources: Literal["mean", "sum"] = "mean",
    off_centre_window: bool = False,
) -> Tensor:
    """Visual information fidelity in the pixel domain, VIFp.

    Sheikh and Bovik, TIP 2006, in the multi-scale form of their `vifp_mscale`: four scales,
    Gaussian windows of N = 17, 9, 5, 3 and N/5 pixels, only where they fit, noise variance 2.
    With g and v the gain and the noise of the fused picture as a linear function of a
    source of variance s, VIF = sum log(1 + g^2 s / (v + 2)) / sum log(1 + s / 2).

    Args:
        visible, infrared, fused: N x 1 x H x W float in 0..255, at least 41 x 41.
        sources: the mean of both values, or their sum.
        off_centre_window: IVIF_ZOO's window, half a pixel off centre and stretched by 1/N, on
            pictures with a border of zeros, which as an edge in all of them adds some 15 %.

    Returns:
        N values from 0 up, above 1 where contrast is enhanced; NaN where a source is constant.

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(VIF_MINIMUM_SIZE, visible=visible, infrared=infrared, fused=fused)
    both = torch.cat((visible, infrared), dim=1)
    constant = both.amin(dim=(-2, -1)) == both.amax(dim=(-2, -1))
    kept = torch.zeros_like(both[..., 0, 0])
    total = torch.zeros_like(kept)
    for size in _VIF_WINDOWS:
        window = _gaussian(size, size / 5, off_centre=off_centre_window)
        border = size // 2 if off_centre_window else 0
        smooth = partial(_smooth, window=window, border=border)
        if size != _VIF_WINDOWS[0]:
            both, fused = (smooth(x)[..., ::2, ::2] for x in (both, fused))
        _, _, variance, fused_variance, covariance = _moments(both, fused, smooth)
        variance = variance.clamp_min(0)
        # A negative gain is none; the other two only fall below 0 by rounding.
        gain = (covariance / (variance + _VIF_FLAT)).clamp_min(0)
        noise = (fused_variance - gain * covariance).clamp_min(0)
        signal = gain.square() * variance
        kept = kept + torch.log1p(signal / (noise + _VIF_NOISE)).sum(dim=(-2, -1))
        total = total + torch.log1p(variance / _VIF_NOISE).sum(dim=(-2, -1))
    return _join((kept / total).masked_fill(constant, math.nan), sources)


def _prepare(
    visible: Tensor, infrared: Tensor, fused: Tensor, scaled_twice: bool
) -> tuple[Tensor, Tensor, _Smooth]:
    """Both sources as N x 2 x H x W, the fused picture, and the weighted mean to use."""
    both = torch.cat((visible, infrared), dim=1)
    if not scaled_twice:
        return both, fused, partial(_smooth, window=_gaussian(_SSIM_WINDOW, 1.5))
    # A flat region's variance is then what rounding leaves of squares up to 4e9, beside
    # constants below 60. So the window is rounded as IVIF_ZOO's too.
    window = _gaussian(_SSIM_WINDOW, 1.5, dtype=torch.float32)
    both, fused = (x.cpu().float() * 255 for x in (both, fused))
    return both, fused, partial(_convolve, window=window)


def _join(values: Tensor, sources: str) -> Tensor:
    """N x 2 values by source to N."""
    if sources not in ("mean", "sum"):
        raise ValueError(f"sources is '{sources}', expected 'mean' or 'sum'")
    return values.mean(dim=1) if sources == "mean" else values.sum(dim=1)


def _ssim_terms(both: Tensor, fused: Tensor, smooth: _Smooth) -> tuple[Tensor, Tensor]:
    """Means of SSIM and of its factor without luminance, each N x 2."""
    mean, fused_mean, variance, fused_variance, covariance = _moments(both, fused, smooth)
    contrast = (2 * covariance + _C2) / (variance + fused_variance + _C2)
    luminance = (2 * mean * fused_mean + _C1) / (mean.square() + fused_mean.square() + _C1)
    return (luminance * contrast).mean(dim=(-2, -1)), contrast.mean(dim=(-2, -1))


def _moments(
    both: Tensor, fused: Tensor, smooth: _Smooth
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Means and variances of the sources and of the fused picture, and their covariances."""
    mean, fused_mean, square, fused_square, product = (
        smooth(x) for x in (both, fused, both.square(), fused.square(), both * fused)
    )
    return (
        mean,
        fused_mean,
        square - mean.square(),
        fused_square - fused_mean.square(),
        product - mean * fused_mean,
    )


def _gaussian(
    size: int, sigma: float, *, off_centre: bool = False, dtype: torch.dtype = torch.float64
) -> list[float]:
    """`size` weights with the sum 1, up to the rounding of `dtype`.

    Off centre they stand at size values spread evenly over -(size + 1)/2 .. (size - 1)/2,
    which Python's floor division makes of -size // 2 .. size // 2.
    """
    first, last = (-(size + 1) / 2 if off_centre else -(size - 1) / 2), (size - 1) / 2
    weights = torch.exp(-torch.linspace(first, last, size, dtype=dtype).square() / (2 * sigma**2))
    return (weights / weights.sum()).tolist()


def _smooth(x: Tensor, window: Sequence[float], border: int = 0) -> Tensor:
    """Weighted mean along rows and columns, where the window fits into x and a border of zeros.

    A sum of shifted copies: on a CPU many times as fast as a convolution of one channel,
    and on a GPU never in TF32, whose ten bits the variances would not survive.
    """
    x = F.pad(x, (border,) * 4)
    for dim in (-2, -1):
        length = x.shape[dim] - len(window) + 1
        total = x.narrow(dim, 0, length) * window[0]
        for shift, weight in enumerate(window[1:], start=1):
            total = total.add(x.narrow(dim, shift, length), alpha=weight)
        x = total
    return x


def _convolve(x: Tensor, window: Sequence[float]) -> Tensor:
    """`_smooth` without a border, by the convolutions that IVIF_ZOO calls.

    Their rounding depends on the size of the batch, which there is always one picture.
    """
    weights = torch.tensor(window, dtype=x.dtype)
    rows, columns = weights.view(1, 1, -1, 1), weights.view(1, 1, 1, -1)
    pictures = x.flatten(0, 1).unsqueeze(1).split(1)
    smooth = torch.cat([F.conv2d(F.conv2d(picture, rows), columns) for picture in pictures])
    return smooth.squeeze(1).unflatten(0, x.shape[:2])


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, padding=[side % 2 for side in x.shape[-2:]])
