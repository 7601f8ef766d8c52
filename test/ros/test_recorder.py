"""Recorder in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Graph, stop
from std_msgs.msg import String

from ivf_core.bags.reader import BagReader

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
