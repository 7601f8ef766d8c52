"""Fusion node: thermal and RGB topics in, fused images and semantic masks out.

The subscriptions feed the synchronizer, whose pairs go into a mailbox; a worker takes
them from there, so that neither the model nor a decoder runs inside a callback.
Configure loads the weights; subscriptions and worker exist from activate to deactivate,
which also frees the model.

Threads: all callbacks run in one thread, that of the executor. It owns the node, its
inputs and the model slot. The worker's thread runs `PairProcessor` and touches what that
class receives: publishers, statistics, snapshot requests, the health of the cameras and
the warning log, all of which may be used by several threads. A third thread exists while
weights are reloaded, a fourth one while engines are compiled for another level of the
load policy; and each encoded output has one (`EncodedOutputs`).
"""

from __future__ import annotations

import ivf_ros.quiet_interrupt  # noqa: F401  first: importing the rest takes seconds

# isort: split
import functools
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from ivf_core.camera_choice import StampOrder
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.rigs.remap import AnyRegistration
from ivf_core.system.interrupts import interrupt_flag
from ivf_core.system.memory import keep_freed_memory
from ivf_core.system.user_paths import user_path
from ivf_ros.answers import AnswerTurns
from ivf_ros.compat import initialize, reject_impossible_transitions, spin_once
from ivf_ros.diagnostics import (
    OK,
    WARN,
    DiagnosticsPublisher,
    Finding,
    PairStatistics,
    WarningLog,
    process_report,
)
from ivf_ros.given_parameters import changes_only
from ivf_ros.health_monitor import HealthMonitor
from ivf_ros.inputs import Inputs
from ivf_ros.model_slot import ModelSlot
from ivf_ros.outputs import Outputs
from ivf_ros.overload import LoadPolicy
from ivf_ros.parameters import PARAMETERS, FusionParameters, doubles
from ivf_ros.processing import PairMessages, PairProcessor
from ivf_ros.registration_slot import RegistrationSlot
from ivf_ros.snapshots import Snapshots
from ivf_ros.synchronizer import stamp_to_seconds
from ivf_ros.worker import Mailbox, Worker

__all__ = ["FusionNode", "main"]

# The default keeps ten requests and loses the others silently.
_SERVICE_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
_REPLAY_QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
_STATIC_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_DOUBLES = doubles(PARAMETERS)
_HEALTH_SECONDS = 1.0
_CHECK_SECONDS = {"live": 0.5, "replay": 0.05}  # the player waits for what a replay reports


def _transition(
    step: Callable[[FusionNode, LifecycleState], None],
) -> Callable[[FusionNode, LifecycleState], TransitionCallbackReturn]:
    """Make a transition callback that logs its errors: rclpy drops exceptions silently."""

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
    """Lifecycle node around `FusionPipeline`; docs/interfaces.md lists its interfaces.

    Only the executor's thread may call its methods; the module's docstring describes the
    other threads.

    Args:
        **kwargs: arguments of `rclpy.lifecycle.LifecycleNode`, without the name.

    Raises:
        rclpy.exceptions.ParameterException: a parameter has the wrong type or is out of range.
        ValueError: a parameter is not among its choices, or excludes another; names it.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("fusion", **kwargs)
        self._settings = FusionParameters(self, self._apply)
        self._normalizer = ThermalNormalizer()
        self._model = ModelSlot(self._settings, self._normalizer, self.get_logger())
        self._registration = RegistrationSlot(
            self._settings, self.get_logger(), self._on_registration
        )
        self._warnings = WarningLog(self.get_logger())
        self._snapshots = Snapshots()
        self._statistics = PairStatistics()
        self._load: LoadPolicy | None = None
        self._health: HealthMonitor | None = None
        self._order = StampOrder()
        self._diagnostics = DiagnosticsPublisher(self)
        self._outputs: Outputs | None = None
        self._inputs: Inputs | None = None
        self._mailbox: Mailbox[PairMessages] = Mailbox(keep_all=False)
        self._worker: Worker[PairMessages] | None = None
        self._active_timers: list[Any] = []
        self._transforms: Any = None
        self._apply()
        reject_impossible_transitions(
            self,
            lambda transition, error: self.get_logger().warning(
                f"transition {transition} rejected: {error}"
            ),
        )
        self._callback_errors = self._errors_before = 0
        self._turns = AnswerTurns(self)
        # Services wait for another thread: meanwhile others are answered, and images taken.
        group = ReentrantCallbackGroup()
        for name, callback in (
            ("reload_weights", self._on_reload_weights),
            ("save_snapshot", self._on_save_snapshot),
            ("save_registration", self._on_save_registration),
        ):
            self.create_service(
                Trigger, f"~/{name}", callback, qos_profile=_SERVICE_QOS, callback_group=group
            )

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters, see `rclpy.node.Node`; whole numbers are taken for decimals.

        Args:
            parameter_list: read-only ones may have the values in force.
        """
        changes = changes_only(self, _DOUBLES, parameter_list)
        if not changes:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changes)

    def on_callback_error(self, error: Exception) -> None:
        """Log and count an exception of a callback, after which the node continues.

        Args:
            error: exception that the callback raised.
        """
        self._callback_errors += 1
        text = f"a callback failed: {type(error).__name__}: {error}"
        self._warnings.warn(f"callback {type(error).__name__}", text)

    def _apply(self) -> None:
        """Pass parameters on to the parts that store them; others are read when used."""
        self._normalizer.mode = self._settings["thermal_mode"]
        gain = self._normalizer.gain
        gain.smoothing_seconds = self._settings["gain_smoothing_seconds"]
        percentiles = self._settings["low_percentile"], self._settings["high_percentile"]
        if percentiles != gain.percentiles:
            gain.set_percentiles(*percentiles)
        if self._inputs is not None:
            self._inputs.apply_parameters()

    # Lifecycle

    @_transition
    def on_configure(self, state: LifecycleState) -> None:
        """Read the registration, load the weights and create the publishers."""
        self._registration.load()
        self._model.load()
        self._outputs = Outputs(self)
        self._announce_classes()

    @_transition
    def on_activate(self, state: LifecycleState) -> None:
        """Subscribe and start the worker; load the model again after a deactivation."""
        assert self._outputs is not None
        if self._model.pipeline is None:
            self._registration.load()
            self._model.load()
            self._announce_classes()
        self._normalizer.reset()
        self._statistics = PairStatistics()
        self._order = StampOrder()
        replay = self._settings["mode"] == "replay"
        self._health = HealthMonitor(self.get_logger(), self._outputs.publish_camera_health)
        self._inputs = Inputs(
            self,
            self._settings,
            self._warnings,
            on_frames=self._on_frames,
            on_cameras=self._health.set_cameras,
            unusable=self._health.unusable,
            on_info=self._on_camera_info,
            offset_seconds=lambda: self._registration.time_offset_seconds,
        )
        self._mailbox = Mailbox(keep_all=replay)
        self._load = LoadPolicy(lambda: self._settings.values, self._model, self.get_logger())
        processor = PairProcessor(
            pipeline=lambda: self._model.pipeline,
            pipeline_for=self._model.pipeline_for,
            load=self._load,
            settings=lambda: self._settings.values,
            outputs=self._outputs,
            statistics=self._statistics,
            snapshots=self._snapshots,
            health=self._health,
            watch=self._registration.offer,
            warnings=self._warnings,
            clock=self.get_clock(),
        )
        self._outputs.encoded.start(keep_all=replay)
        self._worker = Worker(self._mailbox, processor, processor.on_error)
        self._inputs.subscribe(_REPLAY_QOS if replay else qos_profile_sensor_data)
        if (transforms := self._registration.transforms_type()) is not None:
            self._transforms = self.create_subscription(
                transforms, "/tf_static", self._registration.take_transforms, _STATIC_QOS
            )
        # On steady time: a simulation whose clock stands still is worth a report, too.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._active_timers = [
            self.create_timer(period, callback, clock=steady)
            for period, callback in (
                (self._settings["diagnostics_period_seconds"], self._publish_diagnostics),
                (_CHECK_SECONDS["replay" if replay else "live"], self._check),
                (_HEALTH_SECONDS, self._health.publish),
            )
        ]

    @_transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Unsubscribe, stop the worker, free the model; a replay finishes received pairs."""
        self._stop(finish=self._settings["mode"] == "replay")
        self._publish_diagnostics()
        self._model.free()

    @_transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Destroy the publishers and free everything else."""
        self.close()

    @_transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Clean up from any state."""
        self.close()

    @_transition
    def on_error(self, state: LifecycleState) -> None:
        """Return to the unconfigured state."""
        self.close()

    def close(self) -> None:
        """Stop and free everything; the worker must end before the ROS context does."""
        if self._worker is not None:
            self._stop(finish=False)
            self._publish_diagnostics()
        self._registration.close()
        self._model.free()
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def abandon(self) -> None:
        """Undo an incomplete transition."""
        self._stop(finish=False)
        self._model.free()

    def _stop(self, *, finish: bool) -> None:
        """Unsubscribe and wait for the worker.

        Args:
            finish: process the pairs received so far; otherwise drop and count them.
        """
        for timer in self._active_timers:
            self.destroy_timer(timer)
        self._active_timers = []
        if self._transforms is not None:
            self.destroy_subscription(self._transforms)
            self._transforms = None
        if self._inputs is not None:
            self._inputs.close(finish=finish)
        if self._worker is not None:
            self._statistics.drop("deactivated", self._worker.stop(discard=not finish))
            self._worker = None
        self._registration.stop()
        if self._outputs is not None:
            self._outputs.encoded.stop(finish=finish)
        if self._load is not None:
            self._load.close()
        self._snapshots.fail_all("the node was deactivated")

    # Callbacks

    def _on_frames(self, rgb: Any, thermal: Any, alone: str) -> None:
        """Count a pair, or a frame alone, and hand it to the worker.

        It is dropped if the load policy skips it, or if its stamp would lead back: where the
        cameras in use change, a frame may be earlier than what the others have shown.
        """
        assert self._load is not None
        self._statistics.came_in(alone)
        now = time.perf_counter()
        stamp = stamp_to_seconds((thermal if alone == "thermal" else rgb).header.stamp)
        if self._order.leads_back(alone, stamp):
            self._statistics.drop("out_of_order")
            return
        if not self._load.arrived(now):
            self._statistics.drop("skipped_by_load_policy")
            return
        # A machine that stood still for a moment catches up; one that is too slow never would.
        waiting = self._settings["max_waiting_pairs"] if self._load.keeps_up(now) else 1
        lost = self._mailbox.put(PairMessages(rgb, thermal, now, alone), waiting)
        self._statistics.drop("replaced_by_newer", lost)
        for _ in range(lost):
            self._load.replaced(now)

    async def _on_reload_weights(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Load the weights that the parameters name, while pairs are fused with the old ones."""
        response.success, response.message = await self._model.reload(self._on_loaded)
        await self._turns.wait()
        return response

    def _on_loaded(self) -> None:
        """Take note of a new model."""
        if self._load is not None:
            self._load.forget_engines()
        self._announce_classes()

    async def _on_save_snapshot(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Request the files of the next pair, and answer when they are written."""
        if self._worker is None:
            response.message = "not active: there are no pairs"
        else:
            try:
                directory = user_path(self._settings["snapshot_directory"])
            except ValueError as error:
                response.message = f"snapshot_directory: {error}"
            else:
                done = self._snapshots.request(directory, time.monotonic())
                response.success, response.message = await done
        await self._turns.wait()
        return response

    async def _on_save_registration(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Write the suggested rig, or the one in use."""
        response.success, response.message = self._registration.save()
        await self._turns.wait()
        return response

    def _on_registration(self, registration: AnyRegistration) -> None:
        """Use another registration for the next pairs."""
        self._model.set_registration(registration)
        if self._inputs is not None:
            self._inputs.apply_parameters()  # it may have another time offset

    def _on_camera_info(self, camera: str, info: CameraInfo) -> None:
        """Hand a calibration on to the registration, and that of RGB to the outputs."""
        self._registration.take_camera_info(camera, info)
        if camera == "rgb" and self._outputs is not None:
            self._outputs.take_camera_info(self._registration.published_info(info))

    def _announce_classes(self) -> None:
        """Publish the class set of the weights, and set the parameter with its names."""
        class_set = self._model.pipeline.class_set if self._model.pipeline is not None else None
        self._settings.set_class_names(class_set.names if class_set is not None else ())
        if self._outputs is not None:
            self._outputs.announce_classes(class_set)

    def _check(self) -> None:
        """End what has waited too long; in replay mode, tell the player the progress."""
        now = time.monotonic()
        self._snapshots.expire(now)
        self._registration.check()
        if self._inputs is not None:
            self._inputs.check(now)
        if self._load is not None:
            self._load.check(time.perf_counter())
        if self._settings["mode"] != "replay" or self._inputs is None or self._outputs is None:
            return
        if self._statistics.settled() == self._statistics.pairs_in:
            self._inputs.flush_if_silent(now)
        unpaired = self._inputs.unpaired_rgb_frames()
        self._outputs.publish_frames_done(unpaired + self._statistics.settled())

    def _publish_diagnostics(self) -> None:
        """Publish counters, findings about the inputs, and the parameters in force."""
        assert self._inputs is not None
        assert self._load is not None
        assert self._health is not None
        assert self._outputs is not None
        values = {
            **self._statistics.report(),
            **self._inputs.report(),
            **self._model.report(),
            **process_report(),
            "mode": self._settings["mode"],
            "mailbox_full": str(self._mailbox.waits),
            "state": "active" if self._worker is not None else "inactive",
        }
        # With the settings, a recording of the results also says how they were made.
        settings = {name: str(value) for name, value in self._settings.values.items()}
        self._diagnostics.publish(
            {
                "pairs": (*self._statistics.check(self._settings["timeout_seconds"]), values),
                "encoded": self._outputs.encoded.finding(),
                "load": self._load.finding(time.perf_counter()),
                **{
                    f"{camera} camera": self._health.add_to(camera, finding)
                    for camera, finding in self._inputs.camera_findings().items()
                },
                **self._inputs.findings(),
                "registration": self._registration.finding(),
                "cameras": self._health.finding(self._settings["single_camera"]),
                "settings": (OK, "in force", settings),
                "callbacks": self._callbacks_finding(),
            }
        )

    def _callbacks_finding(self) -> Finding:
        """Return level, message and count of the callbacks that failed, for diagnostics."""
        count, before = self._callback_errors, self._errors_before
        self._errors_before = count
        level = WARN if count > before else OK
        return level, f"{count} callbacks failed", {"callback_errors": str(count)}


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        args: command-line arguments; by default those of the process.

    Returns:
        The exit status: 1 if the node cannot start.
    """
    keep_freed_memory()
    stopping = interrupt_flag()
    if not initialize("fusion_node", args):
        return 1
    try:
        node = FusionNode()
    except Exception as error:  # a rejected parameter or file
        print(f"fusion_node: {' '.join(str(error).split())}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value:
            for start in (node.trigger_configure, node.trigger_activate):
                if not stopping.is_set() and start() != TransitionCallbackReturn.SUCCESS:
                    return 1
        while not stopping.is_set():
            spin_once(executor, 0.2, node.on_callback_error)
        return 0
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
