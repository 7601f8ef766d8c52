"""Tests of the teacher against the published main network and the equations of the paper."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.attention import Attention, SemanticPersistentAttention, SpatialTransformer
from ivf_core.models.student import FusionStudent
from ivf_core.models.teacher import Teacher
from ivf_core.models.upsampling import Bilinear, convolve_enlarged


def fill(network: nn.Module, random: np.random.RandomState) -> None:
    """Fill weights in the order of their names, equal with every torch, at a stable signal size."""
    with torch.no_grad():
        for _, tensor in sorted(network.state_dict().items()):
            scale = 1.0 / np.sqrt(tensor[0].numel()) if tensor.ndim > 1 else 0.3
            tensor.copy_(torch.from_numpy(scale * random.standard_normal(tensor.shape)))


def inputs(random: np.random.RandomState, height: int = 32, width: int = 48) -> list[Tensor]:
    images = [random.random_sample((1, 1, height, width)) for _ in range(2)]
    masks = [random.random_sample((1, 4, height, width)) > 0.6 for _ in range(2)]
    return [torch.from_numpy(x).double() for x in (*images, *masks)]


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Compute softmax(Q K^T / sqrt(32)) V of two heads of 32, tokens x 64."""
    heads = []
    for part in (slice(0, 32), slice(32, 64)):
        scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(32))
        heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, part])
    return np.concatenate(heads, axis=1)


def test_parameters() -> None:
    # The published 2,787,043 include compress_and_upsample, which it never runs, and two
    # 3 x 3 Sobel kernels.
    never_run = 256 * 64 * 9 + 64
    assert sum(p.numel() for p in Teacher(4).parameters()) == 2_787_043 - never_run - 2 * 9


def test_parameters_part_by_part() -> None:
    """Count the parameters of each part by hand from the published architecture."""

    def convolutions(*channels: int, side: int = 3) -> int:
        return sum(a * b * side**2 + b for a, b in pairwise(channels))

    def linear(inputs: int, outputs: int, *, bias: bool) -> int:
        return inputs * outputs + bias * outputs

    attention = 3 * linear(64, 64, bias=False) + linear(64, 64, bias=True)
    gated = linear(64, 2 * 4 * 64, bias=True) + linear(4 * 64, 64, bias=True)
    norms = (1 + 3) * 2 * 64  # GroupNorm, three LayerNorms
    transformer = norms + 2 * convolutions(64, 64, side=1) + 2 * attention + gated
    # Two transformers of the image, one of each mask branch, one of both masks; merges of
    # each mask branch, of both masks, and of the image.
    stage = 5 * transformer + 4 * convolutions(128, 64)
    masks = convolutions(4, 16, 32, 64)
    expected = {
        "encode_image": convolutions(2, 16, 32),
        "encode_deeper": convolutions(32, 64),
        "encode_visible_masks": masks,
        "encode_infrared_masks": masks,
        "attention": stage,  # shared by all five stages
        "between": 4 * convolutions(256, 64),
        "decode_stages": convolutions(256 + 64, 256),
        "decode_deeper": convolutions(256, 128, 64),
        "decode_image": convolutions(64 + 32, 64, 32, 16, 1),
        "features": 5 * convolutions(256, 32, side=1),
    }
    teacher = Teacher(4)
    assert {
        name: sum(p.numel() for p in part.parameters()) for name, part in teacher.named_children()
    } == expected
    assert sum(expected.values()) == 2_639_505


def test_shapes_stage_by_stage() -> None:
    """Check five stages at scales 1, 1/2, 1/4, 1/2, 1, each at a quarter of its size inside."""
    teacher = Teacher(4)
    seen: dict[str, list[tuple[int, ...]]] = {"in": [], "out": [], "masks": [], "F0": [], "F1": []}

    def watch(module: nn.Module, name: str, source: str = "") -> None:
        def look(_module: nn.Module, given: tuple[Tensor, ...], out: Any) -> None:
            first = out[0] if isinstance(out, tuple) else out
            seen[name].append(tuple(first.shape))
            if source:
                seen[source] += [tuple(x.shape) for x in given]

        module.register_forward_hook(look)

    watch(teacher.attention, "out", "in")
    watch(teacher.encode_image, "F0")
    watch(teacher.encode_deeper, "F1")
    watch(teacher.encode_visible_masks, "masks")
    watch(teacher.encode_infrared_masks, "masks")
    image, masks = torch.rand(2, 1, 64, 96), torch.ones(2, 4, 64, 96)
    out = teacher(image, image, masks, masks)
    sizes = [(64, 96), (32, 48), (16, 24), (32, 48), (64, 96)]
    inside = [(height // 4, width // 4) for height, width in sizes]
    assert seen["F0"] == [(2, 32, 64, 96)]
    assert seen["F1"] == [(2, 64, 64, 96)]
    assert seen["masks"] == [(2, 64, 64, 96)] * 2
    assert seen["in"] == [(2, 64, *size) for size in inside for _ in range(3)]
    assert seen["out"] == [(2, 256, *size) for size in inside]
    assert [tuple(x.shape) for x in out.features] == [(2, 32, *size) for size in sizes]
    assert out.fused.shape == (2, 1, 64, 96)


def test_reproduces_the_published_network() -> None:
    """Compare with figures of the published class under the same weights, in float64.

    That class takes whatever its data set prepared; the figures are those of bare masks.
    """
    random = np.random.RandomState(0)
    teacher = Teacher(patches=False).double()
    fill(teacher, random)
    out = teacher(*inputs(random))
    sums = [out.fused.sum(), *(feature.square().mean() for feature in out.features)]
    expected = [
        -15.14019482608,
        4.619983739802,
        31.43870139494,
        83.28153940013,
        267.6122258126,
        931.7351577374,
    ]
    assert [x.item() for x in sums] == pytest.approx(expected, rel=1e-9)
    picked = out.fused[0, 0, 0, ::17].tolist()
    assert picked == pytest.approx(
        [-0.003709909430662, -0.004568932422778, -0.006167404523322], rel=1e-9
    )

    (out.fused.square().mean() + sum(x.square().mean() for x in out.features)).backward()
    norms = {
        "encode_visible_masks.0.weight": 128.9075977052,
        "attention.read_image.cross_attention.to_key.weight": 0.01241540625472,
        "between.3.bias": 8.800951481865,
    }
    gradients = {name: p.grad for name, p in teacher.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(teacher.parameters()))  # no weight is idle
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-7), name


@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 50), (64, 97)])
def test_features_have_the_shapes_of_the_students(height: int, width: int) -> None:
    random = np.random.RandomState(1)
    images = [x.float() for x in inputs(random, height, width)]
    out = Teacher()(*images)
    student = FusionStudent()(*images[:2])
    assert out.fused.shape == student.fused.shape
    assert [x.shape for x in out.features] == [x.shape for x in student.features]


def test_trains_in_bfloat16() -> None:
    random = np.random.RandomState(5)
    teacher = Teacher()
    fill(teacher, random)
    images = [x.float() for x in inputs(random)]
    exact = teacher(*images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = teacher(*images)
    for ours, theirs in zip(rounded.features, exact.features, strict=True):
        assert ((ours.float() - theirs).norm() / theirs.norm()).item() < 0.03
    rounded.fused.float().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in teacher.parameters())


def test_rejects_other_shapes() -> None:
    teacher = Teacher(masks=2)
    image, masks = torch.rand(1, 1, 16, 16), torch.rand(1, 2, 16, 16)
    with pytest.raises(ValueError, match=r"visible_luma is \(1, 1, 16, 15\)"):
        teacher(image[..., :15], image[..., :15], masks, masks)
    with pytest.raises(ValueError, match=r"infrared is \(1, 2, 16, 16\)"):
        teacher(image, masks, masks, masks)
    with pytest.raises(ValueError, match=r"infrared_masks are \(1, 1, 16, 16\).*\(1, 2, 16, 16\)"):
        teacher(image, image, masks, image)
    with pytest.raises(ValueError, match="masks must be at least 1"):
        Teacher(masks=0)


def test_attention_is_the_equation() -> None:
    random = np.random.RandomState(2)
    attention = Attention(64).double()
    fill(attention, random)
    x, k, v = (random.standard_normal((n, 64)) for n in (5, 7, 7))
    to_q, to_k, to_v, to_out = (
        layer.weight.detach().numpy().T
        for layer in (attention.to_query, attention.to_key, attention.to_value, attention.to_out)
    )
    bias = attention.to_out.bias.detach().numpy()

    read, keys, values = attention(*(torch.from_numpy(t)[None] for t in (x, k, v)))
    np.testing.assert_allclose(keys[0].detach(), k @ to_k)
    np.testing.assert_allclose(values[0].detach(), v @ to_v)
    expected = attend(x @ to_q, k @ to_k, v @ to_v) @ to_out + bias
    np.testing.assert_allclose(read[0].detach(), expected)

    read, keys, _ = attention(torch.from_numpy(x)[None])  # to itself
    np.testing.assert_allclose(keys[0].detach(), x @ to_k)
    expected = attend(x @ to_q, x @ to_k, x @ to_v) @ to_out + bias
    np.testing.assert_allclose(read[0].detach(), expected)


def test_transformer_starts_as_the_identity() -> None:
    x = torch.rand(2, 64, 3, 5)
    transformed, keys, _ = SpatialTransformer(64)(x)
    torch.testing.assert_close(transformed, x)
    assert keys.shape == (2, 15, 64)


def stage_without(latent: bool, keys_values: bool) -> tuple[Tensor, list[bool], list[bool]]:
    """Return the second 64 channels minus Z, and the inputs that image and visible masks use."""
    random = np.random.RandomState(3)
    stage = SemanticPersistentAttention(
        64, keep_latent=not latent, keep_keys_values=not keys_values
    ).double()
    fill(stage, random)
    features = [
        torch.from_numpy(random.standard_normal((1, 64, 3, 4))).requires_grad_() for _ in range(3)
    ]
    out = stage(*features)
    image, visible = (
        torch.autograd.grad(x.square().sum(), features, retain_graph=True, allow_unused=True)
        for x in (out.image[:, :64], out.visible_masks)
    )
    return (
        out.image[:, 64:128] - features[0],
        [g is not None and bool(g.any()) for g in image],
        [g is not None and bool(g.any()) for g in visible],
    )


def test_repository_and_its_ablations() -> None:
    source, image, visible = stage_without(latent=False, keys_values=False)
    assert source.abs().max() == 0  # Z itself
    assert image == [True, False, False]  # masks come in at the very end
    assert visible == [True, True, False]  # the scene, by keys and values alone

    source, _, visible = stage_without(latent=True, keys_values=False)
    assert source.abs().max() > 0.1
    assert visible == [True, True, False]

    source, image, visible = stage_without(latent=False, keys_values=True)
    assert source.abs().max() == 0
    assert image == [True, False, False]
    assert visible == [False, True, False]

    source, _, visible = stage_without(latent=True, keys_values=True)
    assert source.abs().max() > 0.1
    assert visible == [False, True, False]


def test_the_mask_encoders_see_the_image_inside_each_mask() -> None:
    """The published data set sets the pixels outside of each mask to 0 (section 3.1)."""
    random = np.random.RandomState(5)
    visible, infrared, visible_masks, infrared_masks = inputs(random, 16, 20)
    bare, patched = Teacher(patches=False).double(), Teacher().double()
    fill(bare, random)
    patched.load_state_dict(bare.state_dict())
    patches = (visible_masks * visible, infrared_masks * infrared)
    fused = patched(visible, infrared, visible_masks, infrared_masks).fused
    assert torch.equal(fused, bare(visible, infrared, *patches).fused)
    assert not torch.allclose(fused, bare(visible, infrared, visible_masks, infrared_masks).fused)
    empty = (0 * visible_masks, 0 * infrared_masks)
    assert torch.equal(
        patched(visible, infrared, *empty).fused, bare(visible, infrared, *empty).fused
    )


def test_ablated_teachers_have_the_same_shapes_and_other_results() -> None:
    results = []
    for options in (
        {},
        {"keep_latent": False},
        {"keep_keys_values": False},
        {"keep_latent": False, "keep_keys_values": False},
    ):
        random = np.random.RandomState(4)
        teacher = Teacher(**options).double()
        fill(teacher, random)
        out = teacher(*inputs(random, 16, 20))
        results.append(torch.cat([out.fused.flatten(), *(x.flatten() for x in out.features)]))
    for first, second in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        assert (results[first] - results[second]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "steps",
    [
        [Bilinear((16, 24))],
        [Bilinear((17, 9), align_corners=True)],
        [Bilinear((7, 11)), Bilinear((15, 23), align_corners=True)],
    ],
)
def test_convolution_commutes_with_upsampling(steps: list[Bilinear]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    large = x
    for size, align_corners in steps:
        large = F.interpolate(large, size=size, mode="bilinear", align_corners=align_corners)
    expected = F.conv2d(large, weight, padding=1)
    actual = convolve_enlarged(x, weight, *steps)
    torch.testing.assert_close(actual, expected)
    pull = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (x, weight), pull),
        torch.autograd.grad(expected, (x, weight), pull),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
