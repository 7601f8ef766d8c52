"""What the demo leaves: pictures, a video, and figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ivf_core.data.rosbag import BagInfo, BagMessage, BagReader
from ivf_core.images.files import VideoWriter, write_image
from ivf_core.images.overlay import side_by_side
from ivf_core.images.thermal import ThermalNormalizer
from ivf_ros.conversions import MessageError, to_infrared, to_visible
from ivf_ros.diagnostics import by_reason
from ivf_ros.parameters import PARAMETERS
from ivf_ros.synchronizer import stamp_to_ns

__all__ = ["print_summary", "summarize", "write_pictures"]

_PICTURES = 8
_TITLES = ("RGB", "thermal", "fused", "overlay")
_RESTAMPED_TOPIC = "/player/restamped_ns"


def write_pictures(
    output: Path, bag: BagInfo, cameras: tuple[str, str], output_bag: Path
) -> tuple[list[str], list[int]]:
    """Side-by-side pictures and the video of the results whose inputs are found in the bag.

    Args:
        output: folder for both.
        bag: what was played.
        cameras: its RGB and thermal topic.
        output_bag: what was recorded meanwhile.

    Returns:
        The pictures' files, and width and height of the first RGB image.

    Raises:
        ValueError: no results are recorded, none can be matched, or a bag is damaged.
        OSError: a file cannot be written.
    """
    with BagReader(output_bag) as reader:
        fused = _topic(reader, "/fused/image")
        stamps = [_stamp(m.message) for m in reader.messages([fused])] if fused else []
    if not stamps:
        raise ValueError(f"bag '{output_bag}': it has no fused image")
    folder = output / "pictures"
    folder.mkdir()
    chosen = {stamps[round(n)] for n in np.linspace(0, len(stamps) - 1, _PICTURES)}
    rate = len(stamps) / max((stamps[-1] - stamps[0]) / 1e9, 1e-3)
    pictures: list[str] = []
    size: list[int] = []
    shown = 0
    with ExitStack() as stack:
        video: VideoWriter | None = None
        for stamp, frames in _matched(bag, cameras, output_bag):
            row = side_by_side(frames, _TITLES[: len(frames)])
            if video is None:
                size = [frames[0].shape[1], frames[0].shape[0]]
                video = stack.enter_context(
                    VideoWriter(
                        output / "side_by_side.mp4", float(np.clip(rate, 1, 1000)), row.shape[:2]
                    )
                )
            video.write(_resized(row, video.size))
            if stamp in chosen:
                path = folder / f"{shown:04d}.png"
                write_image(path, row)
                pictures.append(str(path))
            shown += 1
    if shown < len(stamps):
        print(f"  {len(stamps) - shown} of {len(stamps)} results are not shown: inputs not found")
    if not shown:
        raise ValueError(f"bag '{output_bag}': no result belongs to a pair of '{bag.path}'")
    return pictures, size


def _matched(
    bag: BagInfo, cameras: tuple[str, str], output_bag: Path
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Stamp and pictures of each result in order: RGB, thermal, fused and, with masks, overlay.

    A result whose inputs are not in the bag, or cannot be decoded, is left out.
    """
    tolerance = round(_default("tolerance_seconds") * 1e9)
    normalize = ThermalNormalizer()
    with ExitStack() as stack:
        rgb, thermal = (_Frames(stack.enter_context(BagReader(bag.path)), name) for name in cameras)
        results = stack.enter_context(BagReader(output_bag))
        # The player has moved the stamps.
        recorded = {m.message.data[1]: int(m.message.data[0]) for m in _restamped(results)}
        for stamp, fused in _results(results):
            wanted = recorded.get(stamp)
            if wanted is None:
                continue
            visible, infrared = rgb.nearest(wanted, 0), thermal.nearest(wanted, tolerance)
            if visible is None or infrared is None:
                continue
            try:
                pictures = [
                    to_visible(visible),
                    normalize(to_infrared(infrared), _stamp(infrared) / 1e9),
                    *(to_visible(message) for message in fused),
                ]
            except MessageError:
                continue
            yield stamp, pictures


class _Frames:
    """Images of one topic, nearest to stamps that are asked for in ascending order."""

    def __init__(self, reader: BagReader, topic: str) -> None:
        self._messages = (message.message for message in reader.messages([topic]))
        self._current = next(self._messages, None)
        self._following = next(self._messages, None)

    def nearest(self, stamp: int, tolerance: int) -> Any | None:
        """The image nearest to `stamp`, both in ns; None where none is within the tolerance."""
        while self._following is not None and _distance(self._following, stamp) <= _distance(
            self._current, stamp
        ):
            self._current = self._following
            self._following = next(self._messages, None)
        if self._current is None or _distance(self._current, stamp) > tolerance:
            return None
        return self._current


def _results(reader: BagReader) -> Iterator[tuple[int, list[Any]]]:
    """Stamp and messages, fused and overlay where there are masks, of each complete result."""
    names = [_topic(reader, "/fused/image"), _topic(reader, "/overlay/image")]
    names = [name for name in names if name]
    waiting: dict[int, dict[str, Any]] = {}
    for message in reader.messages(names):
        stamp = _stamp(message.message)
        waiting.setdefault(stamp, {})[message.topic] = message.message
        if len(waiting[stamp]) == len(names):
            complete = waiting[stamp]
            # Each topic keeps its order: an earlier result will never be complete.
            waiting = {later: parts for later, parts in waiting.items() if later > stamp}
            yield stamp, [complete[name] for name in names]


def _restamped(reader: BagReader) -> Iterator[BagMessage]:
    if _RESTAMPED_TOPIC in {topic.name for topic in reader.topics}:
        yield from reader.messages([_RESTAMPED_TOPIC])


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`picture` with the height and width of the video."""
    if picture.shape[:2] == size:
        return picture
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def _default(name: str) -> Any:
    return next(p.default for p in PARAMETERS if p.name == name)


def _topic(reader: BagReader, ending: str) -> str:
    return next((topic.name for topic in reader.topics if topic.name.endswith(ending)), "")


def _stamp(message: Any) -> int:
    return stamp_to_ns(message.header.stamp)


def _distance(message: Any, stamp: int) -> int:
    return abs(_stamp(message) - stamp)


def summarize(values: dict[str, str], images: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The figures of summary.json, as yet without pictures.

    Args:
        values: the node's last report in diagnostics.
        images: images published and received by camera.
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
        "dropped": by_reason(values, "dropped."),
        "images": images,
        "frames_without_pair": by_reason(values, "frames."),
        "latency_ms": spread("latency_ms"),
        "overhead_ms": spread("overhead_ms"),
        "wait_ms": spread("wait_ms"),
        "model_ms": spread("model_ms")["median"],
        "throughput_hz": float(values["throughput_hz"]),
        "size": [0, 0],
        "engine": values["engine"],
        "weights": values["weights"],
        "pictures": [],
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
    for name in ("pictures", "side_by_side.mp4", "bag", "summary.json"):
        if (output / name).exists():
            print(f"  {output / name}")
