"""Command line `ivf`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ivf_core import __version__
from ivf_core.commands import (
    bags,
    benchmark,
    calibration,
    data,
    evaluate,
    fuse,
    replay,
    train,
    view,
    weights,
)
from ivf_core.commands.command import Command
from ivf_core.system.interrupts import obey_interrupts

__all__ = ["COMMANDS", "build_parser", "main"]

COMMANDS: tuple[Command, ...] = (
    *fuse.COMMANDS,
    *bags.COMMANDS,
    *replay.COMMANDS,
    *view.COMMANDS,
    *calibration.COMMANDS,
    *data.COMMANDS,
    *weights.COMMANDS,
    *evaluate.COMMANDS,
    *benchmark.COMMANDS,
    *train.COMMANDS,
)

_TRACEBACK = "IVF_TRACEBACK"
"""Environment variable that shows the traceback of an unexpected error."""

_GROUPS = {
    "bag": "create and inspect bags",
    "data": "inspect data sets",
    "train": "create priors, train teachers, students and heads",
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ivf", description="Infrared and visible image fusion with semantic masks."
    )
    parser.add_argument("--version", action="version", version=f"ivf {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    groups = {
        group: commands.add_parser(group, help=text, description=text.capitalize() + ".")
        .add_subparsers(metavar="COMMAND", required=True)
        for group, text in _GROUPS.items()
    }  # fmt: skip
    for command in COMMANDS:
        *group, word = command.words.split()
        parent = groups[group[0]] if group else commands
        sub = parent.add_parser(
            word,
            help=command.help,
            description=command.help.capitalize() + ".",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, failures=command.failures)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `ivf` and return its exit status.

    Args:
        arguments: words of the command line; those of the process by default.

    Returns:
        0 for success, 1 for bad input or a failed run, 2 for bad options.
    """
    args = build_parser().parse_args(arguments)
    obey_interrupts()
    try:
        return args.run(args)
    except BrokenPipeError:
        return _broken_pipe()
    except args.failures as error:
        lines = (str(error) or type(error).__name__).splitlines()
        print(f"ivf: {' '.join(line.strip() for line in lines)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        print(
            f"ivf: unexpected {type(error).__name__}: {' '.join(str(error).split())} "
            f"(please report it with the output of {_TRACEBACK}=1 ivf ...)",
            file=sys.stderr,
        )
        return 1


def _broken_pipe() -> int:
    """Return the status of a command whose reader has ended, as in `ivf weights | head -1`."""
    # Python would report the pipe once more when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
