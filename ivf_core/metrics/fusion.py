"""Metrics of fused pictures: how much they show, and how much of it is the sources'.

All take grey pictures N x 1 x H x W, float32 or float64 in 0..255, on any device, and give
N values of that type. Of a colour picture, take its luma. Where a definition comes to 0/0,
as the correlation with a constant picture does, the value is NaN.

The definitions are those of the papers named. The evaluation code in use, IVIF_ZOO
(github RollingPlain/IVIF_ZOO, Metric/), departs from some; what it does instead is an option,
and `fusion_metrics(..., convention="ivif_zoo")` sets them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ivf_core.metrics.edges import nabf, qabf
from ivf_core.metrics.inputs import check_pictures
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
    """EN: Shannon entropy of the grey levels, -sum p log2 p (Roberts et al., JARS 2008).

    Args:
        fused: N x 1 x H x W float in 0..255, rounded to whole levels.

    Returns:
        N values in [0, 8] bits.

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(fused=fused)
    return _bits(_histogram(_levels(fused), _LEVELS, fused.dtype))


def standard_deviation(fused: Tensor) -> Tensor:
    """SD: root of the mean squared distance of the grey levels from their mean.

    Args:
        fused: N x 1 x H x W float in 0..255.

    Returns:
        N values in [0, 127.5] grey levels.

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(fused=fused)
    return fused.std(dim=(1, 2, 3), correction=0)


def spatial_frequency(fused: Tensor) -> Tensor:
    """SF: root of the mean squared differences along rows plus those along columns.

    Eskicioglu and Fisher, IEEE Trans. Communications 1995. Each mean is over the differences
    that there are, H (W - 1) and (H - 1) W.

    Args:
        fused: N x 1 x H x W float in 0..255, at least 2 x 2.

    Returns:
        N values from 0 up, in grey levels.

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(2, fused=fused)
    squares = (fused.diff(dim=dim).square().mean(dim=(1, 2, 3)) for dim in (-2, -1))
    return sum(squares, torch.zeros_like(fused[:, 0, 0, 0])).sqrt()


def average_gradient(fused: Tensor) -> Tensor:
    """AG: mean of sqrt((gx^2 + gy^2) / 2) (Cui et al., Optics Communications 2015).

    gx and gy are central differences, halved; one-sided at the border.

    Args:
        fused: N x 1 x H x W float in 0..255, at least 2 x 2.

    Returns:
        N values from 0 up, in grey levels a pixel.

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(2, fused=fused)
    gy, gx = torch.gradient(fused, dim=(-2, -1))
    return ((gx.square() + gy.square()) / 2).sqrt().mean(dim=(1, 2, 3))


def mutual_information(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """MI: I(visible; fused) + I(infrared; fused) of the grey levels (Qu et al., 2002).

    Args:
        visible, infrared, fused: N x 1 x H x W float in 0..255, rounded to whole levels.

    Returns:
        N values in [0, 16] bits.

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(visible=visible, infrared=infrared, fused=fused)
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
    """CC: mean of the fused picture's correlation coefficients with both sources.

    Args:
        visible, infrared, fused: N x 1 x H x W float in 0..255.

    Returns:
        N values in [-1, 1]; NaN where a picture is constant.

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(visible=visible, infrared=infrared, fused=fused)
    return (_correlation(visible, fused) + _correlation(infrared, fused)) / 2


def scd(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """SCD: r(fused - infrared, visible) + r(fused - visible, infrared).

    The sum of the correlations of differences, r being the correlation coefficient
    (Aslantas and Bendes, AEU 2015).

    Args:
        visible, infrared, fused: N x 1 x H x W float in 0..255.

    Returns:
        N values in [-2, 2]; NaN where a source or a difference is constant.

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(visible=visible, infrared=infrared, fused=fused)
    return _correlation(fused - infrared, visible) + _correlation(fused - visible, infrared)


def psnr(
    visible: Tensor, infrared: Tensor, fused: Tensor, *, unscaled_peak: bool = False
) -> Tensor:
    """PSNR: 10 log10(255^2 / MSE), MSE the mean of both sources' (Zhang et al., VIFB, 2020).

    Args:
        visible, infrared, fused: N x 1 x H x W float in 0..255.
        unscaled_peak: divide the pictures by 255 but not the peak, as IVIF_ZOO does:
            48.13 dB more.

    Returns:
        N values in dB; infinite where all three pictures are equal.

    Raises:
        ValueError: as `check_pictures`.
    """
    check_pictures(visible=visible, infrared=infrared, fused=fused)
    errors = ((fused - source).square().mean(dim=(1, 2, 3)) for source in (visible, infrared))
    error = sum(errors, torch.zeros_like(fused[:, 0, 0, 0])) / 2
    peak = 255.0**2 if unscaled_peak else 255.0
    return 20 * math.log10(peak) - 10 * error.log10()


@dataclass(frozen=True)
class FusionMetric:
    """A row of `FUSION_METRICS`."""

    function: Callable[..., Tensor]
    """Takes visible, infrared and fused, or fused alone."""
    needs_sources: bool = True
    higher_is_better: bool = True
    two_values: bool = False
    """It has a value for each source, and takes `sources`: their mean or their sum."""
    ivif_zoo: Mapping[str, Any] = field(default_factory=dict)
    """Options that make it IVIF_ZOO's; where `two_values`, with the sum."""


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
"""The metrics by the names that papers use, in the order of their tables."""


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
        visible, infrared, fused: N x 1 x H x W float in 0..255; MS-SSIM needs 161 x 161,
            VIF 41 x 41.
        names: of `FUSION_METRICS`; the default is all.
        convention: SSIM, MS-SSIM and VIF as the mean of both sources, or as their sum, which
            many papers report; ivif_zoo is the sum with all that IVIF_ZOO does otherwise.

    Returns:
        N values by name, in the order of `names`.

    Raises:
        ValueError: an unknown name or convention, or a picture that a metric refuses.
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
        pictures = (visible, infrared, fused) if metric.needs_sources else (fused,)
        values[name] = metric.function(*pictures, **options)
    return values


def _levels(picture: Tensor) -> Tensor:
    """Whole grey levels, N x pixels int64."""
    return picture.round().long().flatten(1)


def _histogram(ids: Tensor, bins: int, dtype: torch.dtype) -> Tensor:
    """Shares of the ids 0 .. bins - 1: N x pixels int64 to N x bins."""
    count = len(ids)
    offsets = torch.arange(count, device=ids.device).unsqueeze(1) * bins
    counts = torch.bincount((ids + offsets).flatten(), minlength=count * bins)
    return counts.view(count, bins).to(dtype) / ids.shape[1]


def _bits(shares: Tensor) -> Tensor:
    """Entropy of each row in bits."""
    return torch.special.entr(shares).sum(dim=1) / math.log(2)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlation coefficient of each pair of pictures; NaN where one is constant."""
    a, b = a.flatten(1), b.flatten(1)
    # Asked of the values: the rounded mean of equal values need not be equal to them.
    constant = (a.amin(1) == a.amax(1)) | (b.amin(1) == b.amax(1))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    # Not norm(), which adds up float32 to four digits only.
    lengths = (a.square().sum(dim=1).sqrt(), b.square().sum(dim=1).sqrt())
    return ((a * b).sum(dim=1) / lengths[0] / lengths[1]).masked_fill(constant, math.nan)
