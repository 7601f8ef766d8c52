"""The fusion student: SAGE's sub-network (Wu et al., CVPR 2025, section 3.4).

Only the student runs on a vehicle. It sees the luma of the visible image and
the infrared image and returns the fused luma, plus the features of its five
stages: the segmentation head reads them, and distillation compares them with
the teacher's (equation 2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FEATURE_STRIDES", "FusionStudent", "StudentOutput", "up_and_concat"]

FEATURE_STRIDES = (1, 2, 4, 2, 1)
"""Down-sampling of each of the five stage features against the input."""

_NEGATIVE_SLOPE = 0.01


class StudentOutput(NamedTuple):
    """What a student returns.

    Attributes:
        fused: fused luma, N x 1 x H x W float in [-1, 1] (Tanh); a trained
            student stays in [0, 1] but for overshoot that recolouring clamps.
        features: five tensors N x C x H/s x W/s, s as in `FEATURE_STRIDES`,
            sizes rounded down.
    """

    fused: Tensor
    features: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _conv_unit(in_channels: int, out_channels: int, kernel_size: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
    ]


def _stage(in_channels: int, channels: int) -> nn.Sequential:
    units = _conv_unit(in_channels, channels, 3)
    for _ in range(2):
        units += _conv_unit(channels, channels, 3)
    return nn.Sequential(*units)


class FusionStudent(nn.Module):
    """Five stages of three 3x3 convolutions at scales 1, 1/2, 1/4, 1/2, 1.

    135,617 parameters and about 65,060 multiply-accumulates a pixel at the
    published width of 32.

    Args:
        channels: width of every stage.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.stages = nn.ModuleList(
            _stage(2 if index == 0 else channels, channels) for index in range(5)
        )
        # One 1x1 unit for each way up: (upsampled, skip) -> channels.
        self.merges = nn.ModuleList(
            nn.Sequential(*_conv_unit(2 * channels, channels, 1)) for _ in range(2)
        )
        self.decoder = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, visible_luma: Tensor, infrared: Tensor) -> StudentOutput:
        """Fuse a batch.

        Args:
            visible_luma: N x 1 x H x W float in [0, 1], H and W at least 4.
            infrared: the same shape and range.

        Returns:
            The fused luma and the five stage features.
        """
        full = self.stages[0](torch.cat((visible_luma, infrared), dim=1))
        half = self.stages[1](F.max_pool2d(full, 2))
        quarter = self.stages[2](F.max_pool2d(half, 2))
        half_up = self.stages[3](self.merges[0](up_and_concat(quarter, half)))
        full_up = self.stages[4](self.merges[1](up_and_concat(half_up, full)))
        fused = torch.tanh(self.decoder(full_up))
        return StudentOutput(fused, (full, half, quarter, half_up, full_up))


def up_and_concat(low: Tensor, skip: Tensor) -> Tensor:
    """Bring `low` to the size of `skip` and concatenate: low first, skip second."""
    low = F.interpolate(low, size=skip.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat((low, skip), dim=1)
