"""Fusion students: SAGE's sub-network (Wu et al., CVPR 2025, figure 3d), and a fast one.

Only the student runs on a vehicle. It takes the luma of the visible image and
the infrared image and returns the fused luma and the features of its five
stages: the segmentation head reads them, and distillation compares them with
the teacher's (equation 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "FastStudent",
    "FeatureLayout",
    "FusionStudent",
    "MergeUp",
    "StudentOutput",
    "commute_merges",
]

_NEGATIVE_SLOPE = 0.01
_FOLDED_PIXELS = 4  # pixels folded into the channels of one


class FeatureLayout(NamedTuple):
    """Scales of the five stage features of a student.

    Attributes:
        strides: down-sampling of each relative to the input.
        round_up: whether odd sizes are rounded up when they are halved.
    """

    strides: tuple[int, int, int, int, int]
    round_up: bool


class StudentOutput(NamedTuple):
    """Output of a student.

    Attributes:
        fused: fused luma, N x 1 x H x W float, nominally in [0, 1]; a trained
            student stays in [0, 1] except for overshoot that recolouring clamps.
        features: five tensors N x C x H/s x W/s; `layout` of the student gives s and rounding.
    """

    fused: Tensor
    features: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class MergeUp(nn.Sequential):
    """Merge of coarse and fine features: upsampling, concatenation, 1x1 convolution, BatchNorm.

    The 1x1 convolution and the bilinear upsampling commute, so each input gets its part of
    the convolution separately: the coarse one at a quarter of the pixels, and without the
    concatenation, which costs as much as a convolution.

    Args:
        in_channels: channels of both inputs together.
        out_channels: channels of the result.
        activation: last module; LeakyReLU(0.01) by default, as in the students.
        bias: whether the convolution has a bias.

    Attributes:
        commuted: False computes in the order of the paper; the result is the same up to
            rounding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation: nn.Module | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, bias=bias),
            nn.BatchNorm2d(out_channels),
            activation if activation is not None else nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
        )
        self.commuted = True

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        """Merge two feature maps.

        Args:
            coarse: N x C x h x w.
            fine: N x D x H x W, C + D = `in_channels`.

        Returns:
            N x `out_channels` x H x W.
        """
        conv, *rest = self
        assert isinstance(conv, nn.Conv2d)
        if self.commuted:
            channels = coarse.shape[1]
            coarse = F.conv2d(coarse, conv.weight[:, :channels])  # N x out x h x w
            x = _up_to(fine, coarse) + F.conv2d(fine, conv.weight[:, channels:], conv.bias)
        else:
            x = conv(torch.cat((_up_to(fine, coarse), fine), dim=1))
        for module in rest:  # N x out x H x W
            x = module(x)
        return x


def commute_merges(network: nn.Module, commuted: bool) -> None:
    """Set `commuted` of every `MergeUp` in a network.

    Args:
        network: changed in place.
        commuted: the value to set.
    """
    for module in network.modules():
        if isinstance(module, MergeUp):
            module.commuted = commuted


def _up_to(fine: Tensor, coarse: Tensor) -> Tensor:
    return F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)


def _conv_unit(in_channels: int, out_channels: int, kernel_size: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
    ]


def _stage(in_channels: int, channels: int, convolutions: int = 3) -> nn.Sequential:
    units: list[nn.Module] = []
    for index in range(convolutions):
        units += _conv_unit(channels if index else in_channels, channels, 3)
    return nn.Sequential(*units)


class FusionStudent(nn.Module):
    """SAGE's student: five stages of three 3x3 convolutions at scales 1, 1/2, 1/4, 1/2, 1.

    At the published width of 32 it has 135,617 parameters and needs about 65,060
    multiply-accumulates per pixel.

    Args:
        channels: width of every stage.

    Attributes:
        feature_channels: channels of the five stage features.
        layout: scales of the five stage features.
    """

    layout = FeatureLayout((1, 2, 4, 2, 1), round_up=False)

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.feature_channels = (channels,) * 5
        self.stages = nn.ModuleList(
            _stage(2 if index == 0 else channels, channels) for index in range(5)
        )
        self.merges = nn.ModuleList(MergeUp(2 * channels, channels) for _ in range(2))
        self.decoder = nn.Conv2d(channels, 1, 3, padding=1)

    def options(self) -> dict[str, object]:
        """Return the arguments to build it again, for weights files."""
        return {"channels": self.channels}

    def forward(self, visible_luma: Tensor, infrared: Tensor) -> StudentOutput:
        """Fuse a batch.

        Args:
            visible_luma: N x 1 x H x W float in [0, 1], H and W at least 4.
            infrared: N x 1 x H x W float in [0, 1].

        Returns:
            The fused luma and the five stage features.
        """
        images = torch.cat((visible_luma, infrared), dim=1)  # N x 2 x H x W
        full = self.stages[0](images)  # N x C x H x W
        half = self.stages[1](F.max_pool2d(full, 2))  # N x C x H/2 x W/2
        quarter = self.stages[2](F.max_pool2d(half, 2))  # N x C x H/4 x W/4
        half_up = self.stages[3](self.merges[0](quarter, half))  # N x C x H/2 x W/2
        full_up = self.stages[4](self.merges[1](half_up, full))  # N x C x H x W
        fused = torch.tanh(self.decoder(full_up))  # N x 1 x H x W
        return StudentOutput(fused, (full, half, quarter, half_up, full_up))


class FastStudent(nn.Module):
    """Fast student: five stages at scales 1/2, 1/4, 1/8, 1/4, 1/2, and a filter for each pixel.

    It folds 2x2 pixels into channels, so that no layer runs at full resolution; except for
    the first, all 3x3 convolutions are at 1/4 and 1/8. The last layer gives every pixel its
    own two weights and offset: fused = a visible + b infrared + c. Fine detail thus comes
    from the images themselves and need not pass through the network.

    By default it has 121,452 parameters and needs about 3,410 multiply-accumulates per pixel,
    a nineteenth of `FusionStudent`.

    Args:
        widths: channels at 1/2, 1/4 and 1/8.
        convolutions: number of 3x3 convolutions of each stage; the second and third have at
            least one.

    Attributes:
        feature_channels: channels of the five stage features.
        layout: scales of the five stage features.

    Raises:
        ValueError: other numbers of widths or convolutions.
    """

    layout = FeatureLayout((2, 4, 8, 4, 2), round_up=True)

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        convolutions: Sequence[int] = (0, 2, 3, 1, 0),
    ) -> None:
        super().__init__()
        if len(widths) != 3 or min(widths) < 1:
            raise ValueError(f"widths are {widths}, expected three, at least 1 each")
        if len(convolutions) != 5 or min(convolutions) < 0 or min(convolutions[1:3]) < 1:
            raise ValueError(
                f"convolutions are {convolutions}, expected five, the second and third at least 1"
            )
        self.widths = tuple(widths)
        self.convolutions = tuple(convolutions)
        half, quarter, eighth = widths
        self.feature_channels = (half, quarter, eighth, quarter, half)
        self.fold = nn.Sequential(
            nn.Conv2d(2 * _FOLDED_PIXELS, half, 3, padding=1),
            nn.BatchNorm2d(half),
            nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
        )
        before = (half, half, quarter, quarter, half)
        self.stages = nn.ModuleList(map(_stage, before, self.feature_channels, convolutions))
        self.merges = nn.ModuleList(
            (MergeUp(eighth + quarter, quarter), MergeUp(quarter + half, half))
        )
        # One each for a, b and c, since splitting one tensor costs more. Their initial
        # values give the mean of both images.
        self.decoders = nn.ModuleList(nn.Conv2d(half, _FOLDED_PIXELS, 1) for _ in range(3))
        for decoder, value in zip(self.decoders, (0.5, 0.5, 0.0), strict=True):
            nn.init.zeros_(decoder.weight)  # type: ignore[arg-type]
            nn.init.constant_(decoder.bias, value)  # type: ignore[arg-type]

    def options(self) -> dict[str, object]:
        """Return the arguments to build it again, for weights files."""
        return {"widths": self.widths, "convolutions": self.convolutions}

    def forward(self, visible_luma: Tensor, infrared: Tensor) -> StudentOutput:
        """Fuse a batch.

        Args:
            visible_luma: N x 1 x H x W float in [0, 1].
            infrared: N x 1 x H x W float in [0, 1].

        Returns:
            The fused luma and the five stage features.
        """
        height, width = infrared.shape[-2:]
        # Odd sizes are rounded up, here and below.
        images = F.pad(torch.cat((visible_luma, infrared), dim=1), (0, width % 2, 0, height % 2))
        folded = F.pixel_unshuffle(images, 2)  # N x 8 x H/2 x W/2, four visible, four infrared
        half = self.stages[0](self.fold(folded))  # N x C1 x H/2 x W/2
        quarter = self.stages[1](_halve(half))  # N x C2 x H/4 x W/4
        eighth = self.stages[2](_halve(quarter))  # N x C3 x H/8 x W/8
        quarter_up = self.stages[3](self.merges[0](eighth, quarter))  # N x C2 x H/4 x W/4
        half_up = self.stages[4](self.merges[1](quarter_up, half))  # N x C1 x H/2 x W/2
        a, b, c = (decoder(half_up) for decoder in self.decoders)  # N x 4 x H/2 x W/2 each
        fused = a * folded[:, :_FOLDED_PIXELS] + b * folded[:, _FOLDED_PIXELS:] + c
        fused = F.pixel_shuffle(fused, 2)[..., :height, :width]  # N x 1 x H x W
        return StudentOutput(fused, (half, quarter, eighth, quarter_up, half_up))


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)
