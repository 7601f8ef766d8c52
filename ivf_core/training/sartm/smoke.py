"""Tiny SAM2 and CLIP with random weights, for the smoke recipe of SARTM."""

from __future__ import annotations

from pathlib import Path

import torch

from ivf_core.system.atomic import atomic_path, write_json
from ivf_core.training.sartm.sam2 import TINY_SAM2, build_sam2
from ivf_core.training.segmentation.pretrained import package, save_random

__all__ = ["prepare_sartm_smoke", "save_tiny_clip", "save_tiny_sam2"]


def prepare_sartm_smoke(output: Path) -> None:
    """Write `sam2_tiny` and `clip_tiny`, whose configurations say that they are random.

    Args:
        output: folder of both.

    Raises:
        PretrainedError: the package `transformers` is missing or too old.
    """
    save_tiny_sam2(output / "sam2_tiny")
    save_tiny_clip(output / "clip_tiny")


def save_tiny_sam2(directory: Path, seed: int = 0) -> None:
    """Write a SAM2 of 129,123 parameters, in the form of `save_pretrained`."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        save_random(build_sam2(TINY_SAM2, 5), directory)


def save_tiny_clip(directory: Path, seed: int = 0) -> None:
    """Write CLIP's text encoder with 16 channels, and a tokenizer of single letters."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
        words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
        config = package().CLIPTextConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, projection_dim=16,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        save_random(package().CLIPTextModelWithProjection(config), directory)
    write_json(directory / "vocab.json", {word: number for number, word in enumerate(words)})
    with atomic_path(directory / "merges.txt") as temporary:
        temporary.write_text("#version: 0.2\n", encoding="utf-8")
