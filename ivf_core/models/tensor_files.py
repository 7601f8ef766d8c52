"""Reader of safetensors files into NumPy arrays, which needs no package of that name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

__all__ = ["read_metadata", "read_tensors"]

_BFLOAT16 = "BF16"
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", _BFLOAT16: "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
}  # fmt: skip


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file.

    Raises:
        ValueError: the file is damaged.
        OSError: the file cannot be read.
    """
    return _read(path)[0]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a safetensors file: length of the header, header in JSON, raw tensors.

    Args:
        path: the file.

    Returns:
        Arrays by name, which the caller owns; bfloat16 as float32, without loss.

    Raises:
        ValueError: the file is damaged, or a tensor has a type that NumPy does not have.
        OSError: the file cannot be read.
    """
    _, entries, start = _read(path)
    content = path.read_bytes()[start:]
    tensors = {}
    with _damage():
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            array = np.frombuffer(content[begin:end], _DTYPES[entry["dtype"]]).copy()
            if entry["dtype"] == _BFLOAT16:
                array = (array.astype(np.uint32) << 16).view(np.float32)
            tensors[name] = array.reshape(entry["shape"])
    return tensors


def _read(path: Path) -> tuple[dict[str, str], dict[str, dict], int]:
    """Return metadata, entries of tensors and the position of the tensors; check their extent."""
    with path.open("rb") as file, _damage():
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if end != size - 8 - length:
            raise ValueError(f"tensors of {end} bytes, expected {size - 8 - length}")
    return dict(metadata), entries, 8 + length


@contextmanager
def _damage() -> Iterator[None]:
    """Turn errors of a header that is not as expected into ValueError."""
    try:
        yield
    except (AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
