"""Reports on networks in training: rows of images, and scores on held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.metrics.fusion import fusion_metrics
from ivf_core.models.color import recolor
from ivf_core.training.sage.samples import Batch, MaskedPairs

__all__ = ["fuse_with_teacher", "image_row", "score_fusion", "score_held_out"]

_METRICS = ("EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf")


def image_row(batch: Batch, fused: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return images of the first crop of a batch: sources, fused images and masks, by name.

    Args:
        batch: crops with sources and masks.
        fused: fused luma by network, N x 1 x H x W float in [0, 1].

    Returns:
        "visible" and the fused images as H x W x 3 uint8 RGB, "infrared" as H x W uint8, and
        "masks" of both modalities as M x H x W bool.
    """
    cr, cb = batch.chroma[:1].split(1, dim=1)

    def colored(luma: Tensor) -> np.ndarray:
        """Return the first image with the chroma of the visible one, H x W x 3 uint8 RGB."""
        rgb = recolor(luma[:1].detach().float(), cr, cb)
        return rgb[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()

    masks = torch.cat((batch.visible_masks[0], batch.infrared_masks[0]))
    return {
        "visible": colored(batch.luma),
        "infrared": (batch.infrared[0, 0] * 255).round().to(torch.uint8).cpu().numpy(),
        **{name: colored(luma) for name, luma in fused.items()},
        "masks": masks.bool().cpu().numpy(),
    }


@torch.inference_mode()
def score_fusion(
    fuse: Callable[[Batch], Tensor], pairs: MaskedPairs, count: int, device: torch.device
) -> dict[str, float]:
    """Compute the mean of fusion metrics over whole pairs at even distances in `pairs`.

    Args:
        fuse: returns the fused luma of a whole pair, 1 x 1 x H x W.
        pairs: pairs to choose from.
        count: largest number of pairs.
        device: device on which `fuse` gets its batch.

    Returns:
        Means by name, with the names of `ivf_core.metrics.fusion`. VIF is the mean of both
        sources.
    """
    chosen = range(0, len(pairs), -(-len(pairs) // count))
    sums = dict.fromkeys(_METRICS, 0.0)
    for index in chosen:
        batch = pairs.read(index).to(device)
        visible, infrared, fused = (
            (255 * x[0, 0].float().clamp(0, 1)).cpu().numpy()
            for x in (batch.luma, batch.infrared, fuse(batch))
        )
        for name, value in fusion_metrics(visible, infrared, fused, _METRICS).items():
            sums[name] += value / len(chosen)
    return sums


def score_held_out(
    networks: Mapping[str, Callable[[Batch], Tensor]],
    pairs: MaskedPairs,
    count: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Score networks on held-out pairs, evenly chosen; see `score_fusion`.

    Returns:
        Metrics by name, by the title of their table; nothing without pairs.
    """
    if not (pairs and count):
        return {}
    return {
        f"{name}, at most {count} held-out pairs": score_fusion(fuse, pairs, count, device)
        for name, fuse in networks.items()
    }


def fuse_with_teacher(teacher: nn.Module) -> Callable[[Batch], Tensor]:
    """Return a function that fuses a batch with a teacher, for `score_fusion`."""
    return lambda batch: (
        teacher(batch.luma, batch.infrared, batch.visible_masks, batch.infrared_masks).fused
    )
