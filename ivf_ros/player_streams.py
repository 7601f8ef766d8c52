"""Publishers of the player: the bag's topics, the recorded clock, and restamped frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Int64MultiArray

from ivf_core.bags.info import BagMessage, TopicInfo
from ivf_core.bags.stamps import read_stamp, shift_stamp
from ivf_ros.compat import message_class
from ivf_ros.player_reader import FrameGroup

__all__ = ["Streams"]

_RESTAMPED_DEPTH = 10_000
"""Depth of ~/restamped_ns: a late subscriber receives the stamps of the first frames too."""

_SETTLE_SECONDS = 0.2
_DELIVERY_SECONDS = 4.0  # Fast DDS asks for acknowledgements every three seconds


@dataclass
class _Stream:
    """Publisher of one topic, with its statistics."""

    publisher: Publisher
    has_header: bool
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0

    def publish(self, data: bytes) -> None:
        """Publish a serialized message."""
        self.publisher.publish(data)
        self.last_ns = time.monotonic_ns()
        self.first_ns = self.first_ns or self.last_ns
        self.count += 1

    def summary(self) -> str:
        """Return topic, number of messages and rate, for the log."""
        seconds = (self.last_ns - self.first_ns) / 1e9
        rate = f" ({(self.count - 1) / seconds:.1f} Hz)" if seconds else ""
        return f"{self.publisher.topic_name} {self.count}{rate}"


class Streams:
    """Publishers of a bag's messages, as the CDR bytes of the bag.

    Created with the node; afterwards used by one thread, the one that plays.

    Args:
        node: owner of the publishers.
        topics: topics to publish, each under its name in the node's namespace.
        cameras: names of the camera topics among them.
        depth: depth of the QoS history.
        reliable: whether the publishers are reliable; otherwise best effort.
        restamp: whether stamps are moved, and `~/restamped_ns` is published.
        publish_clock: whether the recorded time is published on /clock.
        stopping: ends waiting and publishing when it is set.

    Raises:
        InvalidParameterValueException: `publish_clock` is set and rosgraph_msgs is not
            installed.
    """

    def __init__(
        self,
        node: Node,
        topics: Iterable[TopicInfo],
        cameras: Sequence[str],
        *,
        depth: int,
        reliable: bool,
        restamp: bool,
        publish_clock: bool,
        stopping: threading.Event,
    ) -> None:
        self._node = node
        self._cameras = cameras
        self._stopping = stopping
        self._reliability = (
            ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        )
        self._streams = {(t.name, t.type): self._create_stream(t, depth) for t in topics}
        self._clock = self._create_clock() if publish_clock else None
        self._restamped = self._create_restamped() if restamp else None

    @property
    def keys(self) -> frozenset[tuple[str, str]]:
        """Published topics, as (name, type)."""
        return frozenset(self._streams)

    def wait_for_subscribers(self, seconds: float, node: str = "") -> None:
        """Wait until all camera topics have a subscriber, or warn about those without.

        Args:
            seconds: longest time to wait; 0 does not wait.
            node: name of the node that must be among the subscribers; "": any node.
        """
        publishers = [
            stream.publisher for (name, _), stream in self._streams.items() if name in self._cameras
        ]
        if not seconds or not publishers:
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(self._is_awaited(publisher, node) for publisher in publishers):
                # The other side may match a little later, and best-effort subscribers
                # miss what is sent before.
                self._stopping.wait(_SETTLE_SECONDS)
                return
            if self._stopping.wait(0.02):
                return
        missing = [p.topic_name for p in publishers if not self._is_awaited(p, node)]
        whose = f"'{node}' as a subscriber" if node else "a subscriber"
        self._node.get_logger().warning(
            f"starting without {whose} on {', '.join(missing)} after {seconds:g} s"
        )

    def _is_awaited(self, publisher: Publisher, node: str) -> bool:
        """Return whether a publisher has a subscriber, and that of a node if one is named."""
        if not publisher.get_subscription_count():
            return False
        if not node:
            return True
        own = self._node.get_namespace()
        wanted = node if node.startswith("/") else f"{own.rstrip('/')}/{node}"
        return any(
            f"{info.node_namespace.rstrip('/')}/{info.node_name}" == wanted
            for info in self._node.get_subscriptions_info_by_topic(publisher.topic_name)
        )

    def stamp_offset(self, group: FrameGroup, wall_ns: int) -> int | None:
        """Return the time by which the stamps of a group move, and publish the frame's stamps.

        Args:
            group: frame and its messages.
            wall_ns: time of day to which the frame moves, in ns.

        Returns:
            Time in ns; None if stamps are not moved.
        """
        if self._restamped is None:
            return None
        frame = group.reference
        has_header = self._streams[frame.topic, frame.type].has_header
        stamp_ns = read_stamp(frame.message) if has_header else frame.time_ns
        if group.frame is not None:
            self._restamped.publish(Int64MultiArray(data=[stamp_ns, wall_ns]))
        return wall_ns - stamp_ns

    def publish(self, message: BagMessage, offset_ns: int | None) -> None:
        """Publish a message, after the recorded time on /clock; do nothing once stopped.

        Args:
            message: message of the bag.
            offset_ns: time by which its stamp moves; None leaves it unchanged.
        """
        if self._stopping.is_set():
            return
        stream = self._streams[message.topic, message.type]
        data = message.message
        if offset_ns is not None and stream.has_header:
            data = shift_stamp(data, offset_ns)
        if self._clock is not None:
            clock = self._clock.msg_type()
            clock.clock.sec, clock.clock.nanosec = divmod(message.time_ns, 10**9)
            self._clock.publish(clock)
        stream.publish(data)

    def wait_for_delivery(self) -> None:
        """Wait until the subscribers have acknowledged the last messages, or warn."""
        publishers = [stream.publisher for stream in self._streams.values()]
        if self._restamped is not None:
            publishers.append(self._restamped)
        deadline = time.monotonic() + _DELIVERY_SECONDS
        for publisher in publishers:
            if not self._node.context.ok():
                return
            left = max(deadline - time.monotonic(), 0.0)
            if not publisher.wait_for_all_acked(Duration(seconds=left)):
                self._node.get_logger().warning(
                    f"{publisher.topic_name}: a subscriber has not acknowledged the last messages"
                )

    def summary(self) -> str:
        """Return number of messages and rate of each topic, for the log."""
        return ", ".join(stream.summary() for stream in self._streams.values())

    def _create_stream(self, topic: TopicInfo, depth: int) -> _Stream:
        """Create the publisher of a topic; latched topics are transient local.

        The name is relative, so that two graphs in two namespaces do not mix.
        """
        kind = message_class(topic.type)
        qos = QoSProfile(
            depth=depth,
            reliability=self._reliability,
            durability=(
                DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE
            ),
        )
        fields = list(kind.get_fields_and_field_types().values())
        return _Stream(
            self._node.create_publisher(kind, topic.name.lstrip("/"), qos),
            has_header=fields[:1] == ["std_msgs/Header"],
        )

    def _create_clock(self) -> Any:
        """Create the publisher of the clock, /clock outside namespaces."""
        clock = message_class("rosgraph_msgs/msg/Clock")
        if clock is None:
            raise InvalidParameterValueException(
                "publish_clock", True, "rosgraph_msgs is not installed"
            )
        return self._node.create_publisher(clock, "clock", 10)

    def _create_restamped(self) -> Publisher:
        """Create the publisher of ~/restamped_ns."""
        qos = QoSProfile(depth=_RESTAMPED_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return self._node.create_publisher(Int64MultiArray, "~/restamped_ns", qos)
