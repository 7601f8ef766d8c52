"""Colours for networks: YCrCb as OpenCV computes it, SAGE's way back to RGB, normalised RGB."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "luma_chroma",
    "normalize",
    "recolor",
    "recolor_unrounded",
    "small_chroma",
]

# Of RGB images in [0, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# OpenCV's full-range BT.601 in 14-bit fixed point (COLOR_RGB2YCrCb): integers
# below 2^24, so float32 reproduces its rounding exactly.
_SCALE = 1 << 14
_LUMA = (4899.0, 9617.0, 1868.0)
_CR, _CB = 11682.0, 9241.0


def luma_chroma(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert RGB to YCrCb, equal to OpenCV to the bit.

    Args:
        rgb: N x 3 x H x W float32 with integer values 0..255.

    Returns:
        Y, Cr and Cb, each N x 1 x H x W float32 with integer values 0..255.
    """
    red, green, blue = rgb.split(1, dim=1)
    luma = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    luma = torch.floor((luma + _SCALE / 2) / _SCALE)
    offset = 128 * _SCALE + _SCALE / 2
    cr = torch.floor(((red - luma) * _CR + offset) / _SCALE).clamp(0, 255)
    cb = torch.floor(((blue - luma) * _CB + offset) / _SCALE).clamp(0, 255)
    return luma, cr, cb


def normalize(images: Tensor) -> Tensor:
    """Normalise N x 3 x H x W RGB in [0, 1] by the mean and standard deviation of ImageNet."""
    mean, std = (images.new_tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def recolor(fused: Tensor, cr: Tensor, cb: Tensor) -> Tensor:
    """Combine the fused luma with the chroma of the visible image, as SAGE's code does.

    R = Y + 1.403 (Cr - 0.5), G = Y - 0.714 (Cr - 0.5) - 0.344 (Cb - 0.5),
    B = Y + 1.773 (Cb - 0.5), all in [0, 1]; then times 255, plus 0.5, clamp, truncate.

    Args:
        fused: N x 1 x H x W float32, nominally in [0, 1].
        cr: N x 1 x H x W float32, 0..255.
        cb: N x 1 x H x W float32, 0..255.

    Returns:
        N x 3 x H x W float32 RGB with integer values 0..255.
    """
    return torch.floor((recolor_unrounded(fused, cr, cb) * 255 + 0.5).clamp(0, 255))


def recolor_unrounded(fused: Tensor, cr: Tensor, cb: Tensor) -> Tensor:
    """Compute `recolor` before scaling and rounding: N x 3 x H x W float, nominally in [0, 1]."""
    cr = cr / 255 - 0.5
    cb = cb / 255 - 0.5
    return torch.cat(
        (fused + 1.403 * cr, fused - 0.714 * cr - 0.344 * cb, fused + 1.773 * cb), dim=1
    )


def small_chroma(cr: Tensor, cb: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Average chroma over 4x4 pixels, for heads that see colour.

    Args:
        cr: N x 1 x H x W float32, 0..255.
        cb: N x 1 x H x W float32, 0..255.
        dtype: dtype of the result.

    Returns:
        N x 2 x H/4 x W/4 in [-0.5, 0.5], sizes rounded up.
    """
    # Plane by plane: OpenVINO pads two channels to eight or sixteen before it pools.
    planes = [F.avg_pool2d(x, 4, ceil_mode=True, count_include_pad=False) for x in (cr, cb)]
    small = torch.cat(planes, dim=1)
    return (small / 255 - 0.5).to(dtype)
