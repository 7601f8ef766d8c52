"""Threads of a replay and the queues between them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ivf_core.replay.threads import Sink, prefetched


def test_prefetched_items_come_in_order_and_errors_after_them() -> None:
    def source():
        yield from range(20)
        raise KeyError("end")

    taken = []
    with pytest.raises(KeyError), prefetched(source(), 3) as items:
        taken.extend(items)
    assert taken == list(range(20))


def test_source_is_closed_when_the_block_ends_early() -> None:
    closed = []

    def source():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    with prefetched(source(), 2) as items:
        next(items)
    assert closed == [True]


def test_sink_raises_the_exception_of_its_function() -> None:
    done = []

    def work(item: int) -> None:
        if item == 2:
            raise ValueError("two")
        done.append(item)

    def feed() -> None:
        with Sink(work, 1, "work") as sink:
            for item in range(50):
                sink.put(item)

    with pytest.raises(ValueError, match="two"):
        feed()
    assert done == [0, 1]


def test_sink_finishes_its_items() -> None:
    done: list[int] = []
    with Sink(done.append, 2, "work") as sink:
        for item in range(30):
            sink.put(item)
    assert done == list(range(30))


def test_sink_enters_and_leaves_its_context_in_its_thread() -> None:
    events: list[tuple[str, int]] = []

    def note(event: str) -> None:
        events.append((event, threading.get_ident()))

    @contextmanager
    def context() -> Iterator[None]:
        note("open")
        yield
        note("close")

    with Sink(note, 2, "work", within=context()) as sink:
        sink.put("item")
    assert [event for event, _ in events] == ["open", "item", "close"]
    assert {thread for _, thread in events} != {threading.get_ident()}
    assert len({thread for _, thread in events}) == 1


@pytest.mark.parametrize("part", ["open", "close"])
def test_sink_raises_the_exception_of_its_context(part: str) -> None:
    @contextmanager
    def context() -> Iterator[None]:
        if part == "open":
            raise OSError(part)
        yield
        raise OSError(part)

    def feed() -> None:
        with Sink(lambda item: None, 1, "work", within=context()) as sink:
            for item in range(50):
                sink.put(item)

    with pytest.raises(OSError, match=part):
        feed()
