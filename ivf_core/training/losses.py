"""Losses as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "cosine_feature_loss",
    "dice_loss",
    "mean_psnr_loss",
    "ohem_cross_entropy",
    "relative_feature_error",
]


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


def mean_psnr_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """Minus the PSNR in dB, the mean of the batch: 10 log10 of each picture's squared error.

    A picture that is nearly right counts as much as one that is far off, as it does
    in the mean PSNR that is reported. Errors below 1e-5 (50 dB) no longer count for more.

    Args:
        ours, theirs: N x 1 x H x W in [0, 1].
    """
    errors = (ours - theirs).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(errors + 1e-5).mean()


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


def dice_loss(logits: Tensor, labels: Tensor, *, ignore: int = 255) -> Tensor:
    """One minus the soft Dice coefficient, the mean of the classes in the batch.

    For a class with probabilities p and truth t, 1 - 2 sum(p t) / (sum(p) + sum(t)),
    over all labelled pixels of the batch together (Milletari et al., V-Net, 2016, with
    plain sums below the line). A class of few pixels counts as much as one of many, and
    too much of it costs as much as too little.

    Args:
        logits: N x C x H x W float.
        labels: N x H x W int64; `ignore` is left out.

    Returns:
        A scalar in [0, 1]; zero, with a gradient of zero, where no pixel is labelled.
    """
    labelled = labels != ignore
    if not labelled.any():
        return logits.sum() * 0
    num_classes = logits.shape[1]
    probability = logits.softmax(dim=1) * labelled.unsqueeze(1)
    truth = F.one_hot(labels.where(labelled, num_classes), num_classes + 1)[..., :num_classes]
    truth = truth.movedim(-1, 1).to(probability.dtype)
    overlap, predicted, actual = (
        x.sum(dim=(0, 2, 3)) for x in (probability * truth, probability, truth)
    )
    return (1 - 2 * overlap / (predicted + actual))[actual > 0].mean()
