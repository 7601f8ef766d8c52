"""Player of a rosbag2 or rosbag1 bag: at its rate, at a factor of it, or as fast as possible.

Messages are published as the bag's own CDR bytes, without decoding them.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rclpy
from rclpy.exceptions import (
    InvalidParameterValueException,
    InvalidTopicNameException,
    ParameterException,
)
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.validate_full_topic_name import validate_full_topic_name
from std_msgs.msg import UInt64

from ivf_core.bags.info import BagError, TopicInfo
from ivf_core.bags.reader import BagReader
from ivf_core.bags.topics import first_kinds, guess_camera_topics
from ivf_core.system.interrupts import interrupt_flag
from ivf_core.system.memory import keep_freed_memory
from ivf_ros.compat import initialize, message_class, spin_once
from ivf_ros.parameters import Parameter, declare
from ivf_ros.player_pacing import Schedule, Window
from ivf_ros.player_reader import ReadAhead
from ivf_ros.player_streams import Streams

__all__ = ["PARAMETERS", "Player", "main"]

PARAMETERS = (
    Parameter(
        "bag",
        "",
        "Bag to play: a rosbag2 folder, one of its .mcap or .db3 files, or a rosbag1 file.",
    ),
    Parameter(
        "topics",
        [""],  # type: ignore[arg-type]
        "Topics to publish; if empty, all topics whose message package is installed.",
    ),
    Parameter(
        "camera_topics",
        [""],  # type: ignore[arg-type]
        "Topics of the RGB and of the thermal camera in the bag; if empty, they are guessed.",
    ),
    Parameter("rate", 1.0, "Factor of the recorded speed.", 0.01, 100.0),
    Parameter(
        "as_fast_as_taken",
        False,
        "Ignore the recorded times: keep `window` frames under way, and publish the next frame "
        "when progress_topic reports that one is done.",
    ),
    Parameter(
        "window",
        16,
        "With as_fast_as_taken: number of RGB frames that are published but not yet done. It "
        "should exceed the fusion node's queue_size, since the node needs later frames to decide "
        "on a frame.",
        1,
        100,
    ),
    Parameter(
        "progress_topic",
        "fusion/rgb_frames_done",
        "With as_fast_as_taken: UInt64 topic with the number of RGB frames that are done.",
    ),
    Parameter(
        "stall_seconds",
        1.0,
        "With as_fast_as_taken: time without progress after which frames count as lost; the "
        "window then grows by one frame at a time until there is progress.",
        0.1,
        3600.0,
    ),
    Parameter("loops", 1, "Number of times the bag is played.", 1, 1_000_000),
    Parameter("loop", False, "Repeat the bag until interrupted, regardless of `loops`."),
    Parameter(
        "wait_for_subscribers_seconds",
        5.0,
        "Longest time to wait at the start until the topics of both cameras have a subscriber; "
        "all image topics if the cameras cannot be identified.",
        0.0,
        3600.0,
    ),
    Parameter(
        "wait_for_node",
        "",
        "Node that must be among these subscribers; if empty, any node will do.",
    ),
    Parameter(
        "qos_reliability",
        "reliable",
        "reliable reaches every subscriber; sensor_data (best effort) reaches only best-effort "
        "subscribers.",
        choices=("reliable", "sensor_data"),
    ),
    Parameter(
        "restamp",
        False,
        "Move header stamps to the time of publication; stamps of one frame keep their "
        "differences. ~/restamped_ns (std_msgs/msg/Int64MultiArray) carries the recorded and "
        "the published stamp of each RGB frame.",
    ),
    Parameter(
        "publish_clock",
        False,
        "Publish the recorded time on clock (in a namespace not /clock), for nodes with "
        "use_sim_time.",
    ),
)
"""Parameters of the player."""

_BACKLOG = 32  # frames that wait in a node in replay mode, of which its mailbox takes 64
_FIRST_REPORT_SECONDS = 2.0
_DRAIN_SECONDS = 5.0  # the fusion node decides on the last frames after a silence of 2 s


class Player(Node):
    """Node `player`, which publishes a bag when `play` is called.

    Topics have the names of the bag, with the node's namespace in front.

    `play` runs in a thread of its own, while the executor's thread (the main one, in `main`)
    takes in the progress of the receiver. Any thread may call `stop`.

    Args:
        **kwargs: arguments of `rclpy.node.Node`, without the name.

    Raises:
        BagError: the bag cannot be read, or has no topic that can be published.
        ParameterException: a parameter has the wrong type, is out of range, or
            excludes another.
        ValueError: a parameter is not among its choices.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("player", **kwargs)
        self._values = declare(self, PARAMETERS)
        self._check_parameters()
        with BagReader(self._values["bag"]) as reader:
            self._bag = reader.info
            for line in self._bag.differences:
                self.get_logger().warning(f"bag '{self._bag.path}': {line}")
            playable = self._playable_topics(reader)
            cameras = self._camera_topics(playable, first_kinds(reader, playable))
        self._leading = cameras[0] if cameras else playable[0].name
        self._stopping = threading.Event()
        self._streams = Streams(
            self,
            playable,
            cameras,
            depth=max(10, self._values["window"]),
            reliable=self._values["qos_reliability"] == "reliable",
            restamp=self._values["restamp"],
            publish_clock=self._values["publish_clock"],
            stopping=self._stopping,
        )
        taken = self._values["as_fast_as_taken"]
        self._window = self._create_window(self._values["window"]) if taken else None
        # At a rate, a node in replay mode that falls behind holds the player back as well.
        self._backlog = None if taken else self._create_window(_BACKLOG)
        self.context.on_shutdown(self.stop)

    def play(self) -> None:
        """Publish the bag and log a summary; return early after `stop`.

        Raises:
            BagError: the bag turns out to be damaged.
        """
        self._streams.wait_for_subscribers(
            self._values["wait_for_subscribers_seconds"], self._values["wait_for_node"]
        )
        if self._window is not None and not self._window.wait_for_report(_FIRST_REPORT_SECONDS):
            self.get_logger().warning(
                f"nothing on {self.resolve_topic_name(self._values['progress_topic'])}: "
                "is the fusion node active, and in replay mode?"
            )
        self.get_logger().info(
            f"playing '{self._bag.path}': {self._bag.format}, "
            f"{self._bag.duration_seconds:.1f} s, {self._bag.messages} messages"
        )
        loops = None if self._values["loop"] else self._values["loops"]
        reader = ReadAhead(
            self._values["bag"], self._streams.keys, self._leading, loops, self._stopping
        )
        schedule = Schedule(self._values["rate"], self._frame_period_ns())
        begin = time.monotonic()
        try:
            if self._window is None:
                self._play_at_rate(reader, schedule)
            else:
                self._play_as_taken(reader, self._window)
        finally:
            self.stop()
            reader.join()
            if self.context.ok():
                pace = schedule if self._window is None else self._window
                self.get_logger().info(
                    f"published in {time.monotonic() - begin:.2f} s: "
                    f"{self._streams.summary()}; {pace.summary()}"
                )
        self._streams.wait_for_delivery()

    def stop(self) -> None:
        """End `play` soon."""
        self._stopping.set()
        for window in (self._window, self._backlog):
            if window is not None:
                window.release()

    def _check_parameters(self) -> None:
        """Raise unless a bag is given and the parameters do not exclude each other."""
        if not self._values["bag"]:
            raise InvalidParameterValueException("bag", "", "give the path of a bag")
        if self._values["restamp"] and self._values["publish_clock"]:
            raise InvalidParameterValueException(
                "publish_clock",
                True,
                "restamp and publish_clock exclude each other: stamps and clock would disagree",
            )

    def _playable_topics(self, reader: BagReader) -> list[TopicInfo]:
        """Return the topics to publish, and warn once about those that cannot be published."""
        wanted = {name for name in self._values["topics"] if name}
        if unknown := wanted - {topic.name for topic in reader.topics}:
            raise BagError(
                f"bag '{reader.path}': no topic {', '.join(sorted(unknown))}; "
                f"it has: {', '.join(topic.name for topic in reader.topics)}"
            )
        requested = [topic for topic in reader.topics if not wanted or topic.name in wanted]
        playable = [
            topic
            for topic in requested
            if message_class(topic.type) is not None
            and reader.has_cdr(topic.type)
            and _is_ros_name(topic.name)
        ]
        if skipped := [topic for topic in requested if topic not in playable]:
            listing = ", ".join(f"{t.name} ({t.type}, {t.count} messages)" for t in skipped)
            self.get_logger().warning(
                "topics skipped because their type is not installed or has another layout in "
                f"ROS 2, or their name is not valid there: {listing}"
            )
        if not playable:
            raise BagError(f"bag '{reader.path}': it has no topic that can be published")
        return playable

    def _camera_topics(self, topics: Sequence[TopicInfo], kinds: Mapping[str, str]) -> list[str]:
        """Return RGB and thermal topic; all image topics if these cannot be identified."""
        names = [name for name in self._values["camera_topics"] if name]
        if not names:
            try:
                return list(guess_camera_topics(topics, kinds))
            except BagError:
                return [topic.name for topic in topics if topic.is_image]
        known = [topic.name for topic in topics]
        if len(names) != 2 or not {*names} <= {*known}:
            raise InvalidParameterValueException(
                "camera_topics", names, f"expected two of the published topics {', '.join(known)}"
            )
        return names

    def _create_window(self, size: int) -> Window:
        """Create a window of frames, and subscribe to the progress that moves it."""
        window = Window(size, self._values["stall_seconds"])
        qos = QoSProfile(
            depth=10,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )

        def on_progress(message: UInt64) -> None:
            window.report(message.data)

        self.create_subscription(UInt64, self._values["progress_topic"], on_progress, qos)
        return window

    def _play_at_rate(self, reader: ReadAhead, schedule: Schedule) -> None:
        """Publish each message when it is due."""
        for loop, group in reader.groups():
            # Only a node in replay mode reports progress.
            if group.frame is not None and self._backlog is not None and self._backlog.reported:
                self._backlog.enter()
            schedule.begin(loop, group.messages[0].time_ns)
            wall_ns = schedule.wall_ns(group.reference.time_ns)
            offset_ns = self._streams.stamp_offset(group, wall_ns)
            for message in group.messages:
                if not schedule.wait(message.time_ns, self._stopping):
                    return
                self._streams.publish(message, offset_ns)

    def _play_as_taken(self, reader: ReadAhead, window: Window) -> None:
        """Publish each frame as soon as there is room in the window."""
        for _, group in reader.groups():
            if group.frame is not None:
                window.enter()
            offset_ns = self._streams.stamp_offset(group, time.time_ns())
            for message in group.messages:
                self._streams.publish(message, offset_ns)
        window.drain(_DRAIN_SECONDS)

    def _frame_period_ns(self) -> float:
        """Return the recorded frame period of the leading camera; 0 if it is unknown."""
        rates = [t.rate_hz for t in self._bag.topics if t.name == self._leading and t.rate_hz]
        return 1e9 / rates[0] if rates else 0.0


def main(args: list[str] | None = None) -> int:
    """Run `player_node` until the bag has been played, or SIGINT or SIGTERM.

    Args:
        args: command-line arguments; by default those of the process.

    Returns:
        The exit status: 1 if the bag or a parameter cannot be used.
    """
    keep_freed_memory()
    if not initialize("player_node", args):
        return 1
    executor = SingleThreadedExecutor()
    player = None
    try:
        # A bag without an index takes long to open, in Python: there both signals end it at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        player = Player()
        interrupted = interrupt_flag()
        executor.add_node(player)
        with ThreadPoolExecutor(1, "play") as pool:
            playing = pool.submit(player.play)
            playing.add_done_callback(lambda _: executor.wake())
            try:
                while not (playing.done() or interrupted.is_set()):
                    spin_once(executor, 0.1)
            finally:
                player.stop()
        playing.result()
    except (ValueError, ParameterException) as error:  # BagError is a ValueError
        get_logger("player").fatal(str(error))
        return 1
    except KeyboardInterrupt:
        pass
    finally:
        executor.shutdown()
        if player is not None:
            player.destroy_node()
        rclpy.try_shutdown()
    return 0


def _is_ros_name(topic: str) -> bool:
    """Return whether a topic's name is valid in ROS 2; ROS 1 and other tools allow more."""
    try:
        return bool(validate_full_topic_name(f"/{topic.lstrip('/')}"))
    except InvalidTopicNameException:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
