"""View of a running node: its newest frames, put together from messages by their stamps."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.images.symptoms import Severity
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.view.panels import Images, class_legend, class_shares, page_values
from ivf_core.view.protocol import Content
from ivf_core.view.timeline import Timeline

__all__ = ["LiveView"]

_KEPT_FRAMES = 24
_KEPT_BYTES = 128 * 2**20
_WAITING_STAMPS = 12  # inputs that may wait for their result
_APART_NS = 500_000_000  # no pair's thermal image is so far from its RGB image
_WINDOW_SECONDS = 120
_POLL_SECONDS = 4.0  # a request for a newer frame waits so long
_WATCHED_SECONDS = 10.0


@dataclass
class _LiveFrame:
    """Parts of one frame; `arrived` is in monotonic seconds."""

    number: int
    stamp: float
    arrived: float
    fused: np.ndarray | None = None
    labels: np.ndarray | None = None
    thermal: np.ndarray | None = None
    rgb: np.ndarray | None = None

    def has(self, kind: str) -> bool:
        return (self.fused if kind == "fused" else self.labels) is not None

    @property
    def size_bytes(self) -> int:
        parts = (self.fused, self.labels, self.thermal, self.rgb)
        return sum(part.nbytes for part in parts if part is not None)


@dataclass
class _Report:
    """Latest reports of the node."""

    counters: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    facts: list[list[str]] = field(default_factory=list)
    health: list[dict[str, str]] = field(default_factory=list)
    alone: str = ""
    state: str = "waiting for the node"


class LiveView:
    """View of a running node, with the interface `View`.

    A node feeds it with messages, from one thread. The newest 24 frames are kept, and a
    time line of two minutes.

    Args:
        title: name of the node.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._changed = threading.Condition()  # guards all below
        self._frames: OrderedDict[int, _LiveFrame] = OrderedDict()  # by stamp in ns
        self._inputs: dict[str, OrderedDict[int, np.ndarray]] = {
            "thermal": OrderedDict(), "rgb": OrderedDict(),
        }  # fmt: skip
        self._count = 0
        self._class_set: ClassSet | None = None
        self._report = _Report()
        self._normalizer = ThermalNormalizer()
        self._began = time.monotonic()
        self._timeline = Timeline(1.0, _WINDOW_SECONDS, moving=True)
        self._asked = -_WATCHED_SECONDS
        self._closed = False

    # The feeding thread

    @property
    def is_watched(self) -> bool:
        """True while a page asks for frames; without one nothing need be subscribed to."""
        with self._changed:
            return time.monotonic() - self._asked < _WATCHED_SECONDS

    def forget_images(self) -> None:
        """Free all frames, since nobody looks at them; later ones continue their numbers."""
        with self._changed:
            self._frames.clear()
            for waiting in self._inputs.values():
                waiting.clear()

    def take_input(self, camera: str, stamp_ns: int, image: np.ndarray) -> None:
        """Take an image of a camera.

        Args:
            camera: "rgb" or "thermal".
            stamp_ns: its stamp.
            image: H x W x 3 uint8 RGB, or h x w uint8, uint16 or float32.
        """
        with self._changed:
            if camera == "thermal":
                image = self._normalizer(image, stamp_ns / 1e9)
            waiting = self._inputs[camera]
            waiting[stamp_ns] = image
            while len(waiting) > _WAITING_STAMPS:
                waiting.popitem(last=False)
            if stamp_ns in self._frames and camera == "rgb":
                self._frames[stamp_ns].rgb = image

    def take_result(self, kind: str, stamp_ns: int, image: np.ndarray) -> None:
        """Take a result of the node; the parts of one frame have the same stamp.

        Args:
            kind: "fused" or "mask".
            stamp_ns: its stamp.
            image: H x W x 3 uint8 RGB, or class ids, h x w uint8.
        """
        now = time.monotonic()
        with self._changed:
            frame = self._frames.get(stamp_ns)
            if frame is not None and frame.has(kind):  # a bag that is played again
                del self._frames[stamp_ns]
                frame = None
            if frame is None:
                frame = _LiveFrame(self._count, stamp_ns / 1e9, now)
                self._count += 1
                frame.rgb = self._inputs["rgb"].get(stamp_ns)
                frame.thermal = self._nearest_thermal(stamp_ns)
                self._frames[stamp_ns] = frame
                self._timeline.advance(now - self._began)
            if kind == "fused":
                frame.fused = image
            else:
                frame.labels = image
            size = sum(one.size_bytes for one in self._frames.values())
            while len(self._frames) > _KEPT_FRAMES or (
                size > _KEPT_BYTES and len(self._frames) > 2
            ):
                size -= self._frames.popitem(last=False)[1].size_bytes
            self._changed.notify_all()

    def take_classes(self, class_set: ClassSet | None) -> None:
        """Take the classes of the masks.

        Args:
            class_set: classes that the node announces, or None.
        """
        with self._changed:
            self._class_set = class_set

    def take_report(
        self,
        *,
        state: str,
        lost: Mapping[str, int],
        counters: Mapping[str, int],
        timings: Mapping[str, float],
        facts: list[list[str]],
    ) -> None:
        """Take a report of the node's diagnostics.

        Args:
            state: what the node does, in words.
            lost: number of dropped pairs and lone images so far, by reason.
            counters: numbers for the page, by label; those of `lost` come on their own.
            timings: median milliseconds by stage.
            facts: values for the page, as label and text.
        """
        now = time.monotonic() - self._began
        with self._changed:
            self._timeline.advance(now)
            before = self._report.counters
            for reason, count in lost.items():
                if before and count > before.get(reason, 0):
                    self._timeline.lose(now, count - before.get(reason, 0))
            if before and state != self._report.state:
                self._timeline.add_event(now, max(0, self._count - 1), Severity.NOTE, state)
            self._report.state = state
            self._report.counters = {**counters, **lost}
            self._report.timings = dict(timings)
            self._report.facts = facts

    def take_health(self, health: list[dict[str, str]], severity: int, alone: str) -> None:
        """Take the health of the cameras.

        Args:
            health: camera, severity, text and remedy of each.
            severity: the worst `Severity`.
            alone: camera that is used alone, or "".
        """
        now = time.monotonic() - self._began
        with self._changed:
            self._timeline.advance(now)
            self._timeline.examine(now, severity)
            if alone:
                self._timeline.use_alone(now)
            known = {one["camera"]: one["text"] for one in self._report.health}
            for one in health:
                if known.get(one["camera"], "in order") != one["text"]:
                    number = max(0, self._count - 1)
                    text = f"{one['camera']}: {one['text']}"
                    self._timeline.add_event(now, number, severity, text)
            self._report.health, self._report.alone = health, alone

    # The server's threads

    def describe(self) -> dict[str, Any]:
        """Return what does not change while the page is open; see `View`."""
        return page_values(self._title, live=True, facts=[], legend=[], rate_hz=10.0)

    def status(self, since: int, after: int) -> dict[str, Any]:
        """Return counters, events and the time line; waits for a newer frame; see `View`."""
        deadline = time.monotonic() + _POLL_SECONDS
        with self._changed:
            self._asked = time.monotonic()
            while not self._closed and self._ready() - 1 <= after:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    break
            self._asked = time.monotonic()
            self._timeline.advance(self._asked - self._began)
            oldest = next(iter(self._frames.values()), None)
            first = self._count if oldest is None else oldest.number
            return {
                "first": first,
                "count": self._ready(),
                "duration": self._asked - self._began,
                "timeline": self._timeline.to_json(),
                "counters": [[label, count] for label, count in self._report.counters.items()],
                "classes": class_legend(self._class_set),
                "note": self._report.state,
                "complete": False,
            }

    def frame(self, number: int) -> dict[str, Any]:
        """Return the values of a frame; see `View`."""
        with self._changed:
            frame = self._find(number)
            images = self._images(frame)
            shown = frame.fused if frame.fused is not None else frame.labels
            assert shown is not None
            return {
                "number": number,
                "name": f"live_{number:06d}",
                "seconds": round(frame.arrived - self._began, 4),
                "size": list(shown.shape[1::-1]),
                "panels": images.names(),
                "alone": self._report.alone,
                "failed": "",
                "health": self._report.health,
                "timings": [[n, round(ms, 2)] for n, ms in self._report.timings.items()],
                "facts": [["stamp", f"{frame.stamp:.3f} s"], *self._report.facts],
                "shares": class_shares(frame.labels, self._class_set),
            }

    def content(self, number: int, name: str, options: Mapping[str, str]) -> Content:
        """Return an image of a frame, or all of them in one file; see `View`."""
        if name == "frame.zip":
            values = self.frame(number)
            with self._changed:
                images = self._images(self._find(number))
            return images.archive(values["name"], values, options)
        with self._changed:
            images = self._images(self._find(number))
        return images.encode(name, options)

    def close(self) -> None:
        """Answer requests that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ready(self) -> int:
        """Return the number of frames that can be shown: without a newest that lacks its mask."""
        newest = next(reversed(self._frames.values()), None)
        if newest is None:
            return self._count
        if newest.fused is None:
            return self._count - 1
        lacks_mask = newest.labels is None and self._class_set is not None
        return self._count - 1 if lacks_mask else self._count

    def _find(self, number: int) -> _LiveFrame:
        for frame in self._frames.values():
            if frame.number == number:
                return frame
        raise LookupError(f"frame {number} is no longer kept")

    def _images(self, frame: _LiveFrame) -> Images:
        return Images(frame.fused, frame.labels, frame.thermal, frame.rgb, self._class_set)

    def _nearest_thermal(self, stamp_ns: int) -> np.ndarray | None:
        """Return the waiting thermal image nearest to a stamp, with the lock held."""
        waiting = self._inputs["thermal"]
        nearest = min(waiting, key=lambda other: abs(other - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > _APART_NS:
            return None
        return waiting[nearest]
