"""Attention between cameras against NumPy, and windows against global attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ivf_core.models.window_attention import CrossBlock, SelfBlock, WindowAttention

CHANNELS, HEADS = 8, 2


def tokens(seed: int = 0, size: tuple[int, int] = (4, 6), count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *size, CHANNELS, generator=generator, dtype=torch.float64)


def by_hand(x1: np.ndarray, x2: np.ndarray, block: CrossBlock, own: int) -> np.ndarray:
    """Equations (9) and (10) for one camera and one image: tokens x C float64."""
    w = {name: p.detach().numpy() for name, p in block.named_parameters()}
    other = 1 - own
    q = (x1 @ w[f"project.{own}.weight"].T + w[f"project.{own}.bias"])[:, :CHANNELS]
    kv = x2 @ w[f"project.{other}.weight"].T + w[f"project.{other}.bias"]
    k, v = kv[:, CHANNELS : 2 * CHANNELS], kv[:, 2 * CHANNELS :]
    d = CHANNELS // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * d, (head + 1) * d)
        products = np.exp(q[:, part] @ k[:, part].T / math.sqrt(d))
        heads.append(products / products.sum(1, keepdims=True) @ v[:, part])
    attended = np.concatenate(heads, 1)
    hidden = attended @ w[f"finish.{own}.0.0.weight"].T + w[f"finish.{own}.0.0.bias"]
    gelu = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    out = gelu @ w[f"finish.{own}.0.2.weight"].T + w[f"finish.{own}.0.2.bias"]
    normed = (out - out.mean(1, keepdims=True)) / np.sqrt(out.var(1, keepdims=True) + 1e-5)
    return normed * w[f"finish.{own}.1.weight"] + w[f"finish.{own}.1.bias"] + q


@torch.no_grad()
def test_cross_attention_is_that_of_the_equations() -> None:
    """Each head, in both directions, with the projected query added after the norm."""
    torch.manual_seed(1)
    block = CrossBlock(CHANNELS, HEADS, 0).double()
    x1, x2 = tokens(0), tokens(1)
    z1, z2 = block(x1, x2)
    for n in range(2):
        flat = [x[n].flatten(0, 1).numpy() for x in (x1, x2)]
        np.testing.assert_allclose(z1[n].flatten(0, 1), by_hand(*flat, block, 0), rtol=1e-9)
        np.testing.assert_allclose(z2[n].flatten(0, 1), by_hand(*flat[::-1], block, 1), rtol=1e-9)


@torch.no_grad()
def test_exchanged_cameras_with_exchanged_weights() -> None:
    block, mirrored = (CrossBlock(CHANNELS, HEADS, 2, shifted=True).double() for _ in range(2))
    for name, own in block.named_parameters():
        own.normal_()
        part, number, rest = name.split(".", 2)
        mirrored.get_parameter(f"{part}.{1 - int(number)}.{rest}").copy_(own)
    z1, z2 = block(tokens(0), tokens(1))
    w2, w1 = mirrored(tokens(1), tokens(0))
    torch.testing.assert_close((w1, w2), (z1, z2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shifted", [False, True])
@torch.no_grad()
def test_an_image_of_one_window(shifted: bool) -> None:
    """A window without biases is global attention; there is nothing to shift to."""
    x = [tokens(seed, (4, 4)) for seed in range(3)]
    windows = WindowAttention(CHANNELS, HEADS, 4, shifted=shifted).double()
    whole = WindowAttention(CHANNELS, HEADS, 0)
    torch.testing.assert_close(windows(*x), whole(*x), rtol=1e-9, atol=1e-12)
    windows.bias.normal_()
    assert not torch.allclose(windows(*x), whole(*x))


@torch.no_grad()
def test_windows_are_apart() -> None:
    """Each is attention to itself, in its own place."""
    x = [tokens(seed, (4, 8)) for seed in range(3)]
    attention = WindowAttention(CHANNELS, HEADS, 4).double()
    attention.bias.normal_()
    out = attention(*x)
    for columns in (slice(0, 4), slice(4, 8)):
        alone = attention(*(part[:, :, columns] for part in x))
        torch.testing.assert_close(out[:, :, columns], alone, rtol=1e-9, atol=1e-12)


def test_shifted_windows_reach_their_neighbours_but_not_around_the_border() -> None:
    """Tokens of the first of eight rows see the first two rows, not the last two."""
    attention = WindowAttention(CHANNELS, HEADS, 4, shifted=True).double()
    query, key, value = (tokens(seed, (8, 8), 1).requires_grad_(True) for seed in range(3))
    out = attention(query, key, value)
    (gradient,) = torch.autograd.grad(out[0, 0, 3].sum(), value, retain_graph=True)
    seen = gradient[0].abs().sum(-1) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:2, 2:6] = True
    assert torch.equal(seen, expected)
    (gradient,) = torch.autograd.grad(out[0, 7, 7].sum(), value)
    assert (gradient[0].abs().sum(-1) > 0).nonzero().tolist() == [[6, 6], [6, 7], [7, 6], [7, 7]]


@torch.no_grad()
def test_biases_are_those_of_relative_positions() -> None:
    """A bias for the right neighbour alone: each token takes that token's value."""
    attention = WindowAttention(CHANNELS, HEADS, 4).double()
    # Query minus key is (0, -1): row 3 + 0, column 3 - 1 of the 7 x 7 table.
    attention.bias[3 * 7 + 2] = 1e4
    value = tokens(2, (4, 4))
    out = attention(torch.zeros_like(value), torch.zeros_like(value), value)
    torch.testing.assert_close(out[:, :, :3], value[:, :, 1:], rtol=1e-9, atol=1e-12)


def test_self_attention_keeps_shapes_and_its_input() -> None:
    block = SelfBlock(CHANNELS, HEADS, 2).double()
    x = tokens()
    assert block(x).shape == x.shape
    with torch.no_grad():
        for part in (block.merge, block.mlp[1][2]):  # type: ignore[index]
            part.weight.zero_()
            part.bias.zero_()
    assert torch.equal(block(x), x)


def test_heads_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="8 channels: expected a multiple of 3 heads"):
        WindowAttention(8, 3, 4)
