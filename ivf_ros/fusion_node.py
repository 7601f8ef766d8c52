"""The fusion node: thermal and RGB topics in, fused pictures and semantic masks out.

Subscriptions feed the synchronizer, whose pairs go into a mailbox; a worker
takes them from there, so that neither the model nor a decoder ever runs inside
a callback. The life of a node: weights are loaded on configure, subscriptions
and worker live from activate to deactivate, which also frees the model.

All callbacks run in one thread, the executor's. Two other threads exist: the
worker, and for a moment the one that loads new weights.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from ivf_core.images.files import write_image
from ivf_core.images.registration import Registration
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.inference import FusionPipeline, FusionResult, ImagePair
from ivf_core.inference.engine import describe
from ivf_core.inference.pipeline import resize_labels
from ivf_core.models.checkpoints import load_model
from ivf_core.system.memory import keep_freed_memory, return_freed_memory
from ivf_core.system.usage import processor_seconds, resident_mb
from ivf_ros.compat import Subscriber, SubscriptionEventCallbacks
from ivf_ros.conversions import MessageError, to_infrared, to_visible
from ivf_ros.diagnostics import OK, CameraWatch, PairStatistics, status
from ivf_ros.outputs import Outputs, overlay_of
from ivf_ros.parameters import PARAMETERS, declare, refusal
from ivf_ros.synchronizer import PairSynchronizer, stamp_to_ns
from ivf_ros.worker import Mailbox, Worker

__all__ = ["FusionNode", "main"]

_NS = 1_000_000_000
_REPLAY = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
_LOG_PERIOD_SECONDS = 10.0
_SNAPSHOT_SECONDS = 10.0
_LOOK_SECONDS = {"live": 0.5, "replay": 0.05}  # a replay's player waits for what we tell it
_CLOCK_LIMIT_MS = 60_000.0
"""A latency beyond this says that stamps and clock have nothing to do with each other."""


@dataclass(frozen=True)
class _Job:
    """A pair of messages on its way to the worker."""

    rgb: Any
    thermal: Any
    arrival: float


class _Snapshot:
    """A request for the next result's files; `done` gets success and message."""

    def __init__(self, directory: Path, asked: float) -> None:
        self.directory = directory
        self.asked = asked
        self.done: Future = Future()


def _transition(
    step: Callable[[FusionNode, LifecycleState], None],
) -> Callable[[FusionNode, LifecycleState], TransitionCallbackReturn]:
    """A transition that fails with a message: rclpy swallows exceptions without a word."""

    @functools.wraps(step)
    def wrapped(node: FusionNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            step(node, state)
        except Exception as error:
            node.get_logger().error(f"{step.__name__} failed: {error}")
            node.get_logger().debug(traceback.format_exc())
            node.abandon()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    return wrapped


class FusionNode(LifecycleNode):
    """Lifecycle node around `FusionPipeline`; docs/interfaces.md lists its interfaces."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("fusion", **kwargs)
        self._values = declare(self, PARAMETERS)
        self._setting_class_names = False
        self.declare_parameter(
            "class_names",
            RosParameter.Type.STRING_ARRAY,
            ParameterDescriptor(
                description="Class names by id, from the weights in use; read only."
            ),
        )
        reason = refusal(self._values, ())
        if reason is not None:
            raise ValueError(reason)
        self.add_on_set_parameters_callback(self._on_set_parameters)

        self._pipeline: FusionPipeline | None = None
        self._normalizer = ThermalNormalizer()
        self._worker: Worker[_Job] | None = None
        self._snapshot: _Snapshot | None = None  # for the worker to take
        self._pending: _Snapshot | None = None  # for the service to answer
        self._last_log: dict[str, float] = {}
        self._outputs: Outputs | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._synchronizer: PairSynchronizer | None = None
        self._subscriptions_in_use: list[Any] = []
        self._mailbox: Mailbox[_Job] = Mailbox(keep_all=False)
        self._statistics = PairStatistics()
        self._watches: dict[str, CameraWatch] = {}
        self._active_since = 0.0
        self._timers: list[Any] = []
        self._apply()
        self._guard_transitions()
        # Both services wait for another thread; in a group of their own they hold up no image.
        services = MutuallyExclusiveCallbackGroup()
        self.create_service(
            Trigger, "~/reload_weights", self._on_reload_weights, callback_group=services
        )
        self.create_service(
            Trigger, "~/save_snapshot", self._on_save_snapshot, callback_group=services
        )

    def _guard_transitions(self) -> None:
        """Answer an impossible transition with "no": rclpy lets it end the process."""
        service = self._service_change_state
        change_state = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except Exception as error:
                self.get_logger().warning(f"transition {request.transition.id} refused: {error}")
                response.success = False
                return response

        service.callback = guarded

    # Parameters

    def _on_set_parameters(self, parameters: list[RosParameter]) -> SetParametersResult:
        if not self._setting_class_names and any(p.name == "class_names" for p in parameters):
            return SetParametersResult(
                successful=False, reason="class_names is read only: it follows from the weights"
            )
        changes = {p.name: p.value for p in parameters if p.name in self._values}
        if not changes:
            return SetParametersResult(successful=True)
        values = {**self._values, **changes}
        reason = refusal(values, changes)
        if reason is not None:
            return SetParametersResult(successful=False, reason=reason)
        self._values = values
        self._apply()
        return SetParametersResult(successful=True)

    def _apply(self) -> None:
        """Hand values to the parts that keep them; the rest is read where it is used."""
        self._normalizer.mode = self._values["thermal_mode"]
        gain = self._normalizer.gain
        gain.smoothing_seconds = self._values["gain_smoothing_seconds"]
        percentiles = self._values["low_percentile"], self._values["high_percentile"]
        if percentiles != gain.percentiles:
            gain.set_percentiles(*percentiles)
        if self._synchronizer is not None:
            self._synchronizer.set_tolerance(self._ns("tolerance_seconds"))
            self._synchronizer.set_offset(self._ns("offset_seconds"))
            self._synchronizer.set_minimum_interval(self._ns("minimum_interval_seconds"))

    def _ns(self, name: str) -> int:
        return round(self._values[name] * _NS)

    # Lifecycle

    @_transition
    def on_configure(self, state: LifecycleState) -> None:
        """Load the weights and create the publishers."""
        self._pipeline = self._load()
        self._outputs = Outputs(self)
        self._announce_classes()

    @_transition
    def on_activate(self, state: LifecycleState) -> None:
        """Subscribe and start the worker; loads the model again after a deactivate."""
        if self._pipeline is None:
            self._pipeline = self._load()
            self._announce_classes()
        self._normalizer.reset()
        self._statistics = PairStatistics()
        self._active_since = time.monotonic()
        replay = self._values["mode"] == "replay"
        self._mailbox = Mailbox(keep_all=replay)
        self._worker = Worker(self._mailbox, self._process, self._on_worker_error)
        self._subscribe(_REPLAY if replay else qos_profile_sensor_data)
        # On steady time: a simulation that stands still is worth a report, too.
        self._timers = [
            self.create_timer(period, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))
            for period, callback in (
                (self._values["diagnostics_period_seconds"], self._publish_diagnostics),
                (_LOOK_SECONDS["replay" if replay else "live"], self._look),
            )
        ]

    @_transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Stop the worker, unsubscribe, free the model; a replay finishes what has come in."""
        self._stop(finish=self._values["mode"] == "replay")
        self._publish_diagnostics()
        self._free()

    @_transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Destroy the publishers and free what is left."""
        self.close()

    @_transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """As cleanup, from any state."""
        self.close()

    @_transition
    def on_error(self, state: LifecycleState) -> None:
        """Back to unconfigured."""
        self.close()

    def close(self) -> None:
        """Stop and free everything; the worker must end before the ROS context does."""
        if self._worker is not None:
            self._stop(finish=False)
            self._publish_diagnostics()
        self._free()
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def abandon(self) -> None:
        """Undo half a transition."""
        self._stop(finish=False)
        self._free()

    def _stop(self, *, finish: bool) -> None:
        """Unsubscribe and join the worker.

        Args:
            finish: work on what has come in; otherwise it is dropped and counted.
        """
        for subscription in self._subscriptions_in_use:
            self.destroy_subscription(subscription)
        self._subscriptions_in_use = []
        for timer in self._timers:
            self.destroy_timer(timer)
        self._timers = []
        if self._synchronizer is not None:
            # The last frames of a replay may still be waiting for a nearer partner.
            self._synchronizer.flush() if finish else self._synchronizer.reset()
        if self._worker is not None:
            self._statistics.drop("deactivated", self._worker.stop(discard=not finish))
            self._worker = None
        self._end_snapshot("the node was deactivated")

    def _free(self) -> None:
        self._pipeline = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return_freed_memory()

    # The model

    def _load(self) -> FusionPipeline:
        """A pipeline of the weights and settings in force; it keeps the stream's gain control."""
        values = self._values
        model = load_model(values["weights"])
        registration = Registration()
        if values["registration_file"]:
            registration = Registration.from_yaml(values["registration_file"])
        pipeline = FusionPipeline(
            model,
            **{name: values[name] for name in ("engine", "device", "precision", "threads")},
            normalizer=self._normalizer,
            registration=registration,
        )
        pipeline.warm_up()
        classes = f"{len(model.class_set)} classes" if model.class_set else "no masks"
        self.get_logger().info(f"weights '{model.name}' ({classes}), {describe(pipeline.engine)}")
        return pipeline

    async def _on_reload_weights(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        if self._pipeline is None:
            response.message = "not configured: configure or activate the node first"
            return response
        loaded: Future = Future()

        def load() -> None:
            try:
                loaded.set_result(self._load())
            except Exception as error:
                loaded.set_result(error)

        threading.Thread(target=load, name="load weights", daemon=True).start()
        result = await loaded  # images are taken meanwhile, and fused with the old weights
        if isinstance(result, Exception):
            response.message = f"{result}; the old weights stay in use"
        elif self._pipeline is None:
            response.message = "the node was deactivated meanwhile"
        else:
            self._pipeline = result
            self._announce_classes()
            response.success = True
            response.message = f"loaded '{result.weights}'"
        return response

    # Topics

    def _announce_classes(self) -> None:
        """Publish the class set, and set the parameter that holds its names."""
        class_set = self._pipeline.class_set if self._pipeline is not None else None
        names = list(class_set.names) if class_set is not None else []
        self._setting_class_names = True
        try:
            self.set_parameters(
                [RosParameter("class_names", RosParameter.Type.STRING_ARRAY, names)]
            )
        finally:
            self._setting_class_names = False
        if self._outputs is not None:
            self._outputs.announce_classes(class_set)

    def _subscribe(self, qos: QoSProfile) -> None:
        images = {camera: self._subscribe_camera(camera, qos) for camera in ("rgb", "thermal")}
        self._synchronizer = PairSynchronizer(
            images["rgb"],
            images["thermal"],
            tolerance_ns=self._ns("tolerance_seconds"),
            queue_size=self._values["queue_size"],
            offset_ns=self._ns("offset_seconds"),
            minimum_interval_ns=self._ns("minimum_interval_seconds"),
        )
        self._synchronizer.registerCallback(self._on_pair)

    def _subscribe_camera(self, camera: str, qos: QoSProfile) -> Subscriber:
        topic, kind = f"{camera}/image_raw", Image
        if self._values[f"{camera}_transport"] == "compressed":
            topic, kind = f"{topic}/compressed", CompressedImage
        # rclpy writes overrides into the profile that it is given: each has its own.
        watch = CameraWatch(self.resolve_topic_name(topic), copy.copy(qos))
        self._watches[camera] = watch

        def on_mismatch(event: Any) -> None:
            policy = str(event.last_policy_kind).rsplit("QOS_POLICY_", maxsplit=1)[-1]
            self._warn(
                f"{camera} QoS",
                f"{watch.topic}: a publisher offers a QoS that does not match "
                f"(policy: {policy}); its images will not come",
            )

        def on_lost(event: Any) -> None:
            watch.lost_events = event.total_count

        subscriber = Subscriber(
            self,
            kind,
            topic,
            qos_profile=watch.qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=on_mismatch, message_lost=on_lost
            ),
        )
        # Registered before the synchronizer, so that the watch sees each image first.
        subscriber.registerCallback(
            lambda message: watch.image(_seconds(message.header), time.monotonic())
        )

        def on_info(message: CameraInfo) -> None:
            watch.camera_info(_seconds(message.header))
            if camera == "rgb" and self._outputs is not None:
                self._outputs.take_camera_info(message)

        self._subscriptions_in_use += [
            subscriber.sub,
            self.create_subscription(CameraInfo, f"{camera}/camera_info", on_info, copy.copy(qos)),
        ]
        return subscriber

    # The path of a pair

    def _on_pair(self, rgb: Any, thermal: Any) -> None:
        self._statistics.came_in()
        if self._mailbox.put(_Job(rgb, thermal, time.perf_counter())):
            self._statistics.drop("replaced_by_newer")

    def _process(self, job: _Job) -> None:
        """In the worker: decode, fuse, publish, count."""
        start = time.perf_counter()
        outputs, pipeline = self._outputs, self._pipeline
        assert outputs is not None  # both outlive the worker
        assert pipeline is not None
        wanted = outputs.wanted()
        snapshot, self._snapshot = self._snapshot, None
        if not wanted and snapshot is None:
            self._statistics.drop("no_subscriber")
            return
        if pipeline.class_set is None and not (wanted.fused or snapshot):
            self._drop("no_head", f"weights '{pipeline.weights}' have no head: no masks", snapshot)
            return
        camera = "rgb"
        try:
            visible = to_visible(job.rgb)
            camera = "thermal"
            infrared = to_infrared(job.thermal)
        except MessageError as error:
            self._drop(f"{camera}_{error.reason}", f"{camera} image: {error}", snapshot)
            return
        decoded = time.perf_counter()
        try:
            result = pipeline(
                ImagePair(visible, infrared, _seconds(job.thermal.header)),
                fused=wanted.fused or wanted.overlay or snapshot is not None,
                labels=wanted.mask or wanted.overlay or snapshot is not None,
            )
        except ValueError as error:
            self._drop("unusable_pair", str(error), snapshot)
            return
        except RuntimeError as error:  # PyTorch's: out of memory, a lost device
            self._drop("model_error", str(error), snapshot)
            return
        if result.repaired_pixels:
            self._warn(
                "thermal NaN", f"thermal image: {result.repaired_pixels} pixels are not finite"
            )
        modelled = time.perf_counter()
        outputs.publish(job.rgb.header, result, wanted, pipeline.class_set, self._values)
        latency = self._age_ms(job.rgb.header)
        outputs.publish_latency(latency)
        done = time.perf_counter()
        timings = {
            "wait_ms": (start - job.arrival) * 1e3,
            "decode_ms": (decoded - start) * 1e3,
            "prepare_ms": result.prepare_ms,
            "model_ms": result.model_ms,
            "publish_ms": (done - modelled) * 1e3,
            "handling_ms": (done - job.arrival) * 1e3,
        }
        if not math.isnan(latency):
            timings["latency_ms"] = latency
            timings["overhead_ms"] = latency - timings["wait_ms"] - timings["model_ms"]
        self._statistics.went_out(timings, repaired=result.repaired_pixels > 0)
        if snapshot is not None:
            self._save(snapshot, job, visible, result, pipeline)

    def _age_ms(self, header: Any) -> float:
        """Time since a stamp; NaN where stamps and clock have nothing to do with each other."""
        age = (self.get_clock().now().nanoseconds - stamp_to_ns(header.stamp)) / 1e6
        return age if abs(age) < _CLOCK_LIMIT_MS else math.nan

    def _drop(self, reason: str, text: str, snapshot: _Snapshot | None) -> None:
        self._statistics.drop(reason)
        self._warn(reason, f"pair dropped: {text}")
        self._snapshot = self._snapshot or snapshot  # the next pair may serve it

    def _on_worker_error(self, error: Exception) -> None:
        self._statistics.drop("internal_error")
        self._warn("internal_error", f"pair dropped: {type(error).__name__}: {error}")
        self._end_snapshot(f"{type(error).__name__}: {error}")

    def _warn(self, kind: str, text: str) -> None:
        """Warn once per kind in a while; the counters in diagnostics tell the rest."""
        now = time.monotonic()
        if now - self._last_log.get(kind, -_LOG_PERIOD_SECONDS) >= _LOG_PERIOD_SECONDS:
            self._last_log[kind] = now
            self.get_logger().warning(text)

    # Snapshots

    async def _on_save_snapshot(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        if self._worker is None:
            response.message = "not active: there are no pairs"
            return response
        directory = Path(self._values["snapshot_directory"]).expanduser()
        self._pending = self._snapshot = _Snapshot(directory, time.monotonic())
        response.success, response.message = await self._pending.done
        return response

    def _end_snapshot(self, message: str) -> None:
        """Answer a snapshot that cannot be taken."""
        if self._pending is not None and not self._pending.done.done():
            self._snapshot = None
            self._pending.done.set_result((False, message))

    def _save(
        self,
        snapshot: _Snapshot,
        job: _Job,
        visible: Any,
        result: FusionResult,
        pipeline: FusionPipeline,
    ) -> None:
        stem = snapshot.directory / f"{stamp_to_ns(job.rgb.header.stamp)}"
        pictures = {"visible": visible, "infrared": result.infrared, "fused": result.fused}
        if result.labels is not None and pipeline.class_set is not None:
            pictures["mask"] = resize_labels(result.labels, result.infrared.shape)
            pictures["overlay"] = overlay_of(result, pipeline.class_set, self._values)
        try:
            for name, picture in pictures.items():
                write_image(f"{stem}_{name}.png", picture)
        except (OSError, ValueError) as error:
            snapshot.done.set_result((False, f"cannot write {stem}_*.png: {error}"))
        else:
            snapshot.done.set_result((True, f"{stem}_*.png"))

    # Diagnostics

    def _look(self) -> None:
        """Several times a second: end what has waited too long."""
        now = time.monotonic()
        if self._pending is not None and now - self._pending.asked > _SNAPSHOT_SECONDS:
            self._end_snapshot(f"no pair came within {_SNAPSHOT_SECONDS:.0f} s")
        if self._values["mode"] == "replay" and self._synchronizer is not None:
            arrivals = [w.last_arrival for w in self._watches.values() if w.last_arrival]
            idle = self._statistics.settled() == self._statistics.pairs_in
            if idle and arrivals and now - max(arrivals) > self._values["timeout_seconds"]:
                self._synchronizer.flush()  # the bag has ended: no nearer partner will come
        self._count_frames_done()

    def _count_frames_done(self) -> None:
        """In replay mode tell the player how many RGB frames are settled."""
        if self._values["mode"] == "replay" and self._synchronizer and self._outputs:
            pairing = self._synchronizer.counters()
            unpaired = sum(n for why, n in pairing.dropped.items() if why.endswith("_visible"))
            self._outputs.publish_frames_done(unpaired + self._statistics.settled())

    def _publish_diagnostics(self) -> None:
        name, now = self.get_fully_qualified_name(), time.monotonic()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        values = self._statistics.report()
        if self._synchronizer is not None:
            pairing = self._synchronizer.counters()
            values |= {f"frames.{reason}": str(n) for reason, n in sorted(pairing.dropped.items())}
            values["time_jumps"] = str(sum(pairing.jumps.values()))
        pipeline = self._pipeline
        if pipeline is not None:
            values["weights"] = pipeline.weights
            values["engine"] = describe(pipeline.engine)
        values["processor_seconds"] = f"{processor_seconds(os.getpid()):.2f}"
        values["memory_mib"] = f"{resident_mb(os.getpid()):.1f}"
        values["mode"] = self._values["mode"]
        values["state"] = "active" if self._worker is not None else "inactive"
        level, text = self._statistics.check()
        message.status = [status(f"{name}: pairs", name, level, text, values)]
        for camera, watch in self._watches.items():
            publishers = self.get_publishers_info_by_topic(watch.topic)
            level, text = watch.check(
                now, self._active_since, self._values["timeout_seconds"], publishers
            )
            message.status.append(
                status(f"{name}: {camera} camera", name, level, text, watch.report())
            )
        # A recording of the results then says how they were made.
        settings = {key: str(value) for key, value in self._values.items()}
        message.status.append(status(f"{name}: settings", name, OK, "in force", settings))
        self._diagnostics.publish(message)


def _seconds(header: Any) -> float:
    return stamp_to_ns(header.stamp) / _NS


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 where it cannot start."""
    keep_freed_memory()
    # Our own handlers: rclpy's would end the context while the worker still publishes.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        node = FusionNode()
    except Exception as error:  # a parameter that is refused at the start
        print(f"fusion_node: {error}", file=sys.stderr)
        rclpy.shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value:
            success = TransitionCallbackReturn.SUCCESS
            if node.trigger_configure() != success or node.trigger_activate() != success:
                return 1
        while not stopping.is_set():
            # A transition may destroy a subscription that this round still waits for.
            with suppress(InvalidHandle):
                executor.spin_once(timeout_sec=0.2)
        return 0
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
