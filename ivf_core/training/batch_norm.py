"""BatchNorm in training."""

from __future__ import annotations

from torch import nn

__all__ = ["freeze_norm"]


def freeze_norm(network: nn.Module) -> None:
    """Have BatchNorm use and keep its running statistics, in training mode too."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
