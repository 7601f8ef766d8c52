"""Segmentation head: class logits from the student's five features.

The student has already processed every pixel of both cameras, so the head
spends its budget on context: it gathers the features at 1/4, continues down to 1/16,
where one 3x3 convolution spans 48 pixels, and back up. From 1/4 to 1/2 it
merges with the student's fourth feature if that is at 1/2, and otherwise computes
sub-pixel logits, four for each class and position. On the student `sage` it may not
exceed 0.8 M parameters nor 35 % of the multiply-accumulates; a test counts both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.interface import LABEL_STRIDE
from ivf_core.models.student import FeatureLayout, FusionStudent, MergeUp

__all__ = ["SegmentationHead", "largest", "largest_and_confidence", "raise_bias"]


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
    """Two 3x3 convolutions with a shortcut, at one scale."""

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
    """Small encoder-decoder on the five features of a student.

    Args:
        num_classes: number of logits, at least 2.
        feature_channels: channels of the student's five features.
        widths: channels at 1/4, 1/8 and 1/16.
        layout: scales of the student's features.

    Raises:
        ValueError: `num_classes` is below 2.
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
        # Features coarser than 1/4 are already part of the features after them.
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
        self.scene = nn.Sequential(  # context of the whole image: road by night, smoke, ...
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

    def options(self) -> dict[str, object]:
        """Return the arguments to build it again, for weights files."""
        return {"feature_channels": self.feature_channels, "widths": self.widths}

    def forward(self, features: Sequence[Tensor], chroma: Tensor | None = None) -> Tensor:
        """Compute the logits of a batch.

        Args:
            features: the five features of a student, `StudentOutput.features`,
                of an input at least 16 pixels high and wide.
            chroma: not used; other heads are handed the colours of the visible image.

        Returns:
            N x num_classes x H/2 x W/2 float, sizes rounded like those of the features.
        """
        return self._to_pixels(self._logits(features), features)

    def class_ids(self, features: Sequence[Tensor], chroma: Tensor | None = None) -> Tensor:
        """Return the class with the largest logit, the first one if there are several.

        Args:
            features: see `forward`.
            chroma: see `forward`.

        Returns:
            N x H/2 x W/2 uint8.
        """
        return self._plane(largest(self._by_class(features)), features)

    def class_ids_and_confidence(
        self, features: Sequence[Tensor], chroma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the class ids, and the confidence in them.

        Args:
            features: see `forward`.
            chroma: see `forward`.

        Returns:
            The ids and the results of `largest_and_confidence`, each N x H/2 x W/2 uint8.
        """
        ids, confidence = largest_and_confidence(self._by_class(features))
        return self._plane(ids, features), self._plane(confidence, features)

    def _by_class(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the logits with classes in dimension 1 and sub-pixels, if any, in 2."""
        logits = self._logits(features)
        if self.subpixel:  # N x num_classes x 4 x H/4 x W/4
            return logits.unflatten(1, (self.num_classes, LABEL_STRIDE**2))
        return logits

    def _plane(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Convert one value per pixel or sub-pixel to N x H/2 x W/2."""
        return self._to_pixels(x, features).squeeze(1) if self.subpixel else x

    def _to_pixels(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Shuffle sub-pixels from channels to pixels: N x 4 C x H/4 x W/4 to N x C x H/2 x W/2.

        Without sub-pixels `x` is returned, which is at 1/2 already.
        """
        if not self.subpixel:
            return x
        height, width = features[4].shape[-2:]
        return F.pixel_shuffle(x, LABEL_STRIDE)[..., :height, :width]

    def _logits(self, features: Sequence[Tensor]) -> Tensor:
        """Compute N x num_classes x H/2 x W/2 logits, or N x 4 num_classes x H/4 x W/4."""
        strides, round_up = self.layout
        gathered = [
            _to_quarter(feature, stride, round_up)
            for feature, stride in zip(features, strides, strict=True)
            if stride <= 4
        ]
        x4 = self.gather(torch.cat(gathered, dim=1))  # N x widths[0] x H/4 x W/4
        x4 = self.encode4(x4)
        x8 = self.encode8(self.down8(x4))  # N x widths[1] x H/8 x W/8
        x16 = self.encode16(self.down16(x8))  # N x widths[2] x H/16 x W/16
        x16 = x16 * self.scene(x16)
        y8 = self.decode8(self.merge8(x16, x8))  # N x widths[1] x H/8 x W/8
        y4 = self.decode4(self.merge4(y8, x4))  # N x widths[0] x H/4 x W/4
        if self.subpixel:
            return self.classify(y4)
        y2 = self.decode2(self.merge2(y4, features[3]))  # N x feature_channels[3] x H/2 x W/2
        return self.classify(y2)

    @torch.no_grad()
    def raise_class(self, class_id: int, offset: float) -> None:
        """Add an offset to all logits of a class, permanently.

        Args:
            class_id: id of the class.
            offset: added to the bias of the last convolution.
        """
        raise_bias(self.classify, self.num_classes, class_id, offset)


def raise_bias(classify: nn.Conv2d, num_classes: int, class_id: int, offset: float) -> None:
    """Add an offset to all logits of a class, in the convolution that computes them.

    Args:
        classify: its outputs are the logits, class by class, as many for each.
        num_classes: number of classes.
        class_id: id of the class.
        offset: added to the bias.
    """
    subpixels = classify.out_channels // num_classes
    assert classify.bias is not None
    classify.bias[class_id * subpixels : (class_id + 1) * subpixels] += offset


def largest(logits: Tensor) -> Tensor:
    """Return the position of the largest value along dimension 1, the first one of several.

    It compares instead of using argmax, for which OpenVINO sorts; that takes as long as a
    convolution.

    Args:
        logits: N x C x ... float, C at least 2.

    Returns:
        N x ... uint8.
    """
    return _compare(logits)[0]


def largest_and_confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the position of the largest value along dimension 1, and its softmax.

    Args:
        logits: N x C x ... float, C at least 2.

    Returns:
        N x ... uint8 each: the positions, see `largest`, and 255 times the softmax there,
        rounded.
    """
    ids, best = _compare(logits)
    # The softmax of the largest is 1 over the sum of exp(x - largest).
    total = (logits - best.unsqueeze(1)).float().exp().sum(dim=1)
    return ids, torch.floor(255 / total + 0.5).to(torch.uint8)


def _compare(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return position and value of the largest along dimension 1."""
    best, second, *others = logits.unbind(dim=1)
    ids = (second > best).to(logits.dtype)
    best = torch.maximum(best, second)
    for class_id, logit in enumerate(others, start=2):
        ids = ids.masked_fill(logit > best, class_id)
        best = torch.maximum(best, logit)
    return ids.to(torch.uint8), best


def _to_quarter(feature: Tensor, stride: int, round_up: bool) -> Tensor:
    """Average a feature map down to 1/4, rounding odd sizes like the student's pooling."""
    while stride < 4:
        feature = F.avg_pool2d(feature, 2, ceil_mode=round_up, count_include_pad=False)
        stride *= 2
    return feature
