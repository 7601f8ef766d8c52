"""Structural metrics of a fused image against its sources: SSIM, MS-SSIM, VIF.

Each compares the fused image with one source at a time. `sources` combines the two values
to their mean, or to their sum, which many fusion papers report. Variances are differences of
squares up to 255^2; float32, whose rounding of these is 4e-3, is too coarse for flat regions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import cv2
import numpy as np

from ivf_core.metrics.inputs import grey_images

__all__ = [
    "MS_SSIM_MINIMUM_SIZE",
    "SSIM_MINIMUM_SIZE",
    "VIF_MINIMUM_SIZE",
    "ms_ssim",
    "ssim",
    "ssim_and_ms_ssim",
    "vif",
]

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_SSIM_WINDOW = 11
_MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_VIF_WINDOWS = (17, 9, 5, 3)
_VIF_NOISE = 2.0
_VIF_FLAT = 1e-10

_Smooth = Callable[[np.ndarray], np.ndarray]

SSIM_MINIMUM_SIZE = _SSIM_WINDOW
MS_SSIM_MINIMUM_SIZE = 161
"""Smallest size at which the window fits after four halvings."""
VIF_MINIMUM_SIZE = 41
"""Smallest size at which the last window fits after three times smoothing and halving."""


def ssim(
    visible: np.ndarray,
    infrared: np.ndarray,
    fused: np.ndarray,
    *,
    sources: Literal["mean", "sum"] = "mean",
    scaled_twice: bool = False,
) -> float:
    """Compute SSIM: structural similarity to both sources (Wang et al., TIP 2004, equation 13).

    The window is 11 x 11, a Gaussian of 1.5 pixels, used only where it fits; K1 = 0.01,
    K2 = 0.03.

    Args:
        visible: H x W uint8, float32 or float64 in 0..255, at least 11 x 11.
        infrared: same shape and range.
        fused: same shape and range.
        sources: the mean of both values, or their sum.
        scaled_twice: multiply the images by 255 again, as IVIF_ZOO does. The constants then
            hardly matter, and in flat regions rounding decides: the computation runs as
            there, in float32.

    Returns:
        A value; the mean is in [-1, 1].

    Raises:
        ValueError: see `check_images`.
    """
    images, smooth = _prepare(SSIM_MINIMUM_SIZE, visible, infrared, fused, scaled_twice)
    return _join([whole for whole, _ in _ssim_terms(images, smooth)], sources)


def ms_ssim(
    visible: np.ndarray,
    infrared: np.ndarray,
    fused: np.ndarray,
    *,
    sources: Literal["mean", "sum"] = "mean",
    scaled_twice: bool = False,
) -> float:
    """Compute MS-SSIM: SSIM at five scales (Wang et al., Asilomar 2003, equation 7).

    The paper is by Wang, Simoncelli and Bovik. Negative terms count as 0, and a side of odd
    length gets a border of zeros before it is halved, both as in pytorch-msssim, which
    IVIF_ZOO uses.

    Args:
        visible: H x W uint8, float32 or float64 in 0..255, at least 161 x 161.
        infrared: same shape and range.
        fused: same shape and range.
        sources: the mean of both values, or their sum.
        scaled_twice: see `ssim`.

    Returns:
        A value; the mean is in [0, 1].

    Raises:
        ValueError: see `check_images`.
    """
    images, smooth = _prepare(MS_SSIM_MINIMUM_SIZE, visible, infrared, fused, scaled_twice)
    return _join(_over_scales(images, smooth)[1], sources)


def ssim_and_ms_ssim(
    visible: np.ndarray,
    infrared: np.ndarray,
    fused: np.ndarray,
    *,
    sources: Literal["mean", "sum"] = "mean",
) -> tuple[float, float]:
    """Compute SSIM and MS-SSIM together: the first scale of MS-SSIM is SSIM's.

    Args:
        visible: see `ms_ssim`.
        infrared: see `ms_ssim`.
        fused: see `ms_ssim`.
        sources: see `ms_ssim`.

    Returns:
        The values of `ssim` and `ms_ssim`, to the bit.

    Raises:
        ValueError: see `ms_ssim`.
    """
    images, smooth = _prepare(MS_SSIM_MINIMUM_SIZE, visible, infrared, fused, False)
    single, multiple = _over_scales(images, smooth)
    return _join(single, sources), _join(multiple, sources)


def vif(
    visible: np.ndarray,
    infrared: np.ndarray,
    fused: np.ndarray,
    *,
    sources: Literal["mean", "sum"] = "mean",
    off_centre_window: bool = False,
) -> float:
    """Compute VIF: visual information fidelity in the pixel domain, VIFp.

    Sheikh and Bovik, TIP 2006, in the multi-scale form of their `vifp_mscale`: four scales,
    Gaussian windows of size N = 17, 9, 5, 3 and sigma N/5 pixels, used only where they fit,
    noise variance 2. With g and v the gain and the noise of the fused image as a linear
    function of a source of variance s, VIF = sum log(1 + g^2 s / (v + 2)) / sum log(1 + s / 2).

    Args:
        visible: H x W uint8, float32 or float64 in 0..255, at least 41 x 41.
        infrared: same shape and range.
        fused: same shape and range.
        sources: the mean of both values, or their sum.
        off_centre_window: use IVIF_ZOO's window, half a pixel off centre and stretched by
            1/N, on images with a border of zeros, which acts as an edge in all of them and
            adds some 15 %.

    Returns:
        A value of at least 0, above 1 if contrast is enhanced; NaN if a source is constant.

    Raises:
        ValueError: see `check_images`.
    """
    images = grey_images(VIF_MINIMUM_SIZE, visible=visible, infrared=infrared, fused=fused)
    constant = any(image.min() == image.max() for image in images[:2])
    kept, total = [0.0, 0.0], [0.0, 0.0]
    for size in _VIF_WINDOWS:
        window = _gaussian(size, size / 5, off_centre=off_centre_window)
        smooth = partial(_smooth, window=window, bordered=off_centre_window)
        if size != _VIF_WINDOWS[0]:
            images = [np.ascontiguousarray(smooth(image)[::2, ::2]) for image in images]
        fused_mean, fused_variance = _moments(images[2], smooth)
        for n, source in enumerate(images[:2]):
            mean, variance = _moments(source, smooth)
            covariance = smooth(source * images[2]) - mean * fused_mean
            np.maximum(variance, 0, out=variance)
            # A negative gain counts as 0; the other two are below 0 only by rounding.
            gain = np.maximum(covariance / (variance + _VIF_FLAT), 0)
            noise = np.maximum(fused_variance - gain * covariance, 0)
            signal = gain * gain * variance
            kept[n] += float(np.log1p(signal / (noise + _VIF_NOISE)).sum())
            total[n] += float(np.log1p(variance / _VIF_NOISE).sum())
    if constant or not all(total):
        return math.nan
    return _join([k / t for k, t in zip(kept, total, strict=True)], sources)


def _prepare(
    smallest: int,
    visible: np.ndarray,
    infrared: np.ndarray,
    fused: np.ndarray,
    scaled_twice: bool,
) -> tuple[list[np.ndarray], _Smooth]:
    """Check the images of SSIM and MS-SSIM and scale them.

    Returns:
        Both sources and the fused image, and the weighted mean to use.
    """
    images = grey_images(smallest, visible=visible, infrared=infrared, fused=fused)
    if not scaled_twice:
        return images, partial(_smooth, window=_gaussian(_SSIM_WINDOW, 1.5))
    # The variance of a flat region is then the rounding error of squares up to 4e9, next
    # to constants below 60. The window must therefore be rounded as in IVIF_ZOO, too.
    window = _gaussian(_SSIM_WINDOW, 1.5, dtype=np.float32)
    images = [image.astype(np.float32) * np.float32(255) for image in images]
    return images, partial(_convolve, window=window)


def _join(values: list[float], sources: str) -> float:
    """Combine the values of both sources."""
    if sources not in ("mean", "sum"):
        raise ValueError(f"sources is '{sources}', expected 'mean' or 'sum'")
    return sum(values) / 2 if sources == "mean" else sum(values)


def _over_scales(images: list[np.ndarray], smooth: _Smooth) -> tuple[list[float], list[float]]:
    """Return for each source SSIM at the first scale, and MS-SSIM."""
    last = len(_MS_SSIM_EXPONENTS) - 1
    single: list[float] = []
    multiple = [1.0, 1.0]
    for scale, exponent in enumerate(_MS_SSIM_EXPONENTS):
        terms = _ssim_terms(images, smooth)
        if not single:
            single = [whole for whole, _ in terms]
        for n, (whole, contrast) in enumerate(terms):
            multiple[n] *= max(whole if scale == last else contrast, 0) ** exponent
        if scale < last:
            images = [_halve(image) for image in images]
    return single, multiple


def _ssim_terms(images: list[np.ndarray], smooth: _Smooth) -> list[tuple[float, float]]:
    """Return for each source the means of SSIM and of its factor without luminance."""
    *sources, fused = images
    fused_mean, fused_variance = _moments(fused, smooth)
    fused_square = fused_mean * fused_mean
    terms = []
    for source in sources:
        mean, variance = _moments(source, smooth)
        products = mean * fused_mean
        contrast = smooth(source * fused) - products
        contrast *= 2
        contrast += _C2
        variance += fused_variance
        variance += _C2
        contrast /= variance
        products *= 2
        products += _C1
        mean *= mean
        mean += fused_square
        mean += _C1
        products /= mean  # the luminance's factor
        whole = np.multiply(products, contrast, out=products)
        terms.append((float(whole.mean(dtype=np.float64)), float(contrast.mean(dtype=np.float64))))
    return terms


def _moments(image: np.ndarray, smooth: _Smooth) -> tuple[np.ndarray, np.ndarray]:
    """Return the local mean and variance."""
    mean = smooth(image)
    return mean, smooth(image * image) - mean * mean


def _gaussian(
    size: int,
    sigma: float,
    *,
    off_centre: bool = False,
    dtype: type[np.floating] = np.float64,
) -> np.ndarray:
    """Return `size` weights with the sum 1, up to the rounding of `dtype`.

    With `off_centre` they are sampled at `size` positions spread evenly over
    -(size + 1)/2 .. (size - 1)/2, which is what Python's floor division makes of
    -size // 2 .. size // 2.
    """
    first, last = (-(size + 1) / 2 if off_centre else -(size - 1) / 2), (size - 1) / 2
    exponents = (-(np.linspace(first, last, size) ** 2) / (2 * sigma**2)).astype(dtype)
    weights = np.exp(exponents.astype(np.float64)).astype(dtype)
    return weights / weights.sum(dtype=np.float64).astype(dtype)


def _smooth(x: np.ndarray, window: np.ndarray, *, bordered: bool = False) -> np.ndarray:
    """Compute weighted means along rows and columns.

    Args:
        x: H x W float64.
        window: weights, an odd number.
        bordered: add a border of zeros; otherwise the window is used only where it fits.

    Returns:
        H x W, or without the margin in which the window does not fit.
    """
    y = cv2.sepFilter2D(x, -1, window, window, borderType=cv2.BORDER_CONSTANT)
    margin = 0 if bordered else len(window) // 2
    return y[margin : len(y) - margin, margin : y.shape[1] - margin]


def _convolve(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Compute `_smooth` without a border in float32, rounded as in the convolutions of IVIF_ZOO.

    These add the products along columns, then along rows, in the order of the window and with
    one rounding for each (fused multiply-add). In float64 the products are exact.
    """
    for axis in (0, 1):
        x = np.swapaxes(x.astype(np.float64), 0, axis)
        length = len(x) - len(window) + 1
        total = np.zeros((length, x.shape[1]), np.float32)
        for shift, weight in enumerate(window.astype(np.float64)):
            total = (x[shift : shift + length] * weight + total).astype(np.float32)
        x = np.swapaxes(total, 0, axis)
    return x


def _halve(x: np.ndarray) -> np.ndarray:
    x = np.pad(x, [(side % 2, 0) for side in x.shape])
    top, bottom = x[::2], x[1::2]
    return (top[:, ::2] + top[:, 1::2] + bottom[:, ::2] + bottom[:, 1::2]) / 4
