"""Muon on convolutions is Muon on the matrices that they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ivf_core.training.runs.optimizers import OneCycleMuon


def test_a_convolution_moves_as_its_matrix_does() -> None:
    torch.manual_seed(0)
    steps, count = 30, 5
    conv, linear = nn.Conv2d(5, 16, 1), nn.Linear(5, 16)
    linear.load_state_dict(
        {k: v.flatten(1) if v.ndim > 1 else v for k, v in conv.state_dict().items()}
    )
    ours = OneCycleMuon(conv, steps, learning_rate=0.02, vector_learning_rate=1e-3)
    theirs = [
        (torch.optim.Muon([linear.weight], lr=0.02, weight_decay=1e-4), 0.02),
        (torch.optim.AdamW([linear.bias], lr=1e-3, weight_decay=1e-4), 1e-3),
    ]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, highest, total_steps=steps, pct_start=0.1, cycle_momentum=False
        )
        for optimizer, highest in theirs
    ]
    for _ in range(count):
        x, target = torch.randn(7, 5), torch.randn(7, 16)
        ours.step((conv(x[..., None, None])[..., 0, 0] - target).square().mean())
        loss = (linear(x) - target).square().mean()
        linear.zero_grad()
        loss.backward()
        for (optimizer, _), schedule in zip(theirs, schedules, strict=True):
            optimizer.step()
            schedule.step()
    torch.testing.assert_close(conv.weight.flatten(1), linear.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(conv.bias, linear.bias, rtol=1e-4, atol=1e-5)


def test_the_memory_format_does_not_matter() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 16, 3), nn.LeakyReLU(), nn.Conv2d(16, 3, 1))
    other = nn.Sequential(nn.Conv2d(4, 16, 3), nn.LeakyReLU(), nn.Conv2d(16, 3, 1))
    other.load_state_dict(network.state_dict())
    other = other.to(memory_format=torch.channels_last)
    steps = [OneCycleMuon(n, 20, learning_rate=0.02) for n in (network, other)]
    before = network[0].weight.detach().clone()
    for _ in range(5):
        x = torch.randn(2, 4, 9, 9)
        for n, step in zip((network, other), steps, strict=True):
            step.step(n(x).square().mean())
    assert not torch.allclose(before, network[0].weight, atol=1e-3)
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_a_pytorch_without_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"has no Muon: expected 2\.9 or later"):
        OneCycleMuon(nn.Conv2d(3, 16, 3), 20, learning_rate=0.02)
