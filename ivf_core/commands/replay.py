"""`ivf replay`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ivf_core.commands.command import BAD_INPUT, Command, add_engine, add_weights
from ivf_core.defaults import (
    BLOCK_SECONDS,
    MINIMUM_INTERVAL_SECONDS,
    OVERLAY_OPACITY,
    QUEUE_SIZE,
    TOLERANCE_SECONDS,
)

if TYPE_CHECKING:
    from ivf_core.replay.settings import ReplaySettings

__all__ = ["COMMANDS"]


def _replay(args: argparse.Namespace) -> int:
    if args.compare:
        return _compare(args)
    from ivf_core.replay.fleet import find_bags
    from ivf_core.replay.settings import ReplaySettings

    settings = ReplaySettings(
        **{name: getattr(args, name) for name in ReplaySettings.__dataclass_fields__}
    )
    bags = find_bags(args.bags)
    several = len(bags) > 1 or args.ray or list(bags.values()) != args.bags
    return _replay_fleet(args, bags, settings) if several else _replay_one(args, settings)


def _replay_one(args: argparse.Namespace, settings: ReplaySettings) -> int:
    from ivf_core.replay.run import replay_bag
    from ivf_core.system.memory import keep_freed_memory

    keep_freed_memory()
    with tqdm(desc="replay", unit="pair", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = replay_bag(args.bags[0], args.output, settings, progress)
    _print(summary, args.output)
    return 0 if summary["pairing"]["pairs"] else 1


def _replay_fleet(args: argparse.Namespace, bags: dict[str, Path], settings: ReplaySettings) -> int:
    from ivf_core.replay.fleet import Outcome, replay_fleet

    with tqdm(total=len(bags), desc="replay", unit="bag", disable=None) as bar:

        def report(outcome: Outcome) -> None:
            bar.update()
            line = f"{outcome.name}: {outcome.status}"
            bar.write(f"{line}: {outcome.error}" if outcome.error else line)

        outcomes = replay_fleet(
            bags, args.output, settings, jobs=args.jobs, ray=args.ray, report=report
        )
    print(f"written to {args.output}, see {args.output / 'index.html'}")
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def _compare(args: argparse.Namespace) -> int:
    from ivf_core.replay.compare.page import compare_replays

    try:
        a, b = args.compare
        status = compare_replays(
            a, b, args.output, args.thresholds, block_seconds=args.block_seconds
        )
    except BAD_INPUT as error:  # 1 is for what got worse
        print(f"ivf: {error}", file=sys.stderr)
        return 2
    print(f"written to {args.output / 'compare.html'}")
    return status


def _print(summary: dict[str, Any], output: Path) -> None:
    topics, pairing = summary["topics"], summary["pairing"]
    guessed = " (guessed)" if topics["guessed"] else ""
    print(f"RGB {topics['rgb']}, thermal {topics['thermal']}{guessed}")
    for key, name in (("labels", "labels"), ("other_fused", "other method")):
        if topics[key]:
            print(f"{name} {topics[key]}")
    received = pairing["received"]
    print(
        f"{pairing['pairs']} pairs of {received['rgb']} RGB and {received['thermal']} thermal "
        f"images, {summary['throughput']['pairs_per_second']} pairs a second"
    )
    for line in summary["left_out"]:
        print(f"ivf replay: left out: {line}", file=sys.stderr)
    for warning in summary["warnings"]:
        print(f"ivf replay: {warning['text']}", file=sys.stderr)
    print(f"written to {output}, see {output / 'report.html'}")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    from ivf_core.images.overlay import OVERLAY_PALETTES
    from ivf_core.images.thermal import THERMAL_MODES

    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "bags",
        nargs="*",
        default=[],
        type=Path,
        metavar="BAG",
        help="rosbag2 or rosbag1, or folder of bags",
    )
    what.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="replays to compare, A the baseline",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="for the results")
    topics = parser.add_argument_group("topics, guessed from types and names where not given")
    topics.add_argument("--rgb-topic", metavar="TOPIC")
    topics.add_argument("--thermal-topic", metavar="TOPIC")
    topics.add_argument("--labels-topic", metavar="TOPIC", help="true class ids; '' for none")
    topics.add_argument(
        "--fused-topic", metavar="TOPIC", help="another method's pictures; '' for none"
    )
    model = parser.add_argument_group("the pipeline, as the node's parameters")
    add_weights(model)
    add_engine(model)
    model.add_argument("--threads", type=int, default=0, help="of the CPU; 0: the engine's choice")
    model.add_argument(
        "--thermal-mode", default="auto", choices=THERMAL_MODES, help="(%(default)s)"
    )
    for name, default in (("low-percentile", 0.5), ("high-percentile", 99.5)):
        model.add_argument(
            f"--{name}", type=float, default=default, metavar="P", help="of the gain (%(default)s)"
        )
    model.add_argument(
        "--gain-smoothing-seconds", type=float, default=0.5, metavar="S", help="(%(default)s)"
    )
    model.add_argument("--registration", type=Path, metavar="FILE", help="YAML file")
    model.add_argument(
        "--palette", default="natural", choices=OVERLAY_PALETTES, help="(%(default)s)"
    )
    model.add_argument("--opacity", type=float, default=OVERLAY_OPACITY, help="(%(default)s)")
    pairing = parser.add_argument_group("pairing, as the node's parameters")
    for name, default in (
        ("tolerance", TOLERANCE_SECONDS),
        ("offset", 0.0),
        ("minimum-interval", MINIMUM_INTERVAL_SECONDS),
    ):
        pairing.add_argument(
            f"--{name}-seconds", type=float, default=default, metavar="S", help="(%(default)s)"
        )
    pairing.add_argument("--queue-size", type=int, default=QUEUE_SIZE, help="(%(default)s)")
    comparison = parser.add_argument_group("comparison")
    comparison.add_argument(
        "--thresholds", type=Path, metavar="FILE", help="YAML; status 1 when one does not hold"
    )
    comparison.add_argument(
        "--block-seconds", type=float, default=BLOCK_SECONDS, metavar="S",
        help="of time that the bootstrap takes for one (%(default)s)",
    )  # fmt: skip
    results = parser.add_argument_group("results")
    results.add_argument("--inputs", action="store_true", help="write the inputs to the bag, too")
    results.add_argument("--video", action="store_true", help="write side_by_side.mp4")
    results.add_argument(
        "--storage", default="mcap", choices=("mcap", "sqlite3"), help="(%(default)s)"
    )
    results.add_argument(
        "--score-every", type=int, default=0, metavar="N",
        help="score every Nth pair; 0: 30 to 120 of a bag",
    )  # fmt: skip
    results.add_argument(
        "--recorded", nargs="?", const="", metavar="BAG",
        help="score what the node has published, of this bag (the same one), and run no model",
    )  # fmt: skip

    many = parser.add_argument_group("several bags, each into DIR/NAME; finished ones are kept")
    many.add_argument("--jobs", type=int, default=0, help="at a time; 0: one for every two cores")
    many.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster, or local (extra fleet)")


COMMANDS = (
    Command(
        "replay",
        "fuse a bag, score the results, report",
        "ivf replay drive --output drive_report",
        _add_replay,
        _replay,
    ),
)
