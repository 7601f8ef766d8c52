"""View node: the page's answers are what the fusion node publishes, and only while watched."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from harness import SECONDS, Graph, smooth_image, write_pairs

from ivf_core.class_sets import MFNET
from ivf_core.view.live import LiveView
from ivf_ros.view_node import PARAMETERS

ROOT = Path(__file__).parents[2]


def ask(url: str, path: str) -> bytes:
    with urllib.request.urlopen(url + path, timeout=SECONDS) as answer:
        return answer.read()


def image(url: str, path: str) -> np.ndarray:
    read = cv2.imdecode(np.frombuffer(ask(url, path), np.uint8), cv2.IMREAD_UNCHANGED)
    return read[..., ::-1] if read.ndim == 3 else read


class Watcher:
    """Client that asks for the status again and again, as the page does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status: dict[str, Any] = {"count": 0, "counters": []}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.status = json.loads(ask(self.url, f"status?after={self.status['count'] - 1}"))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


@pytest.fixture
def watch() -> Iterator[Any]:
    watchers: list[Watcher] = []

    def start(url: str) -> Watcher:
        watchers.append(Watcher(url))
        return watchers[-1]

    yield start
    for watcher in watchers:
        watcher.stop()


def start_view(graph: Graph, **parameters: Any) -> tuple[Any, str]:
    process = graph.start("view_node", port=0, **parameters)
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(r"watch (\S+) at (http://127\.0\.0\.1:\d+/)", line):
            assert match[1] == "/fusion"
            return process, match[2]
    pytest.fail(f"the view node ended with {process.wait()}")


def policy() -> set[str]:
    """Return the topics that the policy lets the view node subscribe to."""
    root = ElementTree.parse(ROOT / "config/sros2_policy.xml")
    rules = root.iterfind("enclaves/enclave[@path='/ivf_ros/view']/profiles/profile/topics")
    (topics,) = (list(rule) for rule in rules if rule.get("subscribe"))
    return {"/" + (topic.text or "").lstrip("/") for topic in topics}


@pytest.mark.dds
def test_page_shows_what_the_node_publishes(
    graph: Graph, watch: Any, tiny_weights: Path, tmp_path: Path
) -> None:
    graph.start_fusion(tiny_weights, mode="replay")
    process, url = start_view(graph)
    assert graph.node.count_subscribers("/fusion/fused/image") == 0  # nobody looks
    assert b"/fusion" in ask(url, "")
    watcher = watch(url)
    graph.until(lambda: graph.node.count_subscribers("/fusion/mask/image") == 1)
    images = [(smooth_image(64, 96, n), smooth_image(64, 96, n + 9)[..., 0]) for n in range(6)]
    bag = write_pairs(tmp_path / "bag", images)
    # The view node subscribes to the cameras, too.
    graph.play(bag, wait_for_node="fusion", wait_for_subscribers_seconds=60.0)
    graph.until(lambda: watcher.status["count"] >= 6 and len(watcher.status["counters"]) > 1)
    values = json.loads(ask(url, "frames/5"))
    assert {"fused", "overlay", "mask"} <= set(values["panels"])
    assert values["size"] == [96, 64]
    assert sum(values["shares"]) == pytest.approx(1, abs=0.01)
    assert [entry["name"] for entry in watcher.status["classes"]][2] == "person"
    counters = dict(watcher.status["counters"])
    graph.until(lambda: dict(watcher.status["counters"]).get("pairs out") == 6)
    assert counters["pairs in"] >= 0
    assert image(url, "frames/5/fused.png").shape == (64, 96, 3)
    if "rgb" in values["panels"]:
        np.testing.assert_array_equal(image(url, "frames/5/rgb.png"), images[5][0])
    used = {name for name, _ in graph.node.get_subscriber_names_and_types_by_node("view", "/")} - {
        "/parameter_events"
    }
    assert used <= policy()
    watcher.stop()
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0, output
    assert "Traceback" not in output


@pytest.mark.dds
def test_a_taken_port_ends_the_node(graph: Graph) -> None:
    _, url = start_view(graph)
    port = int(url.rstrip("/").rpartition(":")[2])
    second = graph.start("view_node", "-r", "__node:=other", port=port)
    output = second.communicate(timeout=SECONDS)[0]
    assert second.returncode == 1
    assert f"port {port}: cannot listen there" in output


def test_loopback_is_the_default() -> None:
    assert {p.name: p.default for p in PARAMETERS}["host"] == "127.0.0.1"


class TestLiveView:
    def filled(self, count: int) -> LiveView:
        view = LiveView("/fusion")
        view.take_classes(MFNET)
        for number in range(count):
            stamp = number * 10**8
            view.take_input("rgb", stamp, np.full((8, 12, 3), number, np.uint8))
            view.take_input("thermal", stamp + 10**6, np.full((8, 12), number, np.uint8))
            view.take_result("fused", stamp, np.full((8, 12, 3), number, np.uint8))
            view.take_result("mask", stamp, np.full((4, 6), number % 9, np.uint8))
        return view

    def test_parts_of_a_frame_are_put_together(self) -> None:
        view = self.filled(3)
        assert view.status(-1, 1)["count"] == 3
        values = view.frame(2)
        assert values["panels"] == ["fused", "overlay", "mask", "thermal", "rgb"]
        assert values["shares"][2] == 1
        for name in ("rgb.png", "thermal.png", "fused.png"):
            data = np.frombuffer(view.content(2, name, {}).data, np.uint8)
            assert (cv2.imdecode(data, cv2.IMREAD_UNCHANGED) == 2).all()

    def test_old_frames_are_dropped(self) -> None:
        view = self.filled(200)
        status = view.status(-1, 0)
        assert (status["count"], status["first"]) == (200, 176)
        with pytest.raises(LookupError, match="no longer kept"):
            view.frame(3)

    def test_images_are_freed_while_nobody_looks(self) -> None:
        view = self.filled(3)
        view.forget_images()
        status = view.status(-1, 0)
        assert (status["count"], status["first"]) == (3, 3)
        with pytest.raises(LookupError):
            view.frame(2)
        view.take_result("fused", 10**9, np.zeros((8, 12, 3), np.uint8))
        view.take_result("mask", 10**9, np.zeros((4, 6), np.uint8))
        assert view.frame(3)["number"] == 3

    def test_a_frame_waits_for_its_mask(self) -> None:
        view = self.filled(2)
        view.take_result("fused", 10**9, np.zeros((8, 12, 3), np.uint8))
        assert view.status(-1, 0)["count"] == 2
        view.take_result("fused", 2 * 10**9, np.zeros((8, 12, 3), np.uint8))
        assert view.status(-1, 0)["count"] == 3  # the load policy left its mask out
        assert view.frame(2)["panels"] == ["fused"]

    def test_a_bag_that_is_played_again_gives_new_frames(self) -> None:
        view = self.filled(3)
        view.take_result("fused", 0, np.full((8, 12, 3), 77, np.uint8))
        view.take_result("mask", 0, np.zeros((4, 6), np.uint8))
        assert view.status(-1, 0)["count"] == 4

    def test_reports_become_counters_losses_and_events(self) -> None:
        view = self.filled(1)
        for lost in (0, 3):
            view.take_report(
                state="", lost={"dropped: late": lost}, counters={"pairs in": 5},
                timings={"model": 3.0}, facts=[],
            )  # fmt: skip
        fault = {"camera": "RGB camera", "severity": "unusable", "text": "black", "remedy": "cap"}
        view.take_health([fault], 3, "thermal")
        status = view.status(-1, -1)
        assert ["dropped: late", 3] in status["counters"]
        assert sum(status["timeline"]["lost"]) == 3
        assert max(status["timeline"]["severity"]) == 3
        assert status["timeline"]["events"][0]["text"] == "RGB camera: black"
        assert view.frame(0)["alone"] == "thermal"

    def test_a_request_for_a_newer_frame_ends_with_the_view(self) -> None:
        view = self.filled(1)
        began = time.monotonic()
        waiting = threading.Thread(target=view.status, args=(-1, 0))
        waiting.start()
        view.close()
        waiting.join(SECONDS)
        assert not waiting.is_alive()
        assert time.monotonic() - began < SECONDS
