"""Choice of the convolutions that run in 8 bits, by the deviation that each of them causes.

Every convolution is rounded alone (Nagel et al., "A White Paper on Neural Network
Quantization", 2021, section 3.7: sensitivity analysis). Starting with all of them in 8 bits,
those that deviate most per multiply-accumulate return to floating point, until the networks
are within the bound. Rounding is simulated in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.data.pairs import Pair
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.graph import FusionGraph
from ivf_core.models.quantization import quantize_convolutions
from ivf_core.training.runs.batches import pair_chroma, pair_tensors

__all__ = ["Bound", "Deviation", "Layer", "choose_layers", "deviation_meter", "layer_sensitivity"]

_OUTLIERS = 0.001

_Images = tuple[Tensor, "Tensor | None"]


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
    graph = _RoundedGraph(model)
    macs = dict.fromkeys(model.ranges, 0.0)
    handles = [conv.register_forward_hook(_count(macs, name)) for name, conv in graph.exact.items()]
    expected = [graph.infer(pair) for pair in pairs]
    for handle in handles:
        handle.remove()
    return [
        Layer(name, macs[name] / len(pairs), graph.deviation([name], pairs, expected))
        for name in model.ranges
    ]


def deviation_meter(
    model: FusionModel, pairs: Sequence[Pair]
) -> Callable[[Iterable[str]], Deviation]:
    """Return a function that measures the deviation with the named convolutions in 8 bits.

    Args:
        model: networks in evaluation mode, with ranges of these convolutions.
        pairs: at least one pair to measure on.
    """
    graph = _RoundedGraph(model)
    expected = [graph.infer(pair) for pair in pairs]
    return lambda names: graph.deviation(names, pairs, expected)


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


class _RoundedGraph:
    """Graph each of whose convolutions can be rounded to 8 bits, or not.

    Args:
        model: networks in evaluation mode, with ranges.

    Attributes:
        exact: the convolutions in floating point by name.
    """

    def __init__(self, model: FusionModel) -> None:
        self._graph = FusionGraph(model)
        self.exact = {name: self._graph.get_submodule(name) for name in model.ranges}
        quantize_convolutions(self._graph, model.ranges)
        self._rounded = {name: self._graph.get_submodule(name) for name in model.ranges}

    @torch.inference_mode()
    def infer(self, pair: Pair, rounded: Collection[str] = ()) -> _Images:
        """Return the fused luma in grey levels, 1 x 1 x H x W float, and class ids or None."""
        for name in self.exact:
            source = self._rounded if name in rounded else self.exact
            self._graph.set_submodule(name, source[name])
        cpu = torch.device("cpu")
        out = self._graph.student(*pair_tensors(pair, cpu))
        labels = None
        if self._graph.head is not None:
            labels = self._graph.head.class_ids(out.features, pair_chroma(pair, cpu))
        return out.fused.clamp(0, 1) * 255, labels

    def deviation(
        self, names: Iterable[str], pairs: Sequence[Pair], expected: Sequence[_Images]
    ) -> Deviation:
        """Return the deviation with the named convolutions in 8 bits, the worst of the pairs."""
        rounded = set(names)
        found = (self.infer(pair, rounded) for pair in pairs)
        return _worst([_difference(*both) for both in zip(expected, found, strict=True)])


def _count(macs: dict[str, float], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def add(conv: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        macs[name] += output.numel() * conv.weight[0].numel()

    return add


def _difference(expected: _Images, found: _Images) -> Deviation:
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
