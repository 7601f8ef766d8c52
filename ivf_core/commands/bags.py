"""Commands `ivf bag from-video` and `ivf bag info`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ivf_core.commands.command import Command

if TYPE_CHECKING:
    from ivf_core.bags.info import BagInfo

__all__ = ["COMMANDS"]


def _bag_from_video(args: argparse.Namespace) -> int:
    from ivf_core.bags.convert import from_video
    from ivf_core.bags.reader import bag_info

    with tqdm(desc="write", unit="pair", disable=None) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        converted = from_video(
            args.visible,
            args.infrared,
            args.output,
            rate_hz=args.rate,
            compressed=args.compressed,
            infrared_offset_seconds=args.offset_seconds,
            storage=args.storage,
            progress=progress,
        )
    for line in converted.unmatched:
        print(f"ivf bag from-video: left out: {line}", file=sys.stderr)
    _print_bag(bag_info(args.output))
    return 0


def _add_bag_from_video(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--visible", required=True, type=Path, help="video or folder of images")
    parser.add_argument(
        "--infrared",
        required=True,
        type=Path,
        help="video or folder of the thermal camera, of the same kind",
    )
    parser.add_argument("--output", required=True, type=Path, help="bag folder to create")
    parser.add_argument("--rate", type=float, help="frames per second; required for folders")
    parser.add_argument(
        "--offset-seconds", type=float, default=0.0, help="added to thermal stamps (%(default)s)"
    )
    parser.add_argument(
        "--compressed", action="store_true", help="write JPEG (8 bits) or PNG (16 bits)"
    )
    parser.add_argument(
        "--storage",
        default="mcap",
        choices=("mcap", "sqlite3"),
        help="storage of the bag (%(default)s)",
    )


def _bag_info(args: argparse.Namespace) -> int:
    from ivf_core.bags.reader import bag_info

    _print_bag(bag_info(args.bag))
    return 0


def _add_bag_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="rosbag2 folder or file, or rosbag1 file")


def _print_bag(info: BagInfo) -> None:
    print(f"{info.path}: {info.format}, {info.duration_seconds:.2f} s, {info.messages} messages")
    width = max((len(topic.name) for topic in info.topics), default=0)
    for topic in info.topics:
        rate = f"{topic.rate_hz:.1f} Hz" if topic.rate_hz else ""
        print(f"  {topic.name:<{width}}  {topic.count:>7}  {rate:>9}  {topic.type}")
    for line in info.differences:
        print(f"ivf bag: {info.path}: {line}", file=sys.stderr)


COMMANDS = (
    Command(
        "bag from-video",
        "convert two videos or folders to a bag",
        "ivf bag from-video --visible rgb.mp4 --infrared thermal.mp4 --output drive",
        _add_bag_from_video,
        _bag_from_video,
    ),
    Command("bag info", "show the topics of a bag", "ivf bag info drive", _add_bag_info, _bag_info),
)
