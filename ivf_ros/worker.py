"""The thread that runs the model, and the mailbox it takes its pairs from."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Mailbox", "Worker"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Hands items from callbacks to the worker.

    Args:
        keep_all: True queues every item (replay); False holds the newest one
            only (live), so that the worker never falls behind the cameras.
    """

    def __init__(self, *, keep_all: bool) -> None:
        self._items: deque[T] = deque(maxlen=None if keep_all else 1)
        self._ready = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Leave an item; True where it replaced one or, after closing, was refused."""
        with self._ready:
            if self._closed:
                return True
            lost = len(self._items) == self._items.maxlen
            self._items.append(item)
            self._ready.notify()
            return lost

    def get(self) -> T | None:
        """Wait for the oldest item; None once the mailbox is closed and empty."""
        with self._ready:
            self._ready.wait_for(lambda: self._items or self._closed)
            return self._items.popleft() if self._items else None

    def close(self, *, discard: bool) -> int:
        """Take no more items; returns how many of those inside were discarded."""
        with self._ready:
            self._closed = True
            left = len(self._items) if discard else 0
            if discard:
                self._items.clear()
            self._ready.notify_all()
            return left


class Worker(Generic[T]):
    """A thread that calls `process` with every item of a mailbox.

    Args:
        mailbox: where items come from.
        process: called in the thread; expected to handle what can go wrong with an item.
        on_error: called with an exception that `process` let through; the thread goes on.
    """

    def __init__(
        self,
        mailbox: Mailbox[T],
        process: Callable[[T], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._mailbox = mailbox
        self._process = process
        self._on_error = on_error
        self._thread = threading.Thread(target=self._run, name="fusion worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._mailbox.get()) is not None:
            try:
                self._process(item)
            except Exception as error:
                self._on_error(error)

    def stop(self, *, discard: bool) -> int:
        """Close the mailbox and wait for the thread.

        Args:
            discard: leave undone what is in the mailbox, but for the item in work.

        Returns:
            How many items were discarded.
        """
        left = self._mailbox.close(discard=discard)
        self._thread.join()
        return left
