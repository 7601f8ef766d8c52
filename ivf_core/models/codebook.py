"""Vector quantisation by a codebook that follows its latents (van den Oord et al., 2017)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Codebook", "Quantized", "perplexity"]

_SMOOTHING = 1e-7  # Laplace's, of the counts


class Quantized(NamedTuple):
    """Latents in their discrete form.

    Attributes:
        values: the nearest code of each latent, N x D x h x w float. The gradient passes through
            to the latents unchanged (straight-through).
        indices: numbers of these codes, N x h x w int64.
        commitment: mean squared distance of the latents from their codes, a scalar whose gradient
            moves the latents alone: the second term of FusionSAM's equation (6), without beta.
    """

    values: Tensor
    indices: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """Codes that are exponential moving averages of the latents nearest to them.

    The averages take the place of the first term of FusionSAM's equation (6), as in TATS, from
    whose tokenizer that of FusionSAM's published code is derived. `forward` changes nothing;
    a training run calls `start` once and then `update` after each step.

    Args:
        codes: number of codes K.
        channels: channels D of a code.
        decay: share of the former averages in the new ones.
        restart_below: number of latents of a batch, as a moving average, below which a code is
            dead: it is replaced by a random latent of the batch.
    """

    embedding: Tensor
    count: Tensor
    sum: Tensor
    started: Tensor

    def __init__(
        self, codes: int, channels: int, *, decay: float = 0.99, restart_below: float = 1.0
    ) -> None:
        super().__init__()
        self.decay = decay
        self.restart_below = restart_below
        embedding = torch.randn(codes, channels)
        self.register_buffer("embedding", embedding)
        self.register_buffer("sum", embedding.clone())
        self.register_buffer("count", torch.ones(codes))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, latents: Tensor) -> Quantized:
        """Replace N x D x h x w latents by their nearest codes, equation (3)."""
        wide = latents.to(self.embedding.dtype)
        indices = self.nearest(wide)
        codes = F.embedding(indices, self.embedding).movedim(-1, 1)
        return Quantized(wide + (codes - wide).detach(), indices, F.mse_loss(wide, codes))

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """Return the numbers of the codes nearest to N x D x h x w latents: N x h x w int64."""
        points = latents.movedim(1, -1)
        with torch.autocast(latents.device.type, enabled=False):
            # |z - c|^2 without |z|^2, which is the same for all codes.
            distances = self.embedding.square().sum(1) - 2 * (points @ self.embedding.T)
        return distances.argmin(-1)

    @torch.no_grad()
    def start(self, latents: Tensor) -> None:
        """Take random latents of the first batch, N x D x h x w, for codes."""
        points = latents.movedim(1, -1).flatten(0, -2)
        self.embedding.copy_(points[_draw(len(points), len(self.embedding))])
        self.sum.copy_(self.embedding)
        self.started.fill_(True)

    @torch.no_grad()
    def update(self, latents: Tensor) -> int:
        """Move the codes towards a batch of latents, and replace the dead ones.

        Args:
            latents: N x D x h x w float, of all processes.

        Returns:
            The number of codes that were replaced.
        """
        points = latents.movedim(1, -1).flatten(0, -2).to(self.embedding.dtype)
        indices = self.nearest(latents.to(self.embedding.dtype)).flatten()
        found = torch.bincount(indices, minlength=len(self.count)).to(self.count.dtype)
        sums = torch.zeros_like(self.sum).index_add_(0, indices, points)
        self.count.mul_(self.decay).add_(found, alpha=1 - self.decay)
        self.sum.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        total = self.count.sum()
        share = (self.count + _SMOOTHING) / (total + len(self.count) * _SMOOTHING)
        self.embedding.copy_(self.sum / (share * total)[:, None])
        dead = (self.count < self.restart_below).nonzero()[:, 0]
        if len(dead):
            fresh = points[_draw(len(points), len(dead))]
            self.embedding[dead] = self.sum[dead] = fresh
            self.count[dead] = 1.0
        return len(dead)


def perplexity(indices: Tensor, codes: int) -> float:
    """Compute exp(-sum p log p) of the shares p of codes: 1 for a single one, `codes` at most.

    Args:
        indices: numbers of codes, int64 of any shape, not empty.
        codes: number of codes.
    """
    share = torch.bincount(indices.flatten(), minlength=codes).double() / indices.numel()
    return torch.special.entr(share).sum().exp().item()


def _draw(count: int, wanted: int) -> Tensor:
    """Return `wanted` random indices below `count`, each as seldom as possible.

    The generator is the one of the CPU, which every process of a run has in the same state.
    """
    order = torch.randperm(count)
    return order.repeat(-(-wanted // count))[:wanted]
