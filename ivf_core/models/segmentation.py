"""The segmentation head: class logits from the student's five features.

The student has already looked at every pixel of both cameras, so the head
spends its budget on context: it gathers the features at 1/4, goes down to 1/16
where one 3x3 convolution spans 48 pixels, and comes back. From 1/4 to 1/2 it
goes beside the student's fourth feature where that is at 1/2, and otherwise by
sub-pixel logits: four for each class and place. On the student `sage` it may not
exceed 0.8 M parameters nor 35 % of the multiply-accumulates; a test counts both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.student import FeatureLayout, FusionStudent, MergeUp

__all__ = ["LABEL_STRIDE", "SegmentationHead"]

LABEL_STRIDE = 2
"""The logits have half the input's height and width, rounded as the student's features are."""


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


def _merge_unit(in_channels: int, out_channels: int) -> MergeUp:
    return MergeUp(in_channels, out_channels, nn.ReLU(inplace=True), bias=False)


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
        feature_channels: of the student's five features.
        widths: channels at 1/4, 1/8 and 1/16.
        layout: where the student's features lie.
    """

    def __init__(
        self,
        num_classes: int,
        feature_channels: Sequence[int] = (32, 32, 32, 32, 32),
        widths: Sequence[int] = (56, 80, 96),
        layout: FeatureLayout = FusionStudent.layout,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.feature_channels = tuple(feature_channels)
        self.widths = tuple(widths)
        quarter, eighth, sixteenth = self.widths
        self.layout = layout
        # What is coarser than 1/4 is part of the features that follow it.
        gathered = sum(
            channels
            for channels, stride in zip(feature_channels, layout.strides, strict=True)
            if stride <= 4
        )
        self.gather = _conv_unit(gathered, quarter, 1)
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
        self.merge8 = _merge_unit(sixteenth + eighth, eighth)
        self.decode8 = _conv_unit(eighth, eighth)
        self.merge4 = _merge_unit(eighth + quarter, quarter)
        self.decode4 = _conv_unit(quarter, quarter)
        self.subpixel = layout.strides[3] > LABEL_STRIDE
        if self.subpixel:
            self.classify = nn.Conv2d(quarter, 4 * num_classes, 1)
        else:
            half = feature_channels[3]
            self.merge2 = _merge_unit(quarter + half, half)
            self.decode2 = _conv_unit(half, half)
            self.classify = nn.Conv2d(half, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of a batch.

        Args:
            features: the five features of a student, `StudentOutput.features`,
                of an input at least 16 pixels high and wide.

        Returns:
            N x num_classes x H/2 x W/2 float, sizes rounded as the features' are.
        """
        return self._to_places(self._logits(features), features)

    def class_ids(self, features: Sequence[Tensor]) -> Tensor:
        """The class with the largest logit, the first of several, N x H/2 x W/2 uint8.

        Comparisons, not argmax: OpenVINO sorts for that, which takes as long as a convolution.
        """
        logits = self._logits(features)
        if self.subpixel:
            logits = logits.unflatten(1, (self.num_classes, LABEL_STRIDE**2))
        best, second, *others = logits.unbind(dim=1)
        ids = (second > best).to(logits.dtype)
        best = torch.maximum(best, second)
        for class_id, logit in enumerate(others, start=2):
            ids = ids.masked_fill(logit > best, class_id)
            best = torch.maximum(best, logit)
        ids = ids.to(torch.uint8)
        return self._to_places(ids, features).squeeze(1) if self.subpixel else ids

    def _to_places(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        """From 1/4 to 1/2, where four sub-pixels lie one behind the other."""
        if not self.subpixel:
            return x
        height, width = features[4].shape[-2:]
        return F.pixel_shuffle(x, LABEL_STRIDE)[..., :height, :width]

    def _logits(self, features: Sequence[Tensor]) -> Tensor:
        strides, round_up = self.layout
        gathered = [
            _to_quarter(feature, stride, round_up)
            for feature, stride in zip(features, strides, strict=True)
            if stride <= 4
        ]
        x4 = self.gather(torch.cat(gathered, dim=1))
        x4 = self.encode4(x4)
        x8 = self.encode8(self.down8(x4))
        x16 = self.encode16(self.down16(x8))
        x16 = x16 * self.scene(x16)
        y8 = self.decode8(self.merge8(x16, x8))
        y4 = self.decode4(self.merge4(y8, x4))
        if self.subpixel:
            return self.classify(y4)
        y2 = self.decode2(self.merge2(y4, features[3]))
        return self.classify(y2)

    @torch.no_grad()
    def raise_class(self, class_id: int, offset: float) -> None:
        """Add `offset` to all logits of a class, for good."""
        places = self.classify.out_channels // self.num_classes
        assert self.classify.bias is not None
        self.classify.bias[class_id * places : (class_id + 1) * places] += offset


def _to_quarter(feature: Tensor, stride: int, round_up: bool) -> Tensor:
    """Average down to 1/4, rounding odd sizes as the student's pooling does."""
    while stride < 4:
        feature = F.avg_pool2d(feature, 2, ceil_mode=round_up, count_include_pad=False)
        stride *= 2
    return feature
