"""Semantic Persistent Attention and its Persistent Repository (SAGE, section 3.2).

The repository keeps what a stage was given: its source features Z and the keys and
values made of them. The masks, which show parts of the scene only, attend to all of it.

Where the paper is silent this follows the published code, including two things that the
figure does not show: keys and values of the repository pass through the reader's own
projections, and the last image transformer reads them as the last mask transformer
projected them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Attention",
    "PersistentRepository",
    "SemanticPersistentAttention",
    "SpatialTransformer",
    "StageOutput",
]

_GROUPS = 4
_HEAD_WIDTH = 32
_NEGATIVE_SLOPE = 0.01


class PersistentRepository(NamedTuple):
    """What a stage remembers of its source features; None for what it does not keep.

    Attributes:
        latent: Z, the source features, N x C x h x w.
        keys: K, N x (h w) x C.
        values: V, as the keys.
    """

    latent: Tensor | None
    keys: Tensor | None
    values: Tensor | None


class StageOutput(NamedTuple):
    """What `SemanticPersistentAttention` returns.

    Attributes:
        image: F_SPA, N x 4 C x h x w: image, source, image before its second transformer, masks.
        visible_masks: N x C x h x w.
        infrared_masks: N x C x h x w.
    """

    image: Tensor
    visible_masks: Tensor
    infrared_masks: Tensor


class Attention(nn.Module):
    """Multi-head attention, softmax(Q K^T / sqrt(d)) V for each head of width d = 32.

    Args:
        channels: of all heads together, a multiple of 32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_query = nn.Linear(channels, channels, bias=False)
        self.to_key = nn.Linear(channels, channels, bias=False)
        self.to_value = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def forward(
        self, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend to `keys` and `values`, or to `x` itself.

        Args:
            x: N x L x C tokens.
            keys, values: N x M x C; this module's projections are applied to them.

        Returns:
            What was read, N x L x C; and the projected keys and values, N x M x C.
        """
        keys = self.to_key(x if keys is None else keys)
        values = self.to_value(x if values is None else values)
        # N x L x C to N x heads x L x d; the scores are never held all at once
        query, key, value = (
            t.unflatten(-1, (-1, _HEAD_WIDTH)).transpose(1, 2)
            for t in (self.to_query(x), keys, values)
        )
        read = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(read.transpose(1, 2).flatten(2)), keys, values


class _GatedFeedForward(nn.Module):
    """GEGLU: (a * gelu(b)) W, with a and b linear in the tokens, four times as wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, 8 * channels)
        self.narrow = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.widen(x).chunk(2, dim=-1)
        return self.narrow(value * F.gelu(gate))


class SpatialTransformer(nn.Module):
    """Self-attention, cross-attention and feed-forward over the pixels of a feature map.

    GroupNorm, 1x1 convolution, the three with a LayerNorm before and a residual around each,
    1x1 convolution that starts at zero, residual.

    Args:
        channels: of input and output, a multiple of 32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels, eps=1e-6)
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.self_norm = nn.LayerNorm(channels)
        self.self_attention = Attention(channels)
        self.cross_norm = nn.LayerNorm(channels)
        self.cross_attention = Attention(channels)
        self.feed_norm = nn.LayerNorm(channels)
        self.feed_forward = _GatedFeedForward(channels)
        self.project_out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.project_out.weight)
        assert self.project_out.bias is not None
        nn.init.zeros_(self.project_out.bias)

    def forward(
        self, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Transform a feature map.

        Args:
            x: N x C x h x w.
            keys, values: N x M x C for the cross-attention; None for its own tokens.

        Returns:
            N x C x h x w; and the cross-attention's projected keys and values.
        """
        height = x.shape[2]
        tokens = self.project_in(self.norm(x)).flatten(2).transpose(1, 2)  # N x (h w) x C
        tokens = tokens + self.self_attention(self.self_norm(tokens))[0]
        read, keys, values = self.cross_attention(self.cross_norm(tokens), keys, values)
        tokens = tokens + read
        tokens = tokens + self.feed_forward(self.feed_norm(tokens))
        out = self.project_out(tokens.transpose(1, 2).unflatten(2, (height, -1)))
        return x + out, keys, values


class SemanticPersistentAttention(nn.Module):
    """The SPA module: masks enriched with the whole scene, and the image with the masks.

    The variants of Table 3 II are (a) `keep_latent=False`, (b) `keep_keys_values=False`, and
    (c) neither. Of these the paper says only that "the channel loss has been corrected". Here
    the image features computed so far take the channels of Z, and without keys and values
    every transformer attends to itself: the shapes and the number of parameters stay.

    Args:
        channels: of all inputs, a multiple of 32.
        keep_latent: whether the repository keeps Z.
        keep_keys_values: whether it keeps K and V.
    """

    def __init__(
        self, channels: int = 64, *, keep_latent: bool = True, keep_keys_values: bool = True
    ) -> None:
        super().__init__()
        self.keep_latent = keep_latent
        self.keep_keys_values = keep_keys_values
        self.remember_image = SpatialTransformer(channels)
        self.read_visible = SpatialTransformer(channels)
        self.read_infrared = SpatialTransformer(channels)
        self.merge_visible = _merge(channels)
        self.merge_infrared = _merge(channels)
        self.merge_masks = _merge(channels)
        self.merge_image = _merge(channels)
        self.read_masks = SpatialTransformer(channels)
        self.read_image = SpatialTransformer(channels)

    def forward(self, image: Tensor, visible_masks: Tensor, infrared_masks: Tensor) -> StageOutput:
        """Run a stage.

        Args:
            image: source features, N x C x h x w.
            visible_masks, infrared_masks: features of the masks, the same shape.
        """
        scene, repository = self.remember(image)
        source = scene if repository.latent is None else repository.latent
        context = repository.keys, repository.values
        seen_visible = self.read_visible(visible_masks, *context)[0]
        seen_infrared = self.read_infrared(infrared_masks, *context)[0]
        visible = self.merge_visible(_join(seen_visible, visible_masks)) + seen_visible
        infrared = self.merge_infrared(_join(seen_infrared, infrared_masks)) + seen_infrared
        masks = self.merge_masks(_join(infrared, visible))
        masks = masks + infrared + visible + seen_visible + seen_infrared
        merged = self.merge_image(_join(scene, source)) + scene
        masks, keys, values = self.read_masks(masks, *context)
        passed_on = (keys, values) if self.keep_keys_values else (None, None)
        final = self.read_image(merged, *passed_on)[0]
        return StageOutput(torch.cat((final, source, merged, masks), dim=1), visible, infrared)

    def remember(self, image: Tensor) -> tuple[Tensor, PersistentRepository]:
        """The image after its first transformer, and the repository of a stage."""
        scene, keys, values = self.remember_image(image)
        return scene, PersistentRepository(
            image if self.keep_latent else None,
            keys if self.keep_keys_values else None,
            values if self.keep_keys_values else None,
        )


def _join(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat((a, b), dim=1)


def _merge(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2 * channels, channels, 3, padding=1),
        nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
    )
