"""Publishes a rosbag2 or rosbag1 bag: at its rate, a factor of it, or as fast as it is taken.

Messages go out as the bag's own CDR bytes, undecoded. A thread reads ahead, so
that the disk does not disturb the timing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterValueException, ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Int64MultiArray, UInt64

from ivf_core.bags.info import BagError, BagMessage, TopicInfo
from ivf_core.bags.reader import BagReader
from ivf_core.bags.stamps import read_stamp, shift_stamp
from ivf_core.bags.topics import guess_camera_topics
from ivf_core.system.memory import keep_freed_memory
from ivf_ros.compat import message_class
from ivf_ros.parameters import Parameter, declare

__all__ = [
    "PARAMETERS",
    "FrameGroup",
    "Player",
    "Window",
    "group_by_frame",
    "main",
]

PARAMETERS = (
    Parameter(
        "bag",
        "",
        "Bag to play: a rosbag2 folder, one of its .mcap or .db3 files, or a rosbag1 file.",
    ),
    Parameter(
        "topics",
        [""],  # type: ignore[arg-type]  # the only list
        "Topics to publish; without any, all whose message package is installed.",
    ),
    Parameter("rate", 1.0, "Factor of the recorded speed.", 0.01, 100.0),
    Parameter(
        "as_fast_as_taken",
        False,
        "Ignore the recorded times: keep `window` frames under way, and publish the next one "
        "when progress_topic says that one is done.",
    ),
    Parameter(
        "window",
        16,
        "RGB frames published but not yet done, with as_fast_as_taken. More than the fusion "
        "node's queue_size, for it needs later frames to decide on one.",
        1,
        100,
    ),
    Parameter(
        "progress_topic",
        "fusion/rgb_frames_done",
        "UInt64 topic with the number of RGB frames that are done, for as_fast_as_taken.",
    ),
    Parameter(
        "stall_seconds",
        1.0,
        "When no frame has been done for this long, frames are lost or more are needed: the "
        "window grows one by one until something moves.",
        0.1,
        3600.0,
    ),
    Parameter("loops", 1, "How often the bag is played.", 1, 1_000_000),
    Parameter("loop", False, "Play until interrupted, whatever `loops` says."),
    Parameter(
        "wait_for_subscribers_seconds",
        5.0,
        "Longest time to wait at the start until both cameras' topics, or all image topics "
        "where the cameras cannot be told, have a subscriber.",
        0.0,
        3600.0,
    ),
    Parameter(
        "qos_reliability",
        "reliable",
        "reliable serves every subscriber; sensor_data (best effort) only best-effort ones.",
        choices=("reliable", "sensor_data"),
    ),
    Parameter(
        "restamp",
        False,
        "Move header stamps to the time of publication; stamps of one frame keep their "
        "differences. ~/restamped_ns (std_msgs/msg/Int64MultiArray) has the recorded and the "
        "published stamp of each RGB frame.",
    ),
    Parameter(
        "publish_clock",
        False,
        "Publish the recorded time on /clock, for nodes with use_sim_time.",
    ),
)

_READ_AHEAD = 8
"""Frames, with all that belongs to them, waiting in memory."""

_RESTAMPED_DEPTH = 10_000
"""Whoever subscribes after the first frames gets their stamps too."""

_LONGEST_GROUP_NS = 10**9
_LATE_NS = 10**7
_SETTLE_SECONDS = 0.2
_FIRST_REPORT_SECONDS = 2.0
_DRAIN_SECONDS = 5.0  # the fusion node decides on the last frames after a silence of 2 s
_DELIVERY_SECONDS = 4.0  # Fast DDS asks for acknowledgements every three seconds


@dataclass(frozen=True)
class FrameGroup:
    """A frame of the leading camera and all that was recorded nearer to it than to another.

    Attributes:
        messages: in the order of their times.
        frame: the leading camera's frame among them; None while it is silent.
    """

    messages: list[BagMessage]
    frame: BagMessage | None

    @property
    def reference(self) -> BagMessage:
        return self.frame or self.messages[0]


def group_by_frame(messages: Iterable[BagMessage], topic: str) -> Iterator[FrameGroup]:
    """Cut a stream of messages midway between the frames on `topic`.

    So the two images of a pair stay together, whichever was recorded first.
    """
    pending: list[BagMessage] = []
    frame: BagMessage | None = None
    for message in messages:
        if message.topic == topic:
            if frame is not None:
                middle = (frame.time_ns + message.time_ns) // 2
                cut = sum(one.time_ns <= middle for one in pending)
                yield FrameGroup(pending[:cut], frame)
                pending = pending[cut:]
            frame = message
        elif pending and message.time_ns - pending[0].time_ns > _LONGEST_GROUP_NS:
            # The leading camera is silent: do not pile up the others.
            yield FrameGroup(pending, frame)
            pending, frame = [], None
        pending.append(message)
    if pending:
        yield FrameGroup(pending, frame)


class Window:
    """Counts the frames under way, and waits while there are too many.

    No progress for `stall_seconds`, or for the longest pause so far where the
    receiver is slower, means that frames were lost or that the receiver needs
    more of them. The window then grows, one by one until something moves.

    Args:
        size: frames that may be under way at first.
        stall_seconds: shortest time without progress that is a stall.

    Attributes:
        stalls: how often there was no progress for too long.
        under_way: frames published and not done.
    """

    def __init__(self, size: int, stall_seconds: float) -> None:
        self._size = size
        self._patience = stall_seconds
        self._changed = threading.Condition()
        self._reported: int | None = None
        self._moved = 0.0
        self._stalled = False
        self._released = False
        self.under_way = 0
        self.stalls = 0

    def report(self, done: int) -> None:
        """Take the receiver's count of frames done.

        The first one is where it stood before. One that has gone back is of a receiver that
        has started anew, and has lost what was under way.
        """
        with self._changed:
            before, self._reported = self._reported, done
            if done == before:
                return  # no progress
            if before is not None:
                self.under_way = max(self.under_way - (done - before), 0) if done > before else 0
                now = time.monotonic()
                self._patience = max(self._patience, now - self._moved)
                self._moved, self._stalled = now, False
            self._changed.notify_all()

    def wait_for_report(self, seconds: float) -> bool:
        """Whether there has been a report after that time at the latest."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._reported is not None or self._released, seconds
            )

    def enter(self) -> None:
        """Wait for room, then count one more frame."""
        with self._changed:
            while not self._released and self.under_way >= self._size:
                pause = self._patience / self._size if self._stalled else self._patience
                if not self._changed.wait(pause):
                    self.stalls += not self._stalled
                    self._stalled = True
                    self._size += 1
            if not self.under_way:
                self._moved = time.monotonic()
            self.under_way += 1

    def drain(self, seconds: float) -> None:
        """Wait until no frame is under way, or nothing has moved for so many seconds."""
        with self._changed:
            while self.under_way and not self._released:
                if not self._changed.wait(max(seconds, self._patience)):
                    return

    def release(self) -> None:
        """Let whoever waits go, for good."""
        with self._changed:
            self._released = True
            self._changed.notify_all()


@dataclass
class _Stream:
    """One published topic."""

    publisher: Publisher
    has_header: bool
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0

    def publish(self, data: bytes) -> None:
        self.publisher.publish(data)
        self.last_ns = time.monotonic_ns()
        self.first_ns = self.first_ns or self.last_ns
        self.count += 1

    def summary(self) -> str:
        seconds = (self.last_ns - self.first_ns) / 1e9
        rate = f" ({(self.count - 1) / seconds:.1f} Hz)" if seconds else ""
        return f"{self.publisher.topic_name} {self.count}{rate}"


class Player(Node):
    """The node `player`; `play` publishes the bag.

    Raises:
        BagError: the bag cannot be read or has nothing to publish.
        ParameterException: a parameter has the wrong type, is out of range, or
            excludes another.
        ValueError: a parameter is not among its choices.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("player", **kwargs)
        declare(self, PARAMETERS)
        self._check_parameters()
        with BagReader(self._value("bag")) as reader:
            self._bag = reader.info
            playable = self._playable_topics(reader)
        self._cameras = _camera_topics(playable)
        self._leading = self._cameras[0] if self._cameras else playable[0].name
        self._streams = {(t.name, t.type): self._create_stream(t) for t in playable}
        self._clock_publisher = (
            self._create_clock_publisher() if self._value("publish_clock") else None
        )
        self._restamped_publisher = (
            self._create_restamped_publisher() if self._value("restamp") else None
        )
        self._window = self._create_window() if self._value("as_fast_as_taken") else None
        self._queue: queue.Queue[tuple[int, FrameGroup] | Exception | None] = queue.Queue(
            _READ_AHEAD
        )
        self._stop = threading.Event()
        self._late = 0
        self._latest_ns = 0
        self.context.on_shutdown(self.stop)

    def play(self) -> None:
        """Publish the bag, as often as asked, and log a summary; returns early after `stop`.

        Raises:
            BagError: the bag turns out to be damaged.
        """
        self._wait_for_subscribers()
        if self._window is not None and not self._window.wait_for_report(_FIRST_REPORT_SECONDS):
            self.get_logger().warning(
                f"nothing on {self.resolve_topic_name(self._value('progress_topic'))}: "
                "is the fusion node active, and in replay mode?"
            )
        self.get_logger().info(
            f"playing '{self._bag.path}': {self._bag.format}, "
            f"{self._bag.duration_seconds:.1f} s, {self._bag.messages} messages"
        )
        reader = threading.Thread(target=self._read_ahead, name="read-ahead", daemon=True)
        reader.start()
        begin = time.monotonic()
        try:
            if self._window is None:
                self._play_at_rate()
            else:
                self._play_as_taken(self._window)
        finally:
            self.stop()
            reader.join()
            if self.context.ok():
                self._log_summary(time.monotonic() - begin)
        self._wait_for_delivery()

    def stop(self) -> None:
        """End `play` soon; may be called from any thread."""
        self._stop.set()
        if self._window is not None:
            self._window.release()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _check_parameters(self) -> None:
        if not self._value("bag"):
            raise InvalidParameterValueException("bag", "", "give the path of a bag")
        if self._value("restamp") and self._value("publish_clock"):
            raise InvalidParameterValueException(
                "publish_clock",
                True,
                "restamp and publish_clock exclude each other: stamps and clock would disagree",
            )

    def _playable_topics(self, reader: BagReader) -> list[TopicInfo]:
        """The topics to publish, after one warning about those that cannot be."""
        wanted = {name for name in self._value("topics") if name}
        if unknown := wanted - {topic.name for topic in reader.topics}:
            raise BagError(
                f"bag '{reader.path}': no topic {', '.join(sorted(unknown))}; "
                f"it has: {', '.join(topic.name for topic in reader.topics)}"
            )
        asked = [topic for topic in reader.topics if not wanted or topic.name in wanted]
        playable = [
            topic
            for topic in asked
            if message_class(topic.type) is not None and reader.has_cdr(topic.type)
        ]
        if skipped := [topic for topic in asked if topic not in playable]:
            listing = ", ".join(f"{t.name} ({t.type}, {t.count} messages)" for t in skipped)
            self.get_logger().warning(
                f"skipped, types that are not installed or that ROS 2 laid out anew: {listing}"
            )
        if not playable:
            raise BagError(f"bag '{reader.path}': it has no topic that can be published")
        return playable

    def _create_stream(self, topic: TopicInfo) -> _Stream:
        kind = message_class(topic.type)
        qos = QoSProfile(
            depth=max(10, self._value("window")),
            reliability=(
                ReliabilityPolicy.RELIABLE
                if self._value("qos_reliability") == "reliable"
                else ReliabilityPolicy.BEST_EFFORT
            ),
            durability=(
                DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE
            ),
        )
        fields = list(kind.get_fields_and_field_types().values())
        return _Stream(
            self.create_publisher(kind, topic.name, qos),
            has_header=fields[:1] == ["std_msgs/Header"],
        )

    def _create_clock_publisher(self) -> Any:
        clock = message_class("rosgraph_msgs/msg/Clock")
        if clock is None:
            raise InvalidParameterValueException(
                "publish_clock", True, "rosgraph_msgs is not installed"
            )
        return self.create_publisher(clock, "/clock", 10)

    def _create_restamped_publisher(self) -> Publisher:
        qos = QoSProfile(depth=_RESTAMPED_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return self.create_publisher(Int64MultiArray, "~/restamped_ns", qos)

    def _create_window(self) -> Window:
        window = Window(self._value("window"), self._value("stall_seconds"))
        qos = QoSProfile(
            depth=10,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )

        def on_progress(message: UInt64) -> None:
            window.report(message.data)

        self.create_subscription(UInt64, self._value("progress_topic"), on_progress, qos)
        return window

    def _wait_for_subscribers(self) -> None:
        seconds = self._value("wait_for_subscribers_seconds")
        publishers = [
            stream.publisher for (name, _), stream in self._streams.items() if name in self._cameras
        ]
        if not seconds or not publishers:
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(publisher.get_subscription_count() for publisher in publishers):
                # The other side may match a little later, and best-effort readers
                # miss what is sent before.
                self._stop.wait(_SETTLE_SECONDS)
                return
            if self._stop.wait(0.02):
                return
        lonely = [p.topic_name for p in publishers if not p.get_subscription_count()]
        self.get_logger().warning(
            f"starting without a subscriber on {', '.join(lonely)} after {seconds:g} s"
        )

    def _read_ahead(self) -> None:
        """Reader thread: (loop, group) pairs, then None, or the error that ended them."""
        names = {name for name, _ in self._streams}
        endless, loops = self._value("loop"), self._value("loops")
        loop = 0
        try:
            while not self._stop.is_set() and (endless or loop < loops):
                with BagReader(self._value("bag")) as reader:
                    messages = (m for m in reader.raw(names) if (m.topic, m.type) in self._streams)
                    for group in group_by_frame(messages, self._leading):
                        if not self._hand_over((loop, group)):
                            return
                loop += 1
            self._hand_over(None)
        except Exception as error:
            self._hand_over(error)

    def _hand_over(self, item: tuple[int, FrameGroup] | Exception | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _groups(self) -> Iterator[tuple[int, FrameGroup]]:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def _play_at_rate(self) -> None:
        rate = self._value("rate")
        to_wall_ns = time.time_ns() - time.monotonic_ns()
        start_ns = due_ns = time.monotonic_ns()
        playing = -1
        first_ns = 0
        for loop, group in self._groups():
            if loop != playing:
                if playing >= 0:  # one frame period after the last message
                    start_ns = due_ns + round(self._frame_period_ns() / rate)
                playing, first_ns = loop, group.messages[0].time_ns
            frame_due_ns = start_ns + round((group.reference.time_ns - first_ns) / rate)
            offset_ns = self._stamp_offset(group, frame_due_ns + to_wall_ns)
            for message in group.messages:
                due_ns = start_ns + round((message.time_ns - first_ns) / rate)
                early_ns = due_ns - time.monotonic_ns()
                if early_ns > 0 and self._stop.wait(early_ns / 1e9):
                    return
                self._late += early_ns < -_LATE_NS
                self._latest_ns = max(self._latest_ns, -early_ns)
                self._publish(message, offset_ns)

    def _play_as_taken(self, window: Window) -> None:
        for _, group in self._groups():
            if group.frame is not None:
                window.enter()
            offset_ns = self._stamp_offset(group, time.time_ns())
            for message in group.messages:
                self._publish(message, offset_ns)
        window.drain(_DRAIN_SECONDS)

    def _frame_period_ns(self) -> float:
        rates = [t.rate_hz for t in self._bag.topics if t.name == self._leading and t.rate_hz]
        return 1e9 / rates[0] if rates else 0.0

    def _stamp_offset(self, group: FrameGroup, wall_ns: int) -> int | None:
        """What moves the group's frame to `wall_ns`; None where stamps stay."""
        if self._restamped_publisher is None:
            return None
        frame = group.reference
        has_header = self._streams[frame.topic, frame.type].has_header
        stamp_ns = read_stamp(frame.message) if has_header else frame.time_ns
        if group.frame is not None:
            self._restamped_publisher.publish(Int64MultiArray(data=[stamp_ns, wall_ns]))
        return wall_ns - stamp_ns

    def _publish(self, message: BagMessage, offset_ns: int | None) -> None:
        if self._stop.is_set():
            return
        stream = self._streams[message.topic, message.type]
        data = message.message
        if offset_ns is not None and stream.has_header:
            data = shift_stamp(data, offset_ns)
        try:
            if self._clock_publisher is not None:
                clock = self._clock_publisher.msg_type()
                clock.clock.sec, clock.clock.nanosec = divmod(message.time_ns, 10**9)
                self._clock_publisher.publish(clock)
            stream.publish(data)
        except Exception:
            if self.context.ok():
                raise
            # Otherwise a signal has shut the context down since the test above.

    def _wait_for_delivery(self) -> None:
        """Leave only when the subscribers have the last messages."""
        deadline = time.monotonic() + _DELIVERY_SECONDS
        for stream in self._streams.values():
            if not self.context.ok():
                return
            left = max(deadline - time.monotonic(), 0.0)
            if not stream.publisher.wait_for_all_acked(Duration(seconds=left)):
                self.get_logger().warning(
                    f"{stream.publisher.topic_name}: a subscriber has not acknowledged "
                    "the last messages"
                )

    def _log_summary(self, seconds: float) -> None:
        counts = ", ".join(stream.summary() for stream in self._streams.values())
        text = f"published in {seconds:.2f} s: {counts}"
        if self._window is not None:
            text += f"; {self._window.stalls} stalls, {self._window.under_way} frames never done"
        else:
            text += (
                f"; {self._late} messages more than {_LATE_NS / 1e6:.0f} ms late, "
                f"at most {self._latest_ns / 1e6:.1f} ms"
            )
        self.get_logger().info(text)


def main(args: list[str] | None = None) -> int:
    """Entry point of `player_node`; returns the exit status."""
    keep_freed_memory()
    # Without rclpy's SIGINT handler the context outlives Ctrl-C, and with it the summary.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.SIGTERM)
    executor = SingleThreadedExecutor()
    spinner = threading.Thread(target=_spin, args=(executor,), name="spin", daemon=True)
    player = None
    try:
        player = Player()
        executor.add_node(player)
        spinner.start()
        player.play()
    except (ValueError, ParameterException) as error:  # BagError is a ValueError
        get_logger("player").fatal(str(error))
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.shutdown()
        if spinner.is_alive():
            spinner.join()
        if player is not None:
            player.destroy_node()
        rclpy.try_shutdown()
    return 0


def _spin(executor: SingleThreadedExecutor) -> None:
    with suppress(ExternalShutdownException):
        executor.spin()


def _camera_topics(topics: Sequence[TopicInfo]) -> list[str]:
    """RGB and thermal topic; all image topics where these cannot be told."""
    try:
        return list(guess_camera_topics(topics))
    except BagError:
        return [topic.name for topic in topics if topic.is_image]


if __name__ == "__main__":
    raise SystemExit(main())
