"""Second-order gradient of a bi-level problem, as in DARTS (Liu et al., ICLR 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ivf_core.training.losses import Total
from ivf_core.training.runs.devices import average_over_processes

__all__ = ["unrolled_gradient"]

_RADIUS = 0.01  # DARTS: epsilon = 0.01 / ||v||


def unrolled_gradient(
    upper_loss: Callable[[], Total],
    lower_loss: Callable[[], Total],
    upper: Sequence[nn.Parameter],
    lower: Sequence[nn.Parameter],
    rate: float,
    *,
    radius: float = _RADIUS,
) -> tuple[Total, list[Tensor]]:
    """Compute the gradient of the upper loss through a step of the lower level.

    This is the gradient of equations (7) and (8) of DARTS. With m' = m - rate d/dm L_low(s, m),
    it is d/ds L_up(s, m') - rate (d/ds L_low(s, m+) - d/ds L_low(s, m-)) / (2 epsilon), where
    m+- = m +- epsilon v, v = d/dm' L_up(s, m') and epsilon = radius / ||v||. The quotient is a
    finite difference for the product of the mixed second derivatives with v. The lower level's
    step is plain gradient descent. Afterwards its parameters are restored exactly.

    Args:
        upper_loss: computes L_up from the current parameters of both levels at each call.
        lower_loss: computes L_low from the current parameters of both levels at each call.
        upper: parameters s of the upper level.
        lower: parameters m of the lower level.
        rate: learning rate of the lower level's step.
        radius: length of epsilon v, the step of the finite difference.

    Returns:
        The upper loss at m' in this process, and its gradient as the mean over all processes,
        with a tensor for each of `upper`.
    """
    kept = [parameter.detach().clone() for parameter in lower]

    def place(direction: Sequence[Tensor], length: float | Tensor) -> None:
        """Set the lower level's parameters to their start plus length times direction."""
        with torch.no_grad():
            for parameter, start, part in zip(lower, kept, direction, strict=True):
                parameter.copy_(start + length * part)

    try:
        place(_gradients(lower_loss().loss, lower), -rate)
        total = upper_loss()
        both = _gradients(total.loss, [*upper, *lower])
        direct, direction = both[: len(upper)], both[len(upper) :]
        length = torch.stack([part.norm() for part in direction]).norm()
        if length == 0:
            return total, direct
        epsilon = radius / length
        place(direction, epsilon)
        ahead = _gradients(lower_loss().loss, upper)
        place(direction, -epsilon)
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
    """Return the gradient of a loss as the mean over all processes, zeros for unused parameters."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradients = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for gradient, parameter in zip(found, parameters, strict=True)
    ]
    average_over_processes(gradients)
    return gradients
