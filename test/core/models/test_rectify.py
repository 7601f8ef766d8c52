"""FRM and FFM against values of the published classes, and what their sum starts with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ivf_core.models.rectify import FeatureFusion, FeatureRectify, ModalFusion

RECTIFY_NAMES = {
    "channel_weights.mlp.0": "channel_mlp.0",
    "channel_weights.mlp.2": "channel_mlp.2",
    "spatial_weights.mlp.0": "spatial_mlp.0",
    "spatial_weights.mlp.2": "spatial_mlp.2",
}
FUSION_NAMES = {
    **{f"channel_emb.channel_embed.{n}": f"embed.{n}" for n in (0, 1, 3, 4)},
    "channel_emb.norm": "norm",
    "channel_emb.residual": "residual",
    "cross.channel_proj1": "sides.0.project",
    "cross.channel_proj2": "sides.1.project",
    "cross.cross_attn.kv1": "sides.0.key_value",
    "cross.cross_attn.kv2": "sides.1.key_value",
    "cross.end_proj1": "sides.0.merge",
    "cross.end_proj2": "sides.1.merge",
    "cross.norm1": "sides.0.norm",
    "cross.norm2": "sides.1.norm",
}


def fill(network: nn.Module, names: dict[str, str]) -> None:
    """Set the parameters, in the order of their published names, to sines."""
    published = {ours: theirs for theirs, ours in names.items()}
    parameters = {}
    for name, parameter in network.named_parameters():
        module, _, kind = name.rpartition(".")
        parameters[f"{published[module]}.{kind}"] = parameter
    for number, name in enumerate(sorted(parameters)):
        parameter = parameters[name]
        values = 0.3 * torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) + 10 * number)
        parameter.data = values.view(parameter.shape)


def inputs() -> list[Tensor]:
    count = torch.arange(2 * 4 * 3 * 5, dtype=torch.float64)
    return [torch.cos(0.37 * count + k).view(2, 4, 3, 5) for k in (0, 1)]


@torch.no_grad()
def test_rectification_is_the_published_one() -> None:
    """Values of the classes of CMX, in float64."""
    module = FeatureRectify(4).double().eval()
    fill(module, RECTIFY_NAMES)
    x1, x2 = module(*inputs())
    expected = [-1.27629106, -0.64918413, 0.15605419, 1.00297358]
    assert x1[0, :, 1, 2].tolist() == pytest.approx(expected, abs=1e-8)
    expected = [-1.34363582, -0.78004203, 0.18483405, 0.93338741]
    assert x2[1, :, 2, 4].tolist() == pytest.approx(expected, abs=1e-8)
    sums = [x1.sum().item(), x2.sum().item()]
    assert sums == pytest.approx([0.98912198, 2.22905324], abs=1e-8)


@torch.no_grad()
def test_fusion_is_the_published_one() -> None:
    """Values of the classes of CMX, in float64."""
    module = FeatureFusion(4, 2).double().eval()
    fill(module, FUSION_NAMES)
    out = module(*inputs())
    expected = [-0.28386934, -0.20037020, 0.16751382, 0.24520846]
    assert out[0, :, 1, 2].tolist() == pytest.approx(expected, abs=1e-8)
    sums = [out.sum().item(), out.abs().sum().item()]
    assert sums == pytest.approx([-1.83615461, 28.55614402], abs=1e-8)


@pytest.mark.parametrize("channels", [32, 64, 256])
def test_numbers_of_parameters(channels: int) -> None:
    with torch.device("meta"):
        parts = FeatureRectify(channels), FeatureFusion(channels, 1)
    rectify, fusion = (sum(p.numel() for p in part.parameters()) for part in parts)
    assert rectify == 26 * channels**2 + 9 * channels + 2
    assert fusion == 17 * channels**2 + 26 * channels


def test_context_per_pixel_does_not_depend_on_size() -> None:
    """Four copies of an image give the same context; the published sum grows with them."""
    torch.manual_seed(0)
    for per_pixel in (True, False):
        side = FeatureFusion(8, 2, per_pixel=per_pixel).double().sides[0]
        query = torch.rand(1, 6, 8, dtype=torch.float64)
        once, repeated = side.context(query), side.context(query.repeat(1, 4, 1))
        assert torch.allclose(once, repeated) == per_pixel


def test_a_new_fusion_is_the_mean() -> None:
    """In training, too; and every parameter but those behind the zero weight then learns."""
    torch.manual_seed(0)
    module = ModalFusion(8, 2)
    x1, x2 = torch.rand(2, 3, 8, 4, 4).unbind()
    out = module(x1, x2)
    assert torch.equal(out, 0.5 * x1 + 0.5 * x2)
    (out * torch.rand_like(out)).sum().backward()
    assert module.mix.grad is not None
    assert module.mix.grad.abs().min() > 0
    assert module.fuse.norm.weight.grad is not None
    assert module.fuse.norm.weight.grad.abs().min() > 0


def test_fusion_is_not_symmetric_by_accident() -> None:
    """Both modalities matter, each by weights of its own."""
    torch.manual_seed(0)
    module = FeatureFusion(8, 2).eval()
    x1, x2 = torch.rand(2, 1, 8, 4, 4).unbind()
    out = module(x1, x2)
    assert not torch.allclose(out, module(x1, torch.zeros_like(x2)))
    assert not torch.allclose(out, module(torch.zeros_like(x1), x2))
    assert not torch.allclose(out, module(x2, x1))
    assert math.isfinite(out.sum().item())
