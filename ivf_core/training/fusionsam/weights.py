"""Files of FusionSAM and of its tokenizers: safetensors whose metadata tell how to build them.

A FusionSAM's file has the tokenizers and SAM inside.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from ivf_core.class_sets import ClassSet
from ivf_core.models.fusion_prompt import FusionPrompt
from ivf_core.models.fusionsam import TOKEN_LEVELS, FusionSam
from ivf_core.models.vqgan import Tokenizer
from ivf_core.training.masks.sam import SamArchitecture, build_sam
from ivf_core.training.runs.network_files import load_network, save_network

__all__ = ["build_tokenizers", "load_fusionsam", "load_tokens", "save_fusionsam", "save_tokens"]

_SWITCHES = ("box", "quantized", "train_tokens", "through_encoder")
_TOKEN_SIZES = ("width", "latent", "codes")
_PROMPT_SIZES = ("channels", "heads", "depth", "window")
_SAM_SIZES = tuple(field.name for field in dataclasses.fields(SamArchitecture))

# Sizes of an unknown file: a network of more blocks takes minutes to build.
_MOST_BLOCKS, _LARGEST = 64, 1 << 16
_BLOCKS = ("depth", "blocks", "decoder_blocks", "quality_layers")


def build_tokenizers(width: int, latent: int, codes: int, **options: Any) -> nn.ModuleList:
    """Build the tokenizers of visible and of infrared images with random weights.

    Args:
        width: see `Tokenizer`.
        latent: see `Tokenizer`.
        codes: see `Tokenizer`.
        **options: decay and restart_below of the codebooks.
    """
    sizes = (width, latent, codes, TOKEN_LEVELS)
    return nn.ModuleList(Tokenizer(*sizes, **options) for _ in range(2))


def save_tokens(tokenizers: nn.ModuleList, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write the tokenizers of both cameras, under a temporary name first.

    Args:
        tokenizers: of `build_tokenizers`.
        path: file to write.
        metadata: origin of the weights.

    Raises:
        ValueError: a key of the metadata starts with "ivf_": those are reserved.
    """
    save_network(tokenizers, path, "tokens", dict(_token_sizes(tokenizers[0])), **metadata)


def load_tokens(path: str | os.PathLike[str]) -> tuple[nn.ModuleList, dict[str, str]]:
    """Read the tokenizers of visible and of infrared images, and the metadata of their file.

    Raises:
        WeightsError: the file has no tokenizers; the message names it and what was expected.
    """
    return load_network(path, "tokens", _build_tokens)


def save_fusionsam(network: FusionSam, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write a FusionSAM with its class set, under a temporary name first.

    Args:
        network: its state is written, that of the frozen image encoder too.
        path: file to write.
        metadata: origin of the weights.

    Raises:
        ValueError: a key of the metadata starts with "ivf_": those are reserved.
    """
    prompt = network.prompt
    options: dict[str, object] = {
        "class_set": network.class_set.to_json(),
        "tokens": _token_sizes(network.tokenizers[0]),
        "prompt": {
            "channels": prompt.output.out_channels,
            "heads": prompt.attention.heads,
            "depth": prompt.depth,
            "window": prompt.attention.window,
        },
        "sam": dataclasses.asdict(SamArchitecture.from_state_dict(network.sam.state_dict())),
        "points": network.points,
        **{name: getattr(network, name) for name in _SWITCHES},
    }
    save_network(network, path, "fusionsam", options, **metadata)


def load_fusionsam(path: str | os.PathLike[str]) -> tuple[FusionSam, dict[str, str]]:
    """Read a FusionSAM in evaluation mode, frozen, and the metadata of its file.

    Raises:
        WeightsError: the file is no FusionSAM; the message names it and what was expected.
        SamError: the package `segment-anything` is missing.
    """
    network, metadata = load_network(path, "fusionsam", _build_fusionsam)
    return network.requires_grad_(False), metadata


def _build_tokens(**sizes: Any) -> nn.ModuleList:
    return build_tokenizers(**_checked("tokens", sizes, _TOKEN_SIZES))


def _build_fusionsam(
    *, class_set: Any, tokens: Any, prompt: Any, sam: Any, points: Any, **switches: Any
) -> FusionSam:
    classes = ClassSet.from_json(class_set)
    if sorted(switches) != sorted(_SWITCHES) or {*map(type, switches.values())} != {bool}:
        raise ValueError(f"expected {', '.join(_SWITCHES)}, each true or false")
    first, second = _build_tokens(**tokens)
    assert isinstance(first, Tokenizer)
    assert isinstance(second, Tokenizer)
    sizes = _checked("sam", {**sam, "points": points}, (*_SAM_SIZES, "points"))
    points = sizes.pop("points")
    return FusionSam(
        (first, second),
        FusionPrompt(tokens["latent"], **_checked("prompt", prompt, _PROMPT_SIZES)),
        build_sam(SamArchitecture(**sizes)),
        classes,
        points=points,
        **switches,
    )


def _token_sizes(tokenizer: nn.Module) -> dict[str, int]:
    assert isinstance(tokenizer, Tokenizer)
    codes, latent = tokenizer.codebook.embedding.shape
    return {"width": tokenizer.width, "latent": latent, "codes": codes}


def _checked(part: str, sizes: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return sizes as they are built with; raise ValueError for those that no network has."""
    if sorted(sizes) != sorted(names):
        raise ValueError(f"{part}: expected {', '.join(names)}")
    checked = {}
    for name, value in sizes.items():
        parts = value if isinstance(value, list) else [value]
        least = 0 if name in ("window", "points", "global_blocks") else 1
        most = _MOST_BLOCKS if name in _BLOCKS else _LARGEST
        if not all(type(number) is int and least <= number <= most for number in parts):
            raise ValueError(
                f"{part}.{name} is {value!r:.80}, expected whole numbers of {least} to {most}"
            )
        if isinstance(value, list) != (name == "global_blocks"):
            raise ValueError(f"{part}.{name} is {value!r:.80}")
        checked[name] = tuple(parts) if isinstance(value, list) else value
    return checked
