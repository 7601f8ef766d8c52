"""Semantic Persistent Attention and its Persistent Repository (SAGE, section 3.2, figure 3b).

The repository stores the source features Z that a stage was given, and the keys and values
computed from them. The masks, which show only parts of the scene, attend to all of it.

Where the paper gives no detail this follows the published code, including two things that
the figure does not show: keys and values of the repository pass through the projections of
the attention that reads them, and the last image transformer reads them as the last mask
transformer projected them.
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
    """Source features that a stage stores, with their keys and values; None if not stored.

    Attributes:
        latent: Z, the source features, N x C x h x w.
        keys: K_src, N x (h w) x C.
        values: V_src, N x (h w) x C.
    """

    latent: Tensor | None
    keys: Tensor | None
    values: Tensor | None


class StageOutput(NamedTuple):
    """Output of `SemanticPersistentAttention`.

    Attributes:
        image: F_SPA, N x 4 C x h x w: image, source, image before its second transformer, masks.
        visible_masks: features of the visible masks, N x C x h x w.
        infrared_masks: features of the infrared masks, N x C x h x w.
    """

    image: Tensor
    visible_masks: Tensor
    infrared_masks: Tensor


class Attention(nn.Module):
    """Multi-head attention, softmax(Q K^T / sqrt(d)) V for each head of width d = 32.

    Args:
        channels: C, channels of all heads together, a multiple of 32.
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
            keys: N x M x C; the module's own projection is applied to them.
            values: N x M x C; likewise projected.

        Returns:
            The attended tokens, N x L x C, and the projected keys and values, N x M x C.
        """
        keys = self.to_key(x if keys is None else keys)  # N x M x C
        values = self.to_value(x if values is None else values)  # N x M x C
        # N x L x C to N x heads x L x d; the scores are never in memory all at once.
        query, key, value = (
            t.unflatten(-1, (-1, _HEAD_WIDTH)).transpose(1, 2)
            for t in (self.to_query(x), keys, values)
        )
        read = F.scaled_dot_product_attention(query, key, value)  # N x heads x L x d
        return self.to_out(read.transpose(1, 2).flatten(2)), keys, values  # N x L x C


class _GatedFeedForward(nn.Module):
    """GEGLU feed-forward: (a * gelu(b)) W, with a and b linear in the tokens, 4 C wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, 8 * channels)
        self.narrow = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.widen(x).chunk(2, dim=-1)  # N x L x 8 C to twice N x L x 4 C
        return self.narrow(value * F.gelu(gate))  # N x L x C


class SpatialTransformer(nn.Module):
    """Self-attention, cross-attention and feed-forward over the pixels of a feature map.

    GroupNorm and a 1x1 convolution come first. Each of the three has a LayerNorm before it
    and a residual around it. A 1x1 convolution with weights that start at zero and a
    residual around everything come last.

    Args:
        channels: C, channels of input and output, a multiple of 32.
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
            keys: N x M x C for the cross-attention; None for the tokens of `x`.
            values: N x M x C for the cross-attention; None for the tokens of `x`.

        Returns:
            The transformed map, N x C x h x w, and the keys and values as the
            cross-attention projected them, N x M x C.
        """
        height = x.shape[2]
        tokens = self.project_in(self.norm(x)).flatten(2).transpose(1, 2)  # N x (h w) x C
        tokens = tokens + self.self_attention(self.self_norm(tokens))[0]
        read, keys, values = self.cross_attention(self.cross_norm(tokens), keys, values)
        tokens = tokens + read
        tokens = tokens + self.feed_forward(self.feed_norm(tokens))
        planes = tokens.transpose(1, 2).unflatten(2, (height, -1))  # N x C x h x w
        return x + self.project_out(planes), keys, values


class SemanticPersistentAttention(nn.Module):
    """SPA module: enriches masks with the whole scene, and the image with the masks.

    The variants of Table 3 II are (a) `keep_latent=False`, (b) `keep_keys_values=False`, and
    (c) both. About these the paper says only that "the channel loss has been corrected". Here
    the image features computed so far replace Z in its channels, and without keys and values
    every transformer attends to itself: shapes and number of parameters are unchanged.

    Args:
        channels: C, channels of every input, a multiple of 32.
        keep_latent: whether the repository stores Z.
        keep_keys_values: whether the repository stores K and V.
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
        """Run a stage of the main network.

        Args:
            image: source features F_src, N x C x h x w.
            visible_masks: features of the visible masks, F_pvis, N x C x h x w.
            infrared_masks: features of the infrared masks, F_pir, N x C x h x w.

        Returns:
            F_SPA, N x 4 C x h x w, and the features of both masks, N x C x h x w each.
        """
        scene, repository = self.remember(image)  # N x C x h x w
        source = scene if repository.latent is None else repository.latent  # N x C x h x w
        context = repository.keys, repository.values  # N x (h w) x C each
        # The masks query the whole scene. Every map from here on is N x C x h x w.
        seen_visible = self.read_visible(visible_masks, *context)[0]
        seen_infrared = self.read_infrared(infrared_masks, *context)[0]
        visible = self.merge_visible(_join(seen_visible, visible_masks)) + seen_visible
        infrared = self.merge_infrared(_join(seen_infrared, infrared_masks)) + seen_infrared
        masks = self.merge_masks(_join(infrared, visible))
        masks = masks + infrared + visible + seen_visible + seen_infrared
        merged = self.merge_image(_join(scene, source)) + scene
        # Both attend to the repository again, the image through the projections of the masks.
        masks, keys, values = self.read_masks(masks, *context)
        projected = (keys, values) if self.keep_keys_values else (None, None)
        final = self.read_image(merged, *projected)[0]
        image = torch.cat((final, source, merged, masks), dim=1)  # N x 4 C x h x w
        return StageOutput(image, visible, infrared)

    def remember(self, image: Tensor) -> tuple[Tensor, PersistentRepository]:
        """Run the first image transformer and fill the repository of a stage.

        Args:
            image: source features, N x C x h x w.

        Returns:
            The transformed image features, N x C x h x w, and the repository.
        """
        scene, keys, values = self.remember_image(image)
        return scene, PersistentRepository(
            image if self.keep_latent else None,
            keys if self.keep_keys_values else None,
            values if self.keep_keys_values else None,
        )


def _join(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat((a, b), dim=1)  # N x 2 C x h x w


def _merge(channels: int) -> nn.Sequential:
    """Build the 3x3 convolution of two concatenated maps, 2 C to C channels."""
    return nn.Sequential(
        nn.Conv2d(2 * channels, channels, 3, padding=1),
        nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
    )
