"""Losses of FusionSAM as pure functions: of its tokenizers, and of its fused image.

Equation numbers are those of the paper at KDD 2025. Every loss is a scalar.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.training.sage.losses import gradient_loss, sobel_magnitude

__all__ = [
    "ADVERSARIAL_LOSSES",
    "RECONSTRUCTIONS",
    "discriminator_loss",
    "feature_loss",
    "fusion_loss",
    "generator_loss",
    "reconstruction_loss",
    "structural_similarity",
]

RECONSTRUCTIONS = ("squared", "absolute")
"""Words for `reconstruction`: equation (5), or the distance of the code behind FusionSAM's."""

ADVERSARIAL_LOSSES = ("logistic", "hinge")
"""Words for `adversarial_loss`: equation (8), or the loss of the code behind FusionSAM's."""

# SwinFusion's weights (Ma et al., IEEE/CAA JAS 2022) of intensity, gradient and structure.
_INTENSITY, _GRADIENT, _STRUCTURE = 20.0, 20.0, 10.0

_RADIUS, _SIGMA = 5, 1.5  # of SSIM's window in pixels
_C1, _C2 = 0.01**2, 0.03**2


def reconstruction_loss(images: Tensor, reconstructed: Tensor, kind: str = "squared") -> Tensor:
    """Compute equation (5), the mean of (I - I')^2, or of |I - I'|; of images in [-1, 1].

    Args:
        images: N x 1 x H x W float in [0, 1].
        reconstructed: of the same shape.
        kind: one of `RECONSTRUCTIONS`.
    """
    difference = 2 * (images - reconstructed)
    return (difference.square() if kind == "squared" else difference.abs()).mean()


def feature_loss(features: Sequence[Tensor], reconstructed: Sequence[Tensor]) -> Tensor:
    """Compute equation (7), squared distances of features of images and reconstructions.

    The mean of (Phi(I) - Phi(I'))^2, summed over layers. The gradient moves the reconstructions
    alone.

    Args:
        features: features of the discriminator for images, layer by layer.
        reconstructed: for their reconstructions.
    """
    terms = [F.mse_loss(b, a.detach()) for a, b in zip(features, reconstructed, strict=True)]
    return torch.stack(terms).sum()


def discriminator_loss(real: Tensor, fake: Tensor, kind: str = "logistic") -> Tensor:
    """Compute the discriminator's loss: equation (8) with its sign changed, or the hinge loss.

    logistic: mean -log D(I) + mean -log(1 - D(I')), where D is the sigmoid of a score;
    hinge: half of mean max(0, 1 - s(I)) + mean max(0, 1 + s(I')).

    Args:
        real: scores of images, any shape.
        fake: scores of reconstructions.
        kind: one of `ADVERSARIAL_LOSSES`.
    """
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, kind: str = "logistic") -> Tensor:
    """Compute the tokenizer's adversarial loss.

    logistic: mean -log D(I'), whose gradient does not vanish where that of equation (8) does
    (Goodfellow et al., 2014); hinge: minus the mean score.

    Args:
        fake: scores of reconstructions, any shape.
        kind: one of `ADVERSARIAL_LOSSES`.
    """
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def fusion_loss(visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Compute SwinFusion's loss of a fused image, f_f of FusionSAM's equation (1).

    20 mean |f - max(v, i)| + 20 L_grad + 10 (1 - w_v SSIM(v, f) - w_i SSIM(i, f)), where L_grad
    is `sage.losses.gradient_loss` with both sources and w are the shares of each source in the
    sum of their mean gradients. The paper names no loss; its FMP is based on SwinFusion.

    Args:
        visible: visible luma, N x 1 x H x W float in [0, 1], at least 11 x 11.
        infrared: infrared images of the same shape.
        fused: fused luma of the same shape.
    """
    edges = [sobel_magnitude(x).mean((1, 2, 3)) for x in (visible, infrared)]
    share = edges[0] / (edges[0] + edges[1]).clamp_min(1e-12)
    similar = [structural_similarity(x, fused) for x in (visible, infrared)]
    structure = 1 - (share * similar[0] + (1 - share) * similar[1]).mean()
    intensity = (fused - torch.maximum(visible, infrared)).abs().mean()
    gradient = gradient_loss(fused, visible, infrared)
    return _INTENSITY * intensity + _GRADIENT * gradient + _STRUCTURE * structure


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Compute the mean SSIM of each image (Wang et al., TIP 2004): N float, at most 1.

    The window is 11 x 11, a Gaussian of 1.5 pixels, where it fits.

    Args:
        a: N x 1 x H x W float in [0, 1], at least 11 x 11.
        b: of the same shape.
    """
    places = torch.arange(-_RADIUS, _RADIUS + 1, device=a.device, dtype=a.dtype)
    window = torch.exp(-(places**2) / (2 * _SIGMA**2))
    window = window / window.sum()

    def smooth(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (luminance * (2 * covariance + _C2) / (variance_a + variance_b + _C2)).mean((1, 2, 3))
