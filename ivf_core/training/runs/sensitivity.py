"""Choice of the convolutions that run in 8 bits, by the deviation that each of them causes.

Every convolution is rounded alone (Nagel et al., "A White Paper on Neural Network
Quantization", 2021, section 3.7: sensitivity analysis). Starting with all of them in 8 bits,
those that deviate most per multiply-accumulate return to floating point, until the networks
are within the bound. Rounding is simulated in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.data.pairs import Pair
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.graph import FusionGraph
from ivf_core.training.runs.batches import pair_chroma, pair_tensors

__all__ = ["Bound", "Deviation", "Layer", "choose_layers", "deviation_meter", "layer_sensitivity"]

_OUTLIERS = 0.001


@dataclass(frozen=True)
class Bound:
    """Largest deviation from floating point that is accepted on every measured pair.

    Engines accept 2 grey levels of the rounded image (`ivf_core.inference.engine`); the
    difference is a margin for other images. It does not cover the other layers in bf16, which
    alone can deviate by 2 levels.

    Attributes:
        fused: 99.9th percentile of the fused luma, in grey levels.
        labels: share of class ids that may change, 0..1.

    Raises:
        ValueError: a negative bound, or one that is not a number.
    """

    fused: float = 1.5
    labels: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (("fused", self.fused), ("labels", self.labels)):
            if not value >= 0:
                raise ValueError(f"bound of the deviation, {name}: {value}, expected at least 0")


class Deviation(NamedTuple):
    """Deviation from the networks in floating point.

    Attributes:
        fused: 99.9th percentile of the absolute difference of the fused luma, clamped to
            [0, 255] but not rounded, in grey levels; of several pairs the largest.
        fused_mse: mean squared difference, in grey levels squared; of several pairs the mean.
        labels: share of class ids that change, 0..1; of several pairs the largest.
    """

    fused: float
    fused_mse: float
    labels: float


class Layer(NamedTuple):
    """Convolution that can run in 8 bits.

    Attributes:
        name: name in the ranges.
        macs: multiply-accumulates on a pair, mean of the measured pairs.
        alone: deviation with this convolution in 8 bits and all others in floating point.
    """

    name: str
    macs: float
    alone: Deviation


def layer_sensitivity(model: FusionModel, pairs: Sequence[Pair]) -> list[Layer]:
    """Measure the deviation that each convolution in `model.ranges` causes alone.

    Args:
        model: networks in evaluation mode, with ranges.
        pairs: at least one pair to measure on.

    Returns:
        The convolutions in the order of the ranges.
    """
    graphs = {name: _rounded(model, [name]) for name in model.ranges}
    exact = FusionGraph(model)
    macs = dict.fromkeys(model.ranges, 0.0)
    handles = [
        module.register_forward_hook(_count(macs, name))
        for name, module in exact.named_modules()
        if name in macs
    ]
    found: dict[str, list[Deviation]] = {name: [] for name in graphs}
    for pair in pairs:
        expected = _infer(exact, pair)
        for name, graph in graphs.items():
            found[name].append(_difference(expected, _infer(graph, pair)))
    for handle in handles:
        handle.remove()
    return [Layer(name, macs[name] / len(pairs), _worst(found[name])) for name in graphs]


def deviation_meter(
    model: FusionModel, pairs: Sequence[Pair]
) -> Callable[[Iterable[str]], Deviation]:
    """Return a function that measures the deviation with the named convolutions in 8 bits.

    Args:
        model: networks in evaluation mode, with ranges of these convolutions.
        pairs: at least one pair to measure on.
    """
    exact = FusionGraph(model)
    expected = [_infer(exact, pair) for pair in pairs]

    def measure(names: Iterable[str]) -> Deviation:
        rounded = _rounded(model, names)
        found = (_infer(rounded, pair) for pair in pairs)
        return _worst([_difference(*both) for both in zip(expected, found, strict=True)])

    return measure


def choose_layers(
    layers: Sequence[Layer], measure: Callable[[Iterable[str]], Deviation], bound: Bound
) -> tuple[list[str], Deviation]:
    """Return convolutions to floating point until the rest is within the bound.

    While the fused image deviates too much, the convolution with the largest mean squared
    difference per multiply-accumulate returns; then, while class ids do, the one that
    changes the largest share of them. Of equal ones the first in `layers` returns.

    Args:
        layers: all convolutions that can run in 8 bits.
        measure: gives the deviation with these convolutions in 8 bits.
        bound: what is accepted.

    Returns:
        The names that stay in 8 bits, in the order of `layers`, and their deviation. They
        may be none: then nothing deviates.
    """
    chosen = list(layers)
    while chosen:
        found = measure([layer.name for layer in chosen])
        if found.fused > bound.fused:
            cost = [layer.alone.fused_mse / layer.macs for layer in chosen]
        elif found.labels > bound.labels:
            cost = [layer.alone.labels / layer.macs for layer in chosen]
        else:
            return [layer.name for layer in chosen], found
        del chosen[int(np.argmax(cost))]
    return [], Deviation(0.0, 0.0, 0.0)


def _rounded(model: FusionModel, names: Iterable[str]) -> FusionGraph:
    ranges = {name: model.ranges[name] for name in names}
    return FusionGraph(replace(model, ranges=ranges), int8=bool(ranges))


def _count(macs: dict[str, float], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def add(conv: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        macs[name] += output.numel() * conv.weight[0].numel()

    return add


@torch.inference_mode()
def _infer(graph: FusionGraph, pair: Pair) -> tuple[Tensor, Tensor | None]:
    """Return the fused luma in grey levels, 1 x 1 x H x W float, and class ids or None."""
    cpu = torch.device("cpu")
    out = graph.student(*pair_tensors(pair, cpu))
    labels = None
    if graph.head is not None:
        labels = graph.head.class_ids(out.features, pair_chroma(pair, cpu))
    return out.fused.clamp(0, 1) * 255, labels


def _difference(
    expected: tuple[Tensor, Tensor | None], found: tuple[Tensor, Tensor | None]
) -> Deviation:
    difference = (expected[0] - found[0]).abs().flatten()
    outliers = max(1, round(_OUTLIERS * difference.numel()))
    labels = 0.0
    if expected[1] is not None and found[1] is not None:
        labels = (expected[1] != found[1]).float().mean().item()
    return Deviation(
        difference.topk(outliers).values[-1].item(), difference.square().mean().item(), labels
    )


def _worst(found: Sequence[Deviation]) -> Deviation:
    return Deviation(
        max(one.fused for one in found),
        sum(one.fused_mse for one in found) / len(found),
        max(one.labels for one in found),
    )
