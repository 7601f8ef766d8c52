"""Stages of a replay: pairs under way at once, their order and number, and the sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from replays import rewrite, write_drive

from ivf_core.bags.convert import RGB_TOPIC, START_NS, THERMAL_TOPIC
from ivf_core.bags.info import BagMessage
from ivf_core.bags.reader import BagReader
from ivf_core.inference import FusionResult
from ivf_core.replay.frames import FusedFrame
from ivf_core.replay.pair_reader import InputPair
from ivf_core.replay.result_sources import NoResultError
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.stages.fuse import FuseStage
from ivf_core.replay.stages.score import Sampling


class _Source:
    """Source of black results, which fails for every fifth pair; counts pairs under way."""

    class_set, weights, recorded, engine = None, "none", False, "none"

    def __init__(self, most_started: int) -> None:
        self.at_once = self.most_started = most_started
        self.under_way = self.most_seen = 0

    def reset(self) -> None:
        """Start a bag."""

    def start(self, pair: InputPair) -> Callable[[], FusionResult]:
        self.under_way += 1
        self.most_seen = max(self.most_seen, self.under_way)

        def result() -> FusionResult:
            self.under_way -= 1
            if pair.index % 5 == 2:
                raise NoResultError("fifth", f"pair {pair.index}")
            return FusionResult(None, None, np.zeros((4, 4), np.uint8), 0.0, 0.0, 0)

        return result


def pair(index: int, failed: str = "") -> InputPair:
    images = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    return InputPair(index, index, index, index, "", *images, failed)


@pytest.mark.parametrize("most_started", [1, 4])
def test_order_failures_and_number_under_way(most_started: int) -> None:
    message = BagMessage("/rgb", "sensor_msgs/msg/Image", 0, b"")
    items: list[InputPair | BagMessage] = []
    for k in range(23):
        items += [message, message, pair(k, "undecodable" if k == 10 else "")]
    source = _Source(most_started)
    stage = FuseStage(source, 0)
    seen: list[int | str | None] = []
    for item in stage.fuse((item, 0.0) for item in items):
        if isinstance(item, FusedFrame):
            seen.append(item.index)
        else:
            seen.append("message" if item is not None else None)
    expected: list[int | str | None] = []
    for k in range(23):
        expected += ["message", "message", None if k % 5 == 2 or k == 10 else k]
    assert seen == expected
    assert stage.failures.counts == {"fifth": 5, "undecodable": 1}
    assert stage.failures.details["fifth"] == "pair 2"
    assert source.most_seen == most_started


def test_messages_without_pairs_do_not_pile_up() -> None:
    taken = 0

    def items() -> Iterator[tuple[InputPair | BagMessage, float]]:
        nonlocal taken
        yield pair(0), 0.0
        for taken in range(1, 1000):
            yield BagMessage("/thermal", "sensor_msgs/msg/Image", taken, b""), 0.0

    waiting = []
    for given, _ in enumerate(FuseStage(_Source(4), 0).fuse(items()), start=1):
        waiting.append(taken + 1 - given)
    assert max(waiting) <= 20
    assert len(waiting) == 1000


def messages(bag: Path) -> list[BagMessage]:
    with BagReader(bag) as reader:
        return [m._replace(message=bytes(m.message)) for m in reader.raw()]


@pytest.mark.parametrize("inputs", [False, True])
def test_several_pairs_at_once_give_the_same_bytes(
    tiny_weights: Path, tmp_path: Path, inputs: bool
) -> None:
    def spoil(message: BagMessage) -> BagMessage:
        if message.time_ns == START_NS + 300_000_000 and message.topic == RGB_TOPIC:
            return message._replace(message=message.message.replace(b"rgb8", b"rgb9"))
        if message.time_ns == START_NS + 800_000_000 and message.topic == THERMAL_TOPIC:
            return message._replace(message=message.message.replace(b"mono8", b"mono9"))
        return message

    bag = rewrite(write_drive(tmp_path / "drive", 14, labels=True), tmp_path / "bag", spoil)
    outputs = {}
    for threads in (1, 3):
        settings = ReplaySettings(
            weights=str(tiny_weights), engine="openvino", precision="fp32", threads=threads,
            inputs=inputs,
        )  # fmt: skip
        outputs[threads] = tmp_path / str(threads)
        summary = replay_bag(bag, outputs[threads], settings)
        assert summary["throughput"]["pairs_at_once"] == threads
        assert set(summary["throughput"]["processor_ms"]) == {"read", "write", "score", "fuse"}
        assert summary["failed"] == {"rgb_unknown_encoding": 1, "thermal_unknown_encoding": 1}
    assert messages(outputs[1] / "bag") == messages(outputs[3] / "bag")
    first, second = (
        {
            str(path.relative_to(output)): path.read_bytes()
            for path in (output / "frames.csv", *sorted((output / "images").iterdir()))
        }
        for output in outputs.values()
    )
    assert first == second


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (1, Sampling(1, 10)),
        (14, Sampling(1, 10)),
        (100, Sampling(3, 21)),
        (240, Sampling(4, 48)),
        (1800, Sampling(15, 60)),
        (36_000, Sampling(300, 300)),
    ],
)
def test_sampling_by_the_length_of_a_bag(pairs: int, expected: Sampling) -> None:
    assert Sampling.of(pairs, 0) == expected
    assert Sampling.of(pairs, 7) == Sampling(expected.image_every, 7)
