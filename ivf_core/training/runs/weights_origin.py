"""Name and content of the weights that a run starts from, for metadata."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["weights_digest", "weights_origin"]


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all safetensors of a directory in order of names."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def weights_origin(path: Path, random: bool = False) -> str:
    """Return name and content of a directory of weights, or of a file.

    Args:
        path: directory or file.
        random: whether its weights are random.
    """
    if random:
        return f"random weights ({path.name})"
    return f"{path.name} (SHA-256 {weights_digest(path)})"
