"""The segmentation head: class logits from the student's five features.

The student has already looked at every pixel of both cameras, so the head
spends its budget on context: it gathers the features at 1/4, goes down to 1/16
where one 3x3 convolution spans 48 pixels, and comes back to 1/2 beside the
student's fourth feature. It may not exceed 0.8 M parameters nor 35 % of the
student's multiply-accumulates; a test counts both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.student import up_and_concat

__all__ = ["LABEL_STRIDE", "SegmentationHead"]

LABEL_STRIDE = 2
"""The logits have half the input's height and width, rounded down."""


def _conv_unit(
    in_channels: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class _ResidualUnit(nn.Module):
    """Two 3x3 convolutions and a shortcut, at one scale."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv_unit(channels, channels, dilation=dilation)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class SegmentationHead(nn.Module):
    """A small encoder-decoder on the five features of a student.

    Args:
        num_classes: number of logits.
        feature_channels: width of the student's features.
        widths: channels at 1/4, 1/8 and 1/16.
    """

    def __init__(
        self,
        num_classes: int,
        feature_channels: int = 32,
        widths: Sequence[int] = (56, 80, 96),
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.feature_channels = feature_channels
        self.widths = tuple(widths)
        quarter, eighth, sixteenth = self.widths
        self.gather = _conv_unit(5 * feature_channels, quarter, 1)
        self.encode4 = _ResidualUnit(quarter)
        self.down8 = _conv_unit(quarter, eighth, stride=2)
        self.encode8 = _ResidualUnit(eighth)
        self.down16 = _conv_unit(eighth, sixteenth, stride=2)
        self.encode16 = nn.Sequential(
            _ResidualUnit(sixteenth), _ResidualUnit(sixteenth, dilation=2)
        )
        self.scene = nn.Sequential(  # what the whole picture says: road by night, smoke, ...
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(sixteenth, sixteenth, 1), nn.Sigmoid()
        )
        self.merge8 = _conv_unit(sixteenth + eighth, eighth, 1)
        self.decode8 = _conv_unit(eighth, eighth)
        self.merge4 = _conv_unit(eighth + quarter, quarter, 1)
        self.decode4 = _conv_unit(quarter, quarter)
        self.merge2 = _conv_unit(quarter + feature_channels, feature_channels, 1)
        self.decode2 = _conv_unit(feature_channels, feature_channels)
        self.classify = nn.Conv2d(feature_channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of a batch.

        Args:
            features: the five features of a student, `StudentOutput.features`,
                of an input at least 16 pixels high and wide.

        Returns:
            N x num_classes x H/2 x W/2 float, sizes rounded down.
        """
        size4 = features[2].shape[-2:]
        x4 = self.gather(torch.cat([_pool_to(feature, size4) for feature in features], dim=1))
        x4 = self.encode4(x4)
        x8 = self.encode8(self.down8(x4))
        x16 = self.encode16(self.down16(x8))
        x16 = x16 * self.scene(x16)
        y8 = self.decode8(self.merge8(up_and_concat(x16, x8)))
        y4 = self.decode4(self.merge4(up_and_concat(y8, x4)))
        y2 = self.decode2(self.merge2(up_and_concat(y4, features[3])))
        return self.classify(y2)


def _pool_to(feature: Tensor, size: torch.Size) -> Tensor:
    """Average down to 1/4. Halving rounds odd sizes down, as the student's pooling does."""
    while feature.shape[-1] != size[-1] or feature.shape[-2] != size[-2]:
        feature = F.avg_pool2d(feature, 2)
    return feature
