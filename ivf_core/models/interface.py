"""Names and sizes of the fusion graph's inputs and outputs, for engines that only run it."""

from __future__ import annotations

__all__ = ["INPUT_NAMES", "LABEL_STRIDE", "MINIMUM_SIZE", "OUTPUT_NAMES"]

INPUT_NAMES = ("visible", "infrared")
"""Inputs: N x H x W x 3 uint8 RGB, and N x H x W uint8."""

OUTPUT_NAMES = ("fused", "labels")
"""Outputs: N x H x W x 3 uint8 RGB, and N x H/2 x W/2 uint8 class ids."""

LABEL_STRIDE = 2
"""Stride of the class ids: half the input's height and width, rounded like the features."""

MINIMUM_SIZE = 16
"""Smallest height and width, since the head works down to 1/16."""
