"""Atomic writing of files: under a temporary name first, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path", "holds_files", "write_json"]

_PathLike = str | os.PathLike[str]


@contextmanager
def atomic_path(path: _PathLike) -> Iterator[Path]:
    """Give a temporary path with the same suffix, and rename it to `path` after the block.

    A missing folder is created. After an exception the temporary file is removed
    and an existing file at `path` is unchanged.

    Args:
        path: final path of the file.

    Yields:
        The temporary path, in the same folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def holds_files(folder: Path) -> bool:
    """Return whether a folder is there and holds more than temporary files of `atomic_path`."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def write_json(path: _PathLike, value: object) -> None:
    """Write a value as indented JSON, under a temporary name first.

    Args:
        path: file to write.
        value: anything that `json.dumps` takes.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
