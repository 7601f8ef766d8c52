"""Name and content of the weights that a run starts from, for metadata."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["file_digest", "weights_digest", "weights_origin"]


def file_digest(*paths: Path) -> str:
    """Return the SHA-256 of files, one after another, as hexadecimal digits.

    Raises:
        OSError: one is missing, a folder, or cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all safetensors of a directory in order of names.

    Raises:
        OSError: there is no such file or directory.
    """
    return file_digest(*(sorted(path.glob("*.safetensors")) if path.is_dir() else [path]))


def weights_origin(path: Path, random: bool = False) -> str:
    """Return name and content of a directory of weights, or of a file.

    Args:
        path: directory or file.
        random: whether its weights are random.
    """
    if random:
        return f"random weights ({path.name})"
    return f"{path.name} (SHA-256 {weights_digest(path)})"
