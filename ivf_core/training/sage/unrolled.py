"""The second-order step of DARTS (Liu et al., ICLR 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ivf_core.training.losses import Total
from ivf_core.training.runs.devices import average_over_processes

__all__ = ["unrolled_gradient"]

_RADIUS = 0.01  # as DARTS: epsilon = 0.01 / ||v||


def unrolled_gradient(
    upper_loss: Callable[[], Total],
    lower_loss: Callable[[], Total],
    upper: Sequence[nn.Parameter],
    lower: Sequence[nn.Parameter],
    rate: float,
    *,
    radius: float = _RADIUS,
) -> tuple[Total, list[Tensor]]:
    """Gradient of the upper loss where the lower level has taken a step, equations (7), (8).

    With m' = m - rate d/dm L_low(s, m) it is
    d/ds L_up(s, m') - rate (d/ds L_low(s, m+) - d/ds L_low(s, m-)) / (2 epsilon),
    m+- = m +- epsilon v, v = d/dm' L_up(s, m'), epsilon = radius / ||v||: the product of the
    mixed second derivatives with v by finite differences, as DARTS does. The lower level's
    step is one of plain gradient descent; its weights are put back to the bit.

    Args:
        upper_loss, lower_loss: computed anew at each call, from the weights as they are; both
            depend on both levels.
        upper, lower: s and m.
        rate: of the lower level's step.
        radius: of the finite difference.

    Returns:
        The upper loss at m', and its gradient, one tensor for each of `upper`; the mean of all
        processes.
    """
    kept = [parameter.detach().clone() for parameter in lower]

    def place(direction: Sequence[Tensor], length: float | Tensor) -> None:
        with torch.no_grad():
            for parameter, start, way in zip(lower, kept, direction, strict=True):
                parameter.copy_(start + length * way)

    try:
        place(_gradients(lower_loss().loss, lower), -rate)
        total = upper_loss()
        both = _gradients(total.loss, [*upper, *lower])
        direct, way = both[: len(upper)], both[len(upper) :]
        length = torch.stack([part.norm() for part in way]).norm()
        if length == 0:
            return total, direct
        epsilon = radius / length
        place(way, epsilon)
        ahead = _gradients(lower_loss().loss, upper)
        place(way, -epsilon)
        behind = _gradients(lower_loss().loss, upper)
    finally:
        with torch.no_grad():
            for parameter, start in zip(lower, kept, strict=True):
                parameter.copy_(start)
    return total, [
        gradient - rate * (a - b) / (2 * epsilon)
        for gradient, a, b in zip(direct, ahead, behind, strict=True)
    ]


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradients = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for gradient, parameter in zip(found, parameters, strict=True)
    ]
    average_over_processes(gradients)
    return gradients
