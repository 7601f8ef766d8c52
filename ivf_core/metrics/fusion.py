"""Metrics of fused images: of the image alone, and against its two sources.

All take grey images H x W, uint8, float32 or float64 in 0..255, compute in float64 and return
one number. For a colour image, pass its luma. Where a definition gives 0/0, such as the
correlation with a constant image, the value is NaN.

The definitions are those of the papers named. The common evaluation code, IVIF_ZOO
(github RollingPlain/IVIF_ZOO, Metric/), differs from some of them; options reproduce it, and
`fusion_metrics(..., convention="ivif_zoo")` sets them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ivf_core.metrics.edges import nabf, qabf
from ivf_core.metrics.inputs import check_images, grey_images
from ivf_core.metrics.structure import ms_ssim, ssim, ssim_and_ms_ssim, vif

__all__ = [
    "FUSION_METRICS",
    "FusionMetric",
    "average_gradient",
    "correlation",
    "entropy",
    "fusion_metrics",
    "ms_ssim",
    "mutual_information",
    "nabf",
    "psnr",
    "qabf",
    "scd",
    "spatial_frequency",
    "ssim",
    "standard_deviation",
    "vif",
]

_LEVELS = 256


def entropy(fused: np.ndarray) -> float:
    """Compute EN: entropy of the grey levels, -sum p log2 p (Roberts et al., JARS 2008).

    Args:
        fused: H x W uint8, float32 or float64 in 0..255, rounded to whole levels.

    Returns:
        A value in [0, 8] bits.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(fused=fused)
    return _bits(np.bincount(_levels(fused), minlength=_LEVELS))


def standard_deviation(fused: np.ndarray) -> float:
    """Compute SD: root of the mean squared distance of the grey levels from their mean.

    Args:
        fused: H x W uint8, float32 or float64 in 0..255.

    Returns:
        A value in [0, 127.5] grey levels.

    Raises:
        ValueError: see `check_images`.
    """
    (image,) = grey_images(fused=fused)
    return float(image.std())


def spatial_frequency(fused: np.ndarray) -> float:
    """Compute SF: root of the mean squared differences along rows plus those along columns.

    Eskicioglu and Fisher, IEEE Trans. Communications 1995. The means are over all
    differences, H (W - 1) and (H - 1) W.

    Args:
        fused: H x W uint8, float32 or float64 in 0..255, at least 2 x 2.

    Returns:
        A value of at least 0, in grey levels.

    Raises:
        ValueError: see `check_images`.
    """
    (image,) = grey_images(2, fused=fused)
    differences = image[1:] - image[:-1], image[:, 1:] - image[:, :-1]
    return math.sqrt(sum(map(_mean_square, differences)))


def average_gradient(fused: np.ndarray) -> float:
    """Compute AG: mean of sqrt((gx^2 + gy^2) / 2) (Cui et al., Optics Communications 2015).

    gx and gy are halved central differences, and one-sided differences at the border.

    Args:
        fused: H x W uint8, float32 or float64 in 0..255, at least 2 x 2.

    Returns:
        A value of at least 0, in grey levels per pixel.

    Raises:
        ValueError: see `check_images`.
    """
    (image,) = grey_images(2, fused=fused)
    gy, gx = np.gradient(image)
    gx *= gx
    gy *= gy
    gx += gy
    return float(np.sqrt(gx, out=gx).mean()) / math.sqrt(2)


def mutual_information(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    """Compute MI: I(visible; fused) + I(infrared; fused) of grey levels (Qu et al., 2002).

    Args:
        visible: H x W uint8, float32 or float64 in 0..255, rounded to whole levels.
        infrared: same shape and range.
        fused: same shape and range.

    Returns:
        A value in [0, 16] bits.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(visible=visible, infrared=infrared, fused=fused)
    fused_levels = _levels(fused)
    total = 0.0
    for source in (visible, infrared):
        joint = np.bincount(_levels(source) * _LEVELS + fused_levels, minlength=_LEVELS**2)
        table = joint.reshape(_LEVELS, _LEVELS)
        information = _bits(table.sum(axis=1)) + _bits(table.sum(axis=0)) - _bits(joint)
        total += max(information, 0.0)  # rounding
    return total


def correlation(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    """Compute CC: mean of the fused image's correlation coefficients with both sources.

    Args:
        visible: H x W uint8, float32 or float64 in 0..255.
        infrared: same shape and range.
        fused: same shape and range.

    Returns:
        A value in [-1, 1]; NaN if an image is constant.

    Raises:
        ValueError: see `check_images`.
    """
    first, second, image = grey_images(visible=visible, infrared=infrared, fused=fused)
    return (_correlation(first, image) + _correlation(second, image)) / 2


def scd(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    """Compute SCD: r(fused - infrared, visible) + r(fused - visible, infrared).

    This is the sum of the correlations of differences, r being the correlation coefficient
    (Aslantas and Bendes, AEU 2015).

    Args:
        visible: H x W uint8, float32 or float64 in 0..255.
        infrared: same shape and range.
        fused: same shape and range.

    Returns:
        A value in [-2, 2]; NaN if a source or a difference is constant.

    Raises:
        ValueError: see `check_images`.
    """
    first, second, image = grey_images(visible=visible, infrared=infrared, fused=fused)
    return _correlation(image - second, first) + _correlation(image - first, second)


def psnr(
    visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, *, unscaled_peak: bool = False
) -> float:
    """Compute PSNR: 10 log10(255^2 / MSE), the mean MSE of both sources (VIFB, CVPRW 2020).

    Zhang, Ye and Xiao, "VIFB: A Visible and Infrared Image Fusion Benchmark".

    Args:
        visible: H x W uint8, float32 or float64 in 0..255.
        infrared: same shape and range.
        fused: same shape and range.
        unscaled_peak: divide the images by 255 but not the peak, as IVIF_ZOO does, which
            adds 48.13 dB.

    Returns:
        A value in dB; infinite if all three images are equal.

    Raises:
        ValueError: see `check_images`.
    """
    *sources, image = grey_images(visible=visible, infrared=infrared, fused=fused)
    error = sum(_mean_square(image - source) for source in sources) / 2
    peak = 255.0**2 if unscaled_peak else 255.0
    return 20 * math.log10(peak) - 10 * math.log10(error) if error > 0 else math.inf


@dataclass(frozen=True)
class FusionMetric:
    """Entry of `FUSION_METRICS`."""

    function: Callable[..., float]
    """Function of visible, infrared and fused images, or of fused images alone."""
    needs_sources: bool = True
    higher_is_better: bool = True
    two_values: bool = False
    """True if there is a value for each source; `sources` then selects their mean or sum."""
    ivif_zoo: Mapping[str, Any] = field(default_factory=dict)
    """Options that reproduce IVIF_ZOO; with `two_values` together with the sum."""


FUSION_METRICS: Mapping[str, FusionMetric] = {
    "EN": FusionMetric(entropy, needs_sources=False),
    "SD": FusionMetric(standard_deviation, needs_sources=False),
    "SF": FusionMetric(spatial_frequency, needs_sources=False),
    "AG": FusionMetric(average_gradient, needs_sources=False),
    "MI": FusionMetric(mutual_information),
    "SCD": FusionMetric(scd),
    "CC": FusionMetric(correlation),
    "PSNR": FusionMetric(psnr, ivif_zoo={"unscaled_peak": True}),
    "SSIM": FusionMetric(ssim, two_values=True, ivif_zoo={"scaled_twice": True}),
    "MS-SSIM": FusionMetric(ms_ssim, two_values=True, ivif_zoo={"scaled_twice": True}),
    "VIF": FusionMetric(vif, two_values=True, ivif_zoo={"off_centre_window": True}),
    "Qabf": FusionMetric(qabf),
    "Nabf": FusionMetric(nabf, higher_is_better=False, ivif_zoo={"minimum_weight": 0.0}),
}
"""Metrics by the names that papers use, in the order of their tables."""


def fusion_metrics(
    visible: np.ndarray,
    infrared: np.ndarray,
    fused: np.ndarray,
    names: Iterable[str] = tuple(FUSION_METRICS),
    *,
    convention: Literal["mean", "sum", "ivif_zoo"] = "mean",
) -> dict[str, float]:
    """Score an image with several metrics.

    Args:
        visible: H x W uint8, float32 or float64 in 0..255; MS-SSIM needs 161 x 161,
            VIF 41 x 41.
        infrared: same shape and range.
        fused: same shape and range.
        names: keys of `FUSION_METRICS`; all by default.
        convention: "mean" gives SSIM, MS-SSIM and VIF as the mean of both sources, "sum" as
            their sum, which many papers report; "ivif_zoo" is the sum with all the options
            that reproduce IVIF_ZOO.

    Returns:
        Values by name, in the order of `names`.

    Raises:
        ValueError: an unknown name or convention, or an image that a metric rejects.
    """
    if convention not in ("mean", "sum", "ivif_zoo"):
        raise ValueError(f"convention is '{convention}', expected 'mean', 'sum' or 'ivif_zoo'")
    names = list(names)
    for name in names:
        if name not in FUSION_METRICS:
            raise ValueError(f"metric '{name}', known: {', '.join(FUSION_METRICS)}")
    values = dict.fromkeys(names, math.nan)
    if convention != "ivif_zoo" and {"SSIM", "MS-SSIM"} <= set(names):
        both = ssim_and_ms_ssim(visible, infrared, fused, sources=convention)
        values["SSIM"], values["MS-SSIM"] = both
        names = [name for name in names if name not in ("SSIM", "MS-SSIM")]
    for name in names:
        metric = FUSION_METRICS[name]
        options = dict(metric.ivif_zoo) if convention == "ivif_zoo" else {}
        if metric.two_values:
            options["sources"] = "mean" if convention == "mean" else "sum"
        images = (visible, infrared, fused) if metric.needs_sources else (fused,)
        values[name] = metric.function(*images, **options)
    return values


def _levels(image: np.ndarray) -> np.ndarray:
    """Round to grey levels: H x W to (H W) int64."""
    whole = image if image.dtype == np.uint8 else np.rint(image)
    return whole.ravel().astype(np.int64)


def _bits(counts: np.ndarray) -> float:
    """Compute the entropy of a histogram in bits."""
    shares = counts[counts > 0] / counts.sum()
    return -float((shares * np.log2(shares)).sum())


def _mean_square(x: np.ndarray) -> float:
    """Compute the mean square of an array, which is overwritten."""
    return float(np.multiply(x, x, out=x).mean())


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the correlation coefficient of two images; NaN if one is constant."""
    # Compare values, since the rounded mean of equal values need not be equal to them.
    if a.min() == a.max() or b.min() == b.max():
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    # np.dot is not used, since its sum depends on the number of BLAS's threads.
    return float((a * b).sum() / math.sqrt((a * a).sum()) / math.sqrt((b * b).sum()))
