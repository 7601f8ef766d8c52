"""Losses of FusionSAM, worked by hand and against the metrics' own SSIM."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ivf_core.metrics.structure import ssim
from ivf_core.training.fusionsam.losses import (
    discriminator_loss,
    feature_loss,
    fusion_loss,
    generator_loss,
    reconstruction_loss,
    structural_similarity,
)


def test_reconstruction_is_of_images_from_minus_one_to_one() -> None:
    images, others = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.5, 1.0]]]])
    assert reconstruction_loss(images, others).item() == pytest.approx(0.5)  # (1 + 0) / 2
    half = reconstruction_loss(images, torch.tensor([[[[0.25, 1.0]]]]), "absolute")
    assert half.item() == pytest.approx(0.25)  # (0.5 + 0) / 2


def test_adversarial_losses_by_hand() -> None:
    """Probabilities of 3/4 for an image and 1/4 for a reconstruction; hinge scores of 2 and 0.5."""
    real, fake = torch.tensor([math.log(3)]), torch.tensor([-math.log(3)])
    assert discriminator_loss(real, fake).item() == pytest.approx(-2 * math.log(0.75))
    assert generator_loss(fake).item() == pytest.approx(-math.log(0.25))
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([0.5])
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx((0.5 + 1.5) / 2)
    assert generator_loss(fake, "hinge").item() == pytest.approx(-0.5)


def test_features_move_reconstructions_alone() -> None:
    real = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([4.0])]
    fake = [torch.tensor([0.0, 2.0], requires_grad=True), torch.tensor([1.0])]
    loss = feature_loss(real, fake)
    assert loss.item() == pytest.approx(0.5 + 9)
    loss.backward()
    assert real[0].grad is None
    assert fake[0].grad.tolist() == [-1.0, 0.0]  # type: ignore[union-attr]


def test_structural_similarity_is_that_of_the_metrics() -> None:
    random = np.random.default_rng(0)
    a, b = random.uniform(0, 255, (2, 24, 31))
    ours = structural_similarity(*(torch.from_numpy(x)[None, None] / 255 for x in (a, b)))
    assert ours.item() == pytest.approx(ssim(a, a, b), rel=1e-9)


def test_fusion_loss_of_two_flat_images() -> None:
    """The brighter one is right in intensity; without gradients both structures count 0 and 1."""
    visible, infrared = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
    loss = fusion_loss(visible.double(), infrared.double(), infrared.double())
    # Sobel's zero padding gives borders an edge of 0.2 and of 0.6: shares of 1/4 and 3/4.
    c1 = 0.01**2
    luminance = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert loss.item() == pytest.approx(10 * (1 - luminance / 4 - 3 / 4), rel=1e-6)


def test_fusion_loss_is_least_where_each_source_is_shown() -> None:
    """Two textures side by side: the image of both is better than either or their mean."""
    torch.manual_seed(0)
    texture = F.interpolate(torch.rand(1, 1, 8, 16), (32, 64), mode="bilinear")
    left = torch.zeros(1, 1, 32, 64)
    left[..., :32] = 1
    visible, infrared = texture * left, texture * (1 - left)
    best = fusion_loss(visible, infrared, texture)
    for other in (visible, infrared, (visible + infrared) / 2):
        assert best < fusion_loss(visible, infrared, other)
