"""Worker threads connected by queues of a few items, so that memory stays flat."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, TypeVar

__all__ = ["Sink", "prefetched"]

T = TypeVar("T")

_END = object()

_NICENESS = 10


def _give_way() -> None:
    """Lower the priority of the calling thread below that of the model's.

    The threads of an engine wait for each other actively: one that is displaced by another
    stage costs the time of all. On Linux, priorities belong to threads.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


@contextmanager
def prefetched(items: Iterable[T], size: int) -> Iterator[Iterator[T]]:
    """Iterate in a thread named "read", ahead of the consumer; a context manager.

    An exception of the iteration is raised to the consumer, after the items before it.
    When the block ends early, the iteration is closed.

    Args:
        items: iterated in the thread alone.
        size: number of items to be ahead.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(size)
    stopping = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not stopping.is_set():
            try:
                waiting.put((item, error), timeout=0.1)
                return
            except queue.Full:
                continue

    def fill() -> None:
        _give_way()
        source = iter(items)
        try:
            for item in source:
                put(item)
                if stopping.is_set():
                    break
            put(_END)
        except BaseException as error:
            put(_END, error)
        finally:
            if hasattr(source, "close"):
                source.close()

    def taken() -> Iterator[T]:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=fill, name="read", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopping.set()
        thread.join()


class Sink(Generic[T]):
    """Thread that calls a function with each item put, in order; a context manager.

    The block's end waits for the last item. An exception of the function or of its context
    ends the work, and is raised by the next `put` or by the block's end.

    Args:
        function: called with each item, in the thread.
        size: number of items that may wait.
        name: name of the thread.
        within: context that the thread enters before the first item and leaves after the
            last, so that files can be opened, written and closed in one thread.
    """

    def __init__(
        self,
        function: Callable[[T], None],
        size: int,
        name: str,
        within: AbstractContextManager[object] | None = None,
    ) -> None:
        self._function = function
        self._within = within or nullcontext()
        self._waiting: queue.Queue[Any] = queue.Queue(size)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Sink[T]:
        self._thread.start()
        return self

    def put(self, item: T) -> None:
        """Hand an item to the thread; wait while the queue is full.

        Args:
            item: not to be changed by the caller any more.
        """
        if self._error is not None:
            raise self._error
        self._waiting.put(item)

    def __exit__(self, exc_type: type[BaseException] | None, *_error: object) -> None:
        self._waiting.put(_END)
        self._thread.join()
        if exc_type is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        _give_way()
        ended = False
        try:
            with self._within:
                while (item := self._waiting.get()) is not _END:
                    self._function(item)
                ended = True
        except BaseException as error:
            self._error = error
        while not ended:  # empty the queue, so that no `put` waits for ever
            ended = self._waiting.get() is _END
