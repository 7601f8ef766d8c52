"""Fusion mask prompting: shapes, both cameras in each output, and prompts from features alone."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from ivf_core.models.fusion_prompt import FusionPrompt, box_prompt, point_prompts


def latents(seed: int, size: tuple[int, int] = (8, 16)) -> Tensor:
    return torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(seed))


def test_shapes_and_ranges() -> None:
    torch.manual_seed(0)
    prompt = FusionPrompt(5, channels=8, heads=2, depth=2, window=8)
    out = prompt(latents(0), latents(1))
    assert out.fused.shape == (2, 1, 32, 64)
    assert 0 < out.fused.min() < out.fused.max() < 1
    assert out.plane.shape == (2, 1, 8, 16)
    assert out.features.shape == (2, 8, 8, 16)


def test_both_cameras_reach_each_output_of_their_own_pair() -> None:
    torch.manual_seed(0)
    prompt = FusionPrompt(5, channels=8, heads=2, depth=1, window=8)
    planes = [latents(n).requires_grad_(True) for n in range(2)]
    out = prompt(*planes)
    for part in out:
        for gradient in torch.autograd.grad(part[0].square().sum(), planes, retain_graph=True):
            assert gradient[0].abs().max() > 0
            assert gradient[1].abs().max() == 0
    unused = [n for n, p in prompt.named_parameters() if not p.requires_grad]
    assert not unused
    sum(part.square().sum() for part in out).backward()
    assert not [n for n, p in prompt.named_parameters() if p.grad is None]


def test_points_are_the_strongest_peaks() -> None:
    """One is found in each 3 x 3 cells; missing ones are marked."""
    features = torch.zeros(2, 2, 5, 6)
    features[0, :, 1, 1] = torch.tensor([3.0, 4.0])  # norm 5
    features[0, 0, 1, 2] = 4.5  # a neighbour
    features[0, 0, 4, 5] = -6.0
    features[1] = 1.0  # everywhere the same
    cells, found = point_prompts(features, 3)
    assert cells[0, :2].tolist() == [[4, 5], [1, 1]]
    assert found.all()
    assert cells[1].tolist() == [[0, 0], [0, 1], [0, 2]]
    ramp = torch.arange(12.0).view(1, 1, 3, 4)
    cells, found = point_prompts(ramp, 4)
    assert cells[0, 0].tolist() == [2, 3]
    assert found.tolist() == [[True, False, False, False]]
    few, found = point_prompts(features[:, :, :1, :2], 5)
    assert few.shape == (2, 5, 2)
    assert found[1].tolist() == [True, True, False, False, False]


def test_points_are_the_same_each_time_and_know_no_labels() -> None:
    features = latents(3)
    first, second = (point_prompts(features, 10)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert (first >= 0).all()
    assert (first < torch.tensor([8, 16])).all()
    for function in (point_prompts, box_prompt, FusionPrompt.forward):
        assert not [name for name in inspect.signature(function).parameters if "label" in name]


def test_box_is_that_of_the_strongest_tenth() -> None:
    features = torch.zeros(1, 1, 10, 10)
    features[0, 0, 2:4, 3:8] = torch.arange(1.0, 11.0).view(2, 5)
    assert box_prompt(features).tolist() == [[2, 3, 3, 7]]
