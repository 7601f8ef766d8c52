"""Convolutions of enlarged features, at the cost of the small ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Bilinear", "convolve_enlarged"]


class Bilinear(NamedTuple):
    """A bilinear way to another size.

    Attributes:
        size: height and width that it leads to.
        align_corners: as `torch.nn.functional.interpolate` takes it.
    """

    size: tuple[int, int]
    align_corners: bool = False


def convolve_enlarged(x: Tensor, weight: Tensor, *ways: Bilinear) -> Tensor:
    """A 3x3 convolution with padding 1 of `x` enlarged, `x` going `ways` one after the other.

    conv(up(x)) = sum over the nine taps t of shift_t(up(W_t x)). W_t x is a 1x1 convolution
    of the small features; up and shift are linear along each axis, one matrix for rows and
    one for columns. So the channels are mixed at the small size, and neither the enlarged
    features nor anything of their size is kept for the way back.

    Args:
        x: N x C x h x w float.
        weight: D x C x 3 x 3.
        ways: at least one; the last leads to H x W.

    Returns:
        N x D x H x W; no bias is added.
    """
    count, _, height, width = x.shape
    out_channels = len(weight)
    mixed = F.conv2d(x, weight.permute(0, 2, 3, 1).flatten(0, 2)[..., None, None])
    mixed = mixed.view(count, out_channels, 3, 3, height, width)  # ..., ty, tx, y, x
    mixed = mixed.transpose(3, 4).reshape(count, out_channels, 3 * height, 3 * width)
    rows, columns = (
        _taps(x, side, [(way.size[axis], way.align_corners) for way in ways])
        for axis, side in enumerate((height, width))
    )
    return rows.T @ (mixed @ columns)


def _taps(like: Tensor, side: int, ways: list[tuple[int, bool]]) -> Tensor:
    """For taps t = 0, 1, 2 one below the other, what each place of a row is at place + t - 1.

    3 side x (the last way's size), zero beyond the ends.
    """
    precise = torch.promote_types(like.dtype, torch.float32)
    matrix = torch.eye(side, dtype=precise, device=like.device)[None]
    for size, align_corners in ways:
        matrix = F.interpolate(matrix, size=size, mode="linear", align_corners=align_corners)
    padded = F.pad(matrix[0], (1, 1)).to(like.dtype)
    return torch.cat([padded[:, t : padded.shape[1] - 2 + t] for t in range(3)])
