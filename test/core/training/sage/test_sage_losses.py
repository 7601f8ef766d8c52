"""Test SAGE's losses against values worked by hand or computed by NumPy in float64."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ivf_core.models.student import StudentOutput
from ivf_core.training.losses import segmentation_loss
from ivf_core.training.sage.losses import (
    ContextWeights,
    StudentWeights,
    TeacherWeights,
    context_loss,
    contrastive_semantic_loss,
    gradient_loss,
    masked_contrast,
    mse_loss,
    sobel_magnitude,
    student_loss,
    teacher_loss,
)
from ivf_core.training.sage.sam_features import SamFeatures


def random_images(seed: int, count: int, height: int = 6, width: int = 7) -> list[Tensor]:
    random = np.random.default_rng(seed)
    return [torch.from_numpy(random.random((2, 1, height, width))) for _ in range(count)]


def sobel(batch: Tensor) -> np.ndarray:
    """Return |g_x| + |g_y| by OpenCV in float64."""
    options = {"ddepth": cv2.CV_64F, "ksize": 3, "borderType": cv2.BORDER_CONSTANT}
    planes = [
        np.abs(cv2.Sobel(plane[0], dx=1, dy=0, **options))
        + np.abs(cv2.Sobel(plane[0], dx=0, dy=1, **options))
        for plane in batch.detach().numpy()
    ]
    return np.stack(planes)[:, None]


def mean_square(a: Tensor, b: Tensor) -> float:
    return float(np.mean((a.detach().numpy() - b.detach().numpy()) ** 2))


def edges(fused: Tensor, *references: Tensor) -> float:
    target = np.max([sobel(reference) for reference in references], axis=0)
    return float(np.mean(np.abs(sobel(fused) - target)))


def test_sobel_of_a_step() -> None:
    step = torch.zeros(1, 1, 5, 6)
    step[..., 3:] = 0.5
    magnitude = sobel_magnitude(step)[0, 0]
    assert magnitude[2].tolist() == [0, 0, 2, 2, 0, 2]  # 4 x 0.5; the last against zeros
    (batch,) = random_images(0, 1)
    np.testing.assert_allclose(sobel_magnitude(batch), sobel(batch))


def test_gradient_loss() -> None:
    flat, step, higher = (torch.zeros(1, 1, 3, 3) for _ in range(3))
    step[..., 1, 1] = 1.0
    higher[..., 1, 1] = 3.0
    # |g_x| + |g_y| of a point is 2 at each of its eight neighbours and 0 at the point.
    assert gradient_loss(flat, step).item() == pytest.approx(16 / 9)
    assert gradient_loss(step, flat, higher).item() == pytest.approx(32 / 9)
    assert gradient_loss(higher, flat, higher).item() == 0
    fused, visible, infrared = random_images(1, 3)
    expected = edges(fused, visible, infrared)
    assert gradient_loss(fused, visible, infrared).item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="at least one reference"):
        gradient_loss(fused)
    with pytest.raises(ValueError, match="expected the same N x 1 x H x W"):
        gradient_loss(fused, visible[..., 1:])


def test_mse_loss() -> None:
    fused = torch.tensor([0.0, 0.5, 1.0, 1.0]).reshape(1, 1, 2, 2)
    assert mse_loss(fused, torch.ones(1, 1, 2, 2)).item() == pytest.approx((1 + 0.25) / 4)
    with pytest.raises(ValueError, match="expected the same"):
        mse_loss(fused, torch.ones(2, 1, 2, 2))


def normalised(x: np.ndarray) -> np.ndarray:
    mean, variance = (f(x, axis=(2, 3), keepdims=True) for f in (np.mean, np.var))
    return (x - mean) / np.sqrt(variance + 1e-5)


def contrast(fused: list[Tensor], reference: list[Tensor], source: list[Tensor]) -> float:
    near, far = (
        sum(
            np.linalg.norm((normalised(f.detach().numpy()) - normalised(g.numpy())).ravel())
            for f, g in zip(fused, others, strict=True)
        )
        for others in (reference, source)
    )
    return float(near / (far + 1e-7))


def test_contrastive_semantic_loss() -> None:
    random = np.random.default_rng(2)
    shapes = [(2, 3, 4, 5), (2, 6, 2, 3)]
    fused, reference, source = (
        [torch.from_numpy(random.standard_normal(shape)) for shape in shapes] for _ in range(3)
    )
    loss = contrastive_semantic_loss(fused, reference, source).item()
    assert loss == pytest.approx(contrast(fused, reference, source), rel=1e-9)
    assert contrastive_semantic_loss(fused, fused, source).item() == 0
    layers = [contrast(*([x[i]] for x in (fused, reference, source))) for i in range(2)]
    loss = contrastive_semantic_loss(fused, reference, source, per_layer=True).item()
    assert loss == pytest.approx(sum(layers), rel=1e-9)
    # Twice as far from the reference as from the source, in the same direction.
    flat = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 2, 2)
    tilt = torch.tensor([1.0, 1.0, -1.0, -1.0]).reshape(1, 1, 2, 2)
    # Normalised vectors of length 2: -flat is 4 away, tilt sqrt(8).
    loss = contrastive_semantic_loss([flat], [-flat], [tilt]).item()
    assert loss == pytest.approx(4 / 8**0.5, rel=1e-4)
    with pytest.raises(ValueError, match="zip"):
        contrastive_semantic_loss(fused, reference[:1], source)


def test_contrast_is_summed_over_masks_that_are_not_empty() -> None:
    fused, reference, source = random_images(3, 3)
    masks = torch.zeros(2, 4, 6, 7, dtype=torch.float64)
    masks[0, 1, :3] = 1
    masks[:, 3, 2:, 2:] = 1

    def encode(batch: Tensor) -> list[Tensor]:
        return [batch, batch.square() + batch.flip(-1)]

    expected = sum(
        contrast(*(encode(x * masks[:, n : n + 1]) for x in (fused, reference, source)))
        for n in (1, 3)
    )
    fused.requires_grad_()
    loss = masked_contrast(fused, reference, source, masks, encode)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert fused.grad is not None
    shown = masks.amax(dim=1, keepdim=True).bool()
    assert fused.grad[shown].abs().min() > 0
    assert not fused.grad[~shown].any()

    loss = masked_contrast(fused, reference, source, torch.zeros_like(masks), encode)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, fused)
    assert not gradient.any()
    with pytest.raises(ValueError, match=r"masks are \(2, 4, 6, 6\)"):
        masked_contrast(fused, reference, source, masks[..., 1:], encode)


class PatchEmbed(nn.Module):
    """Patch embedding like segment_anything's: N x H/16 x W/16 x C."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 5, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


class Encoder(nn.Module):
    """Small image encoder with the parts of segment_anything's that features need."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.pos_embed = nn.Parameter(torch.randn(1, 64, 64, 5))
        self.blocks = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))


@pytest.mark.parametrize("published", [False, True])
def test_sam_features(published: bool) -> None:
    torch.manual_seed(4)
    encoder = Encoder().double()
    images = torch.rand(2, 1, 40, 48, dtype=torch.float64)
    features = SamFeatures(encoder, (0, 2), published=published).double()
    first, third = features(images)
    rgb = np.repeat(images.numpy(), 3, axis=1)
    if not published:
        mean, deviation = (
            np.reshape(x, (3, 1, 1)) for x in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
        )
        rgb = (rgb * 255 - mean) / deviation
    patches = rgb[..., :32, :].reshape(2, 3, 2, 16, 3, 16)
    weights = {name: value.detach().numpy() for name, value in encoder.named_parameters()}
    x = np.einsum("nchiwj,dcij->nhwd", patches, weights["patch_embed.proj.weight"])
    x += weights["patch_embed.proj.bias"]
    if not published:
        x += weights["pos_embed"][:, :2, :3]
    outputs = []
    for n in range(3):
        x = x @ weights[f"blocks.{n}.weight"].T + weights[f"blocks.{n}.bias"]
        outputs.append(x.transpose(0, 3, 1, 2))
    # The constants are float32.
    np.testing.assert_allclose(first, outputs[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(third, outputs[2], rtol=1e-5, atol=1e-5)


def test_sam_features_are_frozen_and_checked() -> None:
    encoder = Encoder()
    features = SamFeatures(encoder)
    assert not features.train().training
    assert not any(p.requires_grad for p in encoder.parameters())
    images = torch.rand(1, 1, 16, 16, requires_grad=True)
    features(images)[1].sum().backward()  # gradients reach the images
    assert images.grad is not None
    with pytest.raises(ValueError, match=r"images are \(1, 3, 16, 16\)"):
        features(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="16 to 1024"):
        features(torch.rand(1, 1, 16, 1040))
    for layers in ((), (1, 0), (0, 3), (-1,), (0, 0)):
        with pytest.raises(ValueError, match="expected ascending ones of 0 to 2"):
            SamFeatures(encoder, layers)


def test_segmentation_loss() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).log1p().reshape(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    # e^logits are 3 and 1, 1 and 2.
    expected = (np.log(4 / 3) + np.log(3 / 2)) / 2
    assert segmentation_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)
    labels[..., 1] = 255
    assert segmentation_loss(logits, labels).item() == pytest.approx(np.log(4 / 3), rel=1e-6)
    # Enlarged to 1 x 4, align_corners=False: the logits of class 0 are these shares of log 3.
    wide = torch.tensor([[[0, 255, 255, 1]]])
    assert segmentation_loss(logits, wide).item() == pytest.approx(expected, rel=1e-6)
    middle = torch.tensor([[[255, 0, 255, 255]]])
    odds = np.exp(0.75 * np.log(3)), np.exp(0.25 * np.log(2))
    expected = np.log(sum(odds) / odds[0])
    assert segmentation_loss(logits, middle).item() == pytest.approx(expected, rel=1e-6)


def test_segmentation_loss_rejects_labels_that_are_no_class_ids() -> None:
    logits = torch.rand(1, 2, 2, 2, requires_grad=True)
    with pytest.raises(ValueError, match="int64"):  # labels that were divided by 255
        segmentation_loss(logits, torch.rand(1, 2, 2))
    with pytest.raises(ValueError, match="expected 0 to 1, or 255"):
        segmentation_loss(logits, torch.full((1, 2, 2), 2))
    with pytest.raises(ValueError, match="expected 1 x H x W"):
        segmentation_loss(logits, torch.zeros(2, 2, 2, dtype=torch.int64))
    loss = segmentation_loss(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def output(seed: int) -> StudentOutput:
    fused, *features = (x.requires_grad_() for x in random_images(seed, 6))
    return StudentOutput(fused, cast(tuple[Tensor, Tensor, Tensor, Tensor, Tensor], (*features,)))


def feature_loss(a: StudentOutput, b: StudentOutput) -> float:
    total = 0.0
    for f, g in zip(a.features, b.features, strict=True):
        x, y = (t.detach().numpy().reshape(2, -1) for t in (f, g))
        cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        total += float(np.mean(1 - cosine))
    return total


def published_context(fused: Tensor, y: Tensor, ir: Tensor, ref: Tensor) -> float:
    squares = 3 * mean_square(fused, y) + 2 * mean_square(fused, ir) + 4 * mean_square(fused, ref)
    return 3 * squares + 3 * (9 * edges(fused, y, ir) + 3 * edges(fused, ref))


def test_student_loss() -> None:
    y, ir = random_images(5, 2)
    student, teacher = output(6), output(7)
    total = student_loss(student, teacher, y, ir, torch.tensor(900.0, dtype=torch.float64))
    context = published_context(student.fused, y, ir, teacher.fused)
    features = feature_loss(student, teacher)
    assert {name: part.item() for name, part in total.parts.items()} == pytest.approx(
        {"context": context, "contrast": 900, "feature": features}
    )
    assert total.loss.item() == pytest.approx(context + 900 / 3000 + 0.3 * features)
    total.loss.backward()
    assert all(x.grad is not None for x in (student.fused, *student.features))
    assert all(x.grad is None for x in (teacher.fused, *teacher.features))

    weights = StudentWeights(feature=0.0)  # Table 3 III (a)
    without = student_loss(student, teacher, y, ir, None, weights)
    assert without.loss.item() == pytest.approx(context)


def test_teacher_loss() -> None:
    y, ir = random_images(8, 2)
    student, teacher = output(9), output(10)
    segmentation, contrast_term = (torch.tensor(x, dtype=torch.float64) for x in (2.0, 600.0))
    fusion = mean_square(teacher.fused, y) + mean_square(teacher.fused, ir)
    fusion += 2 * edges(teacher.fused, y, ir)
    assert teacher_loss(teacher, y, ir).loss.item() == pytest.approx(fusion)

    total = teacher_loss(
        teacher, y, ir, segmentation=segmentation, student=student, contrast=contrast_term
    )
    context = published_context(teacher.fused, y, ir, student.fused)
    features = feature_loss(teacher, student)
    expected = fusion + 0.3 * 2 + 0.1 * (context + 600 / 3000) + 0.01 * features
    assert total.loss.item() == pytest.approx(expected)
    assert list(total.parts) == ["fusion", "segmentation", "context", "feature", "contrast"]
    total.loss.backward()
    assert all(x.grad is not None for x in (teacher.fused, *teacher.features))
    assert all(x.grad is None for x in (student.fused, *student.features))

    weights = TeacherWeights(ContextWeights(1, 0, 0, 0, 0), segmentation=0.0)
    alone = teacher_loss(teacher, y, ir, segmentation=segmentation, weights=weights)
    assert alone.loss.item() == pytest.approx(mean_square(teacher.fused, y))
    with pytest.raises(ValueError, match="without a student"):
        teacher_loss(teacher, y, ir, contrast=contrast_term)


def test_context_loss_without_a_reference() -> None:
    fused, y, ir = random_images(11, 3)
    expected = 9 * mean_square(fused, y) + 6 * mean_square(fused, ir) + 27 * edges(fused, y, ir)
    assert context_loss(fused, y, ir, None).item() == pytest.approx(expected)
