"""Files of trained SARTM: safetensors whose metadata tell how to build network and SAM2.

SAM2's frozen tensors are inside, or in a directory whose weights must have the SHA-256 of those
that the network was trained with.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from typing import Any

from torch import Tensor

from ivf_core.class_sets import ClassSet
from ivf_core.models.lora import ModalLora
from ivf_core.models.sartm import Sartm
from ivf_core.training.runs.network_files import load_network, save_network
from ivf_core.training.runs.recipe import data_directory
from ivf_core.training.runs.weights_origin import weights_digest
from ivf_core.training.sartm.sam2 import (
    Sam2Architecture,
    build_sam2,
    open_sam2,
    published_tensors,
)

__all__ = ["load_sartm", "save_sartm"]


def save_sartm(
    network: Sartm, path: str | os.PathLike[str], outside: str | None = None, **metadata: str
) -> None:
    """Write a SARTM with its class set, under a temporary name first.

    Args:
        network: its state is written, that of the frozen image encoder too.
        path: file to write.
        outside: directory of SAM2, relative to the data directory, if the file is to name it and
            the SHA-256 of its weights, without SAM2's frozen tensors.
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
        "average_heads": network.average_heads,
    }
    left_out: Collection[str] = ()
    if outside is not None:
        sha256 = weights_digest(data_directory() / outside)
        options["outside"] = {"directory": outside, "sha256": sha256}
        left_out = _outside_names(network)
    save_network(network, path, "sartm", options, left_out, **metadata)


def load_sartm(path: str | os.PathLike[str]) -> tuple[Sartm, dict[str, str]]:
    """Read a SARTM in evaluation mode, frozen, and the metadata of its file.

    Where the file names a directory of SAM2, its frozen tensors are read from there.

    Raises:
        WeightsError: the file is no SARTM, or the directory has other weights; the message names
            it and what was expected.
        PretrainedError: `transformers` is missing or too old.
    """
    network, metadata = load_network(path, "sartm", _build, _supply)
    return network.requires_grad_(False), metadata


def _build(
    sam2: dict[str, Any], class_set: str, outside: dict[str, str] | None = None, **options: Any
) -> Sartm:
    classes = ClassSet.from_json(class_set)
    sizes: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in sam2.items()}
    return Sartm(build_sam2(Sam2Architecture(**sizes), len(classes)), classes, **options)


def _supply(options: dict[str, Any]) -> dict[str, Tensor]:
    """Read SAM2's frozen tensors from the directory that a file names, if it names one."""
    outside = options.get("outside")
    if outside is None:
        return {}
    directory = data_directory() / outside["directory"]
    classes = ClassSet.from_json(options["class_set"])
    sam2, _ = open_sam2(directory, len(classes))
    if (found := weights_digest(directory)) != outside["sha256"]:
        raise ValueError(
            f"SAM2 in '{directory}' has SHA-256 {found}, expected {outside['sha256']}, the weights "
            "that it was trained with"
        )
    network = Sartm(sam2, classes, rank=options["rank"])
    state = network.state_dict()
    return {name: state[name] for name in _outside_names(network)}


def _outside_names(network: Sartm) -> set[str]:
    # LoRA's own tensors are trained, those of the layers that it wraps are SAM2's.
    return {f"sam2.{name}" for name in published_tensors(network.sam2)}
