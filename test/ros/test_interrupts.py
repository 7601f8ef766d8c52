"""Nodes started in the background of a script, which ignore SIGINT at their start."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import SECONDS, Graph, write_pairs
from std_msgs.msg import String


@pytest.fixture
def ignored() -> Iterator[None]:
    """Ignore SIGINT, which the processes that a test starts inherit."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.dds
@pytest.mark.parametrize("name", ["fusion_node", "player_node", "recorder_node"])
def test_node_in_the_background_ends_on_sigint(
    graph: Graph, name: str, tiny_weights: Path, tmp_path: Path, ignored: None
) -> None:
    if name == "fusion_node":
        process = graph.start_fusion(tiny_weights)
    elif name == "player_node":
        image = np.zeros((4, 6), np.uint8)
        bag = write_pairs(tmp_path / "bag", [(np.stack([image] * 3, -1), image)])
        process = graph.start(name, bag=str(bag), wait_for_subscribers_seconds=600.0)
        graph.until(lambda: graph.node.count_publishers("/rgb/image_raw") == 1)
        graph.spin(0.5)
    else:
        words = graph.node.create_publisher(String, "/words", 10)
        process = graph.start(name, output=str(tmp_path / "bag"), topics=["/words"])
        graph.until(lambda: words.get_subscription_count() == 1)
        words.publish(String(data="without a message there is no bag"))
        words.wait_for_all_acked()
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0, output
    assert "Traceback" not in output
