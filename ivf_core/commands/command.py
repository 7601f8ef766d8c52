"""Description of a command of `ivf`, and options that several commands share.

The functions that use heavy modules import them, so that `ivf --help` is fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from ivf_core.defaults import DEFAULT_WEIGHTS, ENGINES, PRECISIONS

__all__ = ["BAD_INPUT", "Command", "add_engine", "add_weights", "no_arguments"]

# Errors caused by the input or the machine, reported in one line.
BAD_INPUT = (ValueError, OSError)


class Command(NamedTuple):
    """Command of `ivf`.

    Attributes:
        words: the command's words, such as "data check".
        help: description in one line.
        example: a complete command line.
        add_arguments: adds the options to a parser.
        run: runs the command and returns the exit status.
        failures: exceptions reported by their message; others show the traceback.
    """

    words: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    failures: tuple[type[Exception], ...] = BAD_INPUT


def add_weights(parser: argparse._ActionsContainer) -> None:
    """Add the option for the weights."""
    parser.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        help="name of shipped weights, or a weights file (%(default)s)",
    )


def add_engine(parser: argparse._ActionsContainer) -> None:
    """Add the options for engine, device and precision."""
    parser.add_argument(
        "--engine",
        default="auto",
        choices=("auto", *ENGINES),
        help="engine that runs the model (%(default)s)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; gpu with openvino, tensorrt with onnxruntime "
        "(%(default)s)",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", *PRECISIONS),
        help="arithmetic of the model (%(default)s)",
    )


def no_arguments(_parser: argparse.ArgumentParser) -> None:
    """Add no options."""
