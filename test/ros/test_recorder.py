"""Recorder in a process of its own."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from harness import Graph, stop
from sensor_msgs.msg import Image
from std_msgs.msg import String

from ivf_core.bags.convert import RGB_TOPIC
from ivf_core.bags.reader import BagReader
from ivf_core.bags.writer import BagWriter

pytestmark = pytest.mark.dds


def test_records_with_a_clock_that_stands_still(graph: Graph, tmp_path: Path) -> None:
    recorder = graph.start(
        "recorder_node", output=str(tmp_path / "bag"), topics=["/words"], use_sim_time=True
    )
    words = graph.node.create_publisher(String, "/words", 10)
    graph.until(lambda: words.get_subscription_count() == 1)
    for text in ("one", "two"):
        words.publish(String(data=text))
    words.wait_for_all_acked()
    graph.spin(0.5)
    assert "recorded 2 /words" in stop(recorder)
    with BagReader(tmp_path / "bag") as reader:
        assert [message.message.data for message in reader.messages()] == ["one", "two"]


def test_a_busy_recorder_gets_the_stamps_of_all_frames(graph: Graph, tmp_path: Path) -> None:
    """Without them no result can be assigned to its pair: the player waits for the recorder."""
    frames = 20
    with BagWriter(tmp_path / "bag") as writer:
        for k in range(frames):
            image = np.full((4, 6, 3), k, np.uint8)
            writer.write_image(RGB_TOPIC, 10**18 + k * 10**8, image, "rgb8", "camera")
    topic = "/player/restamped_ns"
    recorder = graph.start("recorder_node", output=str(tmp_path / "recording"), topics=[topic])
    graph.listen(RGB_TOPIC, Image)
    bag = str(tmp_path / "bag")
    player = graph.start("player_node", bag=bag, topics=[RGB_TOPIC], restamp=True)
    graph.until(lambda: graph.node.count_subscribers(topic) == 1)
    recorder.send_signal(signal.SIGSTOP)
    graph.until(lambda: len(graph.messages[RGB_TOPIC]) == frames)
    graph.spin(0.5)
    assert player.poll() is None
    recorder.send_signal(signal.SIGCONT)
    graph.until(lambda: player.poll() is not None)
    assert f"recorded {frames} {topic}" in stop(recorder)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({"output": 5}, "output"), ({"storage": "tape"}, "storage is 'tape'")],
)
def test_rejects_invalid_parameters(
    graph: Graph, parameters: dict[str, object], expected: str
) -> None:
    recorder = graph.start("recorder_node", **parameters)
    graph.until(lambda: recorder.poll() is not None)
    (line,) = recorder.communicate()[0].splitlines()
    assert recorder.returncode == 1
    assert expected in line
