"""Command `ivf replay`."""

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
    SINGLE_CAMERA_POLICIES,
    TOLERANCE_SECONDS,
)

if TYPE_CHECKING:
    from ivf_core.replay.settings import ReplaySettings

__all__ = ["COMMANDS", "add_pairing", "add_pipeline"]


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
    fused_alone = sum(summary["single_camera"]["fused"].values())
    return 0 if summary["pairing"]["pairs"] or fused_alone else 1


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
    except BAD_INPUT as error:  # status 1 means that a threshold is not met
        print(f"ivf: {' '.join(str(error).split())}", file=sys.stderr)
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
        f"images, {summary['throughput']['pairs_per_second']} pairs per second"
    )
    for line in summary["left_out"]:
        print(f"ivf replay: left out: {line}", file=sys.stderr)
    for warning in summary["warnings"]:
        print(f"ivf replay: {warning['text']}", file=sys.stderr)
    print(f"written to {output}, see {output / 'report.html'}")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument(
        "bags",
        nargs="*",
        default=[],
        type=Path,
        metavar="BAG",
        help="rosbag2, rosbag1, or folder of bags",
    )
    inputs.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="two replays to compare; A is the baseline",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for the results"
    )
    _add_topics(parser.add_argument_group("topics, guessed from types and names by default"))
    add_pipeline(parser.add_argument_group("pipeline, like the node's parameters"))
    add_pairing(parser.add_argument_group("pairing, like the node's parameters"))
    _add_comparison(parser.add_argument_group("comparison"))
    _add_results(parser.add_argument_group("results"))
    _add_fleet(
        parser.add_argument_group("several bags, each into DIR/NAME; finished ones are kept")
    )


def _add_topics(group: argparse._ActionsContainer) -> None:
    from ivf_core.class_sets import CLASS_SETS

    for name, text in (
        ("rgb", "images of the RGB camera"),
        ("thermal", "images of the thermal camera"),
        ("labels", "images of true class ids; '' for none"),
        ("fused", "fused images of another method; '' for none"),
    ):
        group.add_argument(f"--{name}-topic", metavar="TOPIC", help=text)
    group.add_argument(
        "--labels-classes",
        default="",
        choices=CLASS_SETS,
        help="class set of the true class ids (that on the topic `classes` beside them, or else "
        "that of the weights)",
    )


def add_pipeline(group: argparse._ActionsContainer) -> None:
    """Add the options of the pipeline, which are fields of `ReplaySettings`."""
    from ivf_core.images.overlay import OVERLAY_PALETTES
    from ivf_core.images.thermal import THERMAL_MODES

    add_weights(group)
    add_engine(group)
    group.add_argument(
        "--threads", type=int, default=0, help="CPU threads of the model; 0: one for each core"
    )
    group.add_argument(
        "--thermal-mode",
        default="auto",
        choices=THERMAL_MODES,
        help="conversion of thermal images to 8 bits (%(default)s)",
    )
    for end, default in (("low", 0.5), ("high", 99.5)):
        group.add_argument(
            f"--{end}-percentile",
            type=float,
            default=default,
            metavar="P",
            help=f"percentile at the {end} end of the thermal gain (%(default)s)",
        )
    _add_seconds(group, "gain-smoothing", 0.5, "time constant of the thermal gain")
    group.add_argument(
        "--registration",
        type=Path,
        metavar="FILE",
        help="rig file: both cameras, or a homography from thermal to RGB (docs/calibration.md)",
    )
    group.add_argument(
        "--palette",
        default="natural",
        choices=OVERLAY_PALETTES,
        help="palette of the image under the class colours (%(default)s)",
    )
    group.add_argument(
        "--opacity",
        type=float,
        default=OVERLAY_OPACITY,
        help="opacity of the class colours, 0 to 1 (%(default)s)",
    )


def add_pairing(group: argparse._ActionsContainer) -> None:
    """Add the options of pairing, which are fields of `ReplaySettings`."""
    for name, default, text in (
        ("tolerance", TOLERANCE_SECONDS, "largest difference of stamps within a pair"),
        ("offset", 0.0, "added to thermal stamps"),
        ("minimum-interval", MINIMUM_INTERVAL_SECONDS, "least time between two pairs"),
    ):
        _add_seconds(group, name, default, text)
    group.add_argument(
        "--single-camera",
        default="fuse",
        choices=SINGLE_CAMERA_POLICIES,
        help="while one camera is silent or shows nothing: fuse the images of the other one "
        "alone, or stop (%(default)s); without effect with --recorded",
    )
    group.add_argument(
        "--queue-size",
        type=int,
        default=QUEUE_SIZE,
        help="images per camera that may wait for a partner (%(default)s)",
    )


def _add_comparison(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="YAML with limits; exit status 1 if one is not met",
    )
    _add_seconds(group, "block", BLOCK_SECONDS, "length of a block of the bootstrap")


def _add_results(group: argparse._ActionsContainer) -> None:
    group.add_argument("--inputs", action="store_true", help="copy the inputs to the output bag")
    group.add_argument("--video", action="store_true", help="write side_by_side.mp4")
    group.add_argument(
        "--storage",
        default="mcap",
        choices=("mcap", "sqlite3"),
        help="storage of the output bag (%(default)s)",
    )
    group.add_argument(
        "--score-every",
        type=int,
        default=0,
        metavar="N",
        help="score every Nth pair; 0: 30 to 120 pairs of the bag",
    )
    group.add_argument(
        "--recorded",
        nargs="?",
        const="",
        metavar="BAG",
        help="run no model, score the results that the node has published in BAG "
        "(without BAG: in the replayed bag)",
    )


def _add_fleet(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--jobs", type=int, default=0, help="bags at a time; 0: one for every two cores"
    )
    group.add_argument(
        "--ray", metavar="ADDRESS", help="address of a Ray cluster, or local (extra fleet)"
    )


def _add_seconds(group: argparse._ActionsContainer, name: str, default: float, text: str) -> None:
    group.add_argument(
        f"--{name}-seconds", type=float, default=default, metavar="S", help=f"{text} (%(default)s)"
    )


COMMANDS = (
    Command(
        "replay",
        "fuse a bag, score the results and write a report",
        "ivf replay drive --output drive_report",
        _add_replay,
        _replay,
    ),
)
