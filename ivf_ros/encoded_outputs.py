"""Encoded results of the fusion node: JPEG, PNG and Autoware's masks, in threads of their own.

The raw results are published first. An image is encoded afterwards, and only while its topic has
a subscriber, so that neither the raw topics nor the next pair wait for an encoder.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ivf_core.class_sets import ClassSet
from ivf_ros.autoware_masks import to_autoware_mask
from ivf_ros.conversions import to_jpeg, to_png
from ivf_ros.diagnostics import OK, WARN, Finding, percentiles
from ivf_ros.transport import image_topics
from ivf_ros.worker import Mailbox, Worker

__all__ = ["ENCODED", "EncodedOutputs"]

_KEPT_TIMINGS = 500


@dataclass(frozen=True)
class _Job:
    """Image that is to be encoded, with its header and what the encoder needs."""

    image: np.ndarray
    header: Header
    class_set: ClassSet | None
    jpeg_quality: int


def _as_jpeg(job: _Job) -> CompressedImage:
    return to_jpeg(job.image, job.jpeg_quality, job.header)


def _as_png(job: _Job) -> CompressedImage:
    return to_png(job.image, job.header)


def _for_autoware(job: _Job) -> Image:
    assert job.class_set is not None
    return to_autoware_mask(job.image, job.class_set, job.header)


_ENCODERS: Mapping[str, tuple[str, type, Callable[[_Job], Any]]] = {
    "fused": ("~/fused/image", CompressedImage, _as_jpeg),
    "overlay": ("~/overlay/image", CompressedImage, _as_jpeg),
    "mask": ("~/mask/image", CompressedImage, _as_png),
    "autoware": ("~/mask/autoware", Image, _for_autoware),
}

ENCODED = tuple(_ENCODERS)
"""Names of the encoded results."""


class _Channel:
    """Topic of one encoded result, with its thread while the node is active.

    The worker's thread calls `put`, the channel's own thread `_encode`, the executor's thread
    all others.
    """

    def __init__(self, name: str, publisher: Any, encode: Callable[[_Job], Any]) -> None:
        self._name = name
        self.publisher = publisher
        self._to_message = encode
        self._lock = threading.Lock()
        self._mailbox: Mailbox[_Job] = Mailbox(keep_all=False)
        self._worker: Worker[_Job] | None = None
        self._clear()

    def _clear(self) -> None:
        self.published = self.replaced = self.failed = 0
        self._last_error = ""
        self._milliseconds: deque[float] = deque(maxlen=_KEPT_TIMINGS)
        self._bytes: deque[int] = deque(maxlen=_KEPT_TIMINGS)

    def start(self, *, keep_all: bool) -> None:
        """Start the thread, with counters of zero."""
        self._clear()
        self._mailbox = Mailbox(keep_all=keep_all)
        self._worker = Worker(
            self._mailbox, self._encode, self._on_error, name=f"encode {self._name}"
        )

    def stop(self, *, finish: bool) -> None:
        """End the thread, which finishes what it has received, or only the image at hand."""
        if self._worker is not None:
            left = self._worker.stop(discard=not finish)
            self._worker = None
            with self._lock:
                self.replaced += left

    def put(self, job: _Job) -> None:
        """Hand over an image; the newest one replaces another that waits, except in a replay."""
        if self._mailbox.put(job):
            with self._lock:
                self.replaced += 1

    def _encode(self, job: _Job) -> None:
        start = time.perf_counter()
        message = self._to_message(job)
        milliseconds = (time.perf_counter() - start) * 1e3
        self.publisher.publish(message)
        with self._lock:
            self.published += 1
            self._milliseconds.append(milliseconds)
            self._bytes.append(len(message.data))

    def _on_error(self, error: Exception) -> None:
        with self._lock:
            self.failed += 1
            self._last_error = f"{type(error).__name__}: {error}"

    def report(self) -> tuple[dict[str, str], str]:
        """Return counters and percentiles by key, nothing if there was no image, and the error."""
        with self._lock:
            counters = {
                "published": self.published, "replaced": self.replaced, "failed": self.failed
            }  # fmt: skip
            if not any(counters.values()):
                return {}, ""
            values = {name: str(count) for name, count in counters.items()}
            for key, value in percentiles(self._milliseconds).items():
                values[f"encode_ms.{key}"] = f"{value:.3f}"
            if self._bytes:
                values["bytes.median"] = f"{statistics.median(self._bytes):.0f}"
            return values, self._last_error


class EncodedOutputs:
    """Publishers of encoded results, from configuration to cleanup.

    Each topic has a thread from `start` to `stop`. Live, an image that still waits when the next
    one comes is replaced and counted; a replay encodes all.

    Args:
        node: owner of the publishers, whose remappings apply: a compressed topic follows the
            remapping of its raw one, as with image_transport.
        publisher: creates a publisher of results from type and topic.
    """

    def __init__(self, node: LifecycleNode, publisher: Callable[[type, str], Any]) -> None:
        self._failed_before = 0
        self._channels: dict[str, _Channel] = {}
        for name, (base, kind, encode) in _ENCODERS.items():
            topic = image_topics(node, base)["compressed"] if kind is CompressedImage else base
            self._channels[name] = _Channel(name, publisher(kind, topic), encode)

    def wanted(self) -> frozenset[str]:
        """Return the names of the results whose topics have a subscriber now."""
        return frozenset(
            name
            for name, channel in self._channels.items()
            if channel.publisher.get_subscription_count() > 0
        )

    def start(self, *, keep_all: bool) -> None:
        """Start the threads.

        Args:
            keep_all: encode every image (replay), instead of the newest (live).
        """
        self._failed_before = 0
        for channel in self._channels.values():
            channel.start(keep_all=keep_all)

    def stop(self, *, finish: bool) -> None:
        """End the threads.

        Args:
            finish: encode and publish the images received so far; otherwise drop and count them.
        """
        for channel in self._channels.values():
            channel.stop(finish=finish)

    def put(
        self,
        name: str,
        image: np.ndarray,
        header: Header,
        class_set: ClassSet | None,
        settings: Mapping[str, Any],
    ) -> None:
        """Encode and publish an image, later and in another thread.

        Args:
            name: one of `ENCODED`.
            image: H x W x 3 uint8 RGB for fused and overlay, H x W uint8 class ids for the
                others; must not be changed afterwards.
            header: header of the message.
            class_set: classes of the weights.
            settings: the node's parameters by name; `jpeg_quality` is used.
        """
        self._channels[name].put(_Job(image, header, class_set, settings["jpeg_quality"]))

    def finding(self) -> Finding:
        """Return level, message and the counters of all topics, for diagnostics."""
        values: dict[str, str] = {}
        texts, failed, last_error = [], 0, ""
        for name, channel in self._channels.items():
            report, error = channel.report()
            if report:
                values |= {f"{name}.{key}": value for key, value in report.items()}
                texts.append(f"{report['published']} {name}")
                failed += int(report["failed"])
                last_error = error or last_error
        text = f"published: {', '.join(texts)}" if texts else "no subscriber"
        level = WARN if failed > self._failed_before else OK
        self._failed_before = failed
        return level, text + (f"; {failed} failed: {last_error}" if failed else ""), values
