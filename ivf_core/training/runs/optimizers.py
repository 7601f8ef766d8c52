"""Optimizers and schedules of learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

__all__ = ["MuonAdamW", "adam_with_cosine", "muon_groups", "one_cycle"]

_LEAST_ROWS = 16


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the weights of convolutions, AdamW for all other parameters.

    A convolution's weights are a matrix, output channels by everything they see, and Muon
    (Jordan et al., 2024) makes each step of such a matrix orthogonal: it moves every direction
    by the same amount instead of the few that dominate the gradient. The student `fast` reaches
    in 1,500 steps what AdamW needs 2,500 for.

    `torch.optim.Muon` takes matrices only: it steps on views of the weights.

    Args:
        groups: parameter groups with `params`, `lr`, `weight_decay` and `muon`, which chooses
            the algorithm; see `muon_groups`. The networks must keep their device and memory
            format: the steps write to views of their weights.

    Raises:
        ValueError: this PyTorch has no Muon.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"PyTorch {torch.__version__} has no Muon: expected 2.9 or later")
        self._inner: list[tuple[torch.optim.Optimizer, list[Tensor]]] = []
        super().__init__(groups, {"weight_decay": 1e-2, "muon": False})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with its `lr`, `weight_decay` and `muon`."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        parameters = group["params"]
        kind: Any = torch.optim.AdamW
        if group["muon"]:
            kind = torch.optim.Muon
            parameters = [nn.Parameter(_as_matrix(p.data, p)) for p in parameters]
        inner = kind(parameters, lr=group["lr"], weight_decay=group["weight_decay"])
        self._inner.append((inner, parameters))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group, (inner, views) in zip(self.param_groups, self._inner, strict=True):
            inner.param_groups[0].update(lr=group["lr"], weight_decay=group["weight_decay"])
            for parameter, view in zip(group["params"], views, strict=True):
                inner.state[view] = self.state[parameter]  # what `state_dict` saves
                if view is not parameter:
                    gradient = parameter.grad
                    view.grad = None if gradient is None else _as_matrix(gradient, parameter)
            inner.step()
        return loss


def muon_groups(
    network: nn.Module, lr: float, *, vector_lr: float = 3e-3, weight_decay: float = 1e-4
) -> list[dict[str, Any]]:
    """Return the groups of a network for `MuonAdamW`.

    Vectors and matrices of few rows, such as those of the last convolutions, stay with AdamW.

    Args:
        network: its parameters learn.
        lr: highest learning rate of Muon.
        vector_lr: highest learning rate of AdamW.
        weight_decay: factor of both.
    """
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in network.parameters():
        parts[parameter.ndim == 4 and parameter.shape[0] >= _LEAST_ROWS].append(parameter)
    return [
        {"params": p, "lr": lr if muon else vector_lr, "weight_decay": weight_decay, "muon": muon}
        for muon, p in parts.items()
        if p
    ]


def one_cycle(
    optimizer: torch.optim.Optimizer, steps: int, rises: float | Sequence[float] = 0.1
) -> LambdaLR:
    """Return a schedule as `torch.optim.lr_scheduler.OneCycleLR`, with a rise for each group.

    A learning rate rises from 1/25 of its highest value along a cosine, and falls to 1/250000.

    Args:
        optimizer: its learning rates are the highest ones.
        steps: length of the cycle; at least 20 are assumed.
        rises: share of the steps in which the rate rises, of all groups or group by group.
    """
    steps = max(steps, 20)
    rises = [rises] * len(optimizer.param_groups) if isinstance(rises, float) else rises

    def factor(rise: float) -> Callable[[int], float]:
        def at(step: int) -> float:
            top = rise * steps - 1
            if step <= top:
                return _anneal(1 / 25, 1.0, step / top)
            return _anneal(1.0, 1 / 250_000, (step - top) / (steps - 1 - top))

        return at

    return LambdaLR(optimizer, [factor(rise) for rise in rises])


def adam_with_cosine(
    network: nn.Module, steps: int, lr: float, final_lr: float
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Return Adam and a cosine of its learning rate from `lr` to `final_lr` over `steps`."""
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    return optimizer, CosineAnnealingLR(optimizer, max(1, steps), eta_min=final_lr)


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _as_matrix(values: Tensor, parameter: Tensor) -> Tensor:
    """Reshape weights or gradients, O x I x h x w, to O rows in the memory order of `parameter`."""
    if parameter.is_contiguous():
        return values.flatten(1)
    return values.permute(0, 2, 3, 1).flatten(1)
