"""Content of small text files of unknown origin, YAML above all."""

from __future__ import annotations

from pathlib import Path

from ivf_core.system.short_text import short_text

__all__ = ["parse_yaml", "read_small_text"]

_LARGEST_FILE = 100_000  # bytes


def read_small_text(path: Path) -> str:
    """Read a text file of at most 100 kB.

    Args:
        path: file in UTF-8.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: the file is larger, or no text.
    """
    if not path.is_file():
        raise FileNotFoundError("no such file")
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise ValueError(f"{size} bytes, expected at most {_LARGEST_FILE}")
    return path.read_text(encoding="utf-8")


def parse_yaml(text: str) -> object:
    """Parse a YAML text, safely.

    Args:
        text: YAML of at most a few kB: with anchors, a few bytes can describe gigabytes, so a
            caller must not copy the content unseen.

    Raises:
        ValueError: the text is not YAML, is nested too deeply, or has a value that cannot be
            (a date such as 2026-13-01, a list as a key); a short text says what.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except (ArithmeticError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(short_text(error)) from error
