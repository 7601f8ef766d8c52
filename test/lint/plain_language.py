"""Check that first lines of docstrings stand alone, and that one word is used for one thing.

`python test/lint/plain_language.py [PATH ...]` prints what it finds as PATH:LINE: text, and
exits with 1 where it finds anything. It covers what ruff's pydocstyle rules cannot see:

- The first line of a docstring, also of an attribute's, opens with a verb or a noun: not with a
  question word, a conjunction, a preposition or a pronoun that needs the line above.
- Texts use the field's words: image (not picture), held out (not kept out), resume, and so on.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parents[2]

OPENERS = frozenset(
    """
    what who whom whose where when why how whether which
    that those these this it its they their here there then
    so as of and but or nor if than because since until unless while also likewise ditto same
    """.split()  # noqa: SIM905
)
"""Words that no first line opens with: it would need the line above to be understood."""

WORDS = {
    r"pictur\w*": "image",
    r"anew": "again",
    r"kept[ -]out": "held out",
    r"refus\w*": "reject, raise",
    r"(?:go|goes|going|went|gone) on": "resume, continue",
    r"descend\w*": "step",
    r"lies? (?:beside|in|there)": "is beside, is in",
    r"shared pairs?": "the data set's name",
}
"""Words of a private dialect, as regular expressions, and the field's words for them."""

_WORDS = {re.compile(rf"\b{word}\b", re.IGNORECASE): use for word, use in WORDS.items()}
_SUFFIXES = (".py", ".md", ".yaml", ".j2", ".js", ".css", ".toml", ".xml", ".cfg")
_NO_TEXT = ("vendor", "LICENSE")
_ALLOWED = re.compile(r"plain: ([\w ]+)")  # a comment on the line that needs the word


def main(paths: list[str]) -> int:
    """Print the findings in `paths`, by default all files of the checkout; 1 if there are any."""
    found = [finding for path in _files(paths) for finding in check(path)]
    print(*found, sep="\n" if found else "")
    print(f"plain language: {len(found)} findings" if found else "plain language: no findings")
    return 1 if found else 0


def check(path: Path) -> list[str]:
    """Return the findings in one file, each as "PATH:LINE: text"."""
    text = path.read_text(encoding="utf-8")
    findings = list(_words(path, text))
    if path.suffix == ".py":
        findings += _first_lines(ast.parse(text))
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return [f"{where}:{line}: {finding}" for line, finding in sorted(findings)]


def _files(paths: list[str]) -> Iterator[Path]:
    """Yield the tracked and new text files below `paths`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path == Path(__file__).resolve() or not path.is_file():
            continue
        if path.suffix in _SUFFIXES and not set(path.parts) & set(_NO_TEXT):
            yield path


def _words(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield words of the private dialect: of Python files in comments, strings and names."""
    for number, line in enumerate(text.splitlines(), start=1):
        allowed = _ALLOWED.search(line)
        # Names written in snake case count by their parts.
        spoken = re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", line)
        for word, use in _WORDS.items():
            match = word.search(spoken)
            if match and not (allowed and match[0].lower() in allowed[1].lower()):
                yield number, f"'{match[0]}': say {use}"


def _first_lines(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield docstrings, of attributes too, whose first line does not stand alone."""
    for node in ast.walk(tree):
        for statement in _docstrings(node):
            assert isinstance(statement.value, ast.Constant)
            lines = statement.value.value.strip().splitlines()
            if not lines:
                continue
            opener = re.match(r"[\W_]*([A-Za-z]+)\b(?!`)", lines[0])
            if opener and opener[1].lower() in OPENERS:
                yield statement.lineno, f"'{opener[1]}' opens a docstring: {lines[0]}"


def _docstrings(node: ast.AST) -> Iterator[ast.Expr]:
    """Yield the docstring of a module, class or function, and those of its attributes."""
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    before: ast.stmt | None = None
    for statement in body:
        first = before is None and isinstance(node, documented)
        of_attribute = isinstance(before, ast.Assign | ast.AnnAssign)
        if (first or of_attribute) and _is_text(statement):
            yield statement
        before = statement


def _is_text(statement: ast.stmt) -> TypeGuard[ast.Expr]:
    """Return whether a statement is nothing but a string."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
