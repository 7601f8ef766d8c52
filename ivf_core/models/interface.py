"""Names and sizes of the fusion graph's inputs and outputs, for engines that only run it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["INPUT_NAMES", "LABEL_STRIDE", "MINIMUM_SIZE", "OUTPUT_NAMES", "OutputChoice"]

INPUT_NAMES = ("visible", "infrared")
"""Inputs: N x H x W x 3 uint8 RGB, and N x H x W uint8."""

OUTPUT_NAMES = ("fused", "labels", "confidence")
"""Outputs: N x H x W x 3 uint8 RGB; N x H/2 x W/2 uint8 class ids, and the confidence in these."""

LABEL_STRIDE = 2
"""Stride of the class ids: half the input's height and width, rounded like the features."""

MINIMUM_SIZE = 16
"""Smallest height and width, since the head works down to 1/16."""


class OutputChoice(NamedTuple):
    """Choice of the outputs to compute.

    Attributes:
        fused: whether the fused image is computed.
        labels: whether the class ids are computed.
        confidence: whether the confidence in the class ids is computed: the largest
            probability of a class (softmax of the logits) times 255, rounded.
    """

    fused: bool = True
    labels: bool = True
    confidence: bool = False

    def names(self) -> list[str]:
        """Return the names of the chosen outputs, in the order of `OUTPUT_NAMES`."""
        return [name for name, wanted in zip(OUTPUT_NAMES, self, strict=True) if wanted]

    def without_head(self) -> OutputChoice:
        """Return the choice for a model without a head, which has the fused image only."""
        return OutputChoice(self.fused, labels=False, confidence=False)
