"""Attention in windows (Swin, Liu et al., ICCV 2021) of one image or from one to another."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CrossBlock", "SelfBlock", "WindowAttention", "feed_forward"]

_RATIO = 2  # of the hidden units of an MLP to its channels


class WindowAttention(nn.Module):
    """Attention softmax(Q K^T / sqrt(d) + B) V in windows, with biases B of relative positions.

    Args:
        channels: channels of query, key and value.
        heads: number of heads; d = channels / heads.
        window: side of a window; 0 attends globally, without biases.
        shifted: move the windows by half a side, around the image's border. A window that has
            parts of opposite borders attends within each part.

    Raises:
        ValueError: the channels are no multiple of the heads.
    """

    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool = False) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels: expected a multiple of {heads} heads")
        self.heads = heads
        self.window = window
        self.shifted = shifted
        if window:
            self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
            self.register_buffer("offsets", _offsets(window), persistent=False)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from query to key and value.

        Args:
            query: N x H x W x C float, H and W multiples of the window.
            key: of the same shape.
            value: of the same shape.

        Returns:
            N x H x W x C float.
        """
        size = query.shape[1:3]
        window = (self.window, self.window) if self.window else tuple(size)
        # An image of a single window along an axis has nothing to shift to.
        half = self.window // 2 if self.shifted else 0
        shift = tuple(half if side > self.window else 0 for side in size)
        q, k, v = (self._split(x, window, shift) for x in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask(query, window, shift))
        return _join(out, size, window, shift)

    def _split(self, x: Tensor, window: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
        """Return N x H x W x C as (N windows) x heads x tokens x C/heads."""
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        tokens = partition(x, window).flatten(0, 1)
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _mask(self, x: Tensor, window: tuple[int, ...], shift: tuple[int, ...]) -> Any:
        """Return what is added to the products, (N windows or 1) x heads x tokens x tokens."""
        if not self.window:
            return None
        offsets: Any = self.offsets
        bias = self.bias[offsets].movedim(-1, 0)[None].to(x.dtype)
        if not any(shift):
            return bias
        # Pixels that came around the border are of other parts.
        rows, columns = (
            torch.arange(side, device=x.device) >= side - move
            for side, move in zip(x.shape[1:3], shift, strict=True)
        )
        part = (2 * rows[:, None].long() + columns)[None, ..., None]
        ids = partition(part, window)[0, ..., 0]  # windows x tokens
        apart = ids[:, :, None] != ids[:, None, :]
        return bias.masked_fill(apart[:, None], float("-inf")).repeat(len(x), 1, 1, 1)


class SelfBlock(nn.Module):
    """Swin's block: x + attention(LN(x)), then the same of an MLP.

    Args:
        channels: channels of the tokens.
        heads: see `WindowAttention`.
        window: see `WindowAttention`.
        shifted: see `WindowAttention`.
    """

    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, 3 * channels)
        self.attention = WindowAttention(channels, heads, window, shifted=shifted)
        self.merge = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.LayerNorm(channels), feed_forward(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Compute N x H x W x C from the same."""
        x = x + self.merge(self.attention(*self.project(self.norm(x)).chunk(3, -1)))
        return x + self.mlp(x)


class CrossBlock(nn.Module):
    """Attention of two cameras' tokens to each other, FusionSAM's equations (9) and (10).

    z_1' = LN(FFN(softmax(Q_1 K_2^T / sqrt(d)) V_2)) + Q_1 and the same with the roles exchanged:
    the paper places the norm after a feed-forward network, and adds the query, not the input.

    Args:
        channels: channels of the tokens of each camera.
        heads: see `WindowAttention`.
        window: see `WindowAttention`.
        shifted: see `WindowAttention`.
    """

    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool = False) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(channels, 3 * channels) for _ in range(2))
        self.attention = nn.ModuleList(
            WindowAttention(channels, heads, window, shifted=shifted) for _ in range(2)
        )
        self.finish = nn.ModuleList(
            nn.Sequential(feed_forward(channels), nn.LayerNorm(channels)) for _ in range(2)
        )

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Compute N x H x W x C of both cameras from the same."""
        first, second = (p(x).chunk(3, -1) for p, x in zip(self.project, (x1, x2), strict=True))
        z1 = self.finish[0](self.attention[0](first[0], *second[1:])) + first[0]
        z2 = self.finish[1](self.attention[1](second[0], *first[1:])) + second[0]
        return z1, z2


def feed_forward(channels: int) -> nn.Sequential:
    """Build the MLP of a block, with twice as many hidden units as channels."""
    hidden = _RATIO * channels
    return nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))


def partition(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """Cut N x H x W x C into windows, row by row: N x windows x tokens x C."""
    rows, columns = window
    x = x.unflatten(1, (-1, rows)).unflatten(3, (-1, columns))  # N x H/r x r x W/c x c x C
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _join(
    x: Tensor, size: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> Tensor:
    """Undo `_split`: (N windows) x heads x tokens x C/heads to N x H x W x C."""
    rows, columns = window
    x = x.transpose(1, 2).flatten(2)  # (N windows) x tokens x C
    x = x.unflatten(0, (-1, size[0] // rows, size[1] // columns)).unflatten(3, (rows, columns))
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # of N x H/r x W/c x r x c x C
    return x.roll((shift[0], shift[1]), (1, 2)) if any(shift) else x


def _offsets(window: int) -> Tensor:
    """Return the number of the relative position of each two tokens of a window."""
    places = torch.arange(window)
    grid = torch.stack(torch.meshgrid(places, places, indexing="ij")).flatten(1)
    apart = grid[:, :, None] - grid[:, None, :] + window - 1  # 2 x tokens x tokens
    return apart[0] * (2 * window - 1) + apart[1]
