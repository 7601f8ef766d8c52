"""Reader of safetensors files for machines without the package of that name."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["read_tensors"]

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a safetensors file: 8-byte length of the header, header in JSON, raw tensors.

    Args:
        path: the file.

    Returns:
        Metadata and tensors, by name.

    Raises:
        ValueError: the file is damaged, or a tensor has another type than these networks have.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    if len(content) < 8 or start > len(content):
        raise ValueError("the header is longer than the file")
    try:
        header = json.loads(content[8:start])
        metadata = header.pop("__metadata__", {})
        tensors = {}
        for name, entry in header.items():
            begin, end = (start + offset for offset in entry["data_offsets"])
            raw = torch.frombuffer(bytearray(content[begin:end]), dtype=_DTYPES[entry["dtype"]])
            tensors[name] = raw.reshape(entry["shape"])
    except (AttributeError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return metadata, tensors
