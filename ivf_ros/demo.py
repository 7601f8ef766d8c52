"""Demo: player, fusion node and recorder in separate processes, over real DDS.

It plays a bag (by default a synthetic drive, or two videos) into the node in live mode,
and writes the recorded bag, its report and a video.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from std_msgs.msg import Float64
from tqdm import tqdm

from ivf_core.bags.convert import from_video, write_drive_bag
from ivf_core.bags.info import BagInfo
from ivf_core.bags.reader import BagReader, bag_info
from ivf_core.bags.topics import first_kinds, guess_camera_topics
from ivf_core.defaults import DEFAULT_WEIGHTS, LOAD_POLICIES
from ivf_core.replay.directory import OUTPUTS
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings
from ivf_core.scenes import SyntheticDrive
from ivf_core.system.results import (
    add_listed,
    check_inputs,
    check_output,
    file_names,
    remove_listed,
)
from ivf_ros.demo_results import print_summary
from ivf_ros.processes import NodeWatcher, guarded, node_process, use_image_transport, watching

__all__ = ["main"]

_DRIVE_RATE_HZ = 30.0
_QUIET_SECONDS = 1.2  # two reports of the node
_SILENT_SECONDS = 30.0
"""Silence of the cameras that the node reports.

It is active before the player starts and after the player has ended, which this module watches.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        arguments: command-line arguments; by default those of the process.

    Returns:
        The exit status: 0, 1 after an error or without results, 130 after Ctrl-C.
    """
    args = _parser().parse_args(arguments)
    return guarded("demo", lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        prog="python -m ivf_ros.demo",
        description="Run the fusion node on a bag, and report the results.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo_output"),
        help="folder of the results (default: %(default)s)",
    )
    parser.add_argument("--bag", type=Path, help="rosbag2 or rosbag1 bag with both cameras")
    parser.add_argument("--visible", type=Path, help="video of the RGB camera; requires --infrared")
    parser.add_argument(
        "--infrared", type=Path, help="video of the thermal camera; requires --visible"
    )
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="duration of the synthetic drive"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the recorded speed")
    parser.add_argument(
        "--weights", default=DEFAULT_WEIGHTS, help="name of shipped weights, or path of a file"
    )
    parser.add_argument(
        "--load-policy",
        default="full",
        choices=LOAD_POLICIES,
        help="policy of the node while the machine cannot keep up (default: %(default)s)",
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    """Prepare the bag, run the processes, and report the results."""
    if (args.visible is None) != (args.infrared is None):
        raise ValueError("VISIBLE and INFRARED go together: give both or neither")
    if args.bag is not None and args.visible is not None:
        raise ValueError("give BAG, or VISIBLE and INFRARED, not both")
    check_inputs(args.output, [p for p in (args.bag, args.visible, args.infrared) if p is not None])
    check_output(args.output, OUTPUTS)
    args.output.mkdir(parents=True, exist_ok=True)
    remove_listed(args.output)
    # Beside the output, on the same disk: an output must not hold the input of its replay.
    place = args.output.resolve()
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-input-") as scratch:
        bag = _input_bag(args, Path(scratch))
        with BagReader(bag.path) as reader:
            cameras = guess_camera_topics(bag.topics, first_kinds(reader, bag.topics))
        print(f"[2/4] playing {bag.path.name} into the node: {' and '.join(cameras)}")
        recording = args.output / "bag"
        failure = _run_processes(args, bag, cameras, recording)
        if failure is not None:
            print(f"demo: {failure}", file=sys.stderr)
        print("[3/4] scoring the results, writing images, the video and the report")
        settings = ReplaySettings(*cameras, recorded=str(recording), video=True)
        with _progress() as bar:
            summary = replay_bag(
                bag.path, args.output, settings, lambda n, total: _show(bar, n, total)
            )
    add_listed(args.output, [f"bag/{name}" for name in file_names(recording)])
    print_summary(summary, args.output)
    return 0 if summary["live"]["pairs_out"] and failure is None else 1


def _input_bag(args: argparse.Namespace, scratch: Path) -> BagInfo:
    """Return the bag to play; make it if none is given."""
    if args.bag is not None:
        print(f"[1/4] using {args.bag}")
        return bag_info(args.bag)
    path = scratch / "drive"
    if args.visible is not None:
        print(f"[1/4] reading {args.visible} and {args.infrared}")
        with _progress() as bar:
            from_video(
                args.visible, args.infrared, path, progress=lambda n, total: _show(bar, n, total)
            )
    else:
        print(f"[1/4] rendering {args.seconds:g} s of a synthetic drive: day, night, smoke")
        drive = SyntheticDrive(rate_hz=_DRIVE_RATE_HZ, seconds=args.seconds)
        with _progress() as bar:
            write_drive_bag(
                path, drive, _DRIVE_RATE_HZ, progress=lambda n, _: _show(bar, n, len(drive))
            )
    return bag_info(path)


def _progress(total: int | None = None) -> tqdm[NoReturn]:
    """Return a progress bar; in a log file it prints a line every few seconds."""
    quick = sys.stderr.isatty()
    return tqdm(total=total, unit="pair", mininterval=0.2 if quick else 5.0, leave=quick)


def _show(bar: tqdm[NoReturn], done: int, total: int | None) -> None:
    """Set a progress bar to an absolute value."""
    bar.total = total
    bar.update(done - bar.n)


# The processes


def _run_processes(
    args: argparse.Namespace, bag: BagInfo, cameras: tuple[str, str], recording: Path
) -> Exception | None:
    """Play a bag into the node and record the results.

    Returns:
        The error that occurred after the node had become active, or None.

    Raises:
        RuntimeError: the node did not become active.
    """
    rgb, thermal = cameras
    compressed = [topic.endswith("/compressed") for topic in cameras]
    use_image_transport()
    failure: Exception | None = None
    with ExitStack() as stack:
        node = stack.enter_context(
            node_process(
                "fusion_node",
                {
                    "weights": args.weights,
                    "load_policy": args.load_policy,
                    "rgb_transport": "compressed" if compressed[0] else "raw",
                    "thermal_transport": "compressed" if compressed[1] else "raw",
                    "diagnostics_period_seconds": 0.5,
                    "timeout_seconds": _SILENT_SECONDS,
                },
                {
                    f"{name}/image_raw{'/compressed' * packed}": topic
                    for name, topic, packed in zip(
                        ("rgb", "thermal"), cameras, compressed, strict=True
                    )
                },
            )
        )
        recorder = stack.enter_context(node_process("recorder_node", {"output": str(recording)}))
        watcher = stack.enter_context(watching(_Watcher))
        watcher.wait_until_active((node, recorder))
        try:
            player = stack.enter_context(
                node_process(
                    "player_node",
                    {
                        "bag": str(bag.path),
                        "rate": args.rate,
                        "restamp": True,
                        "topics": [rgb, thermal],
                    },
                )
            )
            total = min(topic.count for topic in bag.topics if topic.name in cameras)
            watcher.watch((node, player, recorder), player, total)
            watcher.deactivate()
        except RuntimeError as error:
            failure = error
    for name, process in (("fusion_node", node), ("recorder_node", recorder)):
        if process.returncode and failure is None:
            failure = RuntimeError(f"{name} ended with status {process.returncode}")
    return failure


class _Watcher(NodeWatcher):
    """Observer of the fusion node while a bag is played."""

    def __init__(self) -> None:
        super().__init__("demo_watcher")
        self.done = 0
        self.create_subscription(Float64, "fusion/latency_ms", self._on_latency, 100)

    def _on_latency(self, _message: Float64) -> None:
        """Count a fused pair."""
        self.done += 1

    def watch(self, processes: Sequence[Any], player: Any, total: int) -> None:
        """Wait until the player has ended and the node has received no pair for a while.

        Args:
            processes: processes that must not end meanwhile, and the player.
            player: process of the player.
            total: number of pairs that are played.

        Raises:
            RuntimeError: a process has ended early, or the player has failed.
        """
        others = [process for process in processes if process is not player]
        with _progress(total) as bar:

            def ended() -> bool:
                bar.set_postfix(fused=self.done, refresh=False)
                _show(bar, min(self._pairs_in, total), total)
                return player.poll() is not None

            self.spin_until(ended, math.inf, others)
            if player.returncode:
                raise RuntimeError(f"player_node ended with status {player.returncode}")
            taken, since = self._pairs_in, time.monotonic()

            def quiet() -> bool:
                nonlocal taken, since
                if self._pairs_in != taken or int(self.values.get("pairs_pending", 0)):
                    taken, since = self._pairs_in, time.monotonic()
                return time.monotonic() - since > _QUIET_SECONDS

            self.spin_until(quiet, math.inf, others)
            ended()

    @property
    def _pairs_in(self) -> int:
        """Number of pairs that the node has received."""
        return int(self.values.get("pairs_in", 0))


if __name__ == "__main__":
    sys.exit(main())
