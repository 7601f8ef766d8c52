"""What the smoke recipes need: a few synthetic scenes, and a SAM with few random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ivf_core.images.files import write_image
from ivf_core.scenes import random_scene
from ivf_core.system.atomic import atomic_path
from ivf_core.training.masks.sam import SamStructure, build_sam

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["TINY_SAM", "prepare_smoke", "save_tiny_sam"]

TINY_SAM = SamStructure(
    channels=16, blocks=2, heads=2, hidden=32, patch=16, grid=4, window=2, global_blocks=(1,),
    prompt_channels=16, mask_channels=4, decoder_blocks=1, decoder_hidden=32, outputs=3,
    quality_layers=2, quality_hidden=16,
)  # fmt: skip
"""For pictures of 64 x 64; SAM's own generator scales larger ones down."""

_SIZE = (160, 120)


def prepare_smoke(output: Path, scenes: int = 12) -> None:
    """Write `output`/scenes, pairs of 160 x 120 with MFNet's labels, and sam_tiny.pth.

    Raises:
        SamError: the package `segment-anything` cannot be imported.
    """
    save_tiny_sam(output / "sam_tiny.pth")
    for number in range(scenes):
        scene = random_scene(np.random.default_rng(number), _SIZE)
        for kind in ("visible", "infrared", "labels"):
            write_image(output / "scenes" / kind / f"{number:02d}.png", getattr(scene, kind))


def save_tiny_sam(path: Path, seed: int = 0) -> Sam:
    """Write a checkpoint as those of SAM, its masks as good as chance; returns the model."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        sam = build_sam(TINY_SAM)
    with torch.no_grad():
        for name, parameter in sam.mask_decoder.named_parameters():
            # As initialised, all prompts give much the same mask.
            if parameter.ndim > 1 and not name.startswith("iou"):
                parameter.mul_(4)
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(1)  # type: ignore[union-attr, operator]
    with atomic_path(path) as temporary:
        torch.save(sam.state_dict(), temporary)
    return sam
