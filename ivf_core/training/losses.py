"""Training losses as pure functions, for any network; SAGE's are in `sage.losses`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Total",
    "at_least_float32",
    "dice_loss",
    "logit_distillation_loss",
    "mean_psnr_loss",
    "ohem_cross_entropy",
    "relative_feature_error",
    "segmentation_loss",
    "soft_label_loss",
]

_LEAST_SHARE = 1e-7  # what a cache of log-probabilities cannot tell from zero


def at_least_float32(x: Tensor) -> Tensor:
    """Convert 16-bit floats, which autocast gives, to float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def relative_feature_error(
    ours: Sequence[Tensor],
    theirs: Sequence[Tensor],
    *,
    mean: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """Sum over stages of ||f - g||^2 / ||g||^2 over the whole batch.

    Unlike the cosine it pins down the scale as well, so that a head trained on
    one network's features reads the other's.

    Args:
        ours: features f, stage by stage.
        theirs: features g, of the same shapes.
        mean: of ||g||^2; over all processes where each has a share of the batch.
    """
    terms = [
        F.mse_loss(f, g) / mean(g.square()).clamp_min(1e-12)
        for f, g in zip(ours, theirs, strict=True)
    ]
    return torch.stack(terms).sum()


def mean_psnr_loss(images: Tensor, targets: Tensor) -> Tensor:
    """Compute the negative mean PSNR in dB, mean_n 10 log10(MSE_n + 1e-5).

    The logarithm is taken for each image, so that an image that is nearly right counts as much
    as one with a large error, as in the mean PSNR that is reported. The constant limits the
    PSNR to 50 dB.

    Args:
        images: N x 1 x H x W float in [0, 1].
        targets: N x 1 x H x W float in [0, 1].

    Returns:
        A scalar, -50 or more.
    """
    errors = (images - targets).square().mean(dim=(1, 2, 3))
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
    """Compute the cross-entropy of the hard pixels (online hard example mining).

    A pixel is hard when the network gives its true class a probability of at most
    `keep_probability`. At least the hardest `keep_share` of the labelled pixels count. With
    the defaults this is equation (11) of SARTM (2025) with the threshold of its published
    code; the method is by Shrivastava et al. (CVPR 2016).

    Args:
        logits: N x C x H x W float.
        labels: N x H x W int64 class ids.
        class_weights: C factors for the losses of the classes, or None for ones. The sum is
            divided by the number of pixels, not by their weights.
        ignore: id of pixels without a label.
        keep_probability: threshold in [0, 1] on the probability of the true class.
        keep_share: share in (0, 1] of the labelled pixels that count at least.

    Returns:
        A scalar, 0 or more, the mean of the hard pixels. It is zero, with a gradient of zero,
        if no pixel is labelled.
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
    """Compute the soft Dice loss, averaged over the classes that occur in the batch.

    1 - 2 sum(p t) / (sum(p) + sum(t)) for a class with probabilities p and truth t, where the
    sums are over all labelled pixels of the batch (Milletari et al., V-Net, 3DV 2016, but with
    plain sums instead of sums of squares in the denominator). A class of few pixels counts as
    much as one of many, and predicting too much of a class costs as much as too little.

    Args:
        logits: N x C x H x W float.
        labels: N x H x W int64 class ids.
        ignore: id of pixels without a label.

    Returns:
        A scalar in [0, 1]. It is zero, with a gradient of zero, if no pixel is labelled.
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


def logit_distillation_loss(logits: Tensor, targets: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute the distillation loss of logits (Hinton et al., 2015).

    T^2 KL(softmax(targets / T) || softmax(logits / T)), the mean of all pixels. The factor T^2
    keeps the size of the gradient the same for all temperatures T.

    Args:
        logits: N x C x H x W float, of the network that learns.
        targets: N x C x h x w float, logits of the teacher. They are resized bilinearly to
            H x W.
        temperature: T, above 0.

    Returns:
        A scalar, 0 or more.
    """
    if targets.shape[2:] != logits.shape[2:]:
        targets = F.interpolate(
            targets, size=logits.shape[2:], mode="bilinear", align_corners=False
        )
    log_q, log_p = ((x / temperature).log_softmax(dim=1) for x in (logits, targets))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def soft_label_loss(logits: Tensor, shares: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute the distillation loss against probabilities that may be missing.

    T^2 KL(softmax(log(p) / T) || softmax(logits / T)) as in `logit_distillation_loss`, the mean
    of all pixels weighted by the sum of their shares.

    Args:
        logits: N x C x H x W float, of the network that learns.
        shares: N x C x h x w float in [0, 1], a teacher's probabilities p of a pixel times the
            weight of the pixel: 0 where it says nothing. They are resized bilinearly to H x W.
        temperature: T, above 0.

    Returns:
        A scalar, 0 or more. It is zero, with a gradient of zero, if all shares are.
    """
    if shares.shape[2:] != logits.shape[2:]:
        shares = F.interpolate(shares, size=logits.shape[2:], mode="bilinear", align_corners=False)
    weights = shares.sum(dim=1)
    log_p = (shares.clamp_min(_LEAST_SHARE).log() / temperature).log_softmax(dim=1)
    log_q = (logits / temperature).log_softmax(dim=1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    total = weights.sum().clamp_min(_LEAST_SHARE)
    return temperature**2 * (weights * divergence).sum() / total


def segmentation_loss(logits: Tensor, labels: Tensor, *, ignore: int = 255) -> Tensor:
    """Compute L_seg of SAGE, equation (6), the cross-entropy of labelled pixels.

    mean -log p(label), where p is the softmax of the logits.

    Args:
        logits: N x C x h x w float, a segmenter's logits of the teacher's fused images. They
            are resized bilinearly to H x W; labels are never resized.
        labels: N x H x W int64 class ids.
        ignore: id of pixels without a label.

    Returns:
        A scalar, 0 or more. It is zero, with a gradient of zero, if no pixel is labelled.

    Raises:
        ValueError: labels are not int64 ids below C, or their number is not N.
    """
    classes = logits.shape[1]
    if labels.dtype != torch.int64 or labels.ndim != 3 or len(labels) != len(logits):
        raise ValueError(
            f"labels are {tuple(labels.shape)} {labels.dtype}, expected {len(logits)} x H x W int64"
        )
    labelled = labels != ignore
    if not labelled.any():
        return logits.sum() * 0
    known = labels[labelled]
    if known.min() < 0 or known.max() >= classes:
        raise ValueError(
            f"labels are {known.min().item()} to {known.max().item()}, "
            f"expected 0 to {classes - 1}, or {ignore} for none"
        )
    if logits.shape[2:] != labels.shape[1:]:
        logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels, ignore_index=ignore)


class Total(NamedTuple):
    """Weighted sum of losses.

    Attributes:
        loss: the sum, a scalar.
        parts: the losses by name, before they are multiplied by their weights.
    """

    loss: Tensor
    parts: dict[str, Tensor]
