"""Worker threads, for the model and for encoders, and the mailbox from which they take items."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Mailbox", "Worker"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Queue of items between the callbacks and the worker. Any thread may use it.

    Args:
        keep_all: True queues every item up to `LIMIT` (replay); False holds the newest ones
            (live), as many as `put` allows, so that the worker never falls behind the cameras.

    Attributes:
        waits: number of items for which `put` had to wait, because the mailbox was full.
    """

    LIMIT = 64
    """Number of items that wait in a replay: pairs of raw images take megabytes each."""

    def __init__(self, *, keep_all: bool) -> None:
        self._items: deque[T] = deque()
        self._keep_all = keep_all
        self.waits = 0
        self._ready = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, waiting: int = 1) -> int:
        """Add an item; wait while a mailbox that keeps all is full.

        The caller then takes no further messages from its subscriptions, whose reliable
        publishers hold them, and reports no progress to a player, which waits as well.

        Args:
            item: item for the worker.
            waiting: live, the number of items that may wait, with this one.

        Returns:
            The number of items that were lost: earlier ones that this one replaces, or this
            one because the mailbox is closed.
        """
        with self._ready:
            if self._keep_all and len(self._items) >= self.LIMIT:
                self.waits += 1
                self._ready.wait_for(lambda: len(self._items) < self.LIMIT or self._closed)
            if self._closed:
                return 1
            lost = 0 if self._keep_all else max(0, len(self._items) + 1 - waiting)
            for _ in range(lost):
                self._items.popleft()
            self._items.append(item)
            self._ready.notify_all()
            return lost

    def get(self) -> T | None:
        """Wait for the oldest item and take it; None once the mailbox is closed and empty."""
        with self._ready:
            self._ready.wait_for(lambda: self._items or self._closed)
            if not self._items:
                return None
            item = self._items.popleft()
            self._ready.notify_all()
            return item

    def close(self, *, discard: bool) -> int:
        """Accept no more items.

        Args:
            discard: remove the items that were not taken yet.

        Returns:
            The number of removed items.
        """
        with self._ready:
            self._closed = True
            left = len(self._items) if discard else 0
            if discard:
                self._items.clear()
            self._ready.notify_all()
            return left


class Worker(Generic[T]):
    """Thread that calls `process` with every item of a mailbox, from construction to `stop`.

    Args:
        mailbox: source of the items.
        process: called in the thread; expected to handle the usual errors of an item.
        on_error: called in the thread with an exception that `process` raised; the thread
            then continues with the next item.
        name: name of the thread.
    """

    def __init__(
        self,
        mailbox: Mailbox[T],
        process: Callable[[T], None],
        on_error: Callable[[Exception], None],
        name: str = "fusion worker",
    ) -> None:
        self._mailbox = mailbox
        self._process = process
        self._on_error = on_error
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Process items until the mailbox is closed and empty."""
        while (item := self._mailbox.get()) is not None:
            try:
                self._process(item)
            except Exception as error:
                self._on_error(error)

    def stop(self, *, discard: bool) -> int:
        """Close the mailbox and wait for the thread.

        Args:
            discard: do not process the items in the mailbox; an item that is being
                processed is finished.

        Returns:
            The number of discarded items.
        """
        left = self._mailbox.close(discard=discard)
        self._thread.join()
        return left
