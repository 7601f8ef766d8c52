"""Cameras of the benchmark: both topics at a steady rate, from a process as light as a driver.

Images are serialized in advance; only their stamp is written before they are published.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import rclpy
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ivf_core.bags.stamps import shift_stamp
from ivf_core.scenes import SyntheticDrive
from ivf_core.system.child_process import Answer, serve
from ivf_core.system.memory import keep_freed_memory
from ivf_ros.conversions import to_image

__all__ = ["due_times", "serialized_pairs"]

_SCENES = 9  # three each by day, at night and in smoke
_MATCH_SECONDS = 20.0
_LATE_NS = 10**7


def serialized_pairs(size: tuple[int, int]) -> list[tuple[bytes, bytes]]:
    """Return pairs of RGB and thermal images (rgb8, mono8) as CDR bytes, with stamp 0.

    Args:
        size: width and height in pixels.
    """
    drive = SyntheticDrive(size=size, rate_hz=1.0, seconds=float(_SCENES))
    return [
        (
            serialize_message(to_image(frame.visible, "rgb8", Header(frame_id="rgb_camera"))),
            serialize_message(to_image(frame.infrared, "mono8", Header(frame_id="thermal_camera"))),
        )
        for frame in drive
    ]


def due_times(start_ns: int, count: int, rate_hz: float) -> Iterator[int]:
    """Return the times at which pairs are due, without accumulated rounding errors.

    Args:
        start_ns: time of the first pair in ns.
        count: number of pairs.
        rate_hz: number of pairs per second.
    """
    return (start_ns + round(index * 1e9 / rate_hz) for index in range(count))


class _Cameras:
    """Publisher of pairs on both topics.

    Stamps are the times at which images are due, so that a delay of this process counts
    as latency, like that of a driver.
    """

    def __init__(
        self,
        publishers: Sequence[Publisher],
        pairs: Sequence[tuple[bytes, bytes]],
        stopping: threading.Event,
    ) -> None:
        self._publishers = publishers
        self._pairs = pairs
        self._stopping = stopping

    def publish(self, count: int, rate_hz: float) -> Answer:
        """Publish pairs at a rate.

        Args:
            count: number of pairs.
            rate_hz: number of pairs per second.

        Returns:
            `published`: number of pairs; `late`: number of pairs more than 10 ms late;
            `latest_ms`: largest delay.
        """
        self._wait_for_subscribers()
        start_ns = time.monotonic_ns()
        to_wall_ns = time.time_ns() - start_ns
        published = late = latest_ns = 0
        for due_ns in due_times(start_ns, count, rate_hz):
            if self._stopping.wait(max(due_ns - time.monotonic_ns(), 0) / 1e9):
                break
            behind_ns = time.monotonic_ns() - due_ns
            late += behind_ns > _LATE_NS
            latest_ns = max(latest_ns, behind_ns)
            pair = self._pairs[published % len(self._pairs)]
            for publisher, image in zip(self._publishers, pair, strict=True):
                publisher.publish(shift_stamp(image, due_ns + to_wall_ns))
            published += 1
        return {"published": published, "late": late, "latest_ms": latest_ns / 1e6}

    def _wait_for_subscribers(self) -> None:
        """Wait until both topics have a subscriber, or raise `RuntimeError`."""
        deadline = time.monotonic() + _MATCH_SECONDS
        while not all(publisher.get_subscription_count() for publisher in self._publishers):
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"no node has subscribed to both cameras within {_MATCH_SECONDS:.0f} s"
                )
            if self._stopping.wait(0.05):
                return


@contextmanager
def _serving(size: Sequence[int], namespace: str) -> Iterator[tuple[Answer, Callable[..., Answer]]]:
    """Create the cameras' node, and yield the function that answers requests."""
    keep_freed_memory()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("cameras", namespace=namespace)
    try:
        publishers = [
            node.create_publisher(Image, f"{camera}/image_raw", qos_profile_sensor_data)
            for camera in ("rgb", "thermal")
        ]
        cameras = _Cameras(publishers, serialized_pairs((size[0], size[1])), stopping)

        def respond(_publish: str, count: str, rate_hz: str) -> Answer:
            return cameras.publish(int(count), float(rate_hz))

        yield {}, respond
    finally:
        node.destroy_node()
        rclpy.shutdown()


def main() -> None:
    """Answer "publish COUNT RATE_HZ" on stdin; the first argument is the settings as JSON."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    serve(partial(_serving, **settings))


if __name__ == "__main__":
    main()
