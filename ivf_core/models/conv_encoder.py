"""Small convolutional encoder, which L_cs of SAGE can compare images with in place of SAM's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["GROUPS", "STRIDE", "ConvEncoder", "convolution_unit"]

GROUPS = 8
"""Groups of the normalisation, of which widths are multiples."""

STRIDE = 8
"""Pixels of an image for each pixel of the last features, along each axis."""


class ConvEncoder(nn.Module):
    """Convolutional encoder of grey images, with feature maps at 1/4 and 1/8 of the size.

    Args:
        widths: channels at 1/2, 1/4 and 1/8 of the size, multiples of 8.

    Raises:
        ValueError: other widths.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 96)) -> None:
        super().__init__()
        if len(widths) != 3 or any(width < 1 or width % GROUPS for width in widths):
            raise ValueError(f"widths are {widths}, expected three multiples of {GROUPS}")
        self.widths = tuple(widths)
        half, quarter, eighth = widths
        self.stem = convolution_unit(1, half, 2)
        self.quarter = nn.Sequential(convolution_unit(half, quarter, 2), _Residual(quarter))
        self.eighth = nn.Sequential(convolution_unit(quarter, eighth, 2), _Residual(eighth))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode a batch.

        Args:
            images: N x 1 x H x W float in [0, 1], H and W at least 16.

        Returns:
            N x C x H/4 x W/4 and N x C x H/8 x W/8, sizes rounded up.

        Raises:
            ValueError: images are not as above.
        """
        if images.ndim != 4 or images.shape[1] != 1 or min(images.shape[2:]) < 16:
            raise ValueError(
                f"images are {tuple(images.shape)}, expected N x 1 x H x W, H and W at least 16"
            )
        quarter = self.quarter(self.stem(4 * images - 2))
        return [quarter, self.eighth(quarter)]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution_unit(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def convolution_unit(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return a 3x3 convolution with group normalisation and GELU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1),
        nn.GroupNorm(GROUPS, out_channels),
        nn.GELU(),
    )
