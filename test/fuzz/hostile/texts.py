"""Hostile texts and numbers: names, paths, formats, and tokens of YAML and JSON files."""

from __future__ import annotations

import re
from typing import TypeVar

from hypothesis import strategies as st

_HOSTILE = (
    "",
    " ",
    "\n",
    "a\nb",
    "a\0b",
    "..",
    "/",
    "~nouser/x",
    "~",
    "~/",
    "./../x",
    "/nonexistent/x",
    "/dev/null",
    "/dev/null/x",
    "/proc/self/mem",
    "x" * 300,
    "x/" * 100,
    "x" * 300 + ".safetensors",
    "a:b",
    "run#2",
    "what?",
    "run 50%20",
    "%s%n{0}",
    "*",
    "--help",
    "-1",
    "é" * 200,
    "\u202e\ufeff",
    "\U0001f600",
    "\x1b[31m",
    "none",
    "null",
    "true",
    "nan",
    "inf",
    "1e400",
    "9" * 40,
)

# Files that a test never lets a command write to: the names above that lead out of its folder.
_OUTSIDE = re.compile(r"^[~/]|\.\.")

NUMBERS = ("0", "-0", "-1", "1", "0.5", "nan", "inf", "-inf", "1e400", "1e-400", "9" * 40, "0x10")
"""Numbers as texts, most of which are out of every range."""


def _repeated(depth: int) -> str:
    """Return a list in YAML that has few characters, and 10 ** depth entries once it is read."""
    text = "1"
    for level in range(depth):
        text = f"[&a{level} {text}{f', *a{level}' * 9}]"
    return text


_TOKENS = (
    *NUMBERS,
    "",
    "null",
    "true",
    "''",
    '"x"',
    "[]",
    "[[]]",
    "{}",
    "{a: b}",
    "2026-13-01",
    "!!python/object:os.system x",
    "&a [*a]",
    "*a",
    _repeated(6),
    "[" * 1000 + "]" * 1000,
    "{a: " * 1000 + "}" * 1000,
    '{"a":' * 5000 + "1" + "}" * 5000,
    "x" * 3000,
    "\t",
    ":",
    "- ",
    "\0",
    "\ud7ff",
)
_TOKEN = re.compile(r"[\w.+-]+|[^\w\s]")


T = TypeVar("T")


def mostly(valid: st.SearchStrategy[T], hostile: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Draw a valid value three times in four, so that several fields of an input may be valid.

    Args:
        valid: strategy of valid values.
        hostile: strategy of others.
    """
    return st.integers(0, 3).flatmap(lambda number: hostile if number == 3 else valid)


def texts() -> st.SearchStrategy[str]:
    """Draw a hostile text without surrogates, which no message can hold."""
    free = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    return st.sampled_from(_HOSTILE) | free


def names() -> st.SearchStrategy[str]:
    """Draw a hostile relative path that stays in the current folder; it has no NUL."""
    return texts().filter(lambda text: not _OUTSIDE.search(text) and "\0" not in text)


def edited(text: str) -> st.SearchStrategy[str]:
    """Draw an edited copy of a text file: words replaced, left out or repeated."""
    tokens = [match.span() for match in _TOKEN.finditer(text)]
    edit = st.tuples(st.sampled_from(tokens), st.sampled_from(_TOKENS), st.integers(0, 3))
    return st.lists(edit, min_size=1, max_size=3).map(lambda edits: _edit(text, edits))


def _edit(text: str, edits: list[tuple[tuple[int, int], str, int]]) -> str:
    for (start, end), token, repeats in sorted(edits, reverse=True):
        word = text[start:end]
        text = text[:start] + (token if repeats < 2 else word * (repeats * 50)) + text[end:]
    return text
