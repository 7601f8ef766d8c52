"""Muon for convolutions, AdamW for the rest, in one cycle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["OneCycleMuon"]

_LEAST_ROWS = 16
_WARM_UP = 0.1


class OneCycleMuon:
    """Steps whose matrices are made orthogonal (Jordan et al., "Muon", 2024), in one cycle.

    A convolution's weights are a matrix, output channels by all they see, and each step of
    such a matrix moves every direction alike instead of the few that dominate its gradient.
    The student `fast` reaches in 1,500 steps what AdamW needs 2,500 for. Vectors and
    matrices of few rows, as the last convolutions are, stay with AdamW.

    Both learning rates rise over the first tenth of the steps and fall along a cosine.

    Args:
        network: on its device and in its memory format for good: the steps write to views
            of its weights.
        steps: of the whole cycle.
        learning_rate: Muon's highest.
        vector_learning_rate: AdamW's highest.
        weight_decay: of both.

    Raises:
        ValueError: this PyTorch has no Muon.
    """

    def __init__(
        self,
        network: nn.Module,
        steps: int,
        *,
        learning_rate: float,
        vector_learning_rate: float = 3e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"PyTorch {torch.__version__} has no Muon: expected 2.9 or later")
        self._network = network
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        others: list[nn.Parameter] = []
        for parameter in network.parameters():
            if parameter.ndim == 4 and parameter.shape[0] >= _LEAST_ROWS:
                view = nn.Parameter(_as_matrix(parameter.data, parameter))
                assert view.data_ptr() == parameter.data_ptr()
                self._matrices.append((parameter, view))
            else:
                others.append(parameter)
        muon = torch.optim.Muon(
            [view for _, view in self._matrices], lr=learning_rate, weight_decay=weight_decay
        )
        adam = torch.optim.AdamW(others, lr=vector_learning_rate, weight_decay=weight_decay)
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (muon, adam)
        self._schedules = [
            torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                highest,
                total_steps=max(steps, 20),
                pct_start=_WARM_UP,
                cycle_momentum=False,
            )
            for optimizer, highest in ((muon, learning_rate), (adam, vector_learning_rate))
        ]

    def step(self, loss: Tensor, *, largest_gradient: float = 5.0) -> None:
        """Go one step down the gradient of `loss`, whose norm is clipped."""
        self._network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), largest_gradient)
        for parameter, view in self._matrices:
            assert parameter.grad is not None
            view.grad = _as_matrix(parameter.grad, parameter)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()


def _as_matrix(values: Tensor, parameter: Tensor) -> Tensor:
    """Weights or gradients, O x I x h x w, as O rows in the order in which `parameter` lies."""
    if parameter.is_contiguous():
        return values.flatten(1)
    return values.permute(0, 2, 3, 1).flatten(1)
