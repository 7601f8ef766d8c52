"""Command `ivf view`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ivf_core.commands.command import Command
from ivf_core.commands.replay import add_pairing, add_pipeline
from ivf_core.system.interrupts import interrupt_flag

if TYPE_CHECKING:
    from ivf_core.replay.settings import ReplaySettings
    from ivf_core.view.sequences import Sequence

__all__ = ["COMMANDS"]


def _view(args: argparse.Namespace) -> int:
    from ivf_core.replay.result_sources import build_pipeline
    from ivf_core.replay.settings import ReplaySettings
    from ivf_core.system.memory import keep_freed_memory
    from ivf_core.view.recorded import RecordedView
    from ivf_core.view.server import ViewServer

    keep_freed_memory()
    fields = ReplaySettings.__dataclass_fields__
    settings = ReplaySettings(
        **{name: value for name, value in vars(args).items() if name in fields}
    )
    sequence = _open(args, settings)
    try:
        pipeline = build_pipeline(settings)
        view = RecordedView(
            sequence,
            pipeline,
            single_camera=settings.single_camera == "fuse",
            base=settings.palette,
            opacity=settings.opacity,
        )
        server = ViewServer(view, args.host, args.port)
    except BaseException:
        sequence.close()
        raise
    try:
        with _stop_signals() as stopping:
            print(f"{sequence.title}: {server.url} (Ctrl-C ends it)", flush=True)
            if not server.is_local:
                print(
                    f"ivf view: everybody who reaches '{args.host}' can see the images",
                    file=sys.stderr,
                )
            if args.browser:
                _open_browser(server.url)
            while not stopping.is_set():  # `wait` holds the lock that the signal handler takes
                time.sleep(0.5)
    finally:
        server.close()
        view.close()
    return 0


def _open(args: argparse.Namespace, settings: ReplaySettings) -> Sequence:
    """Open the bag, folder or videos that the options name."""
    from ivf_core.images.pair_sources import open_pairs
    from ivf_core.view.bag_pairs import BagPairs
    from ivf_core.view.sequences import FilePairs

    if (args.visible is None) != (args.infrared is None):
        raise ValueError("--visible and --infrared belong together: give both")
    if (args.source is None) == (args.visible is None):
        raise ValueError("expected a BAG or FOLDER, or --visible with --infrared")
    if args.visible is not None:
        source = open_pairs(args.visible, args.infrared)
        return FilePairs(source, args.visible.name, args.rate)
    folders = args.source / "visible", args.source / "infrared"
    if all(folder.is_dir() for folder in folders):
        return FilePairs(open_pairs(*folders), args.source.resolve().name, args.rate)
    return BagPairs(args.source, settings)


def _open_browser(url: str) -> None:
    """Open the page in a browser where there is one, without waiting for it."""

    def run() -> None:
        try:
            webbrowser.open(url)
        except (webbrowser.Error, OSError):
            return  # the address is printed

    threading.Thread(target=run, daemon=True).start()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set, in place of ending the process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt_flag()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _add_view(parser: argparse.ArgumentParser) -> None:
    from ivf_core.view.server import DEFAULT_HOST, DEFAULT_PORT

    parser.add_argument(
        "source",
        nargs="?",
        type=Path,
        metavar="BAG|FOLDER",
        help="rosbag2, rosbag1, or a folder with visible/ and infrared/",
    )
    parser.add_argument("--visible", type=Path, help="visible image, folder of images, or video")
    parser.add_argument(
        "--infrared", type=Path, help="thermal image, folder (matched by file name), or video"
    )
    parser.add_argument(
        "--rate", type=_rate, metavar="HZ", help="images a second of folders that are a film"
    )
    server = parser.add_argument_group("page")
    server.add_argument(
        "--host",
        default=DEFAULT_HOST,
        help="address to listen at; 0.0.0.0 shows the page to the whole network (%(default)s)",
    )
    server.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port; 0 takes a free one (%(default)s)"
    )
    server.add_argument(
        "--no-browser", dest="browser", action="store_false", help="open no browser"
    )
    topics = parser.add_argument_group("topics of a bag, guessed from types and names by default")
    for camera in ("rgb", "thermal"):
        topics.add_argument(
            f"--{camera}-topic", metavar="TOPIC", help=f"images of the {camera} camera"
        )
    add_pipeline(parser.add_argument_group("pipeline, like the node's parameters"))
    add_pairing(parser.add_argument_group("pairing, like the node's parameters"))


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1000")
    return value


COMMANDS = (
    Command(
        "view",
        "show a bag, a folder or videos in the browser, fused as you look",
        "ivf view drive.mcap",
        _add_view,
        _view,
    ),
)
