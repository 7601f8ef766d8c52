"""Muon on convolutions is Muon on the matrices that they are; schedules; saved states."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from ivf_core.training.runs.optimizers import MuonAdamW, muon_groups, one_cycle


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 16, 3), nn.LeakyReLU(), nn.Conv2d(16, 3, 1))


def take_step(optimizer: torch.optim.Optimizer, schedule: object, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()  # type: ignore[attr-defined]


def test_a_convolution_moves_as_its_matrix_does() -> None:
    torch.manual_seed(0)
    steps, count = 30, 5
    # Muon rounds to bfloat16: gradients in float64 are so close that it rounds them alike.
    conv, linear = nn.Conv2d(5, 16, 1).double(), nn.Linear(5, 16).double()
    linear.load_state_dict(
        {k: v.flatten(1) if v.ndim > 1 else v for k, v in conv.state_dict().items()}
    )
    ours = MuonAdamW(muon_groups(conv, 0.02, vector_lr=1e-3))
    schedule = one_cycle(ours, steps)
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
        x, target = torch.randn(7, 21, dtype=torch.float64).split((5, 16), dim=1)
        loss = (conv(x[..., None, None])[..., 0, 0] - target).square().mean()
        take_step(ours, schedule, loss)
        loss = (linear(x) - target).square().mean()
        linear.zero_grad()
        loss.backward()
        for (optimizer, _), each in zip(theirs, schedules, strict=True):
            optimizer.step()
            each.step()
    torch.testing.assert_close(conv.weight.flatten(1), linear.weight)
    torch.testing.assert_close(conv.bias, linear.bias)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_update_is_that_of_two_optimizers(memory_format: torch.memory_format) -> None:
    """To the bit, on the same gradients: Muon on views of matrices, AdamW on the rest."""
    torch.manual_seed(0)
    ours = network().to(memory_format=memory_format)
    theirs = copy.deepcopy(ours)
    optimizer = MuonAdamW(muon_groups(ours, 0.02, weight_decay=1e-2))
    weight, *others = theirs.parameters()

    def as_matrix(values: Tensor) -> Tensor:
        if memory_format == torch.channels_last:
            values = values.permute(0, 2, 3, 1)
        return values.flatten(1)

    view = nn.Parameter(as_matrix(weight.data))
    assert view.data_ptr() == weight.data_ptr()
    muon = torch.optim.Muon([view], lr=0.02, weight_decay=1e-2)
    adam = torch.optim.AdamW(others, lr=3e-3, weight_decay=1e-2)
    for _ in range(4):
        x = torch.randn(2, 4, 9, 9)
        for net in (ours, theirs):
            net.zero_grad()
            net(x).square().mean().backward()
        optimizer.step()
        assert weight.grad is not None
        view.grad = as_matrix(weight.grad)
        muon.step()
        adam.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("rise", [0.1, 0.3])
@pytest.mark.parametrize("steps", [5, 20, 97])
def test_the_schedule_is_one_cycle(rise: float, steps: int) -> None:
    optimizers = [torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.02) for _ in range(2)]
    ours = one_cycle(optimizers[0], steps, [rise])
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizers[1], 0.02, total_steps=max(steps, 20), pct_start=rise, cycle_momentum=False
    )
    for _ in range(steps):
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-9)
        for optimizer, schedule in zip(optimizers, (ours, theirs), strict=True):
            optimizer.step()
            if schedule is ours or schedule.last_epoch < max(steps, 20) - 1:
                schedule.step()


def test_a_saved_state_continues_to_the_bit() -> None:
    torch.manual_seed(0)
    net = network().to(memory_format=torch.channels_last)
    batches = [torch.randn(2, 4, 9, 9) for _ in range(6)]

    def build(net: nn.Module) -> tuple[MuonAdamW, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = MuonAdamW(muon_groups(net, 0.02))
        return optimizer, one_cycle(optimizer, 20)

    parts = build(net)
    for x in batches[:3]:
        take_step(*parts, net(x).square().mean())
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (net, *parts)], file)
    for x in batches[3:]:
        take_step(*parts, net(x).square().mean())
    again = network().to(memory_format=torch.channels_last)
    others = build(again)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    for part, state in zip((again, *others), states, strict=True):
        part.load_state_dict(state)
    for x in batches[3:]:
        take_step(*others, again(x).square().mean())
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_memory_format_does_not_matter() -> None:
    torch.manual_seed(0)
    ours, other = network().double(), network().double()
    other.load_state_dict(ours.state_dict())
    other = other.to(memory_format=torch.channels_last)
    optimizers = [MuonAdamW(muon_groups(n, 0.02)) for n in (ours, other)]
    schedules = [one_cycle(optimizer, 20) for optimizer in optimizers]
    before = ours[0].weight.detach().clone()
    for _ in range(5):
        x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
        for net, optimizer, schedule in zip((ours, other), optimizers, schedules, strict=True):
            take_step(optimizer, schedule, net(x).square().mean())
    assert not torch.allclose(before, ours[0].weight, atol=1e-3)
    for a, b in zip(ours.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_pytorch_without_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"has no Muon: expected 2\.9 or later"):
        MuonAdamW(muon_groups(nn.Conv2d(3, 16, 3), 0.02))
