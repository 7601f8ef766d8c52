"""Scores of several methods on the same pairs: means, ranks, and statistics."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from ivf_core.metrics.fusion import FUSION_METRICS, fusion_metrics
from ivf_core.metrics.no_reference import NO_REFERENCE_METRICS, no_reference_metrics
from ivf_core.metrics.structure import (
    MS_SSIM_MINIMUM_SIZE,
    SSIM_MINIMUM_SIZE,
    VIF_MINIMUM_SIZE,
)
from ivf_core.system.csv_cells import text_cell

__all__ = ["Metric", "Scores", "column_indices", "common_pairs", "find_metrics", "statistics"]

Convention = Literal["mean", "sum", "ivif_zoo"]

_MINIMUM_SIZES = {
    "SSIM": SSIM_MINIMUM_SIZE,
    "MS-SSIM": MS_SSIM_MINIMUM_SIZE,
    "VIF": VIF_MINIMUM_SIZE,
}
_PERCENTILES = (5, 25, 75, 95)


@dataclass(frozen=True)
class Metric:
    """A metric of fused images, a column of the table of scores.

    Attributes:
        name: as papers write it.
        higher_is_better: whether higher values are better.
        score: function of the visible, infrared and fused images, each H x W uint8, and the
            fused image in colour, H x W x 3 uint8 RGB.
        minimum_size: smallest height and width in pixels; smaller images have no value.
    """

    name: str
    higher_is_better: bool
    score: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]
    minimum_size: int = 2

    @property
    def title(self) -> str:
        """Name with an arrow that points up where higher is better, else down."""
        return f"{self.name} {'↑' if self.higher_is_better else '↓'}"


def find_metrics(
    names: Sequence[str] | None = None, convention: Convention = "mean", device: str = "cpu"
) -> tuple[Metric, ...]:
    """Return the metrics of these names, in their order; by default all of `FUSION_METRICS`.

    Args:
        names: names in `FUSION_METRICS` and `NO_REFERENCE_METRICS`; the library and weights
            of the latter are looked up when they score.
        convention: as for `fusion_metrics`.
        device: as for `no_reference_metrics`; the fusion metrics run on the CPU.

    Raises:
        ValueError: a name is unknown or given twice.
    """
    names = tuple(FUSION_METRICS) if names is None else tuple(names)
    if len(set(names)) < len(names):
        raise ValueError(f"metrics {', '.join(names)}: one is given twice")
    known = {**_fusion_metrics(convention), **_no_reference_metrics(device)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"metric {', '.join(unknown)} is unknown; known: {', '.join(known)}")
    return tuple(known[name] for name in names)


def _fusion_metrics(convention: Convention) -> dict[str, Metric]:
    def score(
        name: str, visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, _: np.ndarray
    ) -> float:
        return fusion_metrics(visible, infrared, fused, [name], convention=convention)[name]

    return {
        name: Metric(
            name, metric.higher_is_better, partial(score, name), _MINIMUM_SIZES.get(name, 3)
        )
        for name, metric in FUSION_METRICS.items()
    }


def _no_reference_metrics(device: str) -> dict[str, Metric]:
    def score(name: str, *images: np.ndarray) -> float:
        return no_reference_metrics(images[-1], [name], device=device)[name]

    return {
        name: Metric(name, metric.higher_is_better, partial(score, name), metric.smallest)
        for name, metric in NO_REFERENCE_METRICS.items()
    }


def column_indices(metrics: Sequence[Metric], names: Sequence[str]) -> list[int]:
    """Return the indices of the metrics of these names; of all metrics where there is no name.

    Args:
        metrics: columns of a table.
        names: names among theirs.

    Raises:
        ValueError: a name is not among the metrics.
    """
    known = [metric.name for metric in metrics]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"rank by {', '.join(unknown)}: not among the metrics {', '.join(known)}")
    return [known.index(name) for name in names] or list(range(len(known)))


@dataclass(frozen=True)
class Scores:
    """Scores of the fused images of M methods on P pairs by K metrics.

    Attributes:
        pairs: names of the pairs.
        methods: names of the methods.
        metrics: the metrics.
        values: M x P x K float64; NaN where the method has no image, the image is too small
            for the metric, or the metric is undefined.
        present: M x P bool, whether the method's image was scored.
    """

    pairs: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[Metric, ...]
    values: np.ndarray
    present: np.ndarray

    @classmethod
    def empty(
        cls, pairs: Iterable[str], methods: Iterable[str], metrics: Iterable[Metric]
    ) -> Scores:
        """Return scores of these pairs, methods and metrics without any value."""
        pairs, methods, metrics = tuple(pairs), tuple(methods), tuple(metrics)
        shape = (len(methods), len(pairs))
        values = np.full((*shape, len(metrics)), np.nan)
        return cls(pairs, methods, metrics, values, np.zeros(shape, bool))

    @property
    def common(self) -> np.ndarray:
        """Pairs of which every method has an image, P bool: see `common_pairs`."""
        return common_pairs(self.present)

    def score(
        self,
        method: int,
        pair: int,
        visible: np.ndarray,
        infrared: np.ndarray,
        fused: np.ndarray,
        color: np.ndarray,
    ) -> None:
        """Score an image and store the values.

        Args:
            method: index of the method.
            pair: index of the pair.
            visible: as for `Metric.score`.
            infrared: as for `Metric.score`.
            fused: as for `Metric.score`.
            color: as for `Metric.score`.
        """
        self.present[method, pair] = True
        for column, metric in enumerate(self.metrics):
            if min(fused.shape) >= metric.minimum_size:
                value = metric.score(visible, infrared, fused, color)
                self.values[method, pair, column] = value

    def gaps(self) -> list[str]:
        """Return one line for each metric and method that has images without a finite value."""
        gaps = self.present[..., None] & ~np.isfinite(self.values)
        return [
            f"{metric.name}: no value for {gaps[m, :, k].sum()} of {self.present[m].sum()} "
            f"images of '{method}' (0/0, or a side of less than {metric.minimum_size} pixels)"
            for k, metric in enumerate(self.metrics)
            for m, method in enumerate(self.methods)
            if gaps[m, :, k].any()
        ]

    def means(self) -> np.ndarray:
        """Return the means of the finite values over the common pairs, M x K float64, or NaN."""
        finite = np.isfinite(self.values) & self.common[None, :, None]
        counts = finite.sum(axis=1)
        sums = np.where(finite, self.values, 0).sum(axis=1)
        return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)

    def best(self) -> np.ndarray:
        """Return which methods have the best mean by a metric, M x K bool; none of a single one."""
        means = self.means()
        if len(self.methods) < 2:
            return np.zeros(means.shape, bool)
        signed = np.where([m.higher_is_better for m in self.metrics], means, -means)
        signed[np.isnan(signed)] = -math.inf
        return (signed == signed.max(axis=0)) & np.isfinite(signed)

    def ranks(self, method: int, columns: Sequence[int] | None = None) -> np.ndarray:
        """Return the mean rank of each pair among the method's images, from 0 (best) to 1.

        Args:
            method: index of the method.
            columns: indices of the metrics to rank by; by default all.

        Returns:
            P float64; NaN where the method has no image or no metric has a finite value.
        """
        ranks = []
        for column in range(len(self.metrics)) if columns is None else columns:
            values = self.values[method, :, column]
            if self.metrics[column].higher_is_better:
                values = -values
            finite = np.isfinite(values)
            ordered = np.sort(values[finite])
            # Equal values share the mean of their ranks.
            first = np.searchsorted(ordered, values, "left")
            last = np.searchsorted(ordered, values, "right") - 1
            rank = (first + last) / 2 / max(1, len(ordered) - 1)
            ranks.append(np.where(finite, rank, np.nan))
        table = np.array(ranks)
        known = np.isfinite(table)
        counts = known.sum(axis=0)
        sums = np.where(known, table, 0).sum(axis=0)
        return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)

    def to_csv(self, extra: Sequence[str], cells: Callable[[int, int], Sequence[float]]) -> str:
        """Return CSV with a row per pair and method that has an image, to six digits.

        Args:
            extra: names of further columns.
            cells: function of the indices of a method and a pair that returns the values of
                those columns.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["pair", "method", *(metric.name for metric in self.metrics), *extra])
        for p, pair in enumerate(self.pairs):
            for m, method in enumerate(self.methods):
                more = cells(m, p)
                if self.present[m, p] or any(not math.isnan(value) for value in more):
                    row = [*self.values[m, p], *more]
                    names = text_cell(pair), text_cell(method)
                    writer.writerow([*names, *(f"{value:.6g}" for value in row)])
        return text.getvalue()

    def summary(self, method: int) -> dict[str, Any]:
        """Return by metric the `statistics` of the method's values on the common pairs."""
        values = self.values[method, self.common]
        return {m.name: statistics(values[:, k]) for k, m in enumerate(self.metrics)}


def common_pairs(present: np.ndarray) -> np.ndarray:
    """Return the pairs that all methods have; methods without any pair are not asked.

    Args:
        present: M x P bool.

    Returns:
        P bool.
    """
    return np.logical_and(present[present.any(axis=1)].all(axis=0), present.any(axis=0))


def statistics(values: np.ndarray) -> dict[str, float | int | None]:
    """Return mean, standard deviation of the sample, percentiles and counts of some values.

    Args:
        values: N float64; those that are not finite are counted as undefined.

    Returns:
        The statistics by name; None, which is null in JSON, where there are too few values.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        numbers: dict[str, float | None] = dict.fromkeys(
            ("mean", "sd", "median", *(f"p{p}" for p in _PERCENTILES))
        )
    else:
        numbers = {
            "mean": float(finite.mean()),
            "sd": float(finite.std(ddof=1)) if len(finite) > 1 else None,
            "median": float(np.median(finite)),
            **{f"p{p}": float(np.percentile(finite, p)) for p in _PERCENTILES},
        }
    return {**numbers, "values": len(finite), "undefined": len(values) - len(finite)}
