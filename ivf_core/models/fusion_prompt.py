"""Fusion mask prompting (FMP) of FusionSAM: one image and prompts for SAM from two cameras.

Equation numbers are those of the paper at KDD 2025, which differs from its Algorithm 1 in three
ways: the equations attend in both directions, add the query, and place the norm after the
feed-forward network. Built are the equations, after the algorithm's self-attention.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.window_attention import CrossBlock, SelfBlock, WindowAttention, feed_forward

__all__ = ["FusionPrompt", "FusionPrompts", "box_prompt", "point_prompts"]

_STRIDE = 4  # pixels from one latent to the next
_BOX_SHARE = 0.1  # of the cells, those of the strongest features


class FusionPrompts(NamedTuple):
    """Outputs of `FusionPrompt`.

    Attributes:
        fused: fused luma in [0, 1], N x 1 x 4h x 4w float.
        plane: mask prompt, N x 1 x h x w float, unbounded.
        features: fused features, N x C x h x w float.
    """

    fused: Tensor
    plane: Tensor
    features: Tensor


class FusionPrompt(nn.Module):
    """Fusion mask prompting, equations (9) to (12), on the latents of both cameras.

    Latents are embedded by a 3 x 3 convolution, e_i, and attend to themselves and then to the
    other camera's, a_i (equation 10); z_c is a convolution of both. The complementary unit
    attends from z_f, the same fusion applied to the embedded latents directly, to z_0 = a_1 + a_2
    (equations 11 and 12): I_f = LN(FFN(softmax(Q_f K_0^T / sqrt(d)) V_0)) + z_c, then a
    convolution. From it come the fused luma, by pixel shuffling, and the plane that prompts SAM.

    Args:
        latent: channels of the latents.
        channels: channels C of all attention.
        heads: number of its heads.
        depth: blocks of self-attention, and of attention to the other camera.
        window: side of a window in latents; 0 attends globally, as in the equations.
    """

    def __init__(
        self, latent: int, channels: int = 60, heads: int = 6, depth: int = 6, window: int = 8
    ) -> None:
        super().__init__()
        sizes = (channels, heads, window)
        self.latent = latent
        self.depth = depth
        self.embed = nn.ModuleList(nn.Conv2d(latent, channels, 3, padding=1) for _ in range(2))
        self.own = nn.ModuleList(
            nn.Sequential(*(SelfBlock(*sizes, shifted=n % 2 == 1) for n in range(depth)))
            for _ in range(2)
        )
        self.cross = nn.ModuleList(CrossBlock(*sizes, shifted=n % 2 == 1) for n in range(depth))
        self.merge = nn.Conv2d(2 * channels, channels, 3, padding=1)  # z_c
        self.direct = CrossBlock(*sizes)
        self.merge_direct = nn.Conv2d(2 * channels, channels, 3, padding=1)  # z_f
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.attention = WindowAttention(*sizes)
        self.finish = nn.Sequential(feed_forward(channels), nn.LayerNorm(channels))
        self.output = nn.Conv2d(channels, channels, 3, padding=1)
        self.luma = nn.Conv2d(channels, _STRIDE**2, 3, padding=1)
        self.prompt = nn.Conv2d(channels, 1, 1)

    def forward(self, visible: Tensor, infrared: Tensor) -> FusionPrompts:
        """Fuse the latents of both cameras.

        Args:
            visible: N x D x h x w float, h and w multiples of the window.
            infrared: of the same shape.
        """
        e1, e2 = (
            embed(x).movedim(1, -1)  # N x h x w x C
            for embed, x in zip(self.embed, (visible, infrared), strict=True)
        )
        a1, a2 = (own(e) for own, e in zip(self.own, (e1, e2), strict=True))
        for block in self.cross:
            a1, a2 = block(a1, a2)
        z_c = _convolve(self.merge, a1, a2)
        z_f = _convolve(self.merge_direct, *self.direct(e1, e2))
        query, (key, value) = self.query(z_f), self.key_value(a1 + a2).chunk(2, -1)
        i_f = self.finish(self.attention(query, key, value)) + z_c
        features = self.output(i_f.movedim(-1, 1))
        fused = F.pixel_shuffle(self.luma(features), _STRIDE).sigmoid()
        return FusionPrompts(fused, self.prompt(features), features)


def point_prompts(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the cells whose features are the strongest of their 3 x 3 surroundings.

    Args:
        features: N x C x h x w float.
        count: number of points.

    Returns:
        Row and column of each point, N x count x 2 int64, the strongest first and equal ones in
        the order of rows; and N x count bool, false for points that an image has too few of.
    """
    strength = features.detach().float().norm(dim=1)  # N x h x w
    peaks = strength >= F.max_pool2d(strength[:, None], 3, 1, 1)[:, 0]
    ranked = strength.masked_fill(~peaks, -1).flatten(1)
    cells = (-ranked).argsort(dim=1, stable=True)[:, :count]
    values = ranked.gather(1, cells)
    missing = (0, max(0, count - ranked.shape[1]))
    values, cells = F.pad(values, missing, value=-1.0), F.pad(cells, missing)
    width = strength.shape[2]
    places = torch.stack((cells.div(width, rounding_mode="floor"), cells % width), -1)
    return places, values >= 0


def box_prompt(features: Tensor) -> Tensor:
    """Return first and last row and column of the tenth of the cells with strongest features.

    Args:
        features: N x C x h x w float.

    Returns:
        N x 4 int64: first row, first column, last row, last column.
    """
    strength = features.detach().float().norm(dim=1)
    count = max(1, round(_BOX_SHARE * strength[0].numel()))
    cells = (-strength.flatten(1)).argsort(dim=1, stable=True)[:, :count]
    rows, columns = cells.div(strength.shape[2], rounding_mode="floor"), cells % strength.shape[2]
    return torch.stack((rows.amin(1), columns.amin(1), rows.amax(1), columns.amax(1)), 1)


def _convolve(convolution: nn.Module, x1: Tensor, x2: Tensor) -> Tensor:
    """Convolve the channels of both, N x h x w x C each, to N x h x w x C."""
    return convolution(torch.cat((x1, x2), -1).movedim(-1, 1)).movedim(1, -1)
