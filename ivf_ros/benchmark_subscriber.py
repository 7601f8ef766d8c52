"""Subscriber of the benchmark: receives the node's results undecoded, and notes their times."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Float64

from ivf_core.bags.stamps import read_stamp
from ivf_core.system.child_process import Answer, serve
from ivf_core.system.memory import keep_freed_memory

__all__: list[str] = []

_DEPTH = 10  # reliable, as viewers and most nodes subscribe


@dataclass
class _Tally:
    """Record of the messages received since its creation; times are in ns.

    Attributes:
        received: number of images by output.
        last_arrival: time of arrival of a pair's last image, by stamp.
        node_ms: latency of each pair as the node reports it, stamp to last publish, in ms.
        node_times: time of arrival of each reported latency.
    """

    received: Counter[str] = field(default_factory=Counter)
    last_arrival: dict[int, int] = field(default_factory=dict)
    node_ms: list[float] = field(default_factory=list)
    node_times: list[int] = field(default_factory=list)

    def image(self, output: str, data: bytes) -> None:
        """Note the arrival of a serialized image."""
        self.received[output] += 1
        self.last_arrival[read_stamp(data)] = time.time_ns()

    def latency(self, message: Float64) -> None:
        """Note a latency that the node reports."""
        self.node_ms.append(message.data)
        self.node_times.append(time.monotonic_ns())

    def report(self) -> Answer:
        """Return counts and latencies in ms; `hz` is the rate at which the node published pairs."""
        times, stamps = self.node_times, sorted(self.last_arrival)
        seconds = (times[-1] - times[0]) / 1e9 if times else 0.0
        return {
            "received": dict(self.received),
            "pair_ms": [(came - stamp) / 1e6 for stamp, came in self.last_arrival.items()],
            "node_ms": self.node_ms,
            "intervals_ms": [(b - a) / 1e6 for a, b in pairwise(times)],
            "stamp_intervals_ms": [(b - a) / 1e6 for a, b in pairwise(stamps)],
            "hz": (len(times) - 1) / seconds if seconds else 0.0,
        }


class _Subscriber(Node):
    """Node that subscribes to some of the fusion node's images, and to its latencies."""

    def __init__(self, outputs: Sequence[str], namespace: str) -> None:
        super().__init__("subscriber", namespace=namespace)
        self.tally = _Tally()
        for output in outputs:
            self.create_subscription(
                Image, f"fusion/{output}/image", partial(self._take, output), _DEPTH, raw=True
            )
        self.create_subscription(
            Float64, "fusion/latency_ms", lambda message: self.tally.latency(message), 100
        )

    def _take(self, output: str, data: Any) -> None:
        """Note an image in the present record, which "restart" replaces."""
        self.tally.image(output, data)


@contextmanager
def _serving(
    outputs: Sequence[str], namespace: str
) -> Iterator[tuple[Answer, Callable[..., Answer]]]:
    """Create the subscriber's node, and yield the function that answers requests."""
    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of stdin ends this process
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    subscriber = _Subscriber(outputs, namespace)
    executor = SingleThreadedExecutor()
    executor.add_node(subscriber)
    spinner = threading.Thread(target=_spin, args=(executor,), name="spin", daemon=True)
    spinner.start()

    def respond(question: str) -> Answer:
        if question == "report":
            return subscriber.tally.report()
        subscriber.tally = _Tally()
        return {}

    try:
        yield {}, respond
    finally:
        executor.shutdown()
        spinner.join()
        subscriber.destroy_node()
        rclpy.shutdown()


def _spin(executor: SingleThreadedExecutor) -> None:
    """Spin until the executor or the context is shut down."""
    with suppress(ExternalShutdownException):
        executor.spin()


def main() -> None:
    """Answer "restart" and "report" on stdin; the first argument is the settings as JSON."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    serve(partial(_serving, **settings))


if __name__ == "__main__":
    main()
