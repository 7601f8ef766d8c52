"""Codes: the nearest ones, their moving averages, restarts and perplexity, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ivf_core.models.codebook import Codebook, perplexity


def points(*values: tuple[float, float]) -> Tensor:
    """One image, a row of latents of two channels: 1 x 2 x 1 x N float64."""
    return torch.tensor(values, dtype=torch.float64).T[None, :, None]


def book(*codes: tuple[float, float], **options: float) -> Codebook:
    codebook = Codebook(len(codes), 2, **options).double()
    codebook.embedding.copy_(torch.tensor(codes))
    codebook.sum.copy_(codebook.embedding)
    codebook.started.fill_(True)
    return codebook


def test_nearest_codes_by_brute_force() -> None:
    torch.manual_seed(0)
    codebook = Codebook(7, 3).double()
    latents = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    quantized = codebook(latents)
    codes = codebook.embedding.numpy()
    for n, y, x in np.ndindex(2, 4, 5):
        latent = latents[n, :, y, x].numpy()
        index = int(np.argmin([((latent - code) ** 2).sum() for code in codes]))
        assert quantized.indices[n, y, x] == index
        np.testing.assert_allclose(quantized.values[n, :, y, x].numpy(), codes[index], rtol=1e-12)
    errors = (latents - quantized.values).square().mean().item()
    assert quantized.commitment.item() == pytest.approx(errors, rel=1e-12)


def test_gradients_pass_straight_through() -> None:
    """Values pass it unchanged, the commitment pulls to the code; none reaches the codes."""
    codebook = book((0, 0), (4, 4))
    latents = points((1, 0), (3, 5)).requires_grad_(True)
    weight = points((2, -3), (5, 7))
    (codebook(latents).values * weight).sum().backward()
    assert torch.equal(latents.grad, weight)  # type: ignore[arg-type]
    latents.grad = None
    codebook(latents).commitment.backward()
    # d/dz of the mean of four squares.
    assert torch.equal(latents.grad, points((0.5, 0), (-0.5, 0.5)))  # type: ignore[arg-type]
    assert not [*codebook.parameters()]


def test_a_step_of_the_averages_by_hand() -> None:
    """Three latents at the first code, one at the second; a count starts at one."""
    codebook = book((0, 0), (10, 10), decay=0.75, restart_below=0.0)
    restarted = codebook.update(points((1, 0), (2, 1), (3, 2), (9, 8)))
    assert restarted == 0
    count = codebook.count.tolist()
    assert count == [0.75 * 1 + 0.25 * 3, 0.75 * 1 + 0.25 * 1]
    assert codebook.sum.tolist() == [[0.25 * 6, 0.25 * 3], [7.5 + 0.25 * 9, 7.5 + 0.25 * 8]]
    expected = [[1.5 / 1.5, 0.75 / 1.5], [9.75, 9.5]]
    np.testing.assert_allclose(codebook.embedding.numpy(), expected, rtol=1e-6)  # Laplace's 1e-7


def test_a_dead_code_becomes_a_latent() -> None:
    codebook = book((0, 0), (99, 99), decay=0.5)
    latents = points((1, 0), (2, 0), (3, 0))
    assert codebook.update(latents) == 1
    assert codebook.count.tolist() == [0.5 + 0.5 * 3, 1.0]
    fresh = codebook.embedding[1]
    assert fresh.tolist() in [[1, 0], [2, 0], [3, 0]]
    assert torch.equal(codebook.sum[1], fresh)
    np.testing.assert_allclose(codebook.embedding[0].numpy(), [0.5 * 6 / 2, 0], rtol=1e-6)


def test_a_first_batch_gives_the_codes() -> None:
    """Each latent once where there are enough of them, else as seldom as possible."""
    latents = points((1, 0), (2, 0), (3, 0), (4, 0))
    codebook = Codebook(3, 2)
    codebook.start(latents)
    assert codebook.started
    assert len({*codebook.embedding[:, 0].tolist()}) == 3
    more = Codebook(6, 2)
    more.start(latents)
    assert sorted(np.bincount(more.embedding[:, 0].long(), minlength=5)[1:]) == [1, 1, 2, 2]


def test_looking_codes_up_changes_nothing() -> None:
    """In training mode, too; the state has everything that changes."""
    codebook = Codebook(5, 2).double().train()
    before = {name: tensor.clone() for name, tensor in codebook.state_dict().items()}
    codebook(points((1, 2), (3, 4)))
    after = codebook.state_dict()
    assert before.keys() == after.keys() == {"embedding", "sum", "count", "started"}
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name])


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([3, 3, 3], 1.0),
        ([0, 1, 2, 3], 4.0),
        # Shares of 1/2, 1/4, 1/4.
        ([0, 0, 1, 2], math.exp(0.5 * math.log(2) + 0.5 * math.log(4))),
    ],
)
def test_perplexity(indices: list[int], expected: float) -> None:
    assert perplexity(torch.tensor(indices), 8) == pytest.approx(expected, rel=1e-12)
