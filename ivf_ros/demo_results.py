"""What the demo leaves: pictures, a video, and figures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.data.rosbag import BagInfo, BagReader
from ivf_core.images.files import VideoWriter, write_image
from ivf_core.images.overlay import side_by_side
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.pairing import Pair, TimePairer
from ivf_ros.conversions import to_infrared, to_visible
from ivf_ros.parameters import PARAMETERS
from ivf_ros.synchronizer import stamp_to_ns

__all__ = ["print_summary", "summarize", "write_pictures"]

_PICTURES = 8
_TITLES = ("RGB", "thermal", "fused", "overlay")
_OFFSET_TOPIC = "/player/stamp_offset_ns"


def write_pictures(
    output: Path, bag: BagInfo, cameras: tuple[str, str], output_bag: Path
) -> tuple[list[str], list[int]]:
    """Side-by-side pictures and the video; returns the files and width and height."""
    folder = output / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with BagReader(output_bag) as reader:
        stamps = [_stamp(m.message) for m in reader.messages([_topic(reader, "/fused/image")])]
    chosen = {round(n) for n in np.linspace(0, len(stamps) - 1, min(_PICTURES, len(stamps)))}
    rate = max(1.0, len(stamps) / max((stamps[-1] - stamps[0]) / 1e9, 1e-3))
    pictures: list[str] = []
    size: list[int] = []
    video: VideoWriter | None = None
    with ExitStack() as stack:
        for index, frames in enumerate(_matched(bag, cameras, output_bag)):
            row = side_by_side(frames, _TITLES[: len(frames)])
            if video is None:
                size = [frames[0].shape[1], frames[0].shape[0]]
                video = stack.enter_context(
                    VideoWriter(output / "side_by_side.mp4", rate, row.shape[:2])
                )
            video.write(row)
            if index in chosen:
                path = folder / f"{index:04d}.png"
                write_image(path, row)
                pictures.append(str(path))
    return pictures, size


def _matched(
    bag: BagInfo, cameras: tuple[str, str], output_bag: Path
) -> Iterator[list[np.ndarray]]:
    """RGB, thermal, fused and, where there are masks, overlay for each result, in order."""
    with BagReader(output_bag) as results:
        # The player has moved the stamps, and says frame by frame by how much.
        offsets = [m.message.data for m in results.messages([_OFFSET_TOPIC])]
        moved = {s + o: s for s, o in zip(_rgb_stamps(bag, cameras[0]), offsets, strict=False)}
        names = [_topic(results, "/fused/image"), _topic(results, "/overlay/image")]
        names = [name for name in names if name]
        normalize = ThermalNormalizer()
        pairs = _pairs(bag, cameras)
        pair = next(pairs, None)
        waiting: dict[int, dict[str, Any]] = {}
        for message in results.messages(names):
            stamp = _stamp(message.message)
            waiting.setdefault(stamp, {})[message.topic] = message.message
            if len(waiting[stamp]) < len(names):
                continue
            ready = waiting.pop(stamp)
            while pair is not None and pair.visible_stamp != moved.get(stamp):
                pair = next(pairs, None)
            if pair is None:
                raise ValueError(f"result {stamp} in {output_bag}: no pair of {bag.path} has it")
            thermal = normalize(to_infrared(pair.infrared), pair.infrared_stamp / 1e9)
            yield [to_visible(pair.visible), thermal, *(to_visible(ready[name]) for name in names)]


def _rgb_stamps(bag: BagInfo, topic: str) -> list[int]:
    with BagReader(bag.path) as reader:
        return [_stamp(message.message) for message in reader.messages([topic])]


def _pairs(bag: BagInfo, cameras: tuple[str, str]) -> Iterator[Pair]:
    """The pairs of the bag by the node's policy and defaults."""
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    pairer: TimePairer[Any] = TimePairer(
        round(defaults["tolerance_seconds"] * 1e9),
        defaults["queue_size"],
        round(defaults["offset_seconds"] * 1e9),
        round(defaults["minimum_interval_seconds"] * 1e9),
    )
    with BagReader(bag.path) as reader:
        for message in reader.messages(list(cameras)):
            add = pairer.add_visible if message.topic == cameras[0] else pairer.add_infrared
            yield from add(_stamp(message.message), message.message)
    yield from pairer.flush()


def _topic(reader: BagReader, ending: str) -> str:
    return next((topic.name for topic in reader.topics if topic.name.endswith(ending)), "")


def _stamp(message: Any) -> int:
    return stamp_to_ns(message.header.stamp)


def summarize(
    values: dict[str, str],
    images: dict[str, dict[str, int]],
    size: list[int],
    pictures: list[str],
) -> dict[str, Any]:
    """The figures of summary.json.

    Args:
        values: the node's last report in diagnostics.
        images: images published and received by camera.
        size: width and height of the pictures.
        pictures: files written.
    """

    def spread(name: str) -> dict[str, float | None]:
        return {
            key: float(values[f"{name}.{key}"]) if f"{name}.{key}" in values else None
            for key in ("median", "p95", "p99")
        }

    pairs_out = int(values["pairs_out"])
    return {
        "pairs_in": int(values["pairs_in"]),
        "pairs_out": pairs_out,
        "dropped": _by_reason(values, "dropped."),
        "images": images,
        "frames_without_pair": _by_reason(values, "frames."),
        "latency_ms": spread("latency_ms"),
        "overhead_ms": spread("overhead_ms"),
        "wait_ms": spread("wait_ms"),
        "model_ms": spread("model_ms")["median"],
        "throughput_hz": float(values["throughput_hz"]),
        "size": size,
        "engine": values["engine"],
        "weights": values["weights"],
        "pictures": pictures,
    }


def _by_reason(values: dict[str, str], prefix: str) -> dict[str, int]:
    return {
        key.removeprefix(prefix): int(value)
        for key, value in values.items()
        if key.startswith(prefix)
    }


def print_summary(summary: dict[str, Any], output: Path) -> None:
    """Show the figures and what was written."""

    def spread(name: str) -> str:
        values = summary[name]
        return "  ".join(
            f"{key} {value:.1f}" if value is not None else f"{key} unknown"
            for key, value in values.items()
        )

    dropped = ", ".join(f"{n} {reason}" for reason, n in summary["dropped"].items()) or "none"
    frames = summary["frames_without_pair"]
    images = ", ".join(
        f"{camera} {n['received']} of {n['published']}" for camera, n in summary["images"].items()
    )
    width, height = summary["size"]
    print(f"[4/4] {width}x{height}, weights '{summary['weights']}', {summary['engine']}")
    print(f"  images     {images} arrived at the node")
    print(f"  pairs      {summary['pairs_in']} in, {summary['pairs_out']} out; dropped: {dropped}")
    if frames:
        print(f"  frames without a pair: {', '.join(f'{n} {why}' for why, n in frames.items())}")
    print(f"  throughput {summary['throughput_hz']:.1f} pairs a second")
    print(f"  latency    {spread('latency_ms')} ms from stamp to the last publish")
    print(f"  model      median {summary['model_ms'] or 0:.1f} ms")
    print(f"  waiting    {spread('wait_ms')} ms for the model to be free")
    print(f"  overhead   {spread('overhead_ms')} ms: the rest, transport and conversion")
    print(f"  {output / 'pictures'}: {len(summary['pictures'])} pictures side by side")
    for name in ("side_by_side.mp4", "bag", "summary.json"):
        print(f"  {output / name}")
