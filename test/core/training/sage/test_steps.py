"""Test parts of a step: contrast over masks, unrolled gradients, schedules, errors, state."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import random_batch
from torch import Tensor, nn

from ivf_core.models.conv_encoder import ConvEncoder
from ivf_core.training.losses import Total
from ivf_core.training.runs.checkpoint import CheckpointError, RunState
from ivf_core.training.runs.loop import Learner, StepError, StepGuard
from ivf_core.training.runs.optimizers import adam_with_cosine
from ivf_core.training.sage.contrast import MaskContrast
from ivf_core.training.sage.losses import masked_contrast
from ivf_core.training.sage.unrolled import unrolled_gradient

GUARD = StepGuard(41, ("a.png", "b.png"))


class Counting(nn.Module):
    """Encoder that counts the images it gets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = ConvEncoder((8, 8, 8)).requires_grad_(False)
        self.images = 0

    def forward(self, images: Tensor) -> list[Tensor]:
        self.images += len(images)
        return self.encoder(images)


# L_cs


@pytest.mark.parametrize(("remember", "per_layer"), [(False, False), (True, False), (True, True)])
def test_contrast_is_the_sum_of_both_modalities(remember: bool, per_layer: bool) -> None:
    batch = random_batch()
    batch = batch._replace(
        **{name: part.double() for name, part in batch._asdict().items()
           if isinstance(part, Tensor) and part.is_floating_point()}
    )  # fmt: skip
    encode = Counting().double()
    contrast = MaskContrast(encode, remember=remember, per_layer=per_layer)
    fused = torch.rand_like(batch.luma).requires_grad_()
    reference = torch.rand_like(batch.luma)
    expected = sum(
        masked_contrast(fused, reference, source, masks, encode.encoder, per_layer=per_layer)
        for source, masks in (
            (batch.luma, batch.visible_masks),
            (batch.infrared, batch.infrared_masks),
        )
    )
    assert isinstance(expected, Tensor)
    loss = contrast(fused, reference, batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, fused, retain_graph=True)[0] for x in (loss, expected))
    )


def test_sources_are_encoded_once() -> None:
    batch, other = random_batch(), random_batch(1)
    planes = 5  # 2 crops with 2 + 2 masks each, of which 1 and 2 are empty
    encode = Counting()
    contrast = MaskContrast(encode)
    for _ in range(2):
        contrast(batch.luma, batch.infrared, batch)
    assert encode.images == planes + 2 * 2 * planes
    contrast(other.luma, other.infrared, other)
    contrast(batch.luma, batch.infrared, batch)
    assert encode.images == 2 * planes + 4 * 2 * planes
    encode = Counting()
    contrast = MaskContrast(encode, remember=True)
    for part in (batch, random_batch(), random_batch()):
        contrast(part.luma, part.infrared, part)
    assert encode.images == planes + 3 * 2 * planes  # other batches, the same crops


def test_contrast_without_masks_is_zero() -> None:
    batch = random_batch()
    batch = batch._replace(
        visible_masks=0 * batch.visible_masks, infrared_masks=0 * batch.infrared_masks
    )
    fused = torch.rand_like(batch.luma).requires_grad_()
    loss = MaskContrast(Counting())(fused, batch.infrared, batch)
    loss.backward()
    assert loss.item() == 0
    assert fused.grad is not None
    assert not fused.grad.any()


# The unrolled step


def test_second_order_is_the_derivative_of_the_unrolled_loss() -> None:
    """The gradient equals autograd through the inner step, for nonlinear levels in float64."""
    torch.manual_seed(0)
    s, m = (nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (5, 4))
    mix = torch.randn(5, 4, dtype=torch.float64)
    rate = 0.3

    def lower(s: Tensor, m: Tensor) -> Tensor:
        return (torch.tanh(s @ mix) * m).square().sum() + (m**3).sum() / 5

    def upper(s: Tensor, m: Tensor) -> Tensor:
        return torch.sin(s).sum() + (torch.tanh(mix @ m) * s).sum()

    (inner,) = torch.autograd.grad(lower(s, m), m, create_graph=True)
    exact_loss = upper(s, m - rate * inner)
    (exact,) = torch.autograd.grad(exact_loss, s)
    (first_order,) = torch.autograd.grad(upper(s, m), s)

    def level(function: object) -> object:
        return lambda: Total(function(s, m), {})  # type: ignore[operator]

    before = m.detach().clone()
    total, (gradient,) = unrolled_gradient(
        level(upper), level(lower), [s], [m], rate, radius=1e-4  # type: ignore[arg-type]
    )  # fmt: skip
    torch.testing.assert_close(gradient, exact, rtol=1e-6, atol=1e-8)
    assert (first_order - exact).abs().max() > 0.05
    assert total.loss.item() == pytest.approx(exact_loss.item())
    assert torch.equal(m, before)


def test_second_order_restores_weights_after_an_error() -> None:
    s, m = (nn.Parameter(torch.rand(3)) for _ in range(2))
    before = m.detach().clone()

    def fail() -> Total:
        raise RuntimeError("not enough memory")

    with pytest.raises(RuntimeError, match="not enough memory"):
        unrolled_gradient(fail, lambda: Total((s * m).sum(), {}), [s], [m], 0.1)
    assert torch.equal(m, before)


# Learners


def learner(steps: int = 4, *, fp16: bool = False) -> Learner:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = adam_with_cosine(network, steps, 2e-3, 1e-5)
    return Learner("student", network, *optimizer, prefix="student/", fp16=fp16)


def total(learner: Learner, scale: float = 1.0) -> Total:
    loss = learner.network(torch.ones(2, 3)).square().mean() * scale
    return Total(loss, {"context": loss})


def test_the_cosine_counts_the_learners_own_steps() -> None:
    ours = learner(4)
    rates = []
    for _ in range(4):
        rates.append(ours.learning_rate)
        ours.step(total(ours), GUARD)
    cosine = [1e-5 + (2e-3 - 1e-5) * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(5)]
    assert [*rates, ours.learning_rate] == pytest.approx(cosine)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    ours = learner()
    before = [p.detach().clone() for p in ours.network.parameters()]
    with pytest.raises(
        StepError,
        match=r"step 41, student/context: .* is nan; batch of a\.png, b\.png; .*learning rate",
    ):
        ours.step(total(ours, math.nan), GUARD)
    # Finite, but without a finite derivative: its square root at zero.
    loss = total(ours).loss
    with pytest.raises(
        StepError, match=r"step 41, gradient of the student's loss: .* is (inf|nan)"
    ):
        ours.step(Total((loss - loss).sqrt(), {"context": loss}), GUARD)
    for parameter, start in zip(ours.network.parameters(), before, strict=True):
        assert torch.equal(parameter, start)


def test_gradients_are_scaled_in_half_precision() -> None:
    """The step is the same; one that overflows is left out, and the scale is halved."""
    ours, scaled = learner(), learner(fp16=True)
    for each in (ours, scaled):
        assert each.step(total(each), GUARD).keys() == {"student/context"}
    for a, b in zip(ours.network.parameters(), scaled.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    before = [p.detach().clone() for p in scaled.network.parameters()]
    scale = scaled.scaler.get_scale()
    scaled.step(total(scaled, 1e38), GUARD)
    assert scaled.scaler.get_scale() == scale / 2
    for parameter, start in zip(scaled.network.parameters(), before, strict=True):
        assert torch.equal(parameter, start)
    again = learner(fp16=True)
    again.load_state_dict(scaled.state_dict())
    assert again.scaler.get_scale() == scale / 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_too_little_memory_stops_the_run(error: Exception) -> None:
    with pytest.raises(
        StepError,
        match=r"step 41, contrast \(L_cs\): memory is too small .*a\.png.*smaller batch_size",
    ), GUARD.term("contrast (L_cs)"):  # fmt: skip
        raise error


def test_a_real_allocation_that_fails() -> None:
    with pytest.raises(StepError, match="memory is too small"), GUARD.term("x"):
        torch.empty(1 << 60)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match=r"^sizes differ$"), GUARD.term("contrast"):
        raise RuntimeError("sizes differ")


# Checkpoints


def test_a_checkpoint_has_everything(tmp_path: Path) -> None:
    """Steps after it are the same to the bit, and so are random numbers of all kinds."""
    options = {"steps": 4, "crop": (32, 32)}

    def run(ours: Learner, steps: int) -> list[float]:
        parts = [ours.step(total(ours), GUARD)["student/context"] for _ in range(steps)]
        drawn = [torch.rand(1).item(), np.random.rand(), random.random()]  # noqa: NPY002
        return [*parts, ours.learning_rate, *drawn]

    ours = learner()
    run(ours, 2)
    RunState(tmp_path / "run/checkpoint.pt", options, {"student": ours}).save(2)
    expected = run(ours, 2)
    other = learner()
    state = RunState(tmp_path / "run/checkpoint.pt", options, {"student": other})
    assert state.restore() == 2
    torch.rand(7)  # as networks draw when they are opened
    state.restore_random()
    assert run(other, 2) == expected
    for a, b in zip(ours.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_recipe_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    state = RunState(path, {"steps": 4, "resume": False}, {"student": learner()}, ("resume",))
    assert state.restore() == 0
    state.save(3)
    again = RunState(path, {"steps": 4, "resume": True}, {"student": learner()}, ("resume",))
    assert again.restore() == 3
    other = RunState(path, {"steps": 5}, {"student": learner()})
    with pytest.raises(CheckpointError, match=r"steps was 4 when the run began, is 5 now"):
        other.restore()
    with pytest.raises(CheckpointError, match=r"interrupted run: continue that run"):
        other.reject_leftover()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="cannot be read"):
        state.restore()
    state.remove()
    other.reject_leftover()
