"""Devices, precision and processes, through Lightning Fabric.

The networks are not wrapped in DistributedDataParallel: they are small, two of them take
turns, and not every weight has a gradient in every step. Each process computes the gradients
of its share of a batch, and their mean is taken in one go. Where a loss is more than the mean
of its crops' losses, `sum_over_processes` makes it that of the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "DeviceOptions",
    "average_over_processes",
    "process_count",
    "start_fabric",
    "sum_over_processes",
]


class DeviceOptions(Protocol):
    """What a recipe says of devices; see `run_options.RunOptions`."""

    @property
    def accelerator(self) -> str: ...
    @property
    def devices(self) -> int: ...
    @property
    def nodes(self) -> int: ...
    @property
    def precision(self) -> str: ...


def start_fabric(options: DeviceOptions) -> Any:
    """A launched `lightning_fabric.Fabric` as the recipe says.

    Raises:
        ValueError: the package is missing, a device is not there, or torchrun started another
            number of processes than the recipe says.
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
    several = options.devices * options.nodes > 1
    try:
        fabric = Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.nodes,
            precision=options.precision,  # type: ignore[arg-type]
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
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's `x`, through which gradients flow back to all of them."""
    return x if process_count() == 1 else _Sum.apply(x)


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
        # Each process's result depends on this x.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
