"""Processing of one pair of messages in the worker: decode, fuse, publish, count."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rclpy.clock import Clock

from ivf_core.inference import FusionPipeline, FusionResult, ImagePair
from ivf_core.inference.pipeline import absent_visible, resize_image
from ivf_core.rigs.remap import AnyRegistration
from ivf_core.system.memory import return_freed_memory
from ivf_ros.conversions import MessageError, to_infrared, to_visible
from ivf_ros.diagnostics import PairStatistics, WarningLog
from ivf_ros.health_monitor import HealthMonitor
from ivf_ros.outputs import Outputs, Wanted
from ivf_ros.overload import EngineUse, LoadPolicy
from ivf_ros.snapshots import SnapshotRequest, Snapshots, write_snapshot
from ivf_ros.steady_size import SteadySize
from ivf_ros.synchronizer import stamp_to_ns, stamp_to_seconds

__all__ = ["PairMessages", "PairProcessor"]

_CLOCK_LIMIT_MS = 60_000.0
"""Largest latency that is believed: beyond it, stamps and clock are unrelated."""

_IDLE_SECONDS = 0.25  # between two looks at the cameras while no result is wanted
_PERSON = "person"
_DECODERS = {"rgb": to_visible, "thermal": to_infrared}

_Images = dict[str, np.ndarray]  # decoded images by camera


@dataclass(frozen=True)
class PairMessages:
    """Pair of messages, or a message without a partner, on its way to the worker.

    Attributes:
        rgb: `Image` or `CompressedImage` of the RGB camera; None if absent.
        thermal: likewise of the thermal camera.
        arrival: `time.perf_counter()` when the pair was complete, in seconds.
        alone: camera whose image is fused alone, "rgb" or "thermal"; an image of the other
            one is examined only. "" for a pair.
    """

    rgb: Any
    thermal: Any
    arrival: float
    alone: str = ""

    @property
    def messages(self) -> dict[str, Any]:
        """Messages that are present, by camera."""
        both = {"rgb": self.rgb, "thermal": self.thermal}
        return {camera: message for camera, message in both.items() if message is not None}

    @property
    def header(self) -> Any:
        """Header of the results: that of the RGB image, if it is fused."""
        return (self.rgb if self.uses("rgb") else self.thermal).header

    def uses(self, camera: str) -> bool:
        """Return whether the image of a camera is fused.

        Args:
            camera: "rgb" or "thermal".
        """
        return self.alone in ("", camera)


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
        health: health of the cameras, which every decoded image is added to.
        watch: called with the RGB image as fused, the thermal image as received and the stamp
            of each pair that was published.
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
        health: HealthMonitor,
        watch: Callable[[np.ndarray, np.ndarray, float], None],
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
        self._health = health
        self._watch = watch
        self._steady = SteadySize()
        self._rgb_size: tuple[int, ...] | None = None  # height and width of the last RGB image
        self._next_look = 0.0
        self._warnings = warnings
        self._clock = clock

    def __call__(self, pair: PairMessages) -> None:
        """Process one pair: publish its results, or drop and count it.

        Args:
            pair: messages of both cameras, or of one.
        """
        wanted = self._outputs.wanted()
        requests = self._snapshots.take()
        if not (wanted or requests):
            self._statistics.drop("no_subscriber")
            self._examine_now_and_then(pair)
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
        if not (has_head or wanted.fused_images or requests):
            raise DroppedPairError("no_head", f"weights '{loaded.weights}' have no head: no masks")
        plan = self._load.plan(wanted, everything=bool(requests), has_head=has_head)
        if not (plan.use.fused or plan.use.labels):
            self._statistics.drop("skipped_by_load_policy")
            done = time.perf_counter()
            self._load.processed(done, plan, done - start, None)
            return
        pipeline = self._pipeline_for(plan.use)
        assert pipeline is not None
        images = self._decode(pair)
        decoded = time.perf_counter()
        given = self._pair_of(pair, images, pipeline.registration)
        images_in_use = self._at_steady_size(given, loaded)
        try:
            result = _fuse(pipeline, images_in_use, plan.use)
        except DroppedPairError:
            self._examine(pair, images)  # its health may be the reason
            raise
        self._warn_of_pixels(result)
        fused = time.perf_counter()
        if (hold := self._load.hold(fused, pair.arrival, plan)) > 0:
            time.sleep(hold)
        held = time.perf_counter()
        size = given.visible.shape[:2]
        published_result = _at_size(result, size)
        self._outputs.publish(pair.header, published_result, wanted, pipeline.class_set, settings)
        latency = self._age_ms(pair.header.stamp)
        self._outputs.publish_latency(latency)
        published = time.perf_counter()
        try:
            self._examine(pair, images)
            self._examine_pair(pair, images, result, pipeline)
        except Exception as error:  # the pair is published, and counts as that only
            self._warnings.warn("camera health", f"camera health: {type(error).__name__}: {error}")
        done = time.perf_counter()
        timings = {
            "wait_ms": (start - pair.arrival) * 1e3,
            "decode_ms": (decoded - start) * 1e3,
            "prepare_ms": result.prepare_ms,
            "registration_ms": result.registration_ms,
            "model_ms": result.model_ms,
            "publish_ms": (published - held) * 1e3,
            "handling_ms": (published - pair.arrival) * 1e3,
            "health_ms": (done - published) * 1e3,
        }
        if not math.isnan(latency):
            timings["latency_ms"] = latency
            timings["overhead_ms"] = latency - timings["wait_ms"] - timings["model_ms"]
        masked = result.labels is not None and wanted.masks
        self._statistics.went_out(
            timings,
            repaired=result.repaired_pixels > 0,
            left_out=result.left_out_pixels > 0,
            masked=masked,
            alone=pair.alone,
        )
        seconds = done - start - (held - fused)
        self._load.processed(done, plan, seconds, result.infrared.shape)
        visible = given.visible if published_result.visible is None else published_result.visible
        self._serve(requests, stamp_to_ns(pair.header.stamp), visible, published_result, pipeline)
        if self._steady.is_large(size):
            del given, published_result, images
            return_freed_memory()

    def _warn_of_pixels(self, result: FusionResult) -> None:
        """Log that thermal pixels were filled, or left out of the gain control."""
        if result.repaired_pixels:
            self._warnings.warn(
                "thermal NaN", f"thermal image: {result.repaired_pixels} pixels are not finite"
            )
        if result.left_out_pixels:
            self._warnings.warn(
                "thermal pixels without scene",
                f"thermal image: {result.left_out_pixels} pixels look like no scene (a fill value, "
                "telemetry or dead pixels) and are left out of the gain control",
            )

    def _serve(
        self,
        requests: list[SnapshotRequest],
        stamp_ns: int,
        visible: np.ndarray,
        result: FusionResult,
        pipeline: FusionPipeline,
    ) -> None:
        """Write the files of snapshot requests, once for each folder, and answer them."""
        for directory in dict.fromkeys(request.directory for request in requests):
            same = [request for request in requests if request.directory == directory]
            try:
                message = write_snapshot(
                    directory, stamp_ns, visible, result, pipeline.class_set, self._settings()
                )
            except OSError as error:
                self._warnings.warn("snapshot", str(error))
                self._snapshots.finish(same, False, str(error))
            else:
                self._snapshots.finish(same, True, message)

    def _age_ms(self, stamp: Any) -> float:
        """Return the time since a stamp in ms; NaN if stamps and clock are unrelated."""
        age = (self._clock.now().nanoseconds - stamp_to_ns(stamp)) / 1e6
        return age if abs(age) < _CLOCK_LIMIT_MS else math.nan

    def _decode(self, pair: PairMessages) -> _Images:
        """Decode the messages of a pair.

        Raises:
            DroppedPairError: an image that is to be fused is malformed.
        """
        images = {}
        limit = round(self._settings()["maximum_megapixels"] * 1e6)
        for camera, message in pair.messages.items():
            try:
                images[camera] = _DECODERS[camera](message, limit)
            except MessageError as error:
                stamp = stamp_to_seconds(message.header.stamp)
                self._health.unreadable(camera, str(error), stamp)
                if pair.uses(camera):
                    raise DroppedPairError(
                        f"{camera}_{error.reason}", f"{camera} image: {error}"
                    ) from error
        return images

    def _pair_of(
        self, pair: PairMessages, images: _Images, registration: AnyRegistration
    ) -> ImagePair:
        """Return the images to fuse; zeros stand for a camera that is not in use."""
        if "rgb" in images:
            self._rgb_size = images["rgb"].shape[:2]
        if pair.alone == "rgb":
            return ImagePair(images["rgb"], None)
        seconds = stamp_to_seconds(pair.thermal.header.stamp)
        if pair.alone != "thermal":
            return ImagePair(images["rgb"], images["thermal"], seconds)
        visible = absent_visible(images["thermal"], registration, self._rgb_size)
        return ImagePair(visible, images["thermal"], seconds)

    def _at_steady_size(self, pair: ImagePair, loaded: FusionPipeline) -> ImagePair:
        """Scale the RGB image of a pair whose size is an outlier; a replay has none."""
        size = pair.visible.shape[:2]
        if self._steady.admit(size) and self._settings()["mode"] == "live":
            loaded.forget_sizes()
            return_freed_memory()
        if self._settings()["mode"] == "replay" or size == self._steady.size:
            return pair
        assert self._steady.size is not None
        height, width = self._steady.size
        self._warnings.warn(
            "size of the images",
            f"RGB image of {size[1]} x {size[0]} between those of {width} x {height}: fused at "
            "their size until it lasts",
        )
        return replace(pair, visible=resize_image(pair.visible, self._steady.size))

    def _examine(self, pair: PairMessages, images: _Images) -> None:
        """Examine the images of a pair, each on its own."""
        for camera, image in images.items():
            stamp = stamp_to_seconds(pair.messages[camera].header.stamp)
            self._health.examine(camera, image, stamp)

    def _examine_pair(
        self, pair: PairMessages, images: _Images, result: FusionResult, pipeline: FusionPipeline
    ) -> None:
        """Examine the thermal image of a pair relative to the scene and the RGB image."""
        if not pair.uses("thermal"):
            return
        persons = None
        if result.labels is not None and pipeline.class_set is not None:
            names = pipeline.class_set.names
            if _PERSON in names:
                persons = result.labels == names.index(_PERSON)
        seconds = stamp_to_seconds(pair.thermal.header.stamp)
        if not pair.alone and result.visible is not None:
            self._watch(result.visible, images["thermal"], seconds)
        self._health.examine_pair(
            result.visible if pair.uses("rgb") else None,
            result.infrared,
            seconds,
            coverage=result.coverage,
            persons=persons,
        )

    def _examine_now_and_then(self, pair: PairMessages) -> None:
        """Examine the images of a pair that nobody wants fused, at a low rate."""
        now = time.perf_counter()
        if now < self._next_look and not self._outputs.health_wanted():
            return
        self._next_look = now + _IDLE_SECONDS
        with contextlib.suppress(DroppedPairError):  # its health was noted
            self._examine(pair, self._decode(pair))


def _at_size(result: FusionResult, size: tuple[int, ...]) -> FusionResult:
    """Scale the images of a result to the size of its pair; class ids keep theirs."""
    if result.infrared.shape == size:
        return result
    return replace(
        result,
        fused=None if result.fused is None else resize_image(result.fused, size),
        infrared=resize_image(result.infrared, size),
        visible=None if result.visible is None else resize_image(result.visible, size),
    )


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
