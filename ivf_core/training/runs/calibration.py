"""Calibration of 8-bit convolutions on training pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ivf_core.data.pairs import Pair
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.quantization import observe_ranges

__all__ = ["calibrate"]

_PAIRS = 64


def calibrate(model: FusionModel, pairs: Sequence[Pair]) -> FusionModel:
    """Return the model with ranges of 8-bit convolutions from at most 64 pairs, evenly spread.

    Args:
        model: its networks are in evaluation mode.
        pairs: pairs to run it on.

    Raises:
        ValueError: there are no pairs.
    """
    chosen = pairs[:: -(-len(pairs) // _PAIRS) or 1]
    ranges = observe_ranges(
        model.student, model.head, ((pair.luma, pair.infrared) for pair in chosen)
    )
    return replace(model, ranges=ranges)
