"""Devices, precision and processes, through Lightning Fabric.

The networks are not wrapped in DistributedDataParallel: they are small, two of them take
turns, and not every weight has a gradient in every step. Each process computes the gradients
of its share of a batch, and one collective call averages all of them. A loss that is not the
mean of its crops' losses is computed on the whole batch, with `gather_over_processes` or
`sum_over_processes`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ivf_core.training.runs.options import RunOptions

__all__ = [
    "average_over_processes",
    "gather_over_processes",
    "mean_over_processes",
    "process_count",
    "start_fabric",
    "sum_over_processes",
]

_FABRIC_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def start_fabric(options: RunOptions) -> Any:
    """Launch a `lightning_fabric.Fabric` with the devices and the precision of a recipe.

    Args:
        options: a recipe.

    Raises:
        ValueError: the package is missing, a device is missing or cannot do the precision, or
            torchrun started another number of processes than the recipe says.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise ValueError(
            f"training needs a package of the extra 'training': pip install lightning-fabric "
            f"({error})"
        ) from error
    started = int(os.environ.get("LOCAL_WORLD_SIZE", options.devices))
    if started != options.devices:
        raise ValueError(
            f"torchrun started {started} processes on this node, but devices is {options.devices}"
        )
    if options.precision == "fp16" and not _uses_gpu(options):
        raise ValueError("precision 'fp16' needs a GPU, expected fp32 or bf16 on a CPU")
    several = options.devices * options.nodes > 1
    try:
        fabric = Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.nodes,
            precision=_FABRIC_PRECISIONS[options.precision],  # type: ignore[arg-type]
            strategy="ddp" if several else "auto",
        )
        fabric.launch()
    except (MisconfigurationException, RuntimeError) as error:
        raise ValueError(
            f"accelerator '{options.accelerator}', devices {options.devices}: {error}"
        ) from error
    if fabric.world_size != options.devices * options.nodes:
        raise ValueError(
            f"{fabric.world_size} processes were started, expected {options.devices} devices on "
            f"{options.nodes} nodes"
        )
    return fabric


def process_count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of every process's `x`; gradients flow back to all processes."""
    return x if process_count() == 1 else _Sum.apply(x)


def mean_over_processes(x: Tensor) -> Tensor:
    """Return the mean of `x` over its elements and over all processes, a scalar."""
    return sum_over_processes(x.mean()) / process_count()


def gather_over_processes(x: Tensor) -> Tensor:
    """Concatenate the shares of a batch that the processes hold, in all processes.

    A loss of the whole batch is the same number in each process, and the mean over processes of
    its gradients is the gradient of the whole batch.

    Args:
        x: N x ..., of the same shape in each process.

    Returns:
        (processes * N) x ...; gradients flow back to all processes.
    """
    if process_count() == 1:
        return x
    whole = x.new_zeros(process_count(), *x.shape)
    whole[dist.get_rank()] = x
    return sum_over_processes(whole).flatten(0, 1)


def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their mean over processes, in place."""
    processes = process_count()
    if processes == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= processes
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        # The result of each process depends on this x.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _uses_gpu(options: RunOptions) -> bool:
    return options.accelerator != "cpu" and torch.cuda.is_available()
