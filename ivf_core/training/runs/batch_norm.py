"""BatchNorm in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ivf_core.training.runs.devices import process_count, sum_over_processes

__all__ = ["ProcessBatchNorm", "freeze_norm", "kept_statistics", "synchronize_norm"]


def freeze_norm(network: nn.Module) -> None:
    """Have BatchNorm use and keep its running statistics, in training mode too."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by the batch, but does not remember it."""
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

    The batches are of the same size. Weights and statistics have the names of `BatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
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


def synchronize_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Have every BatchNorm of a network work on the batches of all processes."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                norm = ProcessBatchNorm(child.num_features, child.eps, child.momentum)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm.train(child.training))
    return network
