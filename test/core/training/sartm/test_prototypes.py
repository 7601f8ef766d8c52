"""Prototypes, their averages and SARTM's losses on them, worked by hand or in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ivf_core.training.sartm.prototypes import (
    Prototypes,
    language_loss,
    mask_average_pool,
    relation_loss,
)


def test_prototypes_are_means() -> None:
    """Two classes of three, of four cells one without a label; the class is the centre's."""
    features = torch.tensor([[1.0, 2.0, 6.0, 50.0], [0.0, 4.0, 2.0, 50.0]]).view(1, 2, 2, 2)
    labels = torch.full((1, 32, 32), 1)
    labels[0, 8, 8], labels[0, 8, 24], labels[0, 24, 8], labels[0, 24, 24] = 0, 0, 2, 255
    prototypes, present = mask_average_pool(features, labels, 3)
    assert prototypes.tolist() == [[1.5, 2.0], [0.0, 0.0], [6.0, 2.0]]
    assert present.tolist() == [True, False, True]
    doubled, _ = mask_average_pool(features.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1), 3)
    assert torch.equal(doubled, prototypes)


def test_averages() -> None:
    """Averages start with the first batch of a class, rest while it is absent, and are saved."""
    average = Prototypes(3, 2, decay=0.9)
    first = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    out = average.update(first, torch.tensor([True, True, False]))
    assert torch.equal(out, first)
    second = torch.tensor([[2.0, 0.0], [0.0, 0.0], [5.0, 6.0]])
    out = average.update(second, torch.tensor([True, False, True]))
    expected = torch.tensor([[1.1, 1.8], [3.0, 4.0], [5.0, 6.0]])
    torch.testing.assert_close(out, expected)
    again = Prototypes(3, 2)
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.prototypes, out)
    assert again.seen.tolist() == [True, True, True]


def divergence(targets: np.ndarray, values: np.ndarray) -> float:
    """KL(softmax(targets) || softmax(values)) by rows, divided by the number of all elements."""
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (targets, values))
    return float((p * np.log(p / q)).sum() / p.size)


def test_relation_loss() -> None:
    random = np.random.default_rng(0)
    batch, average = random.standard_normal((2, 4, 6))
    present = np.array([True, False, True, True])
    tensors = [torch.from_numpy(x) for x in (batch, average, present)]
    value = relation_loss(*tensors).item()
    assert value == pytest.approx(divergence(average[present], batch[present]), rel=1e-9)
    assert relation_loss(tensors[1], *tensors[1:]).item() == pytest.approx(0, abs=1e-12)
    x = tensors[0].requires_grad_(True)
    loss = relation_loss(x, tensors[1], torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()  # type: ignore[union-attr]


def cosines(x: np.ndarray) -> np.ndarray:
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_language_loss(temperature: float) -> None:
    """An absent class, whatever its prototype, changes nothing."""
    random = np.random.default_rng(1)
    prototypes, names = random.standard_normal((2, 5, 7))
    present = torch.tensor([True, True, False, True, True])
    chosen = present.numpy()
    expected = divergence(
        cosines(names[chosen]) / temperature, cosines(prototypes[chosen]) / temperature
    )
    similarity = torch.from_numpy(cosines(names))
    for value in (1.0, 1e3):
        prototypes[2] = value
        loss = language_loss(
            torch.from_numpy(prototypes), similarity, present, temperature=temperature
        )
        assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("prototypes", "value"), [("orthogonal", 0.01299), ("equal", 0.000691)])
def test_language_loss_has_the_published_size(prototypes: str, value: float) -> None:
    """Five classes with cosines of 0.8, by the published expression."""
    similarity = torch.full((5, 5), 0.8, dtype=torch.float64).fill_diagonal_(1.0)
    features = torch.eye(5) if prototypes == "orthogonal" else torch.ones(5, 5)
    loss = language_loss(features.double(), similarity, torch.ones(5, dtype=torch.bool))
    assert loss.item() == pytest.approx(value, rel=2e-3)


def test_language_loss_at_its_minimum_and_without_classes() -> None:
    names = torch.randn(4, 6, dtype=torch.float64)
    similarity = torch.from_numpy(cosines(names.numpy()))
    everything = torch.ones(4, dtype=torch.bool)
    assert language_loss(3 * names, similarity, everything).item() == pytest.approx(0, abs=1e-12)
    one = torch.tensor([True, False, False, False])
    x = names.clone().requires_grad_(True)
    loss = language_loss(x, similarity, one)
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()  # type: ignore[union-attr]


def test_language_loss_pulls_prototypes_towards_their_names() -> None:
    """Against flat targets orthogonal prototypes approach each other, as with CLIP's cosines."""
    similarity = torch.full((3, 3), 0.8, dtype=torch.float64).fill_diagonal_(1.0)
    prototypes = torch.eye(3, dtype=torch.float64).requires_grad_(True)
    loss = language_loss(prototypes, similarity, torch.ones(3, dtype=torch.bool))
    loss.backward()
    moved = (prototypes - 0.1 * prototypes.grad).detach().numpy()  # type: ignore[operator]
    assert cosines(moved)[0, 1] > 0
    assert math.isfinite(loss.item())
