"""Atomic writing of files: under a temporary name first, then renamed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "atomic_path",
    "holds_files",
    "remove_leftovers",
    "remove_leftovers_of",
    "write_json",
]

_PathLike = str | os.PathLike[str]
# .STEM.RANDOM.SUFFIX, with the eight random characters of `tempfile`.
_TEMPORARY = re.compile(r"\.(?P<stem>.+)\.[a-z0-9_]{8}(?P<suffix>(\.[^.]+)?)")


@contextmanager
def atomic_path(path: _PathLike) -> Iterator[Path]:
    """Give a temporary path with the same suffix, and rename it to `path` after the block.

    A missing folder is created. After an exception the temporary file is removed
    and an existing file at `path` is unchanged. What a killed process leaves,
    `remove_leftovers` removes.

    Args:
        path: final path of the file.

    Yields:
        The temporary path, in the same folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _open_temporary(path)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, is_ours: Callable[[str], object]) -> None:
    """Remove temporary files of `atomic_path` whose writer was killed.

    A file stays while its writer runs, in any process or container of this machine: the writer
    holds a lock (flock) on it, which ends with the process. Where the file system has no locks,
    or another user wrote the file, it stays as well.

    Args:
        folder: folder to look in, not in its subfolders; it need not exist.
        is_ours: whether a final name, such as "settings.json", is that of a file that this
            package writes into the folder.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in list(folder.iterdir()):
            match = _TEMPORARY.fullmatch(path.name)
            if match and is_ours(match["stem"] + match["suffix"]):
                with suppress(OSError):
                    _remove_unlocked(path)


def remove_leftovers_of(paths: Iterable[_PathLike]) -> None:
    """Remove temporary files of `atomic_path(path)` whose writer was killed.

    See `remove_leftovers`.

    Args:
        paths: final paths of files that this package writes; they need not exist.
    """
    names: dict[Path, set[str]] = {}
    for path in map(Path, paths):
        names.setdefault(path.parent, set()).add(path.name)
    for folder, ours in names.items():
        remove_leftovers(folder, ours.__contains__)


def _open_temporary(path: Path) -> tuple[int, Path]:
    """Create and lock a temporary file; the lock ends when its descriptor is closed."""
    while True:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
        )
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.lexists(name):
            return handle, Path(name)
        os.close(handle)  # another process took it for a leftover before it was locked


def _remove_unlocked(path: Path) -> None:
    """Remove a regular file; raise OSError if a process holds a lock on it, or it has no locks."""
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


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
