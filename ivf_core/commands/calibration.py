"""Commands `ivf register` and `ivf calibrate-rig`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ivf_core.commands.command import Command
from ivf_core.defaults import TOLERANCE_SECONDS

__all__ = ["COMMANDS"]

_UNSURE = 3


def _register(args: argparse.Namespace) -> int:
    from ivf_core.calibration.recordings import open_recording
    from ivf_core.calibration.registering import RegisterSettings, register_recording
    from ivf_core.rigs.rig_files import read_rig
    from ivf_core.system.results import check_inputs

    rig = None if args.rig is None else read_rig(args.rig)
    check_inputs(args.output, args.sources)
    recording = open_recording(args.sources, (args.rgb_topic, args.thermal_topic))
    settings = RegisterSettings(
        model=args.model,
        pairs=args.pairs,
        tolerance_seconds=args.tolerance_seconds,
        offset_seconds=args.offset_seconds,
        write_unsure=args.write_unsure,
    )
    summary = register_recording(recording, args.output, settings, rig, args.rig)
    for line in summary["left_out"]:
        print(f"ivf register: left out: {line}", file=sys.stderr)
    for warning in summary["warnings"]:
        print(f"ivf register: {warning}", file=sys.stderr)
    error = summary["holdout_error_pixels"]
    print(
        f"{summary['pairs']} pairs, confidence {summary['confidence']:.2f}, holdout error "
        f"{'unknown' if error is None else f'{error:.2f} pixels'}, "
        f"time offset {summary['time_offset']['used_ms']:g} ms"
    )
    page = args.output / "index.html"
    if not summary["rig_written"]:
        print(f"no rig file written (--write-unsure writes it); see {page}")
        return _UNSURE
    print(f"written to {args.output / 'rig.yaml'}, see {page}")
    return 0


def _add_register(parser: argparse.ArgumentParser) -> None:
    from ivf_core.rigs.motion_fit import MOTION_MODELS

    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="a bag; a folder with folders visible and infrared; or two folders or videos, RGB "
        "first",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--rig", type=Path, metavar="FILE", help="rig file to refine instead of starting without"
    )
    parser.add_argument(
        "--model",
        default="homography",
        choices=tuple(MOTION_MODELS),
        help="motion to estimate (%(default)s)",
    )
    parser.add_argument(
        "--pairs", type=int, default=30, help="largest number of pairs (%(default)s)"
    )
    parser.add_argument(
        "--tolerance-seconds",
        type=float,
        default=TOLERANCE_SECONDS,
        metavar="S",
        help="largest difference of stamps within a pair (%(default)s)",
    )
    parser.add_argument(
        "--offset-seconds",
        type=float,
        metavar="S",
        help="added to thermal stamps (by default estimated from motion)",
    )
    for name, text in (("rgb", "RGB"), ("thermal", "thermal")):
        parser.add_argument(
            f"--{name}-topic",
            metavar="TOPIC",
            help=f"images of the {text} camera in a bag, guessed by default",
        )
    parser.add_argument(
        "--write-unsure",
        action="store_true",
        help="write the rig file at a low confidence, too, and exit with 0",
    )


COMMANDS = (
    Command(
        "register",
        "estimate the registration of two cameras from a recording, and write a rig file",
        "ivf register drive --output rig",
        _add_register,
        _register,
    ),
)
