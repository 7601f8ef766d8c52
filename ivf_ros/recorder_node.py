"""Recorder of topics to a rosbag2 bag, as the CDR bytes that arrive, without decoding them.

`ros2 bag record` does this where ROS is installed; the demo and replays without it use
this node.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from ivf_core.bags.info import BagError
from ivf_core.bags.writer import BagWriter
from ivf_core.system.interrupts import interrupt_flag
from ivf_core.system.memory import keep_freed_memory
from ivf_ros.compat import initialize, message_class
from ivf_ros.parameters import Parameter, declare

__all__ = ["PARAMETERS", "Recorder", "main"]

PARAMETERS = (
    Parameter("output", "fusion_bag", "Bag to write: a folder that must not exist."),
    Parameter(
        "topics",
        [
            "fusion/fused/image",
            "fusion/mask/image",
            "fusion/overlay/image",
            "fusion/labels",
            "fusion/latency_ms",
            "player/restamped_ns",
            "/diagnostics",
        ],
        "Topics to record; each is recorded from the time at which it appears.",
    ),
    Parameter("storage", "mcap", "Storage format of the bag.", choices=("mcap", "sqlite3")),
)
"""Parameters of the recorder."""

_SEARCH_SECONDS = 0.2


class Recorder(Node):
    """Node `recorder`, which subscribes to topics as they appear, with their publishers' QoS.

    The executor's thread subscribes and receives; `write` runs in a thread of its own,
    with a queue between them. Any thread may call `finish`.

    Args:
        **kwargs: arguments of `rclpy.node.Node`, without the name.

    Attributes:
        recorded: number of written messages by topic.

    Raises:
        BagError: the bag cannot be created.
        ParameterException: a parameter has the wrong type.
        ValueError: a parameter is not among its choices.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("recorder", **kwargs)
        values = declare(self, PARAMETERS)
        self._missing = [self.resolve_topic_name(topic) for topic in values["topics"] if topic]
        self._writer = BagWriter(values["output"], values["storage"])
        self._queue: queue.SimpleQueue[tuple[str, str, int, bytes] | None] = queue.SimpleQueue()
        self.recorded: dict[str, int] = {}
        # Not the node's clock, which may stand still with use_sim_time.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_SEARCH_SECONDS, self._subscribe_new, clock=steady)

    def _subscribe_new(self) -> None:
        """Subscribe to the missing topics that have a publisher."""
        types = dict(self.get_topic_names_and_types())
        for topic in list(self._missing):
            publishers = self.get_publishers_info_by_topic(topic)
            if topic not in types or not publishers:
                continue
            self._missing.remove(topic)
            name = types[topic][0]
            kind = message_class(name)
            if kind is None:
                self.get_logger().warning(f"{topic} is not recorded: {name} is not installed")
                continue
            offers = [p.qos_profile for p in publishers]
            reliable = all(o.reliability == ReliabilityPolicy.RELIABLE for o in offers)
            latched = all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
            qos = QoSProfile(
                depth=100,
                reliability=(
                    ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
                ),
                durability=(
                    DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
                ),
            )

            def take(data: bytes, topic: str = topic, name: str = name) -> None:
                self._queue.put((topic, name, time.time_ns(), data))

            self.create_subscription(kind, topic, take, qos, raw=True)
            self.get_logger().info(f"recording {topic} ({name})")

    def write(self) -> None:
        """Write what arrives until `finish`.

        Run it in a thread of its own, because the disk may be slow.

        Raises:
            BagError, OSError: the bag cannot be written.
        """
        with self._writer as writer:
            while (item := self._queue.get()) is not None:
                topic = item[0]
                writer.write(*item)
                self.recorded[topic] = self.recorded.get(topic, 0) + 1

    def finish(self) -> None:
        """End the bag after the messages received so far."""
        self._queue.put(None)


def main(args: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM.

    Args:
        args: command-line arguments; by default those of the process.

    Returns:
        The exit status: 1 if a parameter is rejected or the bag cannot be written.
    """
    keep_freed_memory()
    if not initialize("recorder_node", args):
        return 1
    stopping = interrupt_flag()
    failures: list[Exception] = []
    try:
        recorder = Recorder()
    except (ParameterException, ValueError) as error:
        print(f"recorder_node: {error}", file=sys.stderr)
        rclpy.shutdown()
        return 1

    def write() -> None:
        try:
            recorder.write()
        except (BagError, OSError) as error:
            failures.append(error)
            stopping.set()

    executor = SingleThreadedExecutor()
    executor.add_node(recorder)
    writing = threading.Thread(target=write, name="bag writer")
    writing.start()
    try:
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.2)
    finally:
        recorder.finish()
        writing.join()
        counts = ", ".join(f"{n} {topic}" for topic, n in sorted(recorder.recorded.items()))
        if failures:
            recorder.get_logger().error(f"recording failed: {failures[0]}")
        else:
            recorder.get_logger().info(f"recorded {counts}")
        executor.shutdown()
        recorder.destroy_node()
        rclpy.try_shutdown()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
