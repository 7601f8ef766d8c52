"""Snapshot requests: from the service that receives them to the files of a fused pair."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.task import Future

from ivf_core.class_sets import ClassSet
from ivf_core.images.files import write_image
from ivf_core.inference import FusionResult
from ivf_core.inference.pipeline import resize_labels
from ivf_ros.outputs import overlay_of

__all__ = ["SnapshotRequest", "Snapshots", "write_snapshot"]

_LIMIT_SECONDS = 10.0
_MOST_OPEN = 8


class SnapshotRequest:
    """Request for the files of the next fused pair.

    Args:
        directory: folder of the files.
        requested_at: monotonic time of the request, in seconds.

    Attributes:
        done: future of the answer `(success, message)`; only `Snapshots` sets it.
    """

    def __init__(self, directory: Path, requested_at: float) -> None:
        self.directory = directory
        self.requested_at = requested_at
        self.done: Future = Future()


class Snapshots:
    """Open snapshot requests; each one is answered exactly once.

    Any thread may call any method. In the fusion node, the executor's thread adds
    requests, awaits their answers and lets them expire, while the worker's thread takes
    them, puts them back when their pair is dropped, and answers them. Answers are set
    outside the lock, so that a callback of a future may call this class again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[SnapshotRequest, bool] = {}  # all open ones; False: taken by a pair

    def request(self, directory: Path, now: float) -> Future:
        """Add a request; earlier ones stay open and are answered as well.

        Args:
            directory: folder of the files.
            now: monotonic time in seconds.

        Returns:
            The future of the answer: success, and the files' pattern or the reason.
        """
        request = SnapshotRequest(directory, now)
        with self._lock:
            is_full = len(self._waiting) >= _MOST_OPEN
            if not is_full:
                self._waiting[request] = True
        if is_full:
            request.done.set_result((False, f"{_MOST_OPEN} snapshots wait for a pair already"))
        return request.done

    def take(self) -> list[SnapshotRequest]:
        """Take all requests that wait for a pair, oldest first."""
        with self._lock:
            taken = [request for request, waiting in self._waiting.items() if waiting]
            self._waiting.update(dict.fromkeys(taken, False))
            return taken

    def put_back(self, requests: Iterable[SnapshotRequest]) -> None:
        """Let requests whose pair was dropped wait for the next pair."""
        with self._lock:
            self._waiting.update((r, True) for r in requests if r in self._waiting)

    def finish(self, requests: Iterable[SnapshotRequest], success: bool, message: str) -> None:
        """Answer those of `requests` that are still open."""
        with self._lock:
            unanswered = [r for r in requests if self._waiting.pop(r, None) is not None]
        for request in unanswered:
            request.done.set_result((success, message))

    def expire(self, now: float) -> None:
        """Answer requests for which no pair was fused in time.

        A request that a pair has taken stays open until that pair is fused or dropped.

        Args:
            now: monotonic time in seconds.
        """
        with self._lock:
            late = [
                request
                for request, waiting in self._waiting.items()
                if waiting and now - request.requested_at > _LIMIT_SECONDS
            ]
            for request in late:
                del self._waiting[request]
        for request in late:
            request.done.set_result((False, f"no pair was fused within {_LIMIT_SECONDS:.0f} s"))

    def fail_all(self, message: str) -> None:
        """Answer all open requests with a failure."""
        with self._lock:
            requests = list(self._waiting)
        self.finish(requests, False, message)


def write_snapshot(
    directory: Path,
    stamp_ns: int,
    visible: np.ndarray,
    result: FusionResult,
    class_set: ClassSet | None,
    settings: Mapping[str, Any],
) -> str:
    """Write a pair and its results as PNG files.

    Args:
        directory: folder of the files; it is created if needed.
        stamp_ns: stamp of the RGB image in nanoseconds; the file names start with it.
        visible: H x W x 3 uint8 RGB.
        result: result of the pair.
        class_set: classes of the weights; None writes no mask and no overlay.
        settings: the node's parameters by name.

    Returns:
        The pattern of the files' paths.

    Raises:
        OSError: a file cannot be written; names the pattern.
    """
    stem = directory / f"{stamp_ns}"
    images = {"visible": visible, "infrared": result.infrared}
    if result.fused is not None:
        images["fused"] = result.fused
    if result.labels is not None and class_set is not None:
        images["mask"] = resize_labels(result.labels, result.infrared.shape)
        images["overlay"] = overlay_of(result, class_set, settings)
    pattern = f"{stem}_*.png"
    try:
        for name, image in images.items():
            write_image(f"{stem}_{name}.png", image)
    except (OSError, ValueError) as error:
        raise OSError(f"cannot write {pattern}: {error}") from error
    return pattern
