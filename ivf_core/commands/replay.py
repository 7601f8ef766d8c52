"""`ivf replay`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ivf_core.commands.command import Command, add_engine, add_weights
from ivf_core.defaults import (
    MINIMUM_INTERVAL_SECONDS,
    OVERLAY_OPACITY,
    QUEUE_SIZE,
    TOLERANCE_SECONDS,
)

__all__ = ["COMMANDS"]


def _replay(args: argparse.Namespace) -> int:
    from ivf_core.evaluation.replay.replay import replay_bag
    from ivf_core.evaluation.replay.settings import ReplaySettings
    from ivf_core.evaluation.report import write_report
    from ivf_core.memory import keep_freed_memory

    settings = ReplaySettings(
        **{name: getattr(args, name) for name in ReplaySettings.__dataclass_fields__}
    )
    keep_freed_memory()
    with tqdm(desc="replay", unit="pair", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = replay_bag(args.bags[0], args.output, settings, progress)
    write_report(args.output)
    _print(summary, args.output)
    return 0 if summary["pairing"]["pairs"] else 1


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

    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 or rosbag1")
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
    results = parser.add_argument_group("results")
    results.add_argument("--inputs", action="store_true", help="write the inputs to the bag, too")
    results.add_argument("--video", action="store_true", help="write side_by_side.mp4")
    results.add_argument(
        "--storage", default="mcap", choices=("mcap", "sqlite3"), help="(%(default)s)"
    )
    results.add_argument(
        "--score-every", type=int, default=0, metavar="N",
        help="score every Nth pair; 0: about 120 of a bag, every 10th at most",
    )  # fmt: skip
    results.add_argument(
        "--recorded", nargs="?", const="", metavar="BAG",
        help="score what the node has published, of this bag (the same one), and run no model",
    )  # fmt: skip


COMMANDS = (
    Command(
        "replay",
        "fuse a bag, score the results, report",
        "ivf replay drive --output drive_report",
        _add_replay,
        _replay,
    ),
)
