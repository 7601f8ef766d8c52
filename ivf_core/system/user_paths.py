"""Paths as users write them: with `~` or `~user` for a home folder."""

from __future__ import annotations

import os
from pathlib import Path

from ivf_core.system.short_text import short_text

__all__ = ["is_file", "user_path"]


def user_path(text: str | os.PathLike[str]) -> Path:
    """Return the path that a user means.

    Args:
        text: path that may begin with `~` or `~user`.

    Raises:
        ValueError: there is no such user or home folder, or the path has a null byte; names
            the path and the remedy.
    """
    if "\0" in os.fspath(text):
        raise ValueError(f"path {short_text(text)!r}: has a null byte")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"path '{short_text(text)}': no home folder of that user is known; write it without ~"
        ) from error


def is_file(path: Path) -> bool:
    """Return whether a file is there; false, too, for a name that no file can have.

    Args:
        path: path of any length.
    """
    try:
        return path.is_file()
    except OSError:  # before Python 3.14, for a name that is too long
        return False
