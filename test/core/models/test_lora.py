"""LoRA by modality: identity at the start, routing, full width, and the weights it adds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ivf_core.models.lora import ModalLora, add_lora, lora_parameters


def module(inputs: int = 6, width: int = 9, rank: int = 2) -> ModalLora:
    """A LoRA of two modalities whose updates are not zero, in float64."""
    torch.manual_seed(0)
    lora = ModalLora(nn.Linear(inputs, 3 * width).double(), rank)
    lora.down.data, lora.up.data = lora.down.double(), torch.randn_like(lora.up).double()
    return lora


def test_nothing_changes_at_the_start() -> None:
    base = nn.Linear(6, 27)
    x = torch.rand(4, 5, 6)
    before = base(x)
    assert torch.equal(ModalLora(base, 2)(x), before)


def test_updates_are_products_of_each_modality() -> None:
    """Query and value change over their full width, also where it differs from the input's."""
    lora = module()
    x = torch.rand(4, 3, 5, 6, dtype=torch.float64)
    out = lora(x)
    for modality, part in enumerate((slice(0, 2), slice(2, 4))):
        weight = lora.base.weight.clone()
        for index, rows in enumerate((slice(0, 9), slice(18, 27))):
            weight[rows] += lora.up[modality, index] @ lora.down[modality, index]
        assert torch.allclose(out[part], x[part] @ weight.T + lora.base.bias)
    assert torch.equal(out[..., 9:18], lora.base(x)[..., 9:18])  # keys


def test_modalities_do_not_meet() -> None:
    lora = module()
    x = torch.rand(4, 5, 6, dtype=torch.float64)
    before = lora(x)
    lora.up.data[1] += 1
    after = lora(x)
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2:], after[2:])


def test_only_lora_learns() -> None:
    lora = module()
    lora(torch.rand(4, 5, 6, dtype=torch.float64)).square().sum().backward()
    assert lora.base.weight.grad is None
    assert lora.base.bias.grad is None
    for parameter in lora_parameters(lora):
        assert parameter.grad is not None
        assert (parameter.grad.flatten(1).norm(dim=1) > 0).all()  # each modality


def test_add_lora_needs_a_projection() -> None:
    with pytest.raises(ValueError, match="Sequential: expected attention with a projection 'qkv'"):
        add_lora(nn.Sequential(nn.Linear(3, 9)), 2)
    with pytest.raises(ValueError, match="10 features: expected query, key and value"):
        ModalLora(nn.Linear(3, 10), 2)
