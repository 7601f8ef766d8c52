"""Random pairs of images for tests of networks that segment pairs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = (64, 96)


def random_pair(
    seed: int = 0, count: int = 2, size: tuple[int, int] = SIZE
) -> tuple[Tensor, Tensor]:
    """Noise of both cameras, N x 3 x H x W and N x 1 x H x W in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    visible, infrared = (torch.rand(count, n, *size, generator=generator) for n in (3, 1))
    return visible, infrared


def thermal_pairs(shown: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Two smooth pairs of one visible image, and labels that their thermal images tell apart.

    Args:
        shown: False gives black thermal images; the best loss is then ln 2.

    Returns:
        Visible and infrared images, and class ids 0 and 1, 2 x H x W int64.
    """
    generator = torch.Generator().manual_seed(1)
    visible = F.interpolate(torch.rand(2, 3, 4, 6, generator=generator), SIZE, mode="bicubic")
    infrared = F.interpolate(torch.rand(2, 1, 4, 6, generator=generator), SIZE, mode="bicubic")
    visible = visible[:1].expand(2, -1, -1, -1).clamp(0, 1)
    infrared = infrared.clamp(0, 1)
    labels = (infrared[:, 0] > infrared[:1].median()).long()
    labels[1] = 1 - labels[0]
    infrared[1] = 1 - infrared[0]
    return visible, infrared if shown else torch.zeros_like(infrared), labels


def size_of(parameters: Iterable[nn.Parameter]) -> int:
    """Number of numbers in parameters."""
    return sum(parameter.numel() for parameter in parameters)
