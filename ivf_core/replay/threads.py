"""Work in threads side by side, with queues that hold a few items: memory stays flat."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["Sink", "prefetched"]

T = TypeVar("T")

_END = object()


@contextmanager
def prefetched(items: Iterable[T], size: int) -> Iterator[Iterator[T]]:
    """Draw items in a thread, up to `size` ahead of who takes them.

    What the iteration raises is raised to the taker, after the items before it.
    When the block ends early, the iteration is closed.
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

    def draw() -> None:
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

    thread = threading.Thread(target=draw, name="read", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopping.set()
        thread.join()


class Sink(Generic[T]):
    """A thread that calls a function with each item put, in order; a context manager.

    It runs `within` a context.

    The block's end waits for the last item. What the function raises ends the
    thread, and is raised by the next `put` or by the block's end.
    """

    def __init__(
        self,
        function: Callable[[T], None],
        size: int,
        name: str,
        within: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._function = function
        self._within = within
        self._waiting: queue.Queue[Any] = queue.Queue(size)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Sink[T]:
        self._thread.start()
        return self

    def put(self, item: T) -> None:
        """Leave an item; waits while the queue is full."""
        if self._error is not None:
            raise self._error
        self._waiting.put(item)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._waiting.put(_END)
        self._thread.join()
        if exc_type is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        with self._within():
            while (item := self._waiting.get()) is not _END:
                if self._error is None:  # after an error: empty the queue, so that nobody waits
                    try:
                        self._function(item)
                    except BaseException as error:
                        self._error = error
