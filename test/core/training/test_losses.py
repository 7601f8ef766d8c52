"""Test losses against values worked by hand or computed by NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ivf_core.training.losses import (
    dice_loss,
    logit_distillation_loss,
    mean_psnr_loss,
    ohem_cross_entropy,
    relative_feature_error,
)
from ivf_core.training.sage.losses import cosine_feature_loss


def test_cosine_feature_loss() -> None:
    f = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).reshape(2, 2, 1, 1)
    g = torch.tensor([[0.0, 2.0], [3.0, 3.0]]).reshape(2, 2, 1, 1)
    # The first sample is orthogonal, the second parallel: mean (1 + 0) / 2, and
    # twice that for two stages.
    assert cosine_feature_loss([f], [g]).item() == pytest.approx(0.5)
    assert cosine_feature_loss([f, f], [g, g]).item() == pytest.approx(1.0)
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 3, 4, 5, 6))
    expected = np.mean(
        [
            1 - np.sum(x * y) / np.linalg.norm(x) / np.linalg.norm(y)
            for x, y in zip(a, b, strict=True)
        ]
    )
    loss = cosine_feature_loss([torch.from_numpy(a)], [torch.from_numpy(b)])
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_relative_feature_error() -> None:
    g = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    assert relative_feature_error([g], [g]).item() == 0
    assert relative_feature_error([2 * g], [g]).item() == pytest.approx(1.0)
    assert relative_feature_error([0 * g, g], [g, g]).item() == pytest.approx(1.0)


def test_ohem_counts_only_hard_pixels() -> None:
    # Probability of the truth: 0.9 (easy), 0.5 and 0.2 (hard), and an ignored pixel.
    probability = [0.9, 0.5, 0.2, 0.1]
    logits = torch.tensor([[math.log(p), math.log(1 - p)] for p in probability])
    logits = logits.T.reshape(1, 2, 1, 4)
    labels = torch.tensor([0, 0, 0, 255]).reshape(1, 1, 4)
    expected = (-math.log(0.5) - math.log(0.2)) / 2
    assert ohem_cross_entropy(logits, labels).item() == pytest.approx(expected)
    # No pixel is hard: the hardest share still counts.
    easiest = ohem_cross_entropy(logits, labels, keep_probability=0.1, keep_share=1 / 3)
    assert easiest.item() == pytest.approx(-math.log(0.2))


@pytest.mark.parametrize(("hard", "counted"), [((), (0.8,)), ((0.6, 0.3), (0.6, 0.3))])
def test_ohem_of_sixteen_pixels(hard: tuple[float, ...], counted: tuple[float, ...]) -> None:
    """SARTM's equation (11): those of less than 0.7, and at least the hardest sixteenth."""
    probability = [*hard, 0.8, *[0.9] * (15 - len(hard))]
    logits = torch.tensor([[math.log(p), math.log(1 - p)] for p in probability])
    logits = logits.T.reshape(1, 2, 4, 4)
    loss = ohem_cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.int64))
    assert loss.item() == pytest.approx(-np.log(counted).mean(), rel=1e-5)


def test_ohem_weighs_classes() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    loss = ohem_cross_entropy(logits, labels, class_weights=torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_ohem_without_labels_has_no_gradient() -> None:
    logits = torch.rand(1, 2, 3, 3, requires_grad=True)
    loss = ohem_cross_entropy(logits, torch.full((1, 3, 3), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_dice_loss_averages_the_classes_that_occur() -> None:
    # Two of three labelled pixels are class 0, predicted with 0.9 and 0.6, and one is class 1,
    # predicted with 0.8. Class 2 has a probability of 0 and does not occur.
    probability = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.0, 1.0, 0.0]])
    logits = probability.clamp_min(1e-30).log().T.reshape(1, 3, 2, 2)
    labels = torch.tensor([0, 0, 1, 255]).reshape(1, 2, 2)
    zero = 2 * (0.9 + 0.6) / ((0.9 + 0.6 + 0.2) + 2)
    one = 2 * 0.8 / ((0.1 + 0.4 + 0.8) + 1)
    assert dice_loss(logits, labels).item() == pytest.approx(1 - (zero + one) / 2)


def test_dice_without_labels_has_no_gradient() -> None:
    logits = torch.rand(1, 2, 3, 3, requires_grad=True)
    loss = dice_loss(logits, torch.full((1, 3, 3), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_mean_psnr() -> None:
    # Errors of 0.1 and 0.01 are 20 and 40 dB, apart from the constant of 1e-5.
    target = torch.full((2, 1, 4, 4), 0.5)
    images = target + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)
    expected = -(20 + 40) / 2
    assert mean_psnr_loss(images, target).item() == pytest.approx(expected, abs=0.3)
    assert mean_psnr_loss(target, target).item() == pytest.approx(-50)


def test_logit_distillation_loss() -> None:
    random = np.random.default_rng(0)
    logits, targets = 3 * random.standard_normal((2, 2, 4, 3, 5))

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    for temperature in (1.0, 2.5):
        p, q = softmax(targets / temperature), softmax(logits / temperature)
        expected = temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()
        loss = logit_distillation_loss(
            torch.from_numpy(logits), torch.from_numpy(targets), temperature=temperature
        )
        assert loss.item() == pytest.approx(expected)
    same = torch.from_numpy(logits).requires_grad_()
    loss = logit_distillation_loss(same, torch.from_numpy(logits) + 7)  # the softmax is the same
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, same)[0].abs().max() < 1e-12
    # One pixel of the targets is compared with four of the logits.
    fine = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    coarse = torch.tensor([math.log(3), 0.0], dtype=torch.float64).view(1, 2, 1, 1)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert logit_distillation_loss(fine, coarse).item() == pytest.approx(expected)
