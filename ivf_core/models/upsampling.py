"""Convolutions of enlarged features at the cost of convolving the small ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Bilinear", "convolve_enlarged"]


class Bilinear(NamedTuple):
    """Bilinear interpolation to a size.

    Attributes:
        size: height and width of the result.
        align_corners: the option of `torch.nn.functional.interpolate`.
    """

    size: tuple[int, int]
    align_corners: bool = False


def convolve_enlarged(x: Tensor, weight: Tensor, *steps: Bilinear) -> Tensor:
    """Enlarge features by bilinear steps and convolve them, 3x3 with padding 1.

    conv(up(x)) = sum over the nine taps t of shift_t(up(W_t x)). W_t x is a 1x1 convolution
    of the small features; up and shift are linear along each axis, one matrix for rows and
    one for columns. The channels are thus mixed at the small size, and no tensor of the
    enlarged size is stored for the backward pass.

    Args:
        x: N x C x h x w float.
        weight: D x C x 3 x 3.
        steps: at least one, applied in this order; the last has the size H x W.

    Returns:
        N x D x H x W; no bias is added.
    """
    count, _, height, width = x.shape
    out_channels = len(weight)
    taps = weight.permute(0, 2, 3, 1).flatten(0, 2)[..., None, None]  # (D 3 3) x C x 1 x 1
    mixed = F.conv2d(x, taps)  # N x (D 3 3) x h x w
    mixed = mixed.view(count, out_channels, 3, 3, height, width)  # N x D x ty x tx x h x w
    mixed = mixed.transpose(3, 4).reshape(count, out_channels, 3 * height, 3 * width)
    rows, columns = (  # (3 h) x H and (3 w) x W
        _taps(x, side, [(step.size[axis], step.align_corners) for step in steps])
        for axis, side in enumerate((height, width))
    )
    return rows.T @ (mixed @ columns)  # N x D x H x W


def _taps(like: Tensor, side: int, steps: list[tuple[int, bool]]) -> Tensor:
    """Build the matrix that enlarges a row and shifts it by each tap.

    Args:
        like: tensor of the device and dtype to use.
        side: length of the row.
        steps: size and `align_corners` of each interpolation.

    Returns:
        3 side x (the last size): for the taps t = 0, 1, 2 one below the other, the weights
        of the row's elements in the enlarged row at position + t - 1, zero beyond its ends.
    """
    precise = torch.promote_types(like.dtype, torch.float32)
    matrix = torch.eye(side, dtype=precise, device=like.device)[None]  # 1 x side x side
    for size, align_corners in steps:
        matrix = F.interpolate(matrix, size=size, mode="linear", align_corners=align_corners)
    padded = F.pad(matrix[0], (1, 1)).to(like.dtype)  # side x (size + 2)
    return torch.cat([padded[:, t : padded.shape[1] - 2 + t] for t in range(3)])
