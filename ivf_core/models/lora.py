"""LoRA (Hu et al., ICLR 2022) on query and value of attention, with weights for each modality."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["ModalLora", "add_lora", "lora_parameters"]


class ModalLora(nn.Module):
    """Frozen projection to query, key and value, with low-rank updates of query and value.

    The update of modality m is x A^T B^T, equations (6) and (7) of SARTM, without a factor:
    LoRA's alpha equals its rank. B starts at zero, so that nothing changes at first. The batch
    holds the modalities one after the other, M times as many images as pairs; windows of
    attention keep this order.

    Args:
        base: projection of `in` features to query, key and value of equal widths; frozen here.
        rank: rank of each update.
        modalities: number of modalities M.

    Raises:
        ValueError: the width of the projection is no multiple of 3.
    """

    def __init__(self, base: nn.Linear, rank: int, modalities: int = 2) -> None:
        super().__init__()
        if base.out_features % 3:
            raise ValueError(f"{base.out_features} features: expected query, key and value")
        self.base = base.requires_grad_(False)
        self.modalities = modalities
        width = base.out_features // 3
        self.down = nn.Parameter(base.weight.new_empty(modalities, 2, rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(modalities, 2, width, rank))
        for matrix in self.down.flatten(0, 1):
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Project M B x ... x in features to M B x ... x 3 width."""
        out = self.base(x)
        count, rank = self.modalities, self.down.shape[2]
        tokens = x.reshape(count, -1, x.shape[-1])
        low = tokens @ self.down.flatten(1, 2).transpose(1, 2).to(x.dtype)  # M x T x 2 rank
        low = low.unflatten(2, (2, rank)).transpose(1, 2)  # M x 2 x T x rank
        update = low @ self.up.transpose(2, 3).to(low.dtype)  # M x 2 x T x width
        query, key, value = out.reshape(count, -1, 3, update.shape[-1]).unbind(2)
        return torch.cat((query + update[:, 0], key, value + update[:, 1]), -1).view(out.shape)


def add_lora(encoder: nn.Module, rank: int, modalities: int = 2) -> None:
    """Freeze an encoder and put LoRA on each of its projections that is named `qkv`.

    Args:
        encoder: changed in place.
        rank: rank of each update.
        modalities: number of modalities.

    Raises:
        ValueError: the encoder has no such projection.
    """
    encoder.requires_grad_(False)
    parents = [m for m in encoder.modules() if isinstance(getattr(m, "qkv", None), nn.Linear)]
    if not parents:
        raise ValueError(f"{type(encoder).__name__}: expected attention with a projection 'qkv'")
    for parent in parents:
        base = parent.qkv
        assert isinstance(base, nn.Linear)
        parent.qkv = ModalLora(base, rank, modalities)


def lora_parameters(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of all LoRA in a network, in the order of its modules."""
    for module in network.modules():
        if isinstance(module, ModalLora):
            yield from (module.down, module.up)
