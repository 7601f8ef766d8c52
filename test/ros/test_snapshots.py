"""Snapshot requests, made and served by several threads: each is answered exactly once."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from rclpy.task import Future

from ivf_ros import snapshots
from ivf_ros.snapshots import Snapshots

NOW = 100.0
LATE = NOW + 11.0
HERE = Path("shots")


class CountedFuture(Future):
    """Future that counts its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0

    def set_result(self, result: object) -> None:
        self.answers += 1
        super().set_result(result)


@pytest.fixture(autouse=True)
def counted_futures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "Future", CountedFuture)


def answer(future: CountedFuture) -> tuple[bool, str] | None:
    assert future.answers == future.done()
    return future.result()


def test_all_requests_are_served_by_the_next_pair() -> None:
    requests = Snapshots()
    first, second = requests.request(HERE, NOW), requests.request(Path("other"), NOW)
    taken = requests.take()
    assert [request.directory for request in taken] == [HERE, Path("other")]
    assert requests.take() == []
    requests.finish(taken, True, "done")
    assert answer(first) == answer(second) == (True, "done")


def test_request_made_while_a_pair_holds_another_one_is_not_lost() -> None:
    requests = Snapshots()
    first = requests.request(HERE, NOW)
    taken = requests.take()
    second = requests.request(HERE, NOW)
    requests.put_back(taken)  # the pair was dropped
    requests.finish(requests.take(), True, "done")
    assert answer(first) == answer(second) == (True, "done")


def test_only_the_first_answer_counts() -> None:
    requests = Snapshots()
    future = requests.request(HERE, NOW)
    taken = requests.take()
    requests.fail_all("the node was deactivated")
    requests.finish(taken, True, "done")
    requests.put_back(taken)
    requests.expire(LATE)
    assert answer(future) == (False, "the node was deactivated")
    assert requests.take() == []


def test_request_expires_while_it_waits_but_not_while_a_pair_holds_it() -> None:
    requests = Snapshots()
    future = requests.request(HERE, NOW)
    requests.expire(NOW + 9.0)
    taken = requests.take()
    requests.expire(LATE)
    assert answer(future) is None
    requests.put_back(taken)
    requests.expire(LATE)
    assert answer(future) == (False, "no pair was fused within 10 s")


def test_requests_beyond_a_number_are_rejected_at_once() -> None:
    requests = Snapshots()
    futures = [requests.request(HERE, NOW) for _ in range(10)]
    assert [answer(f) for f in futures[8:]] == [(False, "8 snapshots wait for a pair already")] * 2
    requests.finish(requests.take(), True, "done")
    assert [answer(f) for f in futures[:8]] == [(True, "done")] * 8
    assert answer(requests.request(HERE, NOW)) is None


def test_answer_may_cause_the_next_request() -> None:
    requests = Snapshots()
    futures = [requests.request(HERE, NOW)]
    futures[0].add_done_callback(lambda _: futures.append(requests.request(HERE, NOW)))
    requests.finish(requests.take(), True, "done")
    assert [future.done() for future in futures] == [True, False]


def test_threads_lose_no_request_and_answer_none_twice() -> None:
    requests = Snapshots()
    futures: list[CountedFuture] = []
    stopping = threading.Event()

    def ask(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(300):
            # Some are so old that they expire at once.
            futures.append(requests.request(HERE, NOW - 60.0 * (source.random() < 0.3)))
            time.sleep(source.random() * 1e-4)

    def serve(seed: int) -> None:
        source = random.Random(seed)
        while not stopping.is_set():
            taken = requests.take()
            time.sleep(source.random() * 1e-4)
            if source.random() < 0.5:
                requests.put_back(taken)
            else:
                requests.finish(taken, True, "done")

    def expire() -> None:
        while not stopping.is_set():
            requests.expire(NOW)
            time.sleep(1e-4)

    asking = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    others = [threading.Thread(target=serve, args=(10,)), threading.Thread(target=expire)]
    for thread in (*asking, *others):
        thread.start()
    for thread in asking:
        thread.join()
    stopping.set()
    for thread in others:
        thread.join()
    requests.fail_all("the node was deactivated")
    assert len(futures) == 900
    assert [future.answers for future in futures] == [1] * 900
    assert {future.result()[1] for future in futures} >= {"done", "no pair was fused within 10 s"}
