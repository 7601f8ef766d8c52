"""A SAM of the package's own classes with few channels and random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ivf_core.training.sam import SamStructure, build_sam

TINY = SamStructure(
    channels=16, blocks=2, heads=2, hidden=32, patch=16, grid=4, window=2, global_blocks=(1,),
    prompt_channels=16, mask_channels=4, decoder_blocks=1, decoder_hidden=32, outputs=3,
    quality_layers=2, quality_hidden=16,
)  # fmt: skip


def save_tiny_sam(path: Path, seed: int = 0) -> Any:
    """Write a checkpoint; returns the model."""
    torch.manual_seed(seed)
    sam = build_sam(TINY)
    with torch.no_grad():
        for name, parameter in sam.mask_decoder.named_parameters():
            # As initialised, all prompts give much the same mask.
            if parameter.ndim > 1 and not name.startswith("iou"):
                parameter.mul_(4)
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(1)
    torch.save(sam.state_dict(), path)
    return sam


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Two colours with noise, size[0] x size[1] x 3 uint8."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 60, (*size, 3))
    image[8:30, 10:40] += 150
    return image.astype(np.uint8)
