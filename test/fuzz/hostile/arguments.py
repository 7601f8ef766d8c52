"""Hostile command lines of `ivf`, and the small files that they may name."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from small_bags import drive_frames

from hostile.texts import NUMBERS, names
from ivf_core.bags.convert import write_drive_bag
from ivf_core.cli import COMMANDS
from ivf_core.commands.command import Command
from ivf_core.images.files import write_image

_RECIPE = Path(__file__).parents[3] / "training/teacher_smoke.yaml"
_TINY = ("--weights", "mine.safetensors", "--engine", "torch", "--device", "cpu")
_PAIR = ("--visible", "v", "--infrared", "i")

# Valid words, which hostile ones follow: the last value of an option counts.
_VALID = {
    "fuse": (*_PAIR, "--output", "out", *_TINY),
    "bag from-video": (*_PAIR, "--output", "out", "--rate", "10"),
    "bag info": ("bag",),
    "replay": ("bag", "--output", "out", *_TINY),
    "view": ("bag",),
    "data check": ("pairs",),
    "weights": (),
    "evaluate": (*_PAIR, "--fused", "v", "--output", "out"),
}
# Words that come last: such a run is long or endless, writes elsewhere, or replaces the process.
_LAST = {
    "view": ("--weights", "damaged.safetensors", "--no-browser", "--port", "0"),
    "export": ("--weights", "damaged.safetensors", "--output", "out.onnx"),
    "calibrate": ("--weights", "damaged.safetensors", "--pairs", "pairs", "--output", "out"),
    "benchmark": ("--weights", "damaged.safetensors"),
    "train smoke": ("--output", "mine.safetensors/x"),
}
_LEFT_OUT = {"--node", "--replay", "--ray"}
_FILES = (
    "v", "i", "v/a.png", "i/a.png", "pairs", "bag", "mine.safetensors", "damaged.safetensors",
    "recipe.yaml", "empty", "missing", "\udcff.png",
)  # fmt: skip


def make_files(folder: Path, weights: Path) -> None:
    """Write the files that command lines may name.

    Args:
        folder: current folder of the commands.
        weights: a weights file.
    """
    for parent in (folder, folder / "pairs"):
        names = ("v", "i") if parent is folder else ("visible", "infrared")
        for name, shape in zip(names, ((12, 16, 3), (12, 16)), strict=True):
            pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            write_image(parent / name / "a.png", pixels)
    write_drive_bag(folder / "bag", drive_frames(2), 10.0)
    shutil.copy(weights, folder / "mine.safetensors")
    (folder / "damaged.safetensors").write_bytes(weights.read_bytes()[:1000])
    shutil.copy(_RECIPE, folder / "recipe.yaml")
    (folder / "empty").touch()


def command_lines() -> st.SearchStrategy[list[str]]:
    """Draw the words of a command line: a valid one with hostile options and values."""
    commands = st.sampled_from(COMMANDS).flatmap(_words_of)
    nonsense = st.lists(names() | st.sampled_from([c.words for c in COMMANDS]), max_size=4)
    return commands | commands | commands | commands | nonsense


@st.composite
def _words_of(draw: st.DrawFn, command: Command) -> list[str]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    actions = [a for a in parser._actions if not _LEFT_OUT & set(a.option_strings)]
    words = [*command.words.split(), *_valid(command.words)]
    for action in draw(st.lists(st.sampled_from(actions), max_size=4)):
        words += draw(_option(action))
    if draw(st.integers(0, 9)) == 0:
        del words[draw(st.integers(0, len(words) - 1))]
    return words + list(_LAST.get(command.words, ()))


def _valid(name: str) -> tuple[str, ...]:
    if name.startswith("train") and name not in _LAST:
        return ("--config", "recipe.yaml", "--set", "output=out")
    return _VALID.get(name, ())


def _option(action: argparse.Action) -> st.SearchStrategy[list[str]]:
    """Draw an option with its values, or a positional one."""
    value = names() | st.sampled_from((*NUMBERS, *_FILES, "x=1", "steps=-1"))
    if action.choices:
        value |= st.sampled_from(sorted(map(str, action.choices)))
    least, most = (0, 0) if action.nargs == 0 else (1, 1)
    if isinstance(action.nargs, int):
        least = most = action.nargs
    elif action.nargs is not None:
        most = 2
    values = st.lists(value, min_size=least, max_size=most)
    option = action.option_strings[-1:]
    joined = st.just([]) if not option else value.map(lambda v: [f"{option[0]}={v}"])
    return values.map(lambda some: option + some) | joined
