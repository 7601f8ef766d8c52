"""Command lines in the pages of the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        ROOT / "training/README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "ivf_core/weights").glob("*.md"),
    ]
)
"""Pages of the present state; the changelog tells of earlier ones too."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_LOOP = re.compile(r"for (\w+) in ([^;]+); do (.*?); done")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


class DocumentedCommand(NamedTuple):
    """Command line of a page.

    Attributes:
        page: path of the page in the repository.
        words: words of the command, without assignments and `sudo` before it.
        whole: whether it is in a block of commands; in running text it may lack arguments.
    """

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def documented_commands() -> Iterator[DocumentedCommand]:
    """Yield the command lines of all pages, from blocks of bash and from spans of code."""
    for path in PAGES:
        page = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        for language, block in _BLOCK.findall(text):
            if language in ("bash", "sh"):
                yield from _commands(page, block, whole=True)
        for span in _SPAN.findall(_BLOCK.sub("", text)):
            yield from _commands(page, " ".join(span.split()), whole=False)


def code_spans() -> Iterator[tuple[str, str]]:
    """Yield page and text of each span of code in running text."""
    for path in PAGES:
        text = _BLOCK.sub("", path.read_text(encoding="utf-8"))
        for span in _SPAN.findall(text):
            yield path.relative_to(ROOT).as_posix(), " ".join(span.split())


def _commands(page: str, text: str, *, whole: bool) -> Iterator[DocumentedCommand]:
    """Yield the commands of a script: loops are unrolled, variables stay as they are."""
    text = _LOOP.sub(_unroll, text.replace("\\\n", " "))
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        try:
            for word in [*lexer, ";"]:
                if set(word) <= set(";&|"):
                    while words and (_ASSIGNMENT.match(words[0]) or words[0] == "sudo"):
                        del words[0]
                    if words:
                        yield DocumentedCommand(page, tuple(words), whole)
                    words = []
                else:
                    words.append(word)
        except ValueError:  # an apostrophe: a span that is no command
            if whole:
                raise


def _unroll(match: re.Match[str]) -> str:
    """Return the commands of a loop, one line for each value."""
    name, values, body = match.groups()
    return "\n".join(
        body.replace(f"${{{name}}}", value).replace(f"${name}", value) for value in values.split()
    )
