"""Teachers as data: a safetensors file whose metadata says how to build the network."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ivf_core.images.files import atomic_path
from ivf_core.models.checkpoints import WeightsError
from ivf_core.models.teacher import Teacher

__all__ = ["load_teacher", "save_teacher"]

_FORMAT = "ivf-teacher-1"


def save_teacher(teacher: Teacher, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write a teacher, under a temporary name first.

    Args:
        metadata: where the weights come from; keys with "ivf_" are reserved.
    """
    if reserved := [key for key in metadata if key.startswith("ivf_")]:
        raise ValueError(f"metadata {', '.join(reserved)}: keys with ivf_ are reserved")
    options = {
        "masks": teacher.masks,
        "keep_latent": teacher.attention.keep_latent,
        "keep_keys_values": teacher.attention.keep_keys_values,
    }
    entries = {**metadata, "ivf_format": _FORMAT, "ivf_teacher": json.dumps(options)}
    tensors = {k: v.detach().cpu().contiguous() for k, v in teacher.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=entries))


def load_teacher(path: str | os.PathLike[str]) -> tuple[Teacher, dict[str, str]]:
    """A teacher in evaluation mode, and what else its file says.

    Raises:
        WeightsError: names the file and what was expected.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            entries = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"teacher '{path}': not a readable safetensors file: {error}") from error
    if entries.get("ivf_format") != _FORMAT:
        raise WeightsError(
            f"teacher '{path}': metadata ivf_format is {entries.get('ivf_format')!r}, expected "
            f"{_FORMAT!r} (ivf train teacher writes it)"
        )
    try:
        teacher = Teacher(**json.loads(entries["ivf_teacher"]))
        teacher.load_state_dict(tensors)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"teacher '{path}': does not fit: {error}") from error
    return teacher.eval(), {k: v for k, v in entries.items() if not k.startswith("ivf_")}
