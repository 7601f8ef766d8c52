"""Networks of `transformers` with few channels and random weights, saved to directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTokenizer,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

TINY_SEGFORMER: dict[str, Any] = dict(
    hidden_sizes=[8, 8, 16, 16],
    depths=[1, 1, 1, 1],
    num_attention_heads=[1, 1, 2, 2],
    decoder_hidden_size=16,
)


def save_segformer(directory: Path, names: tuple[str, ...], seed: int = 0) -> Any:
    """Save a tiny SegFormer with a logit for each name, and return the model."""
    torch.manual_seed(seed)
    config = SegformerConfig(id2label=dict(enumerate(names)), **TINY_SEGFORMER)
    model = SegformerForSemanticSegmentation(config).eval()
    model.save_pretrained(directory)
    return model


def save_clipseg(directory: Path, seed: int = 0) -> tuple[Any, Any]:
    """Save a tiny CLIPSeg with a tokenizer of single letters, and return both."""
    torch.manual_seed(seed)
    tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)
    letters = sorted(ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{a}</w>" for a in letters)]
    config = CLIPSegConfig(
        text_config=dict(
            tower, vocab_size=len(words), max_position_embeddings=64,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        ),
        vision_config=dict(tower, image_size=64, patch_size=16),
        projection_dim=16, extract_layers=[0, 1, 2], reduce_dim=8,
        decoder_num_attention_heads=2, decoder_intermediate_size=16,
    )  # fmt: skip
    model = CLIPSegForImageSegmentation(config).eval()
    model.save_pretrained(directory)
    tokenizer = CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(directory)
    return model, tokenizer
