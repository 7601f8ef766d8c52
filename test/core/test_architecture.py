"""Tests that docs/architecture.md agrees with the code."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"


def test_diagram_and_tables_are_those_of_the_imports() -> None:
    pytest.importorskip("grimp", reason="grimp (with import-linter, extra `lint`) is missing")
    check = subprocess.run(
        [sys.executable, str(ROOT / "test/lint/architecture.py"), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stderr


def test_names_in_the_text_exist() -> None:
    """Dotted names of modules, classes, functions and methods, and paths of files."""
    text = PAGE.read_text(encoding="utf-8")
    names = re.findall(r"`(ivf_(?:core|ros)(?:\.\w+)+)`", text)
    assert len(names) > 20
    assert [name for name in names if not exists(name)] == []
    paths = re.findall(r"`((?:\w+/)+[\w.]+\.\w+)`", text)
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or something that one defines."""
    words = name.split(".")
    for length in range(len(words), 0, -1):
        try:
            found: object = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for word in words[length:]:
            found = getattr(found, word, None)
        return found is not None
    return False
