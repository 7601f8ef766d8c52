"""Losses as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cosine_feature_loss", "ohem_cross_entropy", "relative_feature_error"]


def cosine_feature_loss(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """L_fea of SAGE, equation (2): sum over stages of 1 - cos(f, g) of the flattened features.

    Args:
        ours, theirs: features N x C x H x W, stage by stage the same shapes.

    Returns:
        A scalar in [0, 2 * stages], the mean over the batch.
    """
    terms = [
        (1 - F.cosine_similarity(f.flatten(1), g.flatten(1), dim=1)).mean()
        for f, g in zip(ours, theirs, strict=True)
    ]
    return torch.stack(terms).sum()


def relative_feature_error(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Sum over stages of ||f - g||^2 / ||g||^2 over the whole batch.

    Unlike the cosine it pins down the scale as well, so that a head trained on
    one network's features reads the other's.
    """
    terms = [
        F.mse_loss(f, g) / g.square().mean().clamp_min(1e-12)
        for f, g in zip(ours, theirs, strict=True)
    ]
    return torch.stack(terms).sum()


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore: int = 255,
    keep_probability: float = 0.7,
    keep_share: float = 1 / 16,
) -> Tensor:
    """Cross-entropy on the hard pixels (online hard example mining).

    A pixel is hard when the network gives its true class less than
    `keep_probability`; at least the hardest `keep_share` of the labelled
    pixels count.

    Args:
        logits: N x C x H x W float.
        labels: N x H x W int64; `ignore` is left out.
        class_weights: C weights of the classes, or None.

    Returns:
        A scalar; zero, with a gradient of zero, where no pixel is labelled.
    """
    losses = F.cross_entropy(
        logits, labels, weight=class_weights, ignore_index=ignore, reduction="none"
    )
    labelled = labels != ignore
    if not labelled.any():
        return logits.sum() * 0
    with torch.no_grad():
        truth = labels.clamp_max(logits.shape[1] - 1).unsqueeze(1)
        probability = logits.softmax(dim=1).gather(1, truth).squeeze(1)[labelled]
        fewest = max(1, int(keep_share * probability.numel()))
        limit = max(keep_probability, probability.kthvalue(fewest).values.item())
    return losses[labelled][probability <= limit].mean()
