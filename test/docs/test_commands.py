"""Commands in the documentation: `ivf`, `make` and Python modules as they are."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from documented_commands import ROOT, DocumentedCommand, documented_commands

from ivf_core.cli import build_parser

IVF = (("ivf",), (".venv/bin/ivf",), ("ros2", "run", "ivf_ros", "ivf"))
COMMANDS = list(dict.fromkeys(documented_commands()))


def after(command: DocumentedCommand, *prefixes: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the words after a prefix, or None if a command has none of them."""
    for prefix in prefixes:
        if command.words[: len(prefix)] == prefix:
            return command.words[len(prefix) :]
    return None


def ivf_lines() -> list[tuple[DocumentedCommand, list[str]]]:
    """Return the command lines of `ivf` with their arguments, also those of torchrun."""
    lines = []
    for command in COMMANDS:
        words = after(command, *IVF)
        if words is None and "ivf_core.cli" in command.words:
            words = command.words[command.words.index("ivf_core.cli") + 1 :]
        if words is not None:
            lines.append((command, [word.replace("$IVF_DATA", "data") for word in words]))
    return lines


WHOLE = [line for line in ivf_lines() if line[0].whole and line[1] != ["..."]]
SPANS = [line for line in ivf_lines() if not line[0].whole and line[1]]


def parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands below a parser, by their first word."""
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def test_pages_have_commands() -> None:
    assert len(WHOLE) > 60
    assert len(SPANS) > 40


@pytest.mark.parametrize("line", WHOLE, ids=lambda line: str(line[0]))
def test_command_line_of_ivf_parses(
    line: tuple[DocumentedCommand, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        build_parser().parse_args(line[1])
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


@pytest.mark.parametrize("line", SPANS, ids=lambda line: str(line[0]))
def test_command_and_options_of_ivf_exist(line: tuple[DocumentedCommand, list[str]]) -> None:
    """A span may lack arguments: its words are commands, and its options those of the command."""
    parser, words = build_parser(), list(line[1])
    while words and words[0] in parsers(parser):
        parser = parsers(parser)[words.pop(0)]
    if parsers(parser) and words:
        assert words[0] == "..." or words[0].startswith("--"), f"no command {words[0]!r}"
    known = {option for action in parser._actions for option in action.option_strings}
    assert {word for word in words if word.startswith("--")} <= known


class RecipeLoadedError(Exception):
    """Raised in place of a run, once its recipe is loaded."""


RUNS = [line for line in WHOLE if "--config" in line[1]]


@pytest.mark.parametrize("line", RUNS, ids=lambda line: str(line[0]))
def test_recipe_with_its_settings_loads(
    line: tuple[DocumentedCommand, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning_fabric")
    from ivf_core.training.runs import recipe

    load = recipe.load_recipe

    def load_and_stop(*arguments: Any) -> None:
        load(*arguments)
        raise RecipeLoadedError

    monkeypatch.setattr(recipe, "load_recipe", load_and_stop)
    monkeypatch.setattr("ivf_core.system.memory.keep_freed_memory", lambda: None)
    monkeypatch.chdir(ROOT)
    args = build_parser().parse_args(line[1])
    with pytest.raises(RecipeLoadedError):
        args.run(args)


def make_names() -> tuple[set[str], set[str]]:
    """Return the targets of the Makefile, and the variables that it reads."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*##", text, re.MULTILINE))
    return targets, set(re.findall(r"^([A-Z_]+) \?=", text, re.MULTILINE))


MAKE = [(command, words) for command in COMMANDS if (words := after(command, ("make",)))]


@pytest.mark.parametrize("line", MAKE, ids=lambda line: str(line[0]))
def test_target_of_make_exists(line: tuple[DocumentedCommand, tuple[str, ...]]) -> None:
    targets, variables = make_names()
    for word in line[1]:
        name, sign, _ = word.partition("=")
        assert name in (variables if sign else targets)


def test_every_target_is_phony() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == make_names()[0]


PYTHON = [
    (command, words[0])
    for command in COMMANDS
    if (words := after(command, ("python", "-m"), (".venv/bin/python", "-m")))
]


@pytest.mark.parametrize("line", PYTHON, ids=lambda line: str(line[0]))
def test_module_exists(line: tuple[DocumentedCommand, str]) -> None:
    assert importlib.util.find_spec(line[1]) is not None


FILES = [
    (command, word)
    for command in COMMANDS
    for word in command.words
    if re.match(r"(test|training|docs|config|launch)/[\w./-]+\.(py|sh|yaml|xml|md)\b", word)
]


@pytest.mark.parametrize("line", FILES, ids=lambda line: f"{line[0]} {line[1]}")
def test_file_of_the_repository_exists(line: tuple[DocumentedCommand, str]) -> None:
    path = line[1].partition("::")[0]
    assert Path(ROOT / path).exists()
