"""Networks of the architecture `street`: a fusion student and a head on its features.

Both are one encoder-decoder in two parts. The student reads luma and infrared down to 1/8
and gives every pixel a filter; the head continues from the student's features at 1/4 down to
1/32 and back up to class logits. From 1/8 on the encoder is the backbone and the top-down half
of the feature pyramid of YOLOX-nano (Ge et al., "YOLOX: Exceeding YOLO Series in 2021"), so
that training can start from weights that know people and vehicles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.absent_cameras import ABSENCES
from ivf_core.models.segmentation import largest, largest_and_confidence, raise_bias
from ivf_core.models.student import FeatureLayout, StudentOutput

__all__ = ["CspStage", "StreetHead", "StreetStudent", "depthwise_unit", "pointwise_unit"]

_FOLDED = 4  # pixels of one 2x2 block


def _unit(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.Hardswish(inplace=True),
    ]


def pointwise_unit(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build a 1x1 convolution with BatchNorm and hard swish."""
    return nn.Sequential(*_unit(in_channels, out_channels, 1))


def depthwise_unit(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """Build a depthwise 3x3 and a 1x1 convolution, each with BatchNorm and hard swish."""
    return nn.Sequential(
        *_unit(in_channels, in_channels, 3, stride=stride, groups=in_channels),
        *_unit(in_channels, out_channels, 1),
    )


class _Bottleneck(nn.Module):
    """1x1 and depthwise convolutions with an optional shortcut."""

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.reduce = pointwise_unit(channels, channels)
        self.spread = depthwise_unit(channels, channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.spread(self.reduce(x))
        return x + y if self.shortcut else y


class CspStage(nn.Module):
    """Cross-stage partial block: half of the channels pass bottlenecks, half go around them.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        bottlenecks: number of bottlenecks.
        shortcut: whether these have shortcuts.
    """

    def __init__(
        self, in_channels: int, out_channels: int, bottlenecks: int = 1, *, shortcut: bool = True
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.through = pointwise_unit(in_channels, half)
        self.around = pointwise_unit(in_channels, half)
        self.bottlenecks = nn.Sequential(
            *(_Bottleneck(half, shortcut=shortcut) for _ in range(bottlenecks))
        )
        self.join = pointwise_unit(2 * half, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute N x `out_channels` x H x W from N x `in_channels` x H x W."""
        return self.join(torch.cat((self.bottlenecks(self.through(x)), self.around(x)), dim=1))


class _PooledPyramid(nn.Module):
    """Spatial pyramid pooling: maxima over 5, 9 and 13 pixels beside the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = pointwise_unit(channels, channels // 2)
        self.join = pointwise_unit(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        # Repeated maxima over 5 pixels equal those over 9 and 13, and cost less.
        five = F.max_pool2d(x, 5, 1, 2)
        nine = F.max_pool2d(five, 5, 1, 2)
        thirteen = F.max_pool2d(nine, 5, 1, 2)
        return self.join(torch.cat((x, five, nine, thirteen), dim=1))


class StreetStudent(nn.Module):
    """Student of the architecture `street`: two weights and an offset for each pixel.

    fused = a visible + b infrared + c, as in `FastStudent`. Almost nothing runs at 1/2: the
    stem, which the head shares, and the last layer, which joins its details with the context
    from 1/4 and 1/8. The mean of the features at 1/8 over the image is added to that context, as
    the global path of HDRNet (Gharbi et al., SIGGRAPH 2017): a camera that is white or black all
    over cannot be told from a bright or dark object nearby.

    By default it has 12 k parameters and needs about 630 multiply-accumulates per pixel.

    Args:
        widths: channels at 1/2, 1/4 and 1/8.
        decoder_widths: channels of the way back, at 1/4 and 1/2.

    Attributes:
        feature_channels: channels of the five features.
        layout: scales of the five features.
    """

    layout = FeatureLayout((2, 4, 8, 4, 2), round_up=True)
    add_cameras: Tensor

    def __init__(
        self, widths: Sequence[int] = (16, 32, 48), decoder_widths: Sequence[int] = (24, 8)
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.decoder_widths = tuple(decoder_widths)
        (half, quarter, eighth), (up4, up2) = widths, decoder_widths
        self.feature_channels = (half, quarter, eighth, up4, up2)
        self.stem = nn.Sequential(*_unit(2 * _FOLDED, half, 3))
        self.down4 = depthwise_unit(half, quarter, stride=2)
        self.down8 = depthwise_unit(quarter, eighth, stride=2)
        self.stage8 = depthwise_unit(eighth, eighth)
        self.merge4 = _Merge(eighth, quarter, up4)
        self.scene = nn.Conv2d(eighth, up4, 1, bias=False)
        nn.init.zeros_(self.scene.weight)
        self.decode4 = depthwise_unit(up4, up4)
        self.context2 = nn.Conv2d(up4, _FOLDED * up2, 1)
        self.detail2 = nn.Conv2d(half, up2, 1)
        # a and b of the four pixels, and c; their initial values give the mean of both images.
        self.gains = nn.Conv2d(up2, 2 * _FOLDED, 1)
        self.offsets = nn.Conv2d(up2, _FOLDED, 1)
        for decoder, value in ((self.gains, 0.5), (self.offsets, 0.0)):
            nn.init.zeros_(decoder.weight)
            assert decoder.bias is not None
            nn.init.constant_(decoder.bias, value)
        # Adding both cameras as a convolution is cheaper than splitting a tensor.
        both = torch.eye(_FOLDED).repeat(1, 2)[..., None, None]
        self.register_buffer("add_cameras", both, persistent=False)

    def options(self) -> dict[str, object]:
        """Return the arguments to build it again, for weights files."""
        return {"widths": self.widths, "decoder_widths": self.decoder_widths}

    def forward(self, visible_luma: Tensor, infrared: Tensor) -> StudentOutput:
        """Fuse a batch.

        Args:
            visible_luma: N x 1 x H x W float in [0, 1]; all zero for a camera that is absent.
            infrared: N x 1 x H x W float in [0, 1]; all zero for a camera that is absent.

        Returns:
            The fused luma and the five features.
        """
        height, width = infrared.shape[-2:]
        # Odd sizes are rounded up, here and below.
        images = F.pad(torch.cat((visible_luma, infrared), dim=1), (0, width % 2, 0, height % 2))
        folded = F.pixel_unshuffle(images, 2)  # N x 8 x H/2 x W/2, four visible, four infrared
        half = self.stem(folded)  # N x C2 x H/2 x W/2
        quarter = self.down4(half)  # N x C4 x H/4 x W/4
        eighth = self.stage8(self.down8(quarter))  # N x C8 x H/8 x W/8
        scene = self.scene(eighth.mean(dim=(-2, -1), keepdim=True))  # N x 24 x 1 x 1
        quarter_up = self.decode4(self.merge4(eighth, quarter, scene))  # N x 24 x H/4 x W/4
        context = F.pixel_shuffle(self.context2(quarter_up), 2)
        context = context[..., : half.shape[-2], : half.shape[-1]]
        half_up = F.hardswish(context + self.detail2(half))  # N x 8 x H/2 x W/2
        fused = F.conv2d(self.gains(half_up) * folded, self.add_cameras.to(half_up.dtype))
        fused = F.pixel_shuffle(fused + self.offsets(half_up), 2)[..., :height, :width]
        return StudentOutput(fused, (half, quarter, eighth, quarter_up, half_up))


class _Merge(nn.Module):
    """Sum of 1x1 convolutions of a coarse and a fine feature map, with BatchNorm and hard swish.

    The coarse map is convolved before it is enlarged, at a quarter of the pixels.
    """

    def __init__(self, coarse: int, fine: int, out_channels: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            nn.Conv2d(coarse, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.fine = nn.Sequential(
            nn.Conv2d(fine, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, coarse: Tensor, fine: Tensor, offsets: Tensor | None = None) -> Tensor:
        small = self.coarse(coarse)
        if offsets is not None:
            small = small + offsets
        up = F.interpolate(small, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return F.hardswish(up + self.fine(fine))


class StreetHead(nn.Module):
    """Head of the architecture `street`: from the student's features at 1/4 to class logits.

    By default it has 0.57 M parameters and needs about 2,050 multiply-accumulates per pixel.

    Args:
        num_classes: number of logits, at least 2.
        feature_channels: channels of the student's five features.
        widths: channels at 1/8, 1/16 and 1/32, and of the last layers at 1/4.
        layout: scales of the student's features.
        absent_offsets: whether there are offsets for absent cameras.

    Attributes:
        absent_offsets: what is added to the logits of each class while a camera is absent,
            `ABSENCES` x num_classes, or None.

    Raises:
        ValueError: `num_classes` is below 2.
    """

    absent_offsets: Tensor | None

    def __init__(
        self,
        num_classes: int,
        feature_channels: Sequence[int] = (16, 32, 48, 24, 8),
        widths: Sequence[int] = (64, 128, 256, 48),
        layout: FeatureLayout = StreetStudent.layout,
        absent_offsets: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.feature_channels = tuple(feature_channels)
        self.widths = tuple(widths)
        self.layout = layout
        quarter = feature_channels[1]
        c8, c16, c32, last = widths
        # Chroma joins here: colour tells vegetation and sky, and needs no fine detail.
        self.color = nn.Conv2d(2, quarter, 1, bias=False)
        nn.init.zeros_(self.color.weight)
        self.stage4 = CspStage(quarter, quarter)
        self.down8 = depthwise_unit(quarter, c8, stride=2)
        self.stage8 = CspStage(c8, c8, 3)
        self.down16 = depthwise_unit(c8, c16, stride=2)
        self.stage16 = CspStage(c16, c16, 3)
        self.down32 = depthwise_unit(c16, c32, stride=2)
        self.pool32 = _PooledPyramid(c32)
        self.stage32 = CspStage(c32, c32, shortcut=False)
        self.lateral32 = pointwise_unit(c32, c16)
        self.merge16 = CspStage(2 * c16, c16, shortcut=False)
        self.lateral16 = pointwise_unit(c16, c8)
        self.merge8 = CspStage(2 * c8, c8, shortcut=False)
        self.merge4 = _Merge(c8, quarter, last)
        self.decode4 = depthwise_unit(last, last)
        self.classify = nn.Conv2d(last, _FOLDED * num_classes, 1)
        offsets = torch.zeros(len(ABSENCES), num_classes) if absent_offsets else None
        self.register_buffer("absent_offsets", offsets)

    def options(self) -> dict[str, object]:
        """Return the arguments to build it again, for weights files."""
        options: dict[str, object] = {
            "feature_channels": self.feature_channels,
            "widths": self.widths,
        }
        if self.absent_offsets is not None:  # earlier releases read files without
            options["absent_offsets"] = True
        return options

    def forward(
        self,
        features: Sequence[Tensor],
        chroma: Tensor | None = None,
        absent: Tensor | None = None,
    ) -> Tensor:
        """Compute the logits of a batch.

        Args:
            features: the five features of a `StreetStudent`.
            chroma: Cr and Cb of the visible image less 0.5, N x 2 x H/4 x W/4 float, sizes
                rounded up; None is an image without colour.
            absent: which cameras are absent, from `absent_cameras`; None adds no offsets.

        Returns:
            N x num_classes x H/2 x W/2 float, sizes rounded up.
        """
        height, width = features[4].shape[-2:]
        return F.pixel_shuffle(self._logits(features, chroma, absent), 2)[..., :height, :width]

    def class_ids(
        self,
        features: Sequence[Tensor],
        chroma: Tensor | None = None,
        absent: Tensor | None = None,
    ) -> Tensor:
        """Return the class with the largest logit, the first one if there are several.

        Args:
            features: see `forward`.
            chroma: see `forward`.
            absent: see `forward`.

        Returns:
            N x H/2 x W/2 uint8, sizes rounded up.
        """
        return _plane(largest(self._by_class(features, chroma, absent)), features)

    def class_ids_and_confidence(
        self,
        features: Sequence[Tensor],
        chroma: Tensor | None = None,
        absent: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the class ids, and the confidence in them.

        Args:
            features: see `forward`.
            chroma: see `forward`.
            absent: see `forward`.

        Returns:
            The ids and the results of `largest_and_confidence`, each N x H/2 x W/2 uint8,
            sizes rounded up.
        """
        ids, confidence = largest_and_confidence(self._by_class(features, chroma, absent))
        return _plane(ids, features), _plane(confidence, features)

    @torch.no_grad()
    def raise_class(self, class_id: int, offset: float) -> None:
        """Add an offset to all logits of a class, permanently.

        Args:
            class_id: id of the class.
            offset: added to the bias of the last convolution.
        """
        raise_bias(self.classify, self.num_classes, class_id, offset)

    def _by_class(
        self, features: Sequence[Tensor], chroma: Tensor | None, absent: Tensor | None
    ) -> Tensor:
        """Compute N x num_classes x 4 x H/4 x W/4 logits."""
        logits = self._logits(features, chroma, absent)
        return logits.unflatten(1, (self.num_classes, _FOLDED))

    def _logits(
        self, features: Sequence[Tensor], chroma: Tensor | None, absent: Tensor | None
    ) -> Tensor:
        """Compute N x 4 num_classes x H/4 x W/4 logits."""
        x4 = features[1]
        x4 = self.stage4(x4 if chroma is None else x4 + self.color(chroma))
        x8 = self.stage8(self.down8(x4))
        x16 = self.stage16(self.down16(x8))
        x32 = self.lateral32(self.stage32(self.pool32(self.down32(x16))))
        y16 = self.lateral16(self.merge16(torch.cat((_enlarge(x32, x16), x16), dim=1)))
        y8 = self.merge8(torch.cat((_enlarge(y16, x8), x8), dim=1))
        logits = self.classify(self.decode4(self.merge4(y8, x4)))
        if absent is None or self.absent_offsets is None:
            return logits
        offsets = absent.to(logits.dtype) @ self.absent_offsets.repeat_interleave(_FOLDED, dim=1)
        return logits + offsets[..., None, None]


def _plane(x: Tensor, features: Sequence[Tensor]) -> Tensor:
    """Shuffle one value per sub-pixel to pixels: N x 4 x H/4 x W/4 to N x H/2 x W/2."""
    height, width = features[4].shape[-2:]
    return F.pixel_shuffle(x, 2)[..., :height, :width].squeeze(1)


def _enlarge(coarse: Tensor, fine: Tensor) -> Tensor:
    """Repeat the pixels of a feature map up to the size of a finer one."""
    return F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
