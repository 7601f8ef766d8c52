"""Structural metrics of a fused image against its sources: SSIM, MS-SSIM, VIF.

Each compares the fused image with one source at a time. `sources` combines the two values
to their mean, or to their sum, which many fusion papers report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.metrics.inputs import check_images

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
"""Smallest size at which the window fits after four halvings."""
VIF_MINIMUM_SIZE = 41
"""Smallest size at which the last window fits after three times smoothing and halving."""


def ssim(
    visible: Tensor,
    infrared: Tensor,
    fused: Tensor,
    *,
    sources: Literal["mean", "sum"] = "mean",
    scaled_twice: bool = False,
) -> Tensor:
    """Compute SSIM: structural similarity to both sources (Wang et al., TIP 2004, equation 13).

    The window is 11 x 11, a Gaussian of 1.5 pixels, used only where it fits; K1 = 0.01,
    K2 = 0.03.

    Args:
        visible: N x 1 x H x W float in 0..255, at least 11 x 11.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.
        sources: the mean of both values, or their sum.
        scaled_twice: multiply the images by 255 again, as IVIF_ZOO does. The constants then
            hardly matter, and in flat regions rounding decides: the computation runs as
            there, on the CPU, in float32 and image by image.

    Returns:
        N values; the mean is in [-1, 1].

    Raises:
        ValueError: see `check_images`.
    """
    both, fused, smooth = _prepare(SSIM_MINIMUM_SIZE, visible, infrared, fused, scaled_twice)
    return _join(_ssim_terms(both, fused, smooth)[0], sources).to(visible)


def ms_ssim(
    visible: Tensor,
    infrared: Tensor,
    fused: Tensor,
    *,
    sources: Literal["mean", "sum"] = "mean",
    scaled_twice: bool = False,
) -> Tensor:
    """Compute MS-SSIM: SSIM at five scales (Wang et al., Asilomar 2003, equation 7).

    The paper is by Wang, Simoncelli and Bovik. Negative terms count as 0, and a side of odd
    length gets a border of zeros before it is halved, both as in pytorch-msssim, which
    IVIF_ZOO uses.

    Args:
        visible: N x 1 x H x W float in 0..255, at least 161 x 161.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.
        sources: the mean of both values, or their sum.
        scaled_twice: see `ssim`.

    Returns:
        N values; the mean is in [0, 1].

    Raises:
        ValueError: see `check_images`.
    """
    both, fused, smooth = _prepare(MS_SSIM_MINIMUM_SIZE, visible, infrared, fused, scaled_twice)
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
    """Compute VIF: visual information fidelity in the pixel domain, VIFp.

    Sheikh and Bovik, TIP 2006, in the multi-scale form of their `vifp_mscale`: four scales,
    Gaussian windows of size N = 17, 9, 5, 3 and sigma N/5 pixels, used only where they fit,
    noise variance 2. With g and v the gain and the noise of the fused image as a linear
    function of a source of variance s, VIF = sum log(1 + g^2 s / (v + 2)) / sum log(1 + s / 2).

    Args:
        visible: N x 1 x H x W float in 0..255, at least 41 x 41.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.
        sources: the mean of both values, or their sum.
        off_centre_window: use IVIF_ZOO's window, half a pixel off centre and stretched by
            1/N, on images with a border of zeros, which acts as an edge in all of them and
            adds some 15 %.

    Returns:
        N values of at least 0, above 1 if contrast is enhanced; NaN if a source is constant.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(VIF_MINIMUM_SIZE, visible=visible, infrared=infrared, fused=fused)
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
        # A negative gain counts as 0; the other two are below 0 only by rounding.
        gain = (covariance / (variance + _VIF_FLAT)).clamp_min(0)
        noise = (fused_variance - gain * covariance).clamp_min(0)
        signal = gain.square() * variance
        kept = kept + torch.log1p(signal / (noise + _VIF_NOISE)).sum(dim=(-2, -1))
        total = total + torch.log1p(variance / _VIF_NOISE).sum(dim=(-2, -1))
    return _join((kept / total).masked_fill(constant, math.nan), sources)


def _prepare(
    smallest: int, visible: Tensor, infrared: Tensor, fused: Tensor, scaled_twice: bool
) -> tuple[Tensor, Tensor, _Smooth]:
    """Check the images of SSIM and MS-SSIM and scale them.

    Returns:
        Both sources as N x 2 x H x W, the fused image, and the weighted mean to use.
    """
    check_images(smallest, visible=visible, infrared=infrared, fused=fused)
    both = torch.cat((visible, infrared), dim=1)
    if not scaled_twice:
        return both, fused, partial(_smooth, window=_gaussian(_SSIM_WINDOW, 1.5))
    # The variance of a flat region is then the rounding error of squares up to 4e9, next
    # to constants below 60. The window must therefore be rounded as in IVIF_ZOO, too.
    window = _gaussian(_SSIM_WINDOW, 1.5, dtype=torch.float32)
    both, fused = (x.cpu().float() * 255 for x in (both, fused))
    return both, fused, partial(_convolve, window=window)


def _join(values: Tensor, sources: str) -> Tensor:
    """Combine N x 2 values, one for each source, to N."""
    if sources not in ("mean", "sum"):
        raise ValueError(f"sources is '{sources}', expected 'mean' or 'sum'")
    return values.mean(dim=1) if sources == "mean" else values.sum(dim=1)


def _ssim_terms(both: Tensor, fused: Tensor, smooth: _Smooth) -> tuple[Tensor, Tensor]:
    """Return the means of SSIM and of its factor without luminance, each N x 2."""
    mean, fused_mean, variance, fused_variance, covariance = _moments(both, fused, smooth)
    contrast = (2 * covariance + _C2) / (variance + fused_variance + _C2)
    luminance = (2 * mean * fused_mean + _C1) / (mean.square() + fused_mean.square() + _C1)
    return (luminance * contrast).mean(dim=(-2, -1)), contrast.mean(dim=(-2, -1))


def _moments(
    both: Tensor, fused: Tensor, smooth: _Smooth
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return means and variances of the sources and the fused image, and their covariances."""
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
    """Return `size` weights with the sum 1, up to the rounding of `dtype`.

    With `off_centre` they are sampled at `size` positions spread evenly over
    -(size + 1)/2 .. (size - 1)/2, which is what Python's floor division makes of
    -size // 2 .. size // 2.
    """
    first, last = (-(size + 1) / 2 if off_centre else -(size - 1) / 2), (size - 1) / 2
    weights = torch.exp(-torch.linspace(first, last, size, dtype=dtype).square() / (2 * sigma**2))
    return (weights / weights.sum()).tolist()


def _smooth(x: Tensor, window: Sequence[float], border: int = 0) -> Tensor:
    """Compute weighted means along rows and columns where the window fits into padded `x`.

    It adds shifted copies. On a CPU this is many times as fast as a convolution of one
    channel, and on a GPU it never uses TF32, whose ten bits are too few for the variances.
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
    """Compute `_smooth` without a border by the convolutions that IVIF_ZOO calls.

    Their rounding depends on the batch size, which is always one image there.
    """
    weights = torch.tensor(window, dtype=x.dtype)
    rows, columns = weights.view(1, 1, -1, 1), weights.view(1, 1, 1, -1)
    images = x.flatten(0, 1).unsqueeze(1).split(1)
    smooth = torch.cat([F.conv2d(F.conv2d(image, rows), columns) for image in images])
    return smooth.squeeze(1).unflatten(0, x.shape[:2])


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, padding=[side % 2 for side in x.shape[-2:]])
