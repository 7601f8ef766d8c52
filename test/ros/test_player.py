"""Player in a process of its own, with its subscriber here, over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from harness import Graph
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.rosbag1 import Writer as Writer1
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Int64MultiArray, UInt64

from ivf_core.bags.convert import RGB_TOPIC, THERMAL_TOPIC
from ivf_core.bags.info import IMAGE_TYPE, BagMessage
from ivf_core.bags.stamps import read_stamp, shift_stamp
from ivf_core.bags.writer import BagWriter
from ivf_ros.player_pacing import Window
from ivf_ros.player_reader import FrameGroup, group_by_frame

REPOSITORY = Path(__file__).resolve().parents[2]
JAZZY = get_typestore(Stores.ROS2_JAZZY)
START_NS = 1_000 * 10**9
PERIOD_NS = 50_000_000
TIMEOUT_SECONDS = 60.0
# Deep queues, so that a slow machine loses no message.
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)


def rgb_frame(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (120, 160, 3)).astype(np.uint8)


def thermal_frame(k: int) -> np.ndarray:
    return np.random.default_rng(1000 + k).integers(0, 256, (120, 160)).astype(np.uint8)


def write_bag(path: Path, frames: int, thermal_lag_ns: int = 0) -> Path:
    """Write pairs every PERIOD_NS, and with the last one an image in big-endian CDR."""
    with BagWriter(path) as writer:
        for k in range(frames):
            stamp = START_NS + k * PERIOD_NS
            writer.write_image(RGB_TOPIC, stamp, rgb_frame(k), "rgb8", "rgb")
            writer.write_image(
                THERMAL_TOPIC, stamp + thermal_lag_ns, thermal_frame(k), "mono8", "thermal"
            )
        time_message = JAZZY.types["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9))
        message = image_message(JAZZY, time_message, rgb_frame(7))
        big_endian = JAZZY.serialize_cdr(message, IMAGE_TYPE, little_endian=False)
        writer.write("/big_endian", IMAGE_TYPE, stamp, big_endian)
    return path


def image_message(store: Any, stamp: Any, image: np.ndarray, *header: int) -> Any:
    return store.types[IMAGE_TYPE](
        store.types["std_msgs/msg/Header"](*header, stamp, "camera"),
        *image.shape[:2], "rgb8", 0, image.shape[1] * 3, image.reshape(-1),
    )  # fmt: skip


def stamp_ns(message: Image) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def pixels(message: Image) -> np.ndarray:
    return np.asarray(message.data, np.uint8).reshape(message.height, message.width, -1).squeeze()


class Listener:
    """Subscriber in this process, which collects messages by topic and in order."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("listener", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.received: dict[str, list[Any]] = defaultdict(list)

    def listen(self, topic: str, message_class: type = Image, qos: QoSProfile = RELIABLE) -> None:
        self.node.create_subscription(message_class, topic, self.received[topic].append, qos)

    def spin_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, {k: len(v) for k, v in self.received.items()}
            self.executor.spin_once(timeout_sec=0.05)

    def spin_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)

    def wait_for_end(self, process: subprocess.Popen[str]) -> str:
        """Spin until the player has ended without error; return its output."""
        self.spin_until(lambda: process.poll() is not None)
        self.spin_for(0.3)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        return output

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Provide a function that starts players; those that still run are killed at the end."""
    processes = []

    def start(*arguments: str, **parameters: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ivf_ros.player_node", "--ros-args", *arguments]
        for name, value in {"wait_for_subscribers_seconds": 30.0, **parameters}.items():
            command += ["-p", f"{name}:={value}"]
        environment = dict(os.environ, PYTHONPATH=str(REPOSITORY))
        processes.append(
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.dds
class TestPlaying:
    def test_everything_arrives_as_recorded(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        listener.listen(RGB_TOPIC)
        listener.listen(THERMAL_TOPIC, qos=BEST_EFFORT)
        listener.listen("/big_endian")
        listener.listen("/clock", Clock)
        output = listener.wait_for_end(
            start(bag=write_bag(tmp_path / "bag", 8), publish_clock=True)
        )
        for topic, frame in ((RGB_TOPIC, rgb_frame), (THERMAL_TOPIC, thermal_frame)):
            messages = listener.received[topic]
            assert [stamp_ns(m) for m in messages] == [START_NS + k * PERIOD_NS for k in range(8)]
            for k, message in enumerate(messages):
                np.testing.assert_array_equal(pixels(message), frame(k))
        (big_endian,) = listener.received["/big_endian"]
        np.testing.assert_array_equal(pixels(big_endian), rgb_frame(7))
        clock = [m.clock.sec * 10**9 + m.clock.nanosec for m in listener.received["/clock"]]
        assert clock == sorted(clock)
        assert clock[-1] == START_NS + 7 * PERIOD_NS
        assert f"{RGB_TOPIC} 8 (" in output

    def test_best_effort(self, tmp_path: Path, listener: Listener, start: Callable) -> None:
        listener.listen(RGB_TOPIC, qos=BEST_EFFORT)
        process = start(
            bag=write_bag(tmp_path / "bag", 8), qos_reliability="sensor_data", topics=[RGB_TOPIC]
        )
        listener.spin_until(lambda: bool(listener.received[RGB_TOPIC]))
        (info,) = listener.node.get_publishers_info_by_topic(RGB_TOPIC)
        assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        listener.wait_for_end(process)

    def test_loops_other_names_and_a_choice_of_topics(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        listener.listen("/front/image")
        listener.listen(THERMAL_TOPIC)
        listener.wait_for_end(
            start(
                "-r",
                f"{RGB_TOPIC}:=/front/image",
                bag=write_bag(tmp_path / "bag", 4),
                topics=[RGB_TOPIC],
                loops=2,
                rate=4.0,
            )
        )
        stamps = [stamp_ns(m) for m in listener.received["/front/image"]]
        assert stamps == [START_NS + k * PERIOD_NS for k in range(4)] * 2
        assert not listener.received[THERMAL_TOPIC]

    @pytest.mark.parametrize("mode", [{"rate": 2.0, "loops": 2}, {"as_fast_as_taken": True}])
    def test_restamped_pairs_keep_their_differences(
        self, tmp_path: Path, listener: Listener, start: Callable, mode: dict[str, object]
    ) -> None:
        lag = 7_000_000
        for topic in (RGB_TOPIC, THERMAL_TOPIC, "/big_endian"):
            listener.listen(topic)
        listener.listen("/player/restamped_ns", Int64MultiArray, LATCHED)
        bag = write_bag(tmp_path / "bag", 6, lag)
        before = time.time_ns()
        listener.wait_for_end(start(bag=bag, restamp=True, stall_seconds=0.1, **mode))
        rgb = [stamp_ns(m) for m in listener.received[RGB_TOPIC]]
        thermal = [stamp_ns(m) for m in listener.received[THERMAL_TOPIC]]
        assert len(rgb) == 6 * int(mode.get("loops", 1))
        assert [b - a for a, b in zip(rgb, thermal, strict=True)] == [lag] * len(rgb)
        assert all(a < b for a, b in pairwise(rgb))
        assert before < rgb[0]
        assert rgb[-1] < time.time_ns()
        np.testing.assert_array_equal(pixels(listener.received[RGB_TOPIC][5]), rgb_frame(5))
        assert stamp_ns(listener.received["/big_endian"][-1]) == rgb[-1]
        recorded = [START_NS + k * PERIOD_NS for k in range(6)] * (len(rgb) // 6)
        restamped = [list(m.data) for m in listener.received["/player/restamped_ns"]]
        assert restamped == [list(stamps) for stamps in zip(recorded, rgb, strict=True)]

    def test_rosbag1_and_types_that_are_not_installed(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        store = get_typestore(Stores.ROS1_NOETIC)
        time_class = store.types["builtin_interfaces/msg/Time"]
        with Writer1(tmp_path / "old.bag") as writer:
            camera = writer.add_connection("/rgb/image_raw", IMAGE_TYPE, typestore=store)
            other_type = "actionlib_msgs/msg/GoalID"
            other = writer.add_connection("/goal", other_type, typestore=store)
            for k in range(3):
                now = START_NS + k * PERIOD_NS
                message = image_message(store, time_class(*divmod(now, 10**9)), rgb_frame(k), k)
                writer.write(camera, now, store.serialize_ros1(message, IMAGE_TYPE))
            goal = store.types[other_type](time_class(1, 2), "goal")
            writer.write(other, START_NS, store.serialize_ros1(goal, other_type))
        listener.listen("/rgb/image_raw")
        output = listener.wait_for_end(start(bag=tmp_path / "old.bag"))
        assert [stamp_ns(m) for m in listener.received["/rgb/image_raw"]] == [
            START_NS + k * PERIOD_NS for k in range(3)
        ]
        for k, message in enumerate(listener.received["/rgb/image_raw"]):
            np.testing.assert_array_equal(pixels(message), rgb_frame(k))
            assert message.header.frame_id == "camera"
        assert "/goal (actionlib_msgs/msg/GoalID, 1 messages)" in output

    def test_starts_without_subscribers_after_a_warning(
        self, tmp_path: Path, start: Callable
    ) -> None:
        process = start(bag=write_bag(tmp_path / "bag", 2), wait_for_subscribers_seconds=0.1)
        output = process.communicate(timeout=TIMEOUT_SECONDS)[0]
        assert process.returncode == 0, output
        assert f"starting without a subscriber on {RGB_TOPIC}, {THERMAL_TOPIC}" in output

    def test_names_are_in_the_namespace_of_the_player(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        for topic in (RGB_TOPIC, THERMAL_TOPIC):
            listener.listen(f"/left{topic}")
            listener.listen(topic)  # of another graph
        listener.listen("/left/clock", Clock)
        listener.listen("/clock", Clock)
        bag = write_bag(tmp_path / "bag", 3)
        listener.wait_for_end(start("-r", "__ns:=/left", bag=bag, publish_clock=True))
        received = {topic: len(messages) for topic, messages in listener.received.items()}
        assert received.pop("/left/clock") == 7
        assert {k: n for k, n in received.items() if n} == {
            f"/left{RGB_TOPIC}": 3,
            f"/left{THERMAL_TOPIC}": 3,
        }

    def test_bag_starts_when_the_named_node_has_subscribed(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        for topic in (RGB_TOPIC, THERMAL_TOPIC):
            listener.listen(topic)  # a viewer
        process = start(bag=write_bag(tmp_path / "bag", 5), wait_for_node="fusion")
        listener.spin_until(lambda: listener.node.count_publishers(THERMAL_TOPIC) == 1)
        listener.spin_for(1.0)
        assert not any(listener.received.values())
        fusion = rclpy.create_node("fusion", context=listener.context)
        listener.executor.add_node(fusion)
        taken: list[Image] = []
        fusion.create_subscription(Image, RGB_TOPIC, taken.append, BEST_EFFORT)
        listener.spin_for(0.5)
        assert not taken  # it takes both topics
        fusion.create_subscription(Image, THERMAL_TOPIC, lambda _: None, BEST_EFFORT)
        listener.wait_for_end(process)
        assert stamp_ns(taken[0]) == START_NS
        fusion.destroy_node()

    def test_named_node_that_does_not_come_is_in_the_warning(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        for topic in (RGB_TOPIC, THERMAL_TOPIC):
            listener.listen(topic)
        output = listener.wait_for_end(
            start(
                bag=write_bag(tmp_path / "bag", 2),
                wait_for_node="night/fusion",
                wait_for_subscribers_seconds=1.0,
            )
        )
        assert f"starting without 'night/fusion' as a subscriber on {RGB_TOPIC}" in output

    def test_sigterm_while_it_waits_for_subscribers(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        process = start(bag=write_bag(tmp_path / "bag", 3))
        listener.spin_until(lambda: listener.node.count_publishers(RGB_TOPIC) == 1)
        listener.spin_for(0.5)
        process.terminate()
        assert "Traceback" not in listener.wait_for_end(process)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupt_ends_with_a_summary(
        self, tmp_path: Path, listener: Listener, start: Callable, number: signal.Signals
    ) -> None:
        listener.listen(RGB_TOPIC)
        listener.listen(THERMAL_TOPIC)
        process = start(bag=write_bag(tmp_path / "bag", 3), loop=True)
        listener.spin_until(lambda: len(listener.received[RGB_TOPIC]) > 6)
        process.send_signal(number)
        output = listener.wait_for_end(process)
        assert "Traceback" not in output
        assert "published in" in output


@pytest.mark.dds
class TestAsFastAsTaken:
    def test_keeps_a_window_of_frames_under_way(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        for topic in (RGB_TOPIC, THERMAL_TOPIC):
            listener.listen(topic)
        progress = listener.node.create_publisher(UInt64, "/fusion/rgb_frames_done", LATCHED)
        progress.publish(UInt64(data=100))  # of an earlier replay
        process = start(
            bag=write_bag(tmp_path / "bag", 5), as_fast_as_taken=True, window=2, stall_seconds=30.0
        )
        rgb, thermal = listener.received[RGB_TOPIC], listener.received[THERMAL_TOPIC]
        for done in range(5):
            expected = min(2 + done, 5)
            listener.spin_until(lambda n=expected: len(rgb) >= n and len(thermal) >= n)
            listener.spin_for(0.3)  # more must not come
            assert (len(rgb), len(thermal)) == (expected, expected)
            assert process.poll() is None
            progress.publish(UInt64(data=101 + done))
        assert "; 0 stalls, 0 frames never done" in listener.wait_for_end(process)

    def test_continues_when_frames_are_lost(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        for topic in (RGB_TOPIC, THERMAL_TOPIC):
            listener.listen(topic)
        output = listener.wait_for_end(
            start(
                bag=write_bag(tmp_path / "bag", 6),
                as_fast_as_taken=True,
                window=2,
                stall_seconds=0.2,
            )
        )
        assert len(listener.received[RGB_TOPIC]) == 6
        assert "nothing on /fusion/rgb_frames_done" in output
        assert "; 1 stalls, 6 frames never done" in output

    def test_every_pair_of_cameras_with_different_rates(
        self, tmp_path: Path, graph: Graph, tiny_weights: Path
    ) -> None:
        """Expect all pairs, including the last one, which no later frame decides."""
        with BagWriter(tmp_path / "bag") as writer:
            for k in range(58):
                stamp = START_NS + k * 33_333_333
                writer.write_image(RGB_TOPIC, stamp, rgb_frame(k), "rgb8", "rgb")
                if k % 3 == 0:
                    stamp += 10_000_000
                    writer.write_image(THERMAL_TOPIC, stamp, thermal_frame(k), "mono8", "thermal")
        graph.listen("/fusion/fused/image", Image)
        graph.start_fusion(tiny_weights, mode="replay")
        player = graph.start(
            "player_node", bag=str(tmp_path / "bag"), as_fast_as_taken=True, stall_seconds=60.0
        )
        graph.until(lambda: player.poll() is not None, TIMEOUT_SECONDS)
        output = player.communicate()[0]
        assert "; 0 stalls, 0 frames never done" in output
        graph.until(lambda: len(graph.messages["/fusion/fused/image"]) == 20)
        graph.until(lambda: graph.counts() == (20, 20, {}))


class TestWindow:
    def test_admits_as_many_frames_as_its_size(self) -> None:
        window = Window(size=2, stall_seconds=60.0)
        window.report(0)
        entered = threading.Semaphore(0)

        def enter_three() -> None:
            for _ in range(3):
                window.enter()
                entered.release()

        thread = threading.Thread(target=enter_three, daemon=True)
        thread.start()
        assert entered.acquire(timeout=10)
        assert entered.acquire(timeout=10)
        assert not entered.acquire(timeout=0.2)
        window.report(1)
        assert entered.acquire(timeout=10)
        assert window.stalls == 0

    def test_first_report_is_the_starting_point(self) -> None:
        window = Window(size=10, stall_seconds=0.1)
        assert not window.wait_for_report(0.0)
        window.report(100)
        assert window.wait_for_report(0.0)
        for _ in range(3):
            window.enter()
        window.report(102)
        assert window.under_way == 1

    def test_restarted_receiver_has_lost_the_frames_under_way(self) -> None:
        window = Window(size=10, stall_seconds=0.1)
        window.report(5)
        for _ in range(3):
            window.enter()
        window.report(0)
        assert window.under_way == 0
        window.enter()
        window.report(1)
        assert window.under_way == 0

    def test_grows_while_there_is_no_progress(self) -> None:
        window = Window(size=2, stall_seconds=0.01)
        for _ in range(20):
            window.enter()
        assert (window.stalls, window.under_way) == (1, 20)
        window.report(0)
        window.report(20)
        assert window.under_way == 0
        for _ in range(20):
            window.enter()  # the window has learned that the receiver needs so many
        assert window.stalls == 1

    def test_release_ends_all_waits(self) -> None:
        window = Window(size=1, stall_seconds=3600.0)
        window.enter()
        waiting = threading.Thread(target=window.enter)
        waiting.start()
        window.release()
        waiting.join()
        window.drain(3600.0)


@pytest.mark.dds
class TestRejections:
    def rejected(self, start: Callable, **parameters: object) -> str:
        process = start(**parameters)
        output = process.communicate(timeout=TIMEOUT_SECONDS)[0]
        assert process.returncode == 1, output
        assert "Traceback" not in output
        return output

    def test_damaged_bag(self, tmp_path: Path, start: Callable) -> None:
        file = write_bag(tmp_path / "bag", 3) / "bag.mcap"
        file.write_bytes(file.read_bytes()[:-100])
        output = self.rejected(start, bag=tmp_path / "bag")
        assert len(output.splitlines()) == 1
        assert str(tmp_path / "bag") in output
        assert "its end is missing: cut off" in output

    def test_bag_whose_index_is_edited(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        listener.listen(RGB_TOPIC)
        bag = write_bag(tmp_path / "bag", 4)
        index = bag / "metadata.yaml"
        text = index.read_text()
        assert "offered_qos_profiles: ''" in text
        index.write_text(text.replace("profiles: ''", "profiles: '- history: 1'"))
        output = listener.wait_for_end(start(bag=bag, topics=[RGB_TOPIC]))
        assert len(listener.received[RGB_TOPIC]) == 4
        assert "metadata.yaml states another QoS of" in output

    def test_bag_damaged_in_the_middle(
        self, tmp_path: Path, listener: Listener, start: Callable
    ) -> None:
        listener.listen(RGB_TOPIC)
        file = write_bag(tmp_path / "bag", 40) / "bag.mcap"
        data = bytearray(file.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 400_000] = b"\xff" * 400_000  # whole messages, their lengths too
        file.write_bytes(data)
        process = start(bag=tmp_path / "bag", topics=[RGB_TOPIC])
        listener.spin_until(lambda: process.poll() is not None)
        output = process.communicate()[0]
        assert process.returncode == 1, output
        assert "damaged" in output
        assert "Traceback" not in output
        assert listener.received[RGB_TOPIC]

    def test_missing_bag(self, tmp_path: Path, start: Callable) -> None:
        assert "no such file or folder" in self.rejected(start, bag=tmp_path / "missing")

    @pytest.mark.parametrize(
        ("parameters", "expected"),
        [
            ({}, "give the path of a bag"),
            ({"bag": "BAG", "rate": -1.0}, "rate"),
            ({"bag": "BAG", "rate": "fast"}, "rate"),
            ({"bag": "BAG", "window": 0}, "window"),
            ({"bag": "BAG", "qos_reliability": "perfect"}, "one of reliable, sensor_data"),
            ({"bag": "BAG", "restamp": True, "publish_clock": True}, "exclude each other"),
            ({"bag": "BAG", "topics": ["/lidar"]}, "no topic /lidar; it has: /big_endian"),
            ({"bag": "BAG", "camera_topics": [RGB_TOPIC]}, "camera_topics"),
            ({"bag": "BAG", "camera_topics": [RGB_TOPIC, "/ir"]}, "expected two of the published"),
        ],
    )
    def test_parameters(
        self, tmp_path: Path, start: Callable, parameters: dict[str, object], expected: str
    ) -> None:
        if "bag" in parameters:
            parameters = parameters | {"bag": write_bag(tmp_path / "bag", 1)}
        assert expected in self.rejected(start, **parameters)


def messages(*topics_and_times: tuple[str, int]) -> list[BagMessage]:
    return [BagMessage(topic, "", time_ns, b"") for topic, time_ns in topics_and_times]


def times(groups: list[FrameGroup]) -> list[list[int]]:
    return [[message.time_ns for message in group.messages] for group in groups]


class TestGroups:
    def test_messages_go_with_the_nearer_frame(self) -> None:
        stream = messages(("b", 9), ("a", 10), ("b", 11), ("b", 19), ("a", 20), ("b", 24))
        groups = list(group_by_frame(stream, "a"))
        assert times(groups) == [[9, 10, 11], [19, 20, 24]]
        assert [group.frame.time_ns for group in groups] == [10, 20]

    def test_silent_camera_does_not_delay_the_others(self) -> None:
        second = 10**9
        stream = messages(("a", 0), *(("b", k * second) for k in range(1, 5)), ("a", 5 * second))
        source = iter(stream)
        first = next(group_by_frame(source, "a"))
        assert first.frame is not None
        assert next(source).time_ns <= 3 * second  # it did not read up to the next frame
        groups = list(group_by_frame(stream, "a"))
        assert [m for group in groups for m in group.messages] == stream
        assert sum(group.frame is not None for group in groups) == 2

    def test_without_the_topic_nothing_is_lost(self) -> None:
        stream = messages(("b", 1), ("c", 2), ("b", 3))
        (group,) = group_by_frame(stream, "a")
        assert (group.messages, group.frame) == (stream, None)
        assert list(group_by_frame([], "a")) == []


@pytest.mark.parametrize("little_endian", [True, False])
def test_only_the_stamp_is_moved(little_endian: bool) -> None:
    stamp = JAZZY.types["builtin_interfaces/msg/Time"](100, 900_000_000)
    before = image_message(JAZZY, stamp, rgb_frame(0))
    cdr = bytes(JAZZY.serialize_cdr(before, IMAGE_TYPE, little_endian=little_endian))
    moved = shift_stamp(cdr, 200_000_001)
    assert read_stamp(moved) == 101 * 10**9 + 100_000_001
    after = JAZZY.deserialize_cdr(moved, IMAGE_TYPE)
    assert (after.header.stamp.sec, after.header.stamp.nanosec) == (101, 100_000_001)
    assert after.header.frame_id == "camera"
    np.testing.assert_array_equal(after.data, before.data)
    assert shift_stamp(cdr, 2**31 * 10**9) == cdr  # beyond the range of int32 seconds
    assert shift_stamp(cdr, -200 * 10**9) == cdr
    with pytest.raises(ValueError, match="8 bytes is too short"):
        read_stamp(cdr[:8])


def test_player_and_recorder_start_without_pytorch() -> None:
    code = "import sys, ivf_ros.player_node, ivf_ros.recorder_node; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
