"""Losses of SAGE as pure functions.

The definitions follow the paper (Wu et al., "Every SAM Drop Counts", CVPR 2025, section 3.3).
The default weights follow the published code, because the paper gives none. "Equation (n)" in
this module is equation (n) of that paper. L_seg, equation (6), is
`ivf_core.training.losses.segmentation_loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.models.student import StudentOutput
from ivf_core.training.losses import Total

__all__ = [
    "ContextWeights",
    "StudentWeights",
    "TeacherWeights",
    "context_loss",
    "contrast_quotient",
    "contrastive_semantic_loss",
    "cosine_feature_loss",
    "gradient_loss",
    "masked_contrast",
    "mse_loss",
    "sobel_magnitude",
    "student_loss",
    "teacher_loss",
]


def cosine_feature_loss(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Compute L_fea of SAGE, equation (2), the cosine distance of features.

    sum_m 1 - cos(f_m, g_m), where m counts the stages and each feature map is flattened to one
    vector for each sample.

    Args:
        features: features f of the network that learns, N x C x H x W for each stage.
        targets: features g of the other network, of the same shapes.

    Returns:
        A scalar in [0, 2 * stages], the mean over the batch.
    """
    terms = [
        (1 - F.cosine_similarity(f.flatten(1), g.flatten(1), dim=1)).mean()
        for f, g in zip(features, targets, strict=True)
    ]
    return torch.stack(terms).sum()


def sobel_magnitude(images: Tensor) -> Tensor:
    """Compute |g_x| + |g_y| with Sobel's 3x3 kernels and zero padding, as SAGE's published code.

    Args:
        images: N x 1 x H x W float.

    Returns:
        N x 1 x H x W float, 0 or more.
    """
    # Each kernel is a derivative along one axis and a smoothing filter along the other.
    smooth, slope = images.new_tensor([[1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack((torch.outer(smooth, slope), torch.outer(slope, smooth)))
    return F.conv2d(images, kernels.unsqueeze(1), padding=1).abs().sum(dim=1, keepdim=True)


def gradient_loss(fused: Tensor, *references: Tensor) -> Tensor:
    """Compute L_grad of SAGE, equation (3), the difference of edge strengths.

    mean | S(f) - max_i S(r_i) |, where S is `sobel_magnitude`. With one reference this is
    L_grad of the equation, except that its sum is a mean. With both sources as references, the
    fused image is to have the stronger edge of the two at each pixel.

    Args:
        fused: fused images f, N x 1 x H x W float.
        *references: images r_i of the same shape.

    Returns:
        A scalar, 0 or more.

    Raises:
        ValueError: there is no reference, or the shapes differ.
    """
    if not references:
        raise ValueError("gradient_loss needs at least one reference")
    _check_same_shape(fused, *references)
    target = torch.stack([sobel_magnitude(reference) for reference in references]).amax(dim=0)
    return (sobel_magnitude(fused) - target).abs().mean()


def mse_loss(fused: Tensor, reference: Tensor) -> Tensor:
    """Compute L_MSE of SAGE, equation (3), the mean of (f - r)^2.

    The equation prints the norm ||f - r||_2; the published code takes the mean of the squares.

    Args:
        fused: fused images f, N x 1 x H x W float.
        reference: images r of the same shape.

    Returns:
        A scalar, 0 or more.

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
    per_layer: bool = False,
    epsilon: float = 1e-7,
) -> Tensor:
    """Compute the contrast of one mask in L_cs of SAGE, equations (4) and (5) with x = fus.

    sum_l ||f_l - r_l|| / (sum_l ||f_l - s_l|| + epsilon), where l counts the layers of an
    encoder, each channel of each feature map is normalised to mean 0 and variance 1, and the
    norms are over the whole batch. The published code divides the sums, which stays bounded
    where the fused image and the source agree in one layer; the equations sum the quotients of
    the layers (`per_layer`).

    Args:
        fused: features f of the masked fused images, N x C x h x w for each layer.
        reference: features r of the masked images of the other network, of the same shapes.
        source: features s of the masked source images, of the same shapes.
        per_layer: sum the quotients of the layers, as the equations.
        epsilon: added to the denominator, as in the published code.

    Returns:
        A scalar, 0 or more.
    """
    near, far = [], []
    for f, r, s in zip(fused, reference, source, strict=True):
        f, r, s = (F.instance_norm(x) for x in (f, r, s))
        near.append(_distance(f, r))
        far.append(_distance(f, s))
    return contrast_quotient(torch.stack(near), torch.stack(far), epsilon, per_layer=per_layer)


def contrast_quotient(near: Tensor, far: Tensor, epsilon: float, *, per_layer: bool) -> Tensor:
    """Divide distances to the reference by those to the source; see `contrastive_semantic_loss`.

    Args:
        near: distances to the reference, layers first.
        far: distances to the source, of the same shape.
        epsilon: added to the denominators.
        per_layer: sum the quotients of the layers instead of dividing the sums.

    Returns:
        The quotients, without the dimension of the layers.
    """
    if per_layer:
        return (near / (far + epsilon)).sum(0)
    return near.sum(0) / (far.sum(0) + epsilon)


def masked_contrast(
    fused: Tensor,
    reference: Tensor,
    source: Tensor,
    masks: Tensor,
    encode: Callable[[Tensor], Sequence[Tensor]],
    *,
    per_layer: bool = False,
) -> Tensor:
    """Compute L_cs of one modality of SAGE, equation (4) for infrared or (5) for visible.

    This is `contrastive_semantic_loss` summed over the masks; a mask that is empty in the
    whole batch adds nothing. The whole L_cs is the sum of both modalities, each with its own
    source image and masks. The masks are binary, as in the paper; the published code multiplies
    by the image inside the mask instead.

    Args:
        fused: N x 1 x H x W float in [0, 1].
        reference: images of the other network, of the same shape.
        source: images of the modality, of the same shape.
        masks: masks of the modality, N x M x H x W, 0 or 1.
        encode: encoder of images N x 1 x H x W that returns features N x C x h x w for each
            layer, such as `ivf_core.training.sage.sam_features.SamFeatures`.
        per_layer: see `contrastive_semantic_loss`.

    Returns:
        A scalar, 0 or more. It is zero, with a gradient of zero, if all masks are empty.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check_same_shape(fused, reference, source)
    if masks.ndim != 4 or (len(masks), *masks.shape[2:]) != (len(fused), *fused.shape[2:]):
        raise ValueError(
            f"masks are {tuple(masks.shape)}, expected N x M x H x W with images of "
            f"{tuple(fused.shape)}"
        )
    total = fused.sum() * 0
    for mask in masks.split(1, dim=1):
        if mask.any():
            features = (encode(image * mask) for image in (fused, reference, source))
            total = total + contrastive_semantic_loss(*features, per_layer=per_layer)
    return total


@dataclass(frozen=True)
class ContextWeights:
    """Weights of the terms of `context_loss`, by default those of SAGE's published student.

    A term whose weight is zero is not computed.
    """

    visible: float = 9.0
    """Weight of the squared error against the visible luma."""
    infrared: float = 6.0
    """Weight of the squared error against the infrared image."""
    reference: float = 12.0
    """Weight of the squared error against the other network's fused image."""
    source_gradient: float = 27.0
    """Weight of the edge error against the stronger edge of both sources."""
    reference_gradient: float = 9.0
    """Weight of the edge error against the other network's fused image."""


@dataclass(frozen=True)
class StudentWeights:
    """Weights of the terms of `student_loss`, by default those of SAGE's published code.

    A term whose weight is zero is not computed. Zero for `feature`, `context` or `contrast`
    gives the variants III (a), (b) or (c) of SAGE's Table 3.
    """

    context: float = 1.0
    """Weight of L_context."""
    contrast: float = 1 / 3000
    """Weight of L_cs."""
    feature: float = 0.3
    """Weight of L_fea."""
    terms: ContextWeights = ContextWeights()
    """Weights of the terms inside L_context."""


@dataclass(frozen=True)
class TeacherWeights:
    """Weights of the terms of `teacher_loss`, by default those of SAGE's published code.

    A term whose weight is zero is not computed. Zeros give variants of SAGE's Table 3 as in
    `StudentWeights`.
    """

    fusion: ContextWeights = ContextWeights(
        visible=1.0, infrared=1.0, reference=0.0, source_gradient=2.0, reference_gradient=0.0
    )
    """Weights of the terms of the fusion loss, which needs no student."""
    segmentation: float = 0.3
    """Weight of L_seg."""
    context: float = 0.1
    """Weight of L_context against the student."""
    contrast: float = 0.1 / 3000
    """Weight of L_cs."""
    feature: float = 0.01
    """Weight of L_fea."""
    terms: ContextWeights = ContextWeights()
    """Weights of the terms inside L_context against the student."""


def context_loss(
    fused: Tensor,
    visible_luma: Tensor,
    infrared: Tensor,
    reference: Tensor | None,
    weights: ContextWeights | None = None,
) -> Tensor:
    """Compute L_context of SAGE, section 3.3, the sum of L_MSE and L_grad of equation (3).

    w1 MSE(f, Y) + w2 MSE(f, IR) + w3 MSE(f, ref) + w4 grad(f; Y, IR) + w5 grad(f; ref), with
    `mse_loss` and `gradient_loss`. As the paper says below equation (3), the terms apply
    against the other network's fused image and against the sources.

    Args:
        fused: fused images f, N x 1 x H x W float.
        visible_luma: luma Y of the visible images, N x 1 x H x W in [0, 1].
        infrared: infrared images IR, N x 1 x H x W in [0, 1].
        reference: fused images ref of the other network, of the same shape. None leaves its
            two terms out.
        weights: w1 to w5 in the order of `ContextWeights`' names visible, infrared, reference,
            source_gradient, reference_gradient; by default the published student's.

    Returns:
        A scalar, 0 or more.

    Raises:
        ValueError: the shapes differ.
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
    """Compute L_s^d of SAGE, the student's loss in the upper level of equation (1).

    L_context + L_cs / 3000 + 0.3 L_fea with the default weights.

    Args:
        student: the student's output for the sources.
        teacher: the teacher's output for the same sources.
        visible_luma: luma of the visible images, N x 1 x H x W in [0, 1].
        infrared: infrared images, N x 1 x H x W in [0, 1].
        contrast: L_cs with the student's image as fused and the teacher's as reference. None
            leaves it out.
        weights: by default those of the published code.
        detach: let no gradient pass to the teacher; an unrolled step needs False.

    Returns:
        The sum, with the parts "context", "contrast" and "feature" as far as they are computed.

    Raises:
        ValueError: all weights are zero.
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
    """Compute L_m^d of SAGE, the teacher's loss in the lower level of equation (1).

    MSE(f, Y) + MSE(f, IR) + 2 grad(f; Y, IR) + 0.3 L_seg with the default weights, and, with a
    student, + 0.1 (L_context + L_cs / 3000) + 0.01 L_fea with the roles of both networks
    swapped. Without a student this is the loss of the teacher's pre-training.

    Args:
        teacher: the teacher's output for the sources.
        visible_luma: luma of the visible images, N x 1 x H x W in [0, 1].
        infrared: infrared images, N x 1 x H x W in [0, 1].
        segmentation: L_seg of the recoloured fused images. None leaves it out.
        student: the student's output for the same sources. None is for pre-training.
        contrast: L_cs with the teacher's image as fused and the student's as reference. None
            leaves it out.
        weights: by default those of the published code.
        detach: let no gradient pass to the student; an unrolled step needs False.

    Returns:
        The sum, with the parts "fusion", "segmentation", "context", "contrast" and "feature"
        as far as they are computed.

    Raises:
        ValueError: `contrast` is given without a student.
    """
    if student is None and contrast is not None:
        raise ValueError("contrast is given without a student")
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
    """Compute the losses of one network against the other, by name and without their weights."""
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
    """Sum the parts by their weights; those of the fusion part are already inside it."""
    loss = torch.stack(
        [
            part if name == "fusion" else getattr(weights, name) * part
            for name, part in parts.items()
        ]
    ).sum()
    return Total(loss, parts)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the Euclidean distance of two tensors of one shape, a scalar."""
    return torch.linalg.vector_norm(a - b)


def _check_same_shape(*images: Tensor) -> None:
    """Raise ValueError unless all images have the same shape N x 1 x H x W."""
    shapes = [tuple(image.shape) for image in images]
    if len(shapes[0]) != 4 or shapes[0][1] != 1 or len(set(shapes)) != 1:
        raise ValueError(f"images are {shapes}, expected the same N x 1 x H x W")
