"""Command `ivf benchmark`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ivf_core.commands.command import Command
from ivf_core.defaults import (
    DEFAULT_WEIGHTS,
    ENGINES,
    LOAD_POLICIES,
    OUTPUT_IMAGES,
    PRECISIONS,
)
from ivf_core.system.processor import INSTRUCTION_LIMITS

__all__ = ["COMMANDS", "add_candidates", "add_node_options"]


def _benchmark(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ivf_core.inference.benchmark import Candidate, peer_table, run, table
    from ivf_core.system.atomic import write_json

    if args.node:
        return _benchmark_node(args)
    _reject(args, _NODE_OPTIONS, "needs --node")
    if args.replay:
        return _benchmark_replay(args)
    _reject(args, _REPLAY_OPTIONS, "needs --replay")
    rounds = 10 if args.rounds is None else args.rounds
    if args.peers:
        _check_peers(args)
    candidates = [
        Candidate(
            weights, head, engine, precision, size, args.device, args.threads, True, instructions
        )
        for instructions in args.isa
        for size in args.size
        for weights in args.weights
        for head in {"no": (False,), "yes": (True,), "both": (False, True)}[args.head or "both"]
        for engine in args.engine
        for precision in args.precision
    ]
    candidates += [
        Candidate(
            str(clone), False, "openvino", "fp32", size, "cpu", args.threads, True, instructions,
            peer=True,
        )
        for instructions in args.isa
        for size in args.size
        for clone in args.peers or ()
    ]  # fmt: skip
    rows = run(candidates, rounds=rounds, baselines=not args.peers, report=_report)
    print(table(rows))
    if args.peers:
        print(f"\n{peer_table(rows)}")
    if args.json is not None:
        write_json(args.json, [asdict(row) for row in rows])
    return 0


def _check_peers(args: argparse.Namespace) -> None:
    """Check the clones, and let all networks run in the engine in which peers are measured."""
    from ivf_core.inference.peers import find_peer

    for name, value in (("engine", "openvino"), ("precision", "fp32"), ("device", "cpu")):
        given = getattr(args, name)
        given = given if isinstance(given, list) else [given]
        if given not in (["auto"], [value]):
            raise ValueError(f"--{name} {' '.join(given)}: --peers compares {value} only")
        setattr(args, name, [value] if isinstance(getattr(args, name), list) else value)
    for clone in args.peers:
        find_peer(clone)


def _report(line: str) -> None:
    print(f"ivf benchmark: {line}", file=sys.stderr, flush=True)


def _benchmark_replay(args: argparse.Namespace) -> int:
    """Measure replays against the pipeline alone."""
    from dataclasses import asdict

    from ivf_core.replay.benchmark import run, table
    from ivf_core.replay.settings import ReplaySettings
    from ivf_core.system.atomic import write_json
    from ivf_core.system.memory import keep_freed_memory

    _reject(args, ("head", "peers"), "cannot be used with --replay")
    if len(args.isa) > 1:
        raise ValueError("--isa takes one value with --replay: its table has no column for it")
    os.environ.update(INSTRUCTION_LIMITS.get(args.isa[0], {}))
    keep_freed_memory()
    choices = [
        ReplaySettings(
            weights=weights,
            engine=engine,
            precision=precision,
            device=args.device,
            threads=args.threads,
        )
        for weights in args.weights
        for engine in args.engine
        for precision in args.precision
    ]
    rounds = 5 if args.rounds is None else args.rounds
    pairs = 240 if args.pairs is None else args.pairs
    rows = [row for size in args.size for row in run(choices, size, pairs=pairs, rounds=rounds)]
    print(table(rows))
    if args.json is not None:
        write_json(args.json, [asdict(row) for row in rows])
    return 0


def _benchmark_node(args: argparse.Namespace) -> int:
    """Replace this process by the benchmark of the node, since this package knows no ROS."""
    _reject(args, _ENGINE_OPTIONS, "cannot be used with --node, see --outputs and --seconds")
    _reject(args, _REPLAY_OPTIONS, "needs --replay")
    if len(args.isa) > 1:
        raise ValueError("--isa takes one value with --node: its table has no column for it")
    os.environ.update(INSTRUCTION_LIMITS.get(args.isa[0], {}))
    probe = subprocess.run(
        [sys.executable, "-c", "import rclpy, ivf_ros"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        reason = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            "ivf benchmark --node needs ROS 2: its wheels (make setup) or a sourced distribution; "
            f"{sys.executable}: {reason}"
        )
    words = [sys.executable, "-m", "ivf_ros.benchmark"]
    for name in (*_COMMON_OPTIONS, *_NODE_OPTIONS):
        value = getattr(args, name)
        if value is not None:
            words += [
                f"--{name.replace('_', '-')}",
                *map(_word, value if isinstance(value, list) else [value]),
            ]
    sys.stdout.flush()
    os.execv(sys.executable, words)  # so that Ctrl-C reaches the program that ends the processes


_COMMON_OPTIONS = ("weights", "engine", "precision", "device", "threads", "size", "json")
_ENGINE_OPTIONS = ("head", "rounds", "peers")
_REPLAY_OPTIONS = ("pairs",)
_NODE_OPTIONS = ("rate", "seconds", "outputs", "load_policy")


def _word(value: object) -> str:
    """Format a value for the command line."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _reject(args: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Raise ValueError if one of the options is given."""
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} {reason}")


def add_candidates(parser: argparse.ArgumentParser) -> None:
    """Add the options of both benchmarks for the candidates to measure."""

    def size(text: str) -> tuple[int, int]:
        width, _, height = text.partition("x")
        return int(width), int(height)

    parser.add_argument(
        "--weights",
        nargs="+",
        default=[DEFAULT_WEIGHTS],
        help=f"names of shipped weights, or weights files ({DEFAULT_WEIGHTS})",
    )
    parser.add_argument(
        "--engine",
        nargs="+",
        default=["auto"],
        choices=("auto", *ENGINES),
        help="engines that run the model (auto)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["auto"],
        choices=("auto", *PRECISIONS),
        help="arithmetic of the model (auto)",
    )
    parser.add_argument("--device", default="auto", help="device of the engines (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=0, help="number of CPU threads; 0: the engine's choice"
    )
    parser.add_argument(
        "--size",
        nargs="+",
        type=size,
        default=[(640, 480)],
        metavar="WxH",
        help="width and height of the images (640x480)",
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")


def add_node_options(parser: argparse._ActionsContainer) -> None:
    """Add the options of the node's benchmark."""
    parser.add_argument(
        "--rate", nargs="+", type=float, default=[30.0], metavar="HZ",
        help="pairs per second that the cameras publish (30)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="duration of each measured run (20)"
    )
    parser.add_argument(
        "--outputs",
        nargs="+",
        default=list(OUTPUT_IMAGES),
        choices=OUTPUT_IMAGES,
        help="images that the subscriber takes (all)",
    )
    parser.add_argument(
        "--load-policy",
        nargs="+",
        default=["full"],
        choices=LOAD_POLICIES,
        help="policies of the node under overload (full)",
    )


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument(
        "--node", action="store_true", help="measure the node over DDS instead of the engines"
    )
    subject.add_argument(
        "--replay",
        action="store_true",
        help="measure `ivf replay` of a synthetic bag against the pipeline alone",
    )
    add_candidates(parser)
    parser.add_argument(
        "--isa",
        nargs="+",
        default=["native"],
        choices=("native", *INSTRUCTION_LIMITS),
        help="newest instructions that the engines use, to see what an older processor does "
        "(native); an approximation, see docs/benchmark.md",
    )
    engines = parser.add_argument_group("without --node")
    engines.add_argument(
        "--head", choices=("yes", "no", "both"), help="with or without masks (both)"
    )
    engines.add_argument(
        "--rounds", type=int, help="number of turns of each candidate (10; 5 with --replay)"
    )
    engines.add_argument(
        "--peers",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="clones of MMDRFuse and LUT-Fuse, whose networks run beside the weights, all in "
        "OpenVINO in fp32",
    )
    replay = parser.add_argument_group("with --replay")
    replay.add_argument("--pairs", type=int, help="number of pairs of the bag (240)")
    node = parser.add_argument_group("with --node")
    add_node_options(node)
    parser.set_defaults(**dict.fromkeys(_NODE_OPTIONS))


COMMANDS = (
    Command(
        "benchmark",
        "measure the speed of engines against the published student, of replays, or of the node",
        "ivf benchmark --weights sage --precision fp32 auto --json benchmark.json",
        _add_benchmark,
        _benchmark,
    ),
)
