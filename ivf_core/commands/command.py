"""What a command of `ivf` is, and the options that several have.

Heavy modules are imported by the functions that use them: `ivf --help` is quick.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from ivf_core.defaults import DEFAULT_WEIGHTS, ENGINES, PRECISIONS

__all__ = ["BAD_INPUT", "Command", "add_engine", "add_weights", "no_arguments"]

# What is the fault of an input or of the machine, and is told in one line.
BAD_INPUT = (ValueError, OSError)


class Command(NamedTuple):
    """One command: its words, what it does, an example, its options, and the function.

    Of the exceptions in `failures` the user sees the message, of others the traceback.
    """

    words: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    failures: tuple[type[Exception], ...] = BAD_INPUT


def add_weights(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--weights", default=DEFAULT_WEIGHTS, help="shipped name or file (%(default)s)"
    )


def add_engine(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--engine", default="auto", choices=("auto", *ENGINES), help="runs the model (%(default)s)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N, openvino's gpu, onnxruntime's tensorrt (%(default)s)",
    )
    parser.add_argument(
        "--precision", default="auto", choices=("auto", *PRECISIONS), help="(%(default)s)"
    )


def no_arguments(_parser: argparse.ArgumentParser) -> None:
    pass
