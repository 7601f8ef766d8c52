"""Tokenizers and discriminators: parameters, shapes, and that a tokenizer reconstructs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ivf_core.models.vqgan import PatchDiscriminator, Tokenizer


def count(*parts: Any) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.parametrize(
    ("sizes", "encoder", "decoder", "projections", "codes"),
    [
        # By formula for three channels 534,976 and 1,134,979; one channel has less at both ends.
        ((32, 64, 1024), 534_976 - 2 * 9 * 32, 1_134_979 - 2 * (9 * 64 + 1), 16_576, 65_536),
        ((64, 64, 1024), 2_134_912 - 2 * 9 * 64, 4_530_947 - 2 * (9 * 128 + 1), 33_088, 65_536),
        ((8, 8, 32), 33_760, 71_489, 552, 256),
    ],
)
def test_sizes(
    sizes: tuple[int, int, int], encoder: int, decoder: int, projections: int, codes: int
) -> None:
    with torch.device("meta"):
        tokenizer = Tokenizer(*sizes)
    assert count(tokenizer.encoder) == encoder
    assert count(tokenizer.decoder) == decoder
    assert count(tokenizer.to_latent, tokenizer.from_latent) == projections
    assert tokenizer.codebook.embedding.numel() == codes
    assert count(tokenizer) == encoder + decoder + projections  # codes are no parameters


def test_size_of_the_discriminator() -> None:
    with torch.device("meta"):
        assert count(PatchDiscriminator()) == 2_764_481


def test_shapes() -> None:
    """Latents of 4 x 4 pixels; scores of patches and the features that lead to them."""
    tokenizer = Tokenizer(8, 6, 16)
    images = torch.rand(2, 1, 36, 20)
    reconstructed, quantized, latents = tokenizer(images)
    assert reconstructed.shape == images.shape
    assert latents.shape == quantized.values.shape == (2, 6, 9, 5)
    assert quantized.indices.shape == (2, 9, 5)
    score, features = PatchDiscriminator(4)(images)
    assert score.shape[:2] == (2, 1)
    assert [f.shape[1] for f in features] == [4, 8, 16, 32]


@torch.no_grad()
def test_a_tokenizer_sees_absolute_levels() -> None:
    """Two even images, one brighter than the other, have other latents: no norm removes it."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(8, 8, 16)
    dark, bright = (tokenizer.encode(torch.full((1, 1, 32, 32), value)) for value in (0.2, 0.7))
    assert (dark - bright).abs().mean() > 1e-3
