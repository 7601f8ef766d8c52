"""Processing of one pair of messages in the worker: decode, fuse, publish, count."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.clock import Clock

from ivf_core.class_sets import ClassSet
from ivf_core.inference import FusionPipeline, FusionResult, ImagePair
from ivf_ros.conversions import MessageError, to_infrared, to_visible
from ivf_ros.diagnostics import PairStatistics, WarningLog
from ivf_ros.outputs import Outputs, Wanted
from ivf_ros.overload import EngineUse, LoadPolicy
from ivf_ros.snapshots import SnapshotRequest, Snapshots, write_snapshot
from ivf_ros.synchronizer import stamp_to_ns, stamp_to_seconds

__all__ = ["PairMessages", "PairProcessor"]

_CLOCK_LIMIT_MS = 60_000.0
"""Largest latency that is believed: beyond it, stamps and clock are unrelated."""


@dataclass(frozen=True)
class PairMessages:
    """Pair of messages on its way to the worker.

    Attributes:
        rgb: `Image` or `CompressedImage` of the RGB camera.
        thermal: likewise of the thermal camera.
        arrival: `time.perf_counter()` when the pair was complete, in seconds.
    """

    rgb: Any
    thermal: Any
    arrival: float


class DroppedPairError(Exception):
    """Reason why a pair is dropped without a result.

    Args:
        reason: name of the counter in diagnostics.
        text: explanation for the log.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class PairProcessor:
    """Decoding, fusion and publication of pairs, one at a time.

    Created by the executor's thread, called by the worker's thread only. Meanwhile the
    executor's thread may load other weights or change parameters: `load.plan`,
    `pipeline_for` and `settings` are called once for each pair, which keeps their results.

    Args:
        pipeline: returns the loaded pipeline; not None until the worker has ended.
        pipeline_for: returns the pipeline for a call of the engine.
        load: load policy.
        settings: returns the node's parameters by name.
        outputs: publishers; must exist until the worker has ended.
        statistics: counters of the pairs.
        snapshots: requests to serve.
        warnings: log of dropped and repaired pairs.
        clock: the node's clock, for latencies.
    """

    def __init__(
        self,
        pipeline: Callable[[], FusionPipeline | None],
        pipeline_for: Callable[[EngineUse], FusionPipeline | None],
        load: LoadPolicy,
        settings: Callable[[], Mapping[str, Any]],
        outputs: Outputs,
        statistics: PairStatistics,
        snapshots: Snapshots,
        warnings: WarningLog,
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._pipeline_for = pipeline_for
        self._load = load
        self._settings = settings
        self._outputs = outputs
        self._statistics = statistics
        self._snapshots = snapshots
        self._warnings = warnings
        self._clock = clock

    def __call__(self, pair: PairMessages) -> None:
        """Process one pair: publish its results, or drop and count it.

        Args:
            pair: messages of both cameras.
        """
        wanted = self._outputs.wanted()
        requests = self._snapshots.take()
        if not (wanted or requests):
            self._statistics.drop("no_subscriber")
            return
        try:
            self._run(pair, wanted, requests)
        except DroppedPairError as drop:
            self._statistics.drop(drop.reason)
            self._warnings.warn(drop.reason, f"pair dropped: {drop}")
            self._snapshots.put_back(requests)  # the next pair may serve them
        except Exception as error:
            self._snapshots.finish(requests, False, f"{type(error).__name__}: {error}")
            raise

    def on_error(self, error: Exception) -> None:
        """Count a pair whose processing failed unexpectedly; the worker calls this.

        Args:
            error: exception that `__call__` raised.
        """
        self._statistics.drop("internal_error")
        self._warnings.warn("internal_error", f"pair dropped: {type(error).__name__}: {error}")

    def _run(self, pair: PairMessages, wanted: Wanted, requests: list[SnapshotRequest]) -> None:
        """Decode, fuse and publish a pair, and serve the snapshot requests with it."""
        start = time.perf_counter()
        loaded, settings = self._pipeline(), self._settings()
        assert loaded is not None
        has_head = loaded.class_set is not None
        if not (has_head or wanted.fused or requests):
            raise DroppedPairError("no_head", f"weights '{loaded.weights}' have no head: no masks")
        plan = self._load.plan(wanted, everything=bool(requests), has_head=has_head)
        if not (plan.use.fused or plan.use.labels):
            self._statistics.drop("skipped_by_load_policy")
            done = time.perf_counter()
            self._load.processed(done, plan, done - start, None)
            return
        pipeline = self._pipeline_for(plan.use)
        assert pipeline is not None
        visible, infrared = _decode(pair)
        decoded = time.perf_counter()
        stamp = stamp_to_seconds(pair.thermal.header.stamp)
        result = _fuse(pipeline, ImagePair(visible, infrared, stamp), plan.use)
        if result.repaired_pixels:
            self._warnings.warn(
                "thermal NaN", f"thermal image: {result.repaired_pixels} pixels are not finite"
            )
        fused = time.perf_counter()
        if (hold := self._load.hold(fused, pair.arrival, plan)) > 0:
            time.sleep(hold)
        held = time.perf_counter()
        header = pair.rgb.header
        self._outputs.publish(header, result, wanted, pipeline.class_set, settings)
        latency = self._age_ms(header.stamp)
        self._outputs.publish_latency(latency)
        done = time.perf_counter()
        timings = {
            "wait_ms": (start - pair.arrival) * 1e3,
            "decode_ms": (decoded - start) * 1e3,
            "prepare_ms": result.prepare_ms,
            "model_ms": result.model_ms,
            "publish_ms": (done - held) * 1e3,
            "handling_ms": (done - pair.arrival) * 1e3,
        }
        if not math.isnan(latency):
            timings["latency_ms"] = latency
            timings["overhead_ms"] = latency - timings["wait_ms"] - timings["model_ms"]
        masked = result.labels is not None and wanted.masks
        self._statistics.went_out(timings, repaired=result.repaired_pixels > 0, masked=masked)
        seconds = done - start - (held - fused)
        self._load.processed(done, plan, seconds, result.infrared.shape)
        for request in requests:
            self._serve(request, stamp_to_ns(header.stamp), visible, result, pipeline.class_set)

    def _serve(
        self,
        request: SnapshotRequest,
        stamp_ns: int,
        visible: np.ndarray,
        result: FusionResult,
        class_set: ClassSet | None,
    ) -> None:
        """Write the files of a snapshot request, and answer it."""
        try:
            message = write_snapshot(
                request.directory, stamp_ns, visible, result, class_set, self._settings()
            )
        except OSError as error:
            self._snapshots.finish([request], False, str(error))
        else:
            self._snapshots.finish([request], True, message)

    def _age_ms(self, stamp: Any) -> float:
        """Return the time since a stamp in ms; NaN if stamps and clock are unrelated."""
        age = (self._clock.now().nanoseconds - stamp_to_ns(stamp)) / 1e6
        return age if abs(age) < _CLOCK_LIMIT_MS else math.nan


def _decode(pair: PairMessages) -> tuple[np.ndarray, np.ndarray]:
    """Decode both images, or raise `DroppedPairError` for a malformed one."""
    camera = "rgb"
    try:
        visible = to_visible(pair.rgb)
        camera = "thermal"
        return visible, to_infrared(pair.thermal)
    except MessageError as error:
        raise DroppedPairError(f"{camera}_{error.reason}", f"{camera} image: {error}") from error


def _fuse(pipeline: FusionPipeline, pair: ImagePair, use: EngineUse) -> FusionResult:
    """Compute the planned results of a pair, or raise `DroppedPairError`."""
    try:
        return pipeline(
            pair,
            fused=use.fused,
            labels=use.labels,
            confidence=use.confidence,
            scale=use.scale,
        )
    except ValueError as error:
        raise DroppedPairError("unusable_pair", str(error)) from error
    except RuntimeError as error:  # raised by PyTorch: out of memory, a lost device
        raise DroppedPairError("model_error", str(error)) from error
