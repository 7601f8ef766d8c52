"""Test encoders for L_cs that are trained here, instead of SAM's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import recipe_of, write_pairs

from ivf_core.models.conv_encoder import ConvEncoder
from ivf_core.training.sage.encoder import (
    load_encoder,
    open_encoder,
    save_encoder,
    train_encoder,
)


def encoder_recipe(root: Path, **options: Any) -> Any:
    return recipe_of("encoder", root, **{"widths": (8, 8, 16), **options})


@pytest.mark.slow
def test_an_encoder_learns_to_paint_hidden_squares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    write_pairs(tmp_path)
    recipe = encoder_recipe(tmp_path, steps=80, patch_size=8, in_memory=True, learning_rate=1e-2)
    (scores,) = train_encoder(recipe).values()
    assert scores["painted in"] < 0.8 * scores["mean of the image"]
    encoder, notes = load_encoder(recipe.output)
    assert encoder.widths == (8, 8, 16)
    assert notes["source"] == "painting in hidden squares, 80 steps of 2 pairs"
    assert "encoder_recipe" in notes


def test_features_and_their_gradient() -> None:
    encoder = ConvEncoder((8, 16, 24)).requires_grad_(False)
    images = torch.rand(2, 1, 36, 50).requires_grad_()
    quarter, eighth = encoder(images)
    assert quarter.shape == (2, 16, 9, 13)
    assert eighth.shape == (2, 24, 5, 7)
    eighth.sum().backward()
    assert images.grad is not None
    assert images.grad.any()
    with pytest.raises(ValueError, match=r"images are \(2, 3, 36, 50\)"):
        encoder(images.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="three multiples of 8"):
        ConvEncoder((8, 12, 16))


def test_an_opened_encoder_is_frozen_and_describes_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = ConvEncoder((8, 8, 8))
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path, source="random numbers")
    opened = open_encoder(str(path))
    assert "random numbers: not SAM-guided" in opened.metadata["encoder"]
    assert opened.metadata["encoder_sam_guided"] == "false"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert not any(p.requires_grad for p in opened.encode.parameters())
    image = torch.rand(1, 1, 16, 16)
    for ours, theirs in zip(opened.encode(image), encoder(image), strict=True):
        assert torch.equal(ours, theirs)


def test_files_that_are_no_encoder(tmp_path: Path, tiny_weights: Path) -> None:
    with pytest.raises(ValueError, match="expected a file that ivf train encoder wrote"):
        open_encoder(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="ivf_format is 'ivf-weights-1', expected 'ivf-encoder-1'"):
        open_encoder(str(tiny_weights))
    with pytest.raises(ValueError, match=r"sam\.pth': no such file"):
        open_encoder("sam", sam_checkpoint=str(tmp_path / "sam.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio must be above 0 and below 1"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
        ({"crop": (32, 36)}, "crop must be at least 16 and a multiple of 8"),
    ],
)
def test_impossible_encoders(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder_recipe(tmp_path, **options)
