"""BatchNorm in training: frozen, without memory, and over several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ivf_core.training.runs.devices import process_count, sum_over_processes

__all__ = [
    "ProcessBatchNorm",
    "freeze_norm",
    "kept_statistics",
    "restore_norm",
    "synchronize_norm",
    "train_mode",
]

Network = TypeVar("Network", bound=nn.Module)


def freeze_norm(network: nn.Module) -> None:
    """Make BatchNorm use its running statistics unchanged, in training mode too."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def train_mode(network: nn.Module, step: int, freeze_at: float) -> None:
    """Set training mode, with frozen BatchNorm from step `freeze_at` on."""
    network.train()
    if step >= freeze_at:
        freeze_norm(network)


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics unchanged while it normalises by the batch."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class ProcessBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes; torch's own `SyncBatchNorm` needs GPUs.

    The batches must have the same size. Weights and statistics have the names of `BatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise N x C x H x W over the batches of all processes."""
        if not self.training or process_count() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        count = process_count() * x.numel() / x.shape[1]
        mean = sum_over_processes(x.sum((0, 2, 3))) / count
        centered = x - mean.view(-1, 1, 1)
        variance = sum_over_processes(centered.square().sum((0, 2, 3))) / count
        if self.momentum:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centered * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(input.dtype)


def synchronize_norm(network: Network, device: torch.device) -> Network:
    """Make every BatchNorm of a network work on the batches of all processes, in place."""
    if process_count() == 1:
        return network
    kind = nn.SyncBatchNorm if device.type == "cuda" else ProcessBatchNorm
    return _replace_norm(network, kind)


def restore_norm(network: Network) -> Network:
    """Undo `synchronize_norm`, in place: a network that is saved or run has plain BatchNorm."""
    return _replace_norm(network, nn.BatchNorm2d)


def _replace_norm(network: Network, kind: type[_BatchNorm]) -> Network:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and type(child) is not kind:
                norm = kind(child.num_features, child.eps, child.momentum)
                norm.load_state_dict(child.state_dict())
                norm.weight.requires_grad_(child.weight.requires_grad)
                norm.bias.requires_grad_(child.bias.requires_grad)
                setattr(parent, name, norm.to(child.weight.device).train(child.training))
    return network
