"""Files of trained SARTM: safetensors with SAM2 inside, whose metadata tell how to build both."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ivf_core.class_sets import ClassSet
from ivf_core.models.lora import ModalLora
from ivf_core.models.sartm import Sartm
from ivf_core.training.runs.network_files import load_network, save_network
from ivf_core.training.sartm.sam2 import Sam2Architecture, build_sam2

__all__ = ["load_sartm", "save_sartm"]


def save_sartm(network: Sartm, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write a SARTM with its class set, under a temporary name first.

    Args:
        network: its state is written, that of the frozen image encoder too.
        path: file to write.
        metadata: origin of the weights.

    Raises:
        ValueError: a key of the metadata starts with "ivf_": those are reserved.
    """
    lora = next(module for module in network.modules() if isinstance(module, ModalLora))
    options: dict[str, object] = {
        "class_set": network.class_set.to_json(),
        "sam2": dataclasses.asdict(Sam2Architecture.from_config(network.sam2.config)),
        "rank": lora.down.shape[2],
        "decode": network.decode,
        "memory_embedding": network.memory_embedding,
        "per_pixel": network.per_pixel,
        "thermal_normalization": network.thermal_normalization,
    }
    save_network(network, path, "sartm", options, **metadata)


def load_sartm(path: str | os.PathLike[str]) -> tuple[Sartm, dict[str, str]]:
    """Read a SARTM in evaluation mode, frozen, and the metadata of its file.

    Raises:
        WeightsError: the file is no SARTM; the message names it and what was expected.
        PretrainedError: `transformers` is missing or too old.
    """
    network, metadata = load_network(path, "sartm", _build)
    return network.requires_grad_(False), metadata


def _build(sam2: dict[str, Any], class_set: str, **options: Any) -> Sartm:
    classes = ClassSet.from_json(class_set)
    sizes: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in sam2.items()}
    return Sartm(build_sam2(Sam2Architecture(**sizes), len(classes)), classes, **options)
