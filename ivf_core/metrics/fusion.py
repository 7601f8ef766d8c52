"""Metrics of fused images: of the image alone, and against its two sources.

All take grey images N x 1 x H x W, float32 or float64 in 0..255, on any device, and return
N values of that dtype. For a colour image, pass its luma. Where a definition gives 0/0, such
as the correlation with a constant image, the value is NaN.

The definitions are those of the papers named. The common evaluation code, IVIF_ZOO
(github RollingPlain/IVIF_ZOO, Metric/), differs from some of them; options reproduce it, and
`fusion_metrics(..., convention="ivif_zoo")` sets them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ivf_core.metrics.edges import nabf, qabf
from ivf_core.metrics.inputs import check_images
from ivf_core.metrics.structure import ms_ssim, ssim, vif

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


def entropy(fused: Tensor) -> Tensor:
    """Compute EN: entropy of the grey levels, -sum p log2 p (Roberts et al., JARS 2008).

    Args:
        fused: N x 1 x H x W float in 0..255, rounded to whole levels.

    Returns:
        N values in [0, 8] bits.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(fused=fused)
    return _bits(_histogram(_levels(fused), _LEVELS, fused.dtype))


def standard_deviation(fused: Tensor) -> Tensor:
    """Compute SD: root of the mean squared distance of the grey levels from their mean.

    Args:
        fused: N x 1 x H x W float in 0..255.

    Returns:
        N values in [0, 127.5] grey levels.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(fused=fused)
    return fused.std(dim=(1, 2, 3), correction=0)


def spatial_frequency(fused: Tensor) -> Tensor:
    """Compute SF: root of the mean squared differences along rows plus those along columns.

    Eskicioglu and Fisher, IEEE Trans. Communications 1995. The means are over all
    differences, H (W - 1) and (H - 1) W.

    Args:
        fused: N x 1 x H x W float in 0..255, at least 2 x 2.

    Returns:
        N values of at least 0, in grey levels.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(2, fused=fused)
    squares = (fused.diff(dim=dim).square().mean(dim=(1, 2, 3)) for dim in (-2, -1))
    return sum(squares, torch.zeros_like(fused[:, 0, 0, 0])).sqrt()


def average_gradient(fused: Tensor) -> Tensor:
    """Compute AG: mean of sqrt((gx^2 + gy^2) / 2) (Cui et al., Optics Communications 2015).

    gx and gy are halved central differences, and one-sided differences at the border.

    Args:
        fused: N x 1 x H x W float in 0..255, at least 2 x 2.

    Returns:
        N values of at least 0, in grey levels per pixel.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(2, fused=fused)
    gy, gx = torch.gradient(fused, dim=(-2, -1))
    return ((gx.square() + gy.square()) / 2).sqrt().mean(dim=(1, 2, 3))


def mutual_information(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Compute MI: I(visible; fused) + I(infrared; fused) of grey levels (Qu et al., 2002).

    Args:
        visible: N x 1 x H x W float in 0..255, rounded to whole levels.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.

    Returns:
        N values in [0, 16] bits.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(visible=visible, infrared=infrared, fused=fused)
    fused_levels = _levels(fused)
    total = torch.zeros_like(fused[:, 0, 0, 0])
    for source in (visible, infrared):
        pairs = _levels(source) * _LEVELS + fused_levels
        joint = _histogram(pairs, _LEVELS**2, fused.dtype)
        table = joint.unflatten(1, (_LEVELS, _LEVELS))
        information = _bits(table.sum(dim=2)) + _bits(table.sum(dim=1)) - _bits(joint)
        total = total + information.clamp_min(0)  # rounding
    return total


def correlation(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Compute CC: mean of the fused image's correlation coefficients with both sources.

    Args:
        visible: N x 1 x H x W float in 0..255.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.

    Returns:
        N values in [-1, 1]; NaN if an image is constant.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(visible=visible, infrared=infrared, fused=fused)
    return (_correlation(visible, fused) + _correlation(infrared, fused)) / 2


def scd(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Compute SCD: r(fused - infrared, visible) + r(fused - visible, infrared).

    This is the sum of the correlations of differences, r being the correlation coefficient
    (Aslantas and Bendes, AEU 2015).

    Args:
        visible: N x 1 x H x W float in 0..255.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.

    Returns:
        N values in [-2, 2]; NaN if a source or a difference is constant.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(visible=visible, infrared=infrared, fused=fused)
    return _correlation(fused - infrared, visible) + _correlation(fused - visible, infrared)


def psnr(
    visible: Tensor, infrared: Tensor, fused: Tensor, *, unscaled_peak: bool = False
) -> Tensor:
    """Compute PSNR: 10 log10(255^2 / MSE), the mean MSE of both sources (VIFB, CVPRW 2020).

    Zhang, Ye and Xiao, "VIFB: A Visible and Infrared Image Fusion Benchmark".

    Args:
        visible: N x 1 x H x W float in 0..255.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.
        unscaled_peak: divide the images by 255 but not the peak, as IVIF_ZOO does, which
            adds 48.13 dB.

    Returns:
        N values in dB; infinite if all three images are equal.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(visible=visible, infrared=infrared, fused=fused)
    errors = ((fused - source).square().mean(dim=(1, 2, 3)) for source in (visible, infrared))
    error = sum(errors, torch.zeros_like(fused[:, 0, 0, 0])) / 2
    peak = 255.0**2 if unscaled_peak else 255.0
    return 20 * math.log10(peak) - 10 * error.log10()


@dataclass(frozen=True)
class FusionMetric:
    """Entry of `FUSION_METRICS`."""

    function: Callable[..., Tensor]
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
    visible: Tensor,
    infrared: Tensor,
    fused: Tensor,
    names: Iterable[str] = tuple(FUSION_METRICS),
    *,
    convention: Literal["mean", "sum", "ivif_zoo"] = "mean",
) -> dict[str, Tensor]:
    """Score a batch with several metrics.

    Args:
        visible: N x 1 x H x W float in 0..255; MS-SSIM needs 161 x 161,
            VIF 41 x 41.
        infrared: same shape, dtype and range.
        fused: same shape, dtype and range.
        names: keys of `FUSION_METRICS`; all by default.
        convention: "mean" gives SSIM, MS-SSIM and VIF as the mean of both sources, "sum" as
            their sum, which many papers report; "ivif_zoo" is the sum with all the options
            that reproduce IVIF_ZOO.

    Returns:
        N values by name, in the order of `names`.

    Raises:
        ValueError: an unknown name or convention, or an image that a metric rejects.
    """
    if convention not in ("mean", "sum", "ivif_zoo"):
        raise ValueError(f"convention is '{convention}', expected 'mean', 'sum' or 'ivif_zoo'")
    values = {}
    for name in names:
        if name not in FUSION_METRICS:
            raise ValueError(f"metric '{name}', known: {', '.join(FUSION_METRICS)}")
        metric = FUSION_METRICS[name]
        options = dict(metric.ivif_zoo) if convention == "ivif_zoo" else {}
        if metric.two_values:
            options["sources"] = "mean" if convention == "mean" else "sum"
        images = (visible, infrared, fused) if metric.needs_sources else (fused,)
        values[name] = metric.function(*images, **options)
    return values


def _levels(image: Tensor) -> Tensor:
    """Round to grey levels: N x 1 x H x W float to N x (H W) int64."""
    return image.round().long().flatten(1)


def _histogram(ids: Tensor, bins: int, dtype: torch.dtype) -> Tensor:
    """Compute the shares of the ids 0 .. bins - 1: N x pixels int64 to N x bins."""
    count = len(ids)
    offsets = torch.arange(count, device=ids.device).unsqueeze(1) * bins
    counts = torch.bincount((ids + offsets).flatten(), minlength=count * bins)
    return counts.view(count, bins).to(dtype) / ids.shape[1]


def _bits(shares: Tensor) -> Tensor:
    """Compute the entropy of each row in bits."""
    return torch.special.entr(shares).sum(dim=1) / math.log(2)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Compute the correlation coefficient of each pair of images; NaN if one is constant."""
    a, b = a.flatten(1), b.flatten(1)
    # Compare values, since the rounded mean of equal values need not be equal to them.
    constant = (a.amin(1) == a.amax(1)) | (b.amin(1) == b.amax(1))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    # norm() is not used, since it adds up float32 to four digits only.
    lengths = (a.square().sum(dim=1).sqrt(), b.square().sum(dim=1).sqrt())
    return ((a * b).sum(dim=1) / lengths[0] / lengths[1]).masked_fill(constant, math.nan)
