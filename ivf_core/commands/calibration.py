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

    _add_sources(parser)
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
        "--offset-seconds",
        type=float,
        metavar="S",
        help="added to thermal stamps (by default estimated from motion)",
    )
    parser.add_argument(
        "--write-unsure",
        action="store_true",
        help="write the rig file at a low confidence, too, and exit with 0",
    )


def _calibrate_rig(args: argparse.Namespace) -> int:
    from ivf_core.calibration.board_calibration import calibrate_rig
    from ivf_core.calibration.boards import Board
    from ivf_core.calibration.calibration_page import calibration_summary, write_calibration_page
    from ivf_core.calibration.recordings import open_recording
    from ivf_core.rigs.rig_files import write_rig
    from ivf_core.system.atomic import write_json
    from ivf_core.system.results import check_inputs, file_names, new_results

    columns, rows = args.size
    board = Board(args.board, columns, rows, args.spacing, args.marker, args.dictionary)
    check_inputs(args.output, args.sources)
    recording = open_recording(args.sources, (args.rgb_topic, args.thermal_topic))
    with new_results(args.output, ("rig.yaml", "index.html"), recording.inputs) as folder:
        views = recording.pairs(args.views, args.tolerance_seconds, args.offset_seconds)
        names = [f"view {number + 1}" for number in range(len(views))]
        result = calibrate_rig(views, board, (args.rgb_model, args.thermal_model))
        summary = calibration_summary(result, board, names)
        write_rig(result.rig, folder / "rig.yaml")
        write_calibration_page(folder / "index.html", summary, result, views, names)
        summary["outputs"] = [*file_names(folder), "summary.json"]
        write_json(folder / "summary.json", summary)
    for line in [f"left out: {line}" for line in recording.left_out] + summary["warnings"]:
        print(f"ivf calibrate-rig: {line}", file=sys.stderr)
    residual = summary["residual_pixels"]
    print(
        f"{len(result.used)} of {len(views)} views, residual {residual['rgb']:.2f} pixels (RGB), "
        f"{residual['thermal']:.2f} pixels (thermal), baseline {1e3 * result.rig.baseline:.1f} mm"
    )
    print(f"written to {args.output / 'rig.yaml'}, see {args.output / 'index.html'}")
    return 0


def _size(text: str) -> tuple[int, int]:
    """Return columns and rows of a text such as 9x6."""
    try:
        columns, rows = (int(word) for word in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': expected COLUMNSxROWS, as 9x6") from None
    return columns, rows


def _add_calibrate_rig(parser: argparse.ArgumentParser) -> None:
    from ivf_core.calibration.boards import BOARD_KINDS
    from ivf_core.rigs.camera import DISTORTION_MODELS

    _add_sources(parser)
    parser.add_argument("--board", required=True, choices=BOARD_KINDS, help="kind of board")
    parser.add_argument(
        "--size",
        required=True,
        type=_size,
        metavar="COLUMNSxROWS",
        help="inner corners, circles, squares (charuco) or tags (apriltag)",
    )
    parser.add_argument(
        "--spacing",
        required=True,
        type=float,
        metavar="M",
        help="metres between corners, circles or squares; side of a tag (apriltag)",
    )
    parser.add_argument(
        "--marker",
        type=float,
        default=0.0,
        metavar="M",
        help="side of a marker (charuco), gap between tags (apriltag)",
    )
    parser.add_argument(
        "--dictionary",
        default="DICT_4X4_100",
        metavar="NAME",
        help="dictionary of OpenCV's markers (charuco; %(default)s)",
    )
    for name in ("rgb", "thermal"):
        parser.add_argument(
            f"--{name}-model",
            default="plumb_bob",
            choices=tuple(DISTORTION_MODELS),
            help=f"distortion of the {name} lens (%(default)s)",
        )
    parser.add_argument(
        "--views", type=int, default=60, help="largest number of views (%(default)s)"
    )
    parser.add_argument(
        "--offset-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="added to thermal stamps (%(default)s)",
    )


def _add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options of a recording, and of the folder for the results."""
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
        "--tolerance-seconds",
        type=float,
        default=TOLERANCE_SECONDS,
        metavar="S",
        help="largest difference of stamps within a pair (%(default)s)",
    )
    for name, text in (("rgb", "RGB"), ("thermal", "thermal")):
        parser.add_argument(
            f"--{name}-topic",
            metavar="TOPIC",
            help=f"images of the {text} camera in a bag, guessed by default",
        )


COMMANDS = (
    Command(
        "register",
        "estimate the registration of two cameras from a recording, and write a rig file",
        "ivf register drive --output rig",
        _add_register,
        _register,
    ),
    Command(
        "calibrate-rig",
        "calibrate both cameras of a rig from views of a board, and write a rig file",
        "ivf calibrate-rig views --board checkerboard --size 9x6 --spacing 0.04 --output rig",
        _add_calibrate_rig,
        _calibrate_rig,
    ),
)
