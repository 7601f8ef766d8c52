"""Losses as pure functions.

Of SAGE's, the definitions are those of the paper (Wu et al., CVPR 2025, section 3.3), and the
weights, of which it says nothing, those of the published code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.models.student import StudentOutput

__all__ = [
    "ContextWeights",
    "StudentWeights",
    "TeacherWeights",
    "Total",
    "context_loss",
    "contrastive_semantic_loss",
    "cosine_feature_loss",
    "dice_loss",
    "gradient_loss",
    "logit_distillation_loss",
    "masked_contrast",
    "mean_psnr_loss",
    "mse_loss",
    "ohem_cross_entropy",
    "relative_feature_error",
    "segmentation_loss",
    "sobel_magnitude",
    "student_loss",
    "teacher_loss",
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


def logit_distillation_loss(ours: Tensor, theirs: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(theirs / T) || softmax(ours / T)), the mean of all pixels.

    T^2 keeps the gradient's size the same for all temperatures T (Hinton et al., 2015).

    Args:
        ours: logits N x C x H x W.
        theirs: logits N x C x h x w of the network to learn from, brought to that size bilinearly.

    Returns:
        A scalar, 0 or more.
    """
    if theirs.shape[2:] != ours.shape[2:]:
        theirs = F.interpolate(theirs, size=ours.shape[2:], mode="bilinear", align_corners=False)
    ours, theirs = ((x / temperature).log_softmax(dim=1) for x in (ours, theirs))
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(dim=1).mean()


def sobel_magnitude(pictures: Tensor) -> Tensor:
    """|g_x| + |g_y| by Sobel's 3x3 kernels, as the published code; zeros beyond the border.

    Args:
        pictures: N x 1 x H x W float.

    Returns:
        The same shape, not negative.
    """
    # One smooths across the other's direction.
    smooth, slope = pictures.new_tensor([[1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack((torch.outer(smooth, slope), torch.outer(slope, smooth)))
    return F.conv2d(pictures, kernels.unsqueeze(1), padding=1).abs().sum(dim=1, keepdim=True)


def gradient_loss(fused: Tensor, *references: Tensor) -> Tensor:
    """L_grad of SAGE, equation (3): the mean of | |grad f| - max_i |grad r_i| |.

    grad is `sobel_magnitude`. With one reference this is the equation; with the two sources,
    the stronger edge of them is what the fused picture shall have.

    Args:
        fused, references: N x 1 x H x W float.

    Returns:
        A scalar, not negative.

    Raises:
        ValueError: there is no reference, or its shape is another.
    """
    if not references:
        raise ValueError("gradient_loss needs at least one reference")
    _check_same_shape(fused, *references)
    target = torch.stack([sobel_magnitude(reference) for reference in references]).amax(dim=0)
    return (sobel_magnitude(fused) - target).abs().mean()


def mse_loss(fused: Tensor, reference: Tensor) -> Tensor:
    """L_MSE of SAGE, equation (3): the mean of (f - r)^2.

    Args:
        fused, reference: N x 1 x H x W float.

    Returns:
        A scalar, not negative.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(fused, reference)
    return F.mse_loss(fused, reference)


def contrastive_semantic_loss(
    fused: Sequence[Tensor],
    reference: Sequence[Tensor],
    source: Sequence[Tensor],
    *,
    epsilon: float = 1e-7,
) -> Tensor:
    """A term of L_cs of SAGE, equations (4) and (5), with x = fus, on an encoder's features.

    sum_l ||f_l - r_l|| / (sum_l ||f_l - s_l|| + epsilon), every feature map normalised to mean
    0 and variance 1 over each of its channels, and the norm over the whole batch. The
    equations sum the quotients; the published code, like this, divides the sums, which stays
    bounded where the fused and the source picture agree in one layer.

    Args:
        fused, reference, source: layer by layer N x C x h x w, of the masked pictures.

    Returns:
        A scalar, not negative.
    """
    near = far = fused[0].new_zeros(())
    for f, r, s in zip(fused, reference, source, strict=True):
        f, r, s = (F.instance_norm(x) for x in (f, r, s))
        near = near + _distance(f, r)
        far = far + _distance(f, s)
    return near / (far + epsilon)


def masked_contrast(
    fused: Tensor,
    reference: Tensor,
    source: Tensor,
    masks: Tensor,
    encode: Callable[[Tensor], Sequence[Tensor]],
) -> Tensor:
    """L_cs of one modality, equation (4) or (5): `contrastive_semantic_loss` summed over masks.

    A mask that is empty in the whole batch has nothing to say and adds nothing. L_cs is this
    for the infrared image and its masks plus this for the visible one and its own.

    Args:
        fused, reference, source: N x 1 x H x W float in [0, 1].
        masks: N x M x H x W, 0 or 1.
        encode: pictures to the features of an encoder, layer by layer N x C x h x w;
            `ivf_core.training.sage.sam_features.SamFeatures`, for one.

    Returns:
        A scalar; zero, with a gradient of zero, where all masks are empty.

    Raises:
        ValueError: shapes that do not go together.
    """
    _check_same_shape(fused, reference, source)
    if masks.ndim != 4 or (len(masks), *masks.shape[2:]) != (len(fused), *fused.shape[2:]):
        raise ValueError(
            f"masks are {tuple(masks.shape)}, expected N x M x H x W with pictures of "
            f"{tuple(fused.shape)}"
        )
    total = fused.sum() * 0
    for mask in masks.split(1, dim=1):
        if mask.any():
            features = (encode(picture * mask) for picture in (fused, reference, source))
            total = total + contrastive_semantic_loss(*features)
    return total


def segmentation_loss(logits: Tensor, labels: Tensor, *, ignore: int = 255) -> Tensor:
    """L_seg of SAGE, equation (6): cross-entropy -log p(label), the mean of labelled pixels.

    Args:
        logits: N x C x h x w float of the teacher's fused pictures, brought to the labels' size
            bilinearly. Labels are never resized.
        labels: N x H x W int64 class ids; `ignore` is left out.

    Returns:
        A scalar; zero, with a gradient of zero, where no pixel is labelled.

    Raises:
        ValueError: labels are not whole numbers below C, or not of as many pictures.
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


@dataclass(frozen=True)
class ContextWeights:
    """Of `context_loss`; a term whose weight is zero is not computed. The defaults are those of
    the published student."""

    visible: float = 9.0
    """Squared error against the visible luma."""
    infrared: float = 6.0
    """Squared error against the infrared image."""
    reference: float = 12.0
    """Squared error against the other network's picture."""
    source_gradient: float = 27.0
    """Edges against the stronger of both sources'."""
    reference_gradient: float = 9.0
    """Edges against the other network's picture."""


@dataclass(frozen=True)
class StudentWeights:
    """Of `student_loss`; a term whose weight is zero is not computed. Table 3 III (a), (b), (c)
    are those with `feature`, `context` or `contrast` zero."""

    context: float = 1.0
    contrast: float = 1 / 3000
    feature: float = 0.3
    terms: ContextWeights = ContextWeights()
    """Of L_context itself."""


@dataclass(frozen=True)
class TeacherWeights:
    """Of `teacher_loss`. Zeros for Table 3 III as in `StudentWeights`."""

    fusion: ContextWeights = ContextWeights(
        visible=1.0, infrared=1.0, reference=0.0, source_gradient=2.0, reference_gradient=0.0
    )
    """Of what the teacher learns without a student."""
    segmentation: float = 0.3
    context: float = 0.1
    contrast: float = 0.1 / 3000
    feature: float = 0.01
    terms: ContextWeights = ContextWeights()
    """Of L_context itself, against the student."""


class Total(NamedTuple):
    """A weighted sum of losses.

    Attributes:
        loss: the sum, a scalar.
        parts: what was summed, by name, before its weight.
    """

    loss: Tensor
    parts: dict[str, Tensor]


def context_loss(
    fused: Tensor,
    visible_luma: Tensor,
    infrared: Tensor,
    reference: Tensor | None,
    weights: ContextWeights | None = None,
) -> Tensor:
    """L_context of SAGE, L_grad + L_MSE, against the sources and the other network's picture.

    w1 MSE(f, Y) + w2 MSE(f, IR) + w3 MSE(f, ref) + w4 grad(f; Y, IR) + w5 grad(f; ref).

    Args:
        fused, visible_luma, infrared: N x 1 x H x W float, the sources in [0, 1].
        reference: the same shape, or None: then its two terms are left out.
        weights: by default the published student's.

    Returns:
        A scalar, not negative.
    """
    weights = weights or ContextWeights()
    loss = fused.sum() * 0
    if weights.visible:
        loss = loss + weights.visible * mse_loss(fused, visible_luma)
    if weights.infrared:
        loss = loss + weights.infrared * mse_loss(fused, infrared)
    if weights.source_gradient:
        loss = loss + weights.source_gradient * gradient_loss(fused, visible_luma, infrared)
    if reference is not None and weights.reference:
        loss = loss + weights.reference * mse_loss(fused, reference)
    if reference is not None and weights.reference_gradient:
        loss = loss + weights.reference_gradient * gradient_loss(fused, reference)
    return loss


def student_loss(
    student: StudentOutput,
    teacher: StudentOutput,
    visible_luma: Tensor,
    infrared: Tensor,
    contrast: Tensor | None = None,
    weights: StudentWeights | None = None,
    *,
    detach: bool = True,
) -> Total:
    """L_s^d of SAGE, the upper level of equation (1): L_context + L_cs / 3000 + 0.3 L_fea.

    Args:
        student, teacher: what both made of the sources.
        visible_luma, infrared: the sources, N x 1 x H x W in [0, 1].
        contrast: L_cs, with the student's picture as fused and the teacher's as reference; None
            leaves it out.
        weights: by default the published ones.
        detach: keep gradients from the teacher; an unrolled step needs them.

    Returns:
        The sum, and the parts context, contrast and feature, those that there are.

    Raises:
        ValueError: nothing is left to learn from.
    """
    weights = weights or StudentWeights()
    parts = _distillation(student, teacher, visible_luma, infrared, contrast, weights, detach)
    if not parts:
        raise ValueError("all weights of the student's loss are zero")
    return _weighted(parts, weights)


def teacher_loss(
    teacher: StudentOutput,
    visible_luma: Tensor,
    infrared: Tensor,
    *,
    segmentation: Tensor | None = None,
    student: StudentOutput | None = None,
    contrast: Tensor | None = None,
    weights: TeacherWeights | None = None,
    detach: bool = True,
) -> Total:
    """L_m^d of SAGE, the lower level of equation (1), or without a student its pre-training.

    MSE(f, Y) + MSE(f, IR) + 2 grad(f; Y, IR) + 0.3 L_seg, and with a student
    0.1 (L_context + L_cs / 3000) + 0.01 L_fea with the roles swapped.

    Args:
        teacher: what the teacher made of the sources.
        visible_luma, infrared: the sources, N x 1 x H x W in [0, 1].
        segmentation: L_seg of the recoloured picture; None leaves it out.
        student: what the student made of them; None to pre-train.
        contrast: L_cs, with the teacher's picture as fused and the student's as reference; None
            leaves it out.
        weights: by default the published ones.
        detach: keep gradients from the student; an unrolled step needs them.

    Returns:
        The sum, and the parts fusion, segmentation, context, contrast and feature, those that
        there are.

    Raises:
        ValueError: `contrast` without a student.
    """
    if student is None and contrast is not None:
        raise ValueError("contrast is given without the student that it is about")
    weights = weights or TeacherWeights()
    fusion = context_loss(teacher.fused, visible_luma, infrared, None, weights.fusion)
    parts = {"fusion": fusion}
    if segmentation is not None:
        parts["segmentation"] = segmentation
    if student is not None:
        parts |= _distillation(teacher, student, visible_luma, infrared, contrast, weights, detach)
    return _weighted(parts, weights)


def _distillation(
    learner: StudentOutput,
    other: StudentOutput,
    visible_luma: Tensor,
    infrared: Tensor,
    contrast: Tensor | None,
    weights: StudentWeights | TeacherWeights,
    detach: bool,
) -> dict[str, Tensor]:
    fused, features = other.fused, list(other.features)
    if detach:
        fused, features = fused.detach(), [feature.detach() for feature in features]
    parts = {}
    if weights.context:
        parts["context"] = context_loss(learner.fused, visible_luma, infrared, fused, weights.terms)
    if weights.feature:
        parts["feature"] = cosine_feature_loss(learner.features, features)
    if contrast is not None:
        parts["contrast"] = contrast
    return parts


def _weighted(parts: dict[str, Tensor], weights: StudentWeights | TeacherWeights) -> Total:
    loss = torch.stack(
        # The weights of the fusion part are inside it.
        [
            part if name == "fusion" else getattr(weights, name) * part
            for name, part in parts.items()
        ]
    ).sum()
    return Total(loss, parts)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a - b)


def _check_same_shape(*pictures: Tensor) -> None:
    shapes = [tuple(picture.shape) for picture in pictures]
    if len(shapes[0]) != 4 or shapes[0][1] != 1 or len(set(shapes)) != 1:
        raise ValueError(f"pictures are {shapes}, expected the same N x 1 x H x W")
