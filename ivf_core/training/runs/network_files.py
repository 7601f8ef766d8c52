"""Files of networks that only training uses: safetensors whose metadata tell how to build them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ivf_core.models.weights_files import WeightsError
from ivf_core.system.atomic import atomic_path
from ivf_core.system.short_text import short_text

__all__ = ["load_network", "save_network"]

Network = TypeVar("Network", bound=nn.Module)


def save_network(
    network: nn.Module,
    path: str | os.PathLike[str],
    kind: str,
    options: dict[str, object],
    left_out: Collection[str] = (),
    **metadata: str,
) -> None:
    """Write a network, under a temporary name first.

    Args:
        network: its state is written.
        path: file to write.
        kind: kind of the network, such as "teacher".
        options: arguments of its class, values of JSON.
        left_out: names of tensors that are not written; see `load_network`.
        metadata: origin of the weights.

    Raises:
        ValueError: a key of the metadata starts with "ivf_": those are reserved.
    """
    if reserved := [key for key in metadata if key.startswith("ivf_")]:
        raise ValueError(f"metadata {', '.join(reserved)}: keys with ivf_ are reserved")
    entries = {**metadata, "ivf_format": _format(kind), f"ivf_{kind}": json.dumps(options)}
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if name not in left_out
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=entries))


def load_network(
    path: str | os.PathLike[str],
    kind: str,
    build: Callable[..., Network],
    supply: Callable[[dict[str, Any]], dict[str, Tensor]] = lambda options: {},
) -> tuple[Network, dict[str, str]]:
    """Read a network in evaluation mode, and the metadata of its file.

    Args:
        path: file that `save_network` wrote.
        kind: expected kind, such as "teacher".
        build: class of the network.
        supply: function that returns the tensors that the file leaves out, by name, for the
            options that were written.

    Raises:
        WeightsError: names the file and what was expected.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            entries = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{kind} '{path}': expected a file that ivf train {kind} wrote: {error}"
        ) from error
    if entries.get("ivf_format") != _format(kind):
        raise WeightsError(
            f"{kind} '{path}': metadata ivf_format is {entries.get('ivf_format')!r}, "
            f"expected {_format(kind)!r}"
        )
    try:
        options = json.loads(entries[f"ivf_{kind}"])
        tensors = {**supply(options), **tensors}
        # Without memory first: a file may claim any sizes.
        with torch.device("meta"):
            build(**options).load_state_dict({k: t.to("meta") for k, t in tensors.items()})
        network = build(**options)
        network.load_state_dict(tensors)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{kind} '{path}': does not fit: {short_text(error, 1000)}") from error
    return network.eval(), {k: v for k, v in entries.items() if not k.startswith("ivf_")}


def _format(kind: str) -> str:
    return f"ivf-{kind}-1"
