"""Command `ivf fuse`."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from tqdm import tqdm

from ivf_core.commands.command import Command, add_engine, add_weights

__all__ = ["COMMANDS"]

_LISTING = "fuse.json"
_NAMES = ("fused", "mask", "overlay", "fused.mp4", "overlay.mp4")


def _fuse(args: argparse.Namespace) -> int:
    from ivf_core.images.pair_sources import open_pairs
    from ivf_core.images.thermal import ThermalNormalizer
    from ivf_core.inference import FusionPipeline
    from ivf_core.inference.engine import describe
    from ivf_core.inference.fuse_files import fuse_files
    from ivf_core.rigs.remap import read_registration
    from ivf_core.system.atomic import write_json
    from ivf_core.system.memory import keep_freed_memory
    from ivf_core.system.results import check_inputs, check_output, file_names, new_results

    keep_freed_memory()
    inputs = [args.visible, args.infrared]
    check_inputs(args.output, inputs)
    check_output(args.output, _NAMES, _LISTING)
    source = open_pairs(args.visible, args.infrared)
    pipeline = FusionPipeline(
        args.weights,
        engine=args.engine,
        device=args.device,
        precision=args.precision,
        normalizer=ThermalNormalizer(args.thermal_mode),
        registration=read_registration(args.registration),
    )
    with (
        new_results(args.output, _NAMES, inputs, _LISTING) as folder,
        tqdm(total=source.length, desc="fuse", unit="pair", disable=None) as bar,
    ):
        done = fuse_files(
            source,
            pipeline,
            folder,
            opacity=args.opacity,
            palette=args.palette,
            progress=lambda _: bar.update(),
        )
        write_json(folder / _LISTING, {"outputs": [*file_names(folder), _LISTING]})
    if not source.constant_rate:
        print(
            "ivf fuse: the frame times of the videos vary: written videos have a constant rate of "
            f"{source.rate_hz:.3g} frames a second",
            file=sys.stderr,
        )
    for line in [*source.unmatched, *done.failed]:
        print(f"ivf fuse: left out: {line}", file=sys.stderr)
    if not done.pairs:
        raise ValueError(f"no pair of {args.visible} and {args.infrared} could be fused")
    print(
        f"{done.pairs} pairs fused with '{pipeline.weights}', {describe(pipeline.engine)}, "
        f"model {statistics.median(done.model_ms):.1f} ms at the median"
    )
    for path in done.written:
        print(f"  {args.output / path.relative_to(folder)}")
    if pipeline.class_set is None:
        print("  these weights have no segmentation head: no masks")
    return 1 if done.failed else 0


def _add_fuse(parser: argparse.ArgumentParser) -> None:
    from ivf_core.images.overlay import OVERLAY_PALETTES
    from ivf_core.images.thermal import THERMAL_MODES

    parser.add_argument(
        "--visible", required=True, type=Path, help="visible image, folder of images, or video"
    )
    parser.add_argument(
        "--infrared",
        required=True,
        type=Path,
        help="thermal image, folder (matched by file name), or video",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the results")
    add_weights(parser)
    add_engine(parser)
    parser.add_argument(
        "--thermal-mode", default="auto", choices=THERMAL_MODES, help="gain control (%(default)s)"
    )
    parser.add_argument(
        "--registration",
        type=Path,
        help="rig file: both cameras, or the homography from thermal to RGB (docs/calibration.md)",
    )
    parser.add_argument(
        "--palette",
        default="natural",
        choices=OVERLAY_PALETTES,
        help="colours of the overlay (%(default)s)",
    )
    parser.add_argument(
        "--opacity",
        default=0.5,
        type=float,
        help="opacity of the class colours in the overlay, 0 to 1 (%(default)s)",
    )


COMMANDS = (
    Command(
        "fuse",
        "fuse an image, a folder or a video",
        "ivf fuse --visible rgb.mp4 --infrared thermal.mp4 --output fused",
        _add_fuse,
        _fuse,
    ),
)
