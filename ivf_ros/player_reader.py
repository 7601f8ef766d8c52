"""Reading of a bag for the player: messages grouped by frame, read ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from ivf_core.bags.info import BagError, BagMessage
from ivf_core.bags.reader import BagReader

__all__ = ["FrameGroup", "ReadAhead", "group_by_frame"]

_READ_AHEAD = 8
"""Number of frames, with all their messages, that wait in memory."""

_LONGEST_GROUP_NS = 10**9


@dataclass(frozen=True)
class FrameGroup:
    """Frame of the leading camera, and all messages recorded nearest to it.

    Attributes:
        messages: messages in the order of their times.
        frame: the leading camera's frame among them; None while that camera is silent.
    """

    messages: list[BagMessage]
    frame: BagMessage | None

    @property
    def reference(self) -> BagMessage:
        """Message that stands for the group's time: the frame, or else the first message."""
        return self.frame or self.messages[0]


def group_by_frame(messages: Iterable[BagMessage], topic: str) -> Iterator[FrameGroup]:
    """Cut a stream of messages midway between the frames of a topic.

    The two images of a pair thus stay together, whichever was recorded first.

    Args:
        messages: messages in the order of their times.
        topic: topic of the leading camera.

    Yields:
        The groups, which together contain all messages in their order.
    """
    pending: list[BagMessage] = []
    frame: BagMessage | None = None
    for message in messages:
        if message.topic == topic:
            if frame is not None:
                middle = (frame.time_ns + message.time_ns) // 2
                cut = sum(one.time_ns <= middle for one in pending)
                yield FrameGroup(pending[:cut], frame)
                pending = pending[cut:]
            frame = message
        elif pending and message.time_ns - pending[0].time_ns > _LONGEST_GROUP_NS:
            # The leading camera is silent: do not accumulate the others' messages.
            yield FrameGroup(pending, frame)
            pending, frame = [], None
        pending.append(message)
    if pending:
        yield FrameGroup(pending, frame)


class ReadAhead:
    """Thread that reads a bag ahead of its use, so that the disk does not disturb the timing.

    One thread calls `groups` and `join`; the reader's thread, started by `groups`, fills
    the queue between them.

    Args:
        bag: path of the bag.
        streams: topics to read, as (name, type).
        leading: topic of the leading camera.
        loops: number of times the bag is read; None repeats it until stopped.
        stopping: ends reading and iteration soon after it is set; any thread may set it.
    """

    def __init__(
        self,
        bag: str | Path,
        streams: Set[tuple[str, str]],
        leading: str,
        loops: int | None,
        stopping: threading.Event,
    ) -> None:
        self._bag = bag
        self._streams = streams
        self._leading = leading
        self._loops = loops
        self._stopping = stopping
        self._queue: queue.Queue[tuple[int, FrameGroup] | Exception | None] = queue.Queue(
            _READ_AHEAD
        )
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)

    def groups(self) -> Iterator[tuple[int, FrameGroup]]:
        """Start reading, and yield the index of the loop and the group, in order.

        Raises:
            BagError: the bag is damaged, or holds no message of these topics.
        """
        self._thread.start()
        empty = True
        while not self._stopping.is_set():
            try:
                item = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise item
            if item is None:
                if empty:
                    names = ", ".join(sorted(name for name, _ in self._streams))
                    raise BagError(f"bag '{self._bag}': it holds no message of {names}")
                return
            empty = False
            yield item

    def join(self) -> None:
        """Wait for the reader's thread, after `stopping` was set or all groups were read."""
        if self._thread.is_alive():
            self._thread.join()

    def _read(self) -> None:
        """Put all groups into the queue, then None, or the error that ended reading."""
        names = {name for name, _ in self._streams}
        loop = 0
        try:
            while not self._stopping.is_set() and (self._loops is None or loop < self._loops):
                with BagReader(self._bag) as reader:
                    messages = (m for m in reader.raw(names) if (m.topic, m.type) in self._streams)
                    for group in group_by_frame(messages, self._leading):
                        if not self._put((loop, group)):
                            return
                loop += 1
            self._put(None)
        except Exception as error:
            self._put(error)

    def _put(self, item: tuple[int, FrameGroup] | Exception | None) -> bool:
        """Wait for room in the queue; return False if reading is to stop."""
        while not self._stopping.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
