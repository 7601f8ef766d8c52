"""Data for the smoke recipes: a few synthetic scenes, and a tiny SAM with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ivf_core.images.files import write_image
from ivf_core.scenes import random_scene
from ivf_core.system.atomic import atomic_path, write_json
from ivf_core.system.results import check_output, file_names
from ivf_core.training.masks.sam import SamArchitecture, build_sam, mark_random

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["TINY_SAM", "prepare_smoke", "save_tiny_sam"]

TINY_SAM = SamArchitecture(
    channels=16, blocks=2, heads=2, hidden=32, patch=16, grid=4, window=2, global_blocks=(1,),
    prompt_channels=64, mask_channels=16, decoder_blocks=1, decoder_hidden=64, outputs=3,
    quality_layers=2, quality_hidden=16,
)  # fmt: skip
"""Architecture for images of 64 x 64; SAM's generator of masks scales larger ones down.

With 4 mask channels a prompt that is a mask would have no effect: the norm after its first
convolution has a quarter of them, and that of a single channel is constant.
"""

_SIZE = (160, 120)
_NAMES, _LISTING = ("sam_tiny.pth", "scenes"), "smoke.json"


def prepare_smoke(output: Path, scenes: int = 12) -> None:
    """Write a tiny SAM and a plain folder of synthetic pairs with MFNet's labels.

    Args:
        output: folder for `sam_tiny.pth` and the folder `scenes`.
        scenes: number of pairs, of 160 x 120 pixels each.

    Raises:
        OutputError: the folder holds another `scenes` or `sam_tiny.pth`.
        SamError: the package `segment-anything` cannot be imported.
    """
    check_output(output, _NAMES, _LISTING)
    save_tiny_sam(output / "sam_tiny.pth")
    for number in range(scenes):
        scene = random_scene(np.random.default_rng(number), _SIZE)
        for kind in ("visible", "infrared", "labels"):
            write_image(output / "scenes" / kind / f"{number:02d}.png", getattr(scene, kind))
    made = [f"scenes/{name}" for name in file_names(output / "scenes")]
    write_json(output / _LISTING, {"outputs": [*made, "sam_tiny.pth", _LISTING]})


def save_tiny_sam(path: Path, seed: int = 4) -> Sam:
    """Write a checkpoint of a tiny SAM that finds masks at random, and return the model.

    With most seeds, all prompts give the same mask.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        sam = build_sam(TINY_SAM)
    with torch.no_grad():
        for name, parameter in sam.mask_decoder.named_parameters():
            # With the initial weights, all prompts give nearly the same mask.
            if parameter.ndim > 1 and not name.startswith("iou"):
                parameter.mul_(4)
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(1)  # type: ignore[union-attr, operator]
    state = sam.state_dict()
    mark_random(state)
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
    return sam
