"""Calibration of 8-bit convolutions on pairs: their input ranges, and which of them to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ivf_core.data.pairs import Pair
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.quantization import observe_ranges
from ivf_core.training.runs.sensitivity import (
    Bound,
    Deviation,
    Layer,
    choose_layers,
    deviation_meter,
    layer_sensitivity,
)

__all__ = ["Calibration", "calibrate"]

_PAIRS = 64
_CHECK_PAIRS = 16
_SENSITIVITY_PAIRS = 8


@dataclass(frozen=True)
class Calibration:
    """Calibrated model, and why its convolutions run in 8 bits or do not.

    Attributes:
        model: the model with the ranges of the convolutions that run in 8 bits.
        layers: all convolutions that could, with their deviations.
        deviation: of all that run in 8 bits together; zeros if none does.
        bound: what was accepted.
        pairs: number of pairs that gave the ranges.
    """

    model: FusionModel
    layers: list[Layer]
    deviation: Deviation
    bound: Bound
    pairs: int

    def summary(self) -> str:
        """Return the choice as lines of text."""
        kept = [layer for layer in self.layers if layer.name in self.model.ranges]
        floating = [layer for layer in self.layers if layer.name not in self.model.ranges]
        total = sum(layer.macs for layer in self.layers)
        share = sum(layer.macs for layer in kept) / total if total else 0.0
        lines = [
            f"{len(kept)} convolutions in 8 bits, {len(floating)} in floating point; "
            f"8 bits have {share:.0%} "
            f"of their multiply-accumulates (ranges from {self.pairs} pairs)"
        ]
        if kept:
            lines.append(f"in 8 bits together: {_text(self.deviation)}")
        elif floating:
            lines.append("no choice is within the bound: all stay in floating point")
        lines += [
            f"floating point: {layer.name}, alone {_text(layer.alone)}, "
            f"{layer.macs / total:.1%} of the multiply-accumulates"
            for layer in floating
        ]
        lines.append(
            f"bound on every pair: 99.9 % of the fused values within {self.bound.fused:g} levels, "
            f"{self.bound.labels:.2%} of the class ids changed"
        )
        return "\n".join(lines)


def calibrate(model: FusionModel, pairs: Sequence[Pair], bound: Bound | None = None) -> Calibration:
    """Choose the convolutions that run in 8 bits, with their ranges.

    At most 64 pairs, evenly spread, give the ranges; 16 of them tell whether the bound is
    met, and 8 of those how sensitive each convolution is.

    Args:
        model: its networks are on the CPU in evaluation mode.
        pairs: pairs to run it on.
        bound: deviation that is accepted; `Bound()` by default.

    Raises:
        ValueError: there are no pairs.
    """
    bound = bound or Bound()
    chosen = _spread(pairs, _PAIRS)
    planes = ((p.luma, p.infrared, *(() if p.chroma is None else (p.chroma,))) for p in chosen)
    ranges = observe_ranges(model.student, model.head, planes)
    model = replace(model, ranges=ranges)
    check = _spread(chosen, _CHECK_PAIRS)
    layers = layer_sensitivity(model, _spread(check, _SENSITIVITY_PAIRS))
    names, deviation = choose_layers(layers, deviation_meter(model, check), bound)
    model = replace(model, ranges={name: ranges[name] for name in names})
    return Calibration(model, layers, deviation, bound, len(chosen))


def _spread(pairs: Sequence[Pair], count: int) -> Sequence[Pair]:
    """Return at most `count` pairs, evenly spread."""
    return pairs[:: -(-len(pairs) // count) or 1]


def _text(deviation: Deviation) -> str:
    return (
        f"fused p99.9 {deviation.fused:.2f} levels (MSE {deviation.fused_mse:.4f}), "
        f"class ids changed {deviation.labels:.2%}"
    )
