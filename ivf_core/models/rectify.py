"""Fusion of the features of two modalities by CMX (Zhang et al., T-ITS 2023), as SARTM uses it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FeatureFusion", "FeatureRectify", "ModalFusion"]

_RECTIFY_WEIGHT = 0.5  # of the channel-wise and of the spatial part


class FeatureRectify(nn.Module):
    """Feature rectification module (FRM): each modality gets a weighted part of the other.

    x1' = x1 + (wc1 + ws1) x2 / 2 and x2' = x2 + (wc2 + ws2) x1 / 2, where wc are weights of
    channels from both modalities' means and maxima, and ws weights of pixels.

    Args:
        channels: channels d of each modality.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.channel_mlp = nn.Sequential(
            nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 2 * channels), nn.Sigmoid()
        )
        self.spatial_mlp = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, 2, 1), nn.Sigmoid()
        )

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Rectify N x d x h x w of both modalities."""
        both = torch.cat((x1, x2), 1)
        pooled = torch.cat((both.mean((2, 3)), both.amax((2, 3))), 1)
        of_x1, of_x2 = self.channel_mlp(pooled)[..., None, None].chunk(2, 1)
        pixels_x1, pixels_x2 = self.spatial_mlp(both).chunk(2, 1)
        return (
            x1 + _RECTIFY_WEIGHT * (of_x2 + pixels_x2) * x2,
            x2 + _RECTIFY_WEIGHT * (of_x1 + pixels_x1) * x1,
        )


class _CrossContext(nn.Module):
    """Half of the cross-attention of `FeatureFusion`, of one modality.

    The context softmax(k^T v / sqrt(d / heads)) is a d/heads x d/heads matrix of each head, so
    that the cost is linear in the pixels.
    """

    def __init__(self, channels: int, heads: int, per_pixel: bool) -> None:
        super().__init__()
        self.heads = heads
        self.per_pixel = per_pixel
        self.project = nn.Linear(channels, 2 * channels)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.merge = nn.Linear(2 * channels, channels)
        self.norm = nn.LayerNorm(channels)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the part that stays and the query, each N x pixels x channels."""
        kept, query = self.project(tokens).relu().chunk(2, -1)
        return kept, query

    def context(self, query: Tensor) -> Tensor:
        """Return N x heads x d/heads x d/heads in float32: a sum over all pixels."""
        key, value = (self.by_head(x) for x in self.key_value(query).chunk(2, -1))
        with torch.autocast(query.device.type, enabled=False):
            wide = torch.promote_types(query.dtype, torch.float32)
            # As published the sum is not divided by the pixels: it grows with the image.
            scale = key.shape[-1] ** -0.5 / (key.shape[2] if self.per_pixel else 1)
            return (scale * (key.to(wide).transpose(2, 3) @ value.to(wide))).softmax(2)

    def by_head(self, x: Tensor) -> Tensor:
        """Return N x pixels x channels as N x heads x pixels x channels/heads."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def join(self, tokens: Tensor, kept: Tensor, query: Tensor, context: Tensor) -> Tensor:
        """Return the tokens with what the other modality's context says about them."""
        seen = (self.by_head(query) @ context.to(query.dtype)).transpose(1, 2).flatten(2)
        return self.norm(tokens + self.merge(torch.cat((kept, seen), -1)))


class FeatureFusion(nn.Module):
    """Feature fusion module (FFM): cross-attention of two modalities, then one map of both.

    Args:
        channels: channels d of each modality and of the result.
        heads: heads of the cross-attention.
        per_pixel: divide its sum over pixels by their number, so that the result does not depend
            on the size of the images. CMX does not.
    """

    def __init__(self, channels: int, heads: int, *, per_pixel: bool = False) -> None:
        super().__init__()
        self.sides = nn.ModuleList(_CrossContext(channels, heads, per_pixel) for _ in range(2))
        self.residual = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.embed = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Fuse N x d x h x w of both modalities to N x d x h x w."""
        size = x1.shape[2:]
        first, second = self.sides
        assert isinstance(first, _CrossContext)
        assert isinstance(second, _CrossContext)
        tokens1, tokens2 = (x.flatten(2).transpose(1, 2) for x in (x1, x2))
        kept1, query1 = first.split(tokens1)
        kept2, query2 = second.split(tokens2)
        context1, context2 = first.context(query1), second.context(query2)
        out1 = first.join(tokens1, kept1, query1, context2)
        out2 = second.join(tokens2, kept2, query2, context1)
        both = torch.cat((out1, out2), -1).transpose(1, 2).unflatten(2, size)
        return self.norm(self.residual(both) + self.embed(both))


class ModalFusion(nn.Module):
    """Features of two modalities as one: their weighted mean, and what FRM and FFM add.

    sum_m softmax(a)_m x_m + FFM(FRM(x_1, x_2)). The weights start at one half and the last
    BatchNorm of FFM at zero, so that a decoder first sees the mean of the features that it knows.

    Args:
        channels: channels of each modality and of the result.
        heads: heads of the cross-attention.
        per_pixel: see `FeatureFusion`.
    """

    def __init__(self, channels: int, heads: int, *, per_pixel: bool = False) -> None:
        super().__init__()
        self.rectify = FeatureRectify(channels)
        self.fuse = FeatureFusion(channels, heads, per_pixel=per_pixel)
        self.mix = nn.Parameter(torch.zeros(2))
        nn.init.zeros_(self.fuse.norm.weight)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse N x channels x h x w of both modalities."""
        weights = self.mix.softmax(0)
        mean = weights[0] * visible + weights[1] * infrared
        return mean + self.fuse(*self.rectify(visible, infrared))
