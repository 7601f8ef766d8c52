"""Inputs of the fusion node: subscriptions of both cameras, their watches, and the pairs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ivf_core.camera_choice import CAMERAS, CameraChoice, Route
from ivf_ros.camera_watch import CameraWatch
from ivf_ros.compat import SimpleFilter, Subscriber, SubscriptionEventCallbacks, own_profile
from ivf_ros.diagnostics import Finding, WarningLog
from ivf_ros.parameters import FusionParameters
from ivf_ros.synchronizer import PairSynchronizer, stamp_to_seconds

__all__ = ["Inputs"]

_STREAMS = {"rgb": "visible", "thermal": "infrared"}  # as the counters of pairing name them


class Inputs:
    """Subscriptions of both cameras from activation to deactivation.

    Only the executor's thread may call this class, and all its callbacks run in that
    thread.

    Args:
        node: owner of the subscriptions.
        parameters: parameters of the node.
        warnings: log of QoS mismatches.
        on_frames: called with the RGB message, the thermal message and the camera that is
            used alone: "" for a pair, otherwise the message of the other camera is None or
            one to be examined only.
        on_cameras: called when other cameras are in use or silent, with the camera that is
            used alone ("" for both) and those that are silent.
        unusable: returns the cameras whose images tell nothing.
        on_rgb_info: called with each CameraInfo of the RGB camera.
    """

    def __init__(
        self,
        node: LifecycleNode,
        parameters: FusionParameters,
        warnings: WarningLog,
        *,
        on_frames: Callable[[Any, Any, str], None],
        on_cameras: Callable[[str, frozenset[str]], None],
        unusable: Callable[[], frozenset[str]],
        on_rgb_info: Callable[[CameraInfo], None],
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._warnings = warnings
        self._on_frames = on_frames
        self._on_cameras = on_cameras
        self._unusable = unusable
        self._on_rgb_info = on_rgb_info
        self._watches: dict[str, CameraWatch] = {}
        self._subscriptions: list[Any] = []
        self._synchronizer: PairSynchronizer | None = None
        self._choice = CameraChoice()
        self._beside: Any = None  # latest message of a camera that is not in use
        self._since = time.monotonic()

    def subscribe(self, qos: QoSProfile) -> None:
        """Subscribe to both cameras and start pairing.

        Args:
            qos: profile of all subscriptions, before the user's overrides.
        """
        images = {camera: SimpleFilter() for camera in CAMERAS}
        self._synchronizer = PairSynchronizer(
            images["rgb"],
            images["thermal"],
            tolerance_ns=self._parameters.nanoseconds("tolerance_seconds"),
            queue_size=self._parameters["queue_size"],
            offset_ns=self._parameters.nanoseconds("offset_seconds"),
            minimum_interval_ns=self._parameters.nanoseconds("minimum_interval_seconds"),
        )
        self._synchronizer.registerCallback(lambda rgb, thermal: self._on_frames(rgb, thermal, ""))
        for camera in CAMERAS:
            self._subscribe_camera(camera, qos, images[camera].signalMessage)

    def apply_parameters(self) -> None:
        """Pass changed parameters on to the synchronizer."""
        if self._synchronizer is not None:
            nanoseconds = self._parameters.nanoseconds
            self._synchronizer.set_tolerance(nanoseconds("tolerance_seconds"))
            self._synchronizer.set_offset(nanoseconds("offset_seconds"))
            self._synchronizer.set_minimum_interval(nanoseconds("minimum_interval_seconds"))

    def close(self, *, finish: bool) -> None:
        """Unsubscribe; the counters stay readable.

        Args:
            finish: deliver the pairs that the images received so far still make (the last
                frames of a replay may be waiting for a nearer partner); otherwise drop
                and count these images.
        """
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        if self._synchronizer is not None:
            self._synchronizer.flush() if finish else self._synchronizer.reset()

    def flush_if_silent(self, now: float) -> None:
        """Deliver the remaining pairs once both cameras are silent, as at the end of a bag.

        Args:
            now: monotonic time in seconds.
        """
        arrivals = [watch.last_arrival for watch in self._watches.values() if watch.last_arrival]
        if self._synchronizer is None or not arrivals:
            return
        if now - max(arrivals) > self._parameters["timeout_seconds"]:
            self._synchronizer.flush()

    def unpaired_rgb_frames(self) -> int:
        """Return the number of RGB frames that were dropped without a partner."""
        if self._synchronizer is None:
            return 0
        dropped = self._synchronizer.counters().dropped
        unpaired = sum(n for reason, n in dropped.items() if reason.endswith("_visible"))
        return unpaired + self._choice.beside["rgb"]

    def report(self) -> dict[str, str]:
        """Return the counters of pairing as text, by the keys of diagnostics."""
        if self._synchronizer is None:
            return {}
        pairing = self._synchronizer.counters()
        frames = Counter(pairing.dropped)
        for camera, count in self._choice.beside.items():
            frames[f"not_in_use_{_STREAMS[camera]}"] += count
        values = {f"frames.{reason}": str(n) for reason, n in sorted(frames.items())}
        return {**values, "time_jumps": str(sum(pairing.jumps.values()))}

    def findings(self) -> dict[str, Finding]:
        """Return the finding of each camera's watch, by "rgb" and "thermal"."""
        now, timeout = time.monotonic(), self._parameters["timeout_seconds"]
        return {
            camera: (
                *watch.check(
                    now,
                    self._since,
                    timeout,
                    self._node.get_publishers_info_by_topic(watch.topic),
                ),
                watch.report(),
            )
            for camera, watch in self._watches.items()
        }

    def _route(self, camera: str, message: Any, to_synchronizer: Callable[[Any], None]) -> None:
        """Pass an image to the synchronizer, or on its own while one camera is used alone."""
        before = self._choice.alone, self._choice.silent
        route = self._choice.take(
            camera,
            stamp_to_seconds(message.header.stamp),
            time.monotonic(),
            first_seconds=self._parameters["timeout_seconds"],
            unusable=self._unusable(),
            enabled=self._parameters["single_camera"] == "fuse"
            and self._parameters["mode"] == "live",
        )
        after = self._choice.alone, self._choice.silent
        if after != before:
            if after[0] and self._synchronizer is not None:
                self._synchronizer.reset("not_in_use")
            self._beside = None
            self._on_cameras(*after)
        if route is Route.PAIR:
            to_synchronizer(message)
        elif route is Route.BESIDE:
            self._beside = message
        else:
            beside, self._beside = self._beside, None
            frames = (message, beside) if camera == "rgb" else (beside, message)
            self._on_frames(*frames, camera)

    def _subscribe_camera(
        self, camera: str, qos: QoSProfile, to_synchronizer: Callable[[Any], None]
    ) -> None:
        """Subscribe to the images and to the CameraInfo of one camera."""
        topic, kind = f"{camera}/image_raw", Image
        if self._parameters[f"{camera}_transport"] == "compressed":
            topic, kind = f"{topic}/compressed", CompressedImage
        watch = CameraWatch(self._node.resolve_topic_name(topic), own_profile(qos))
        self._watches[camera] = watch

        def on_mismatch(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            self._warnings.warn(
                f"{camera} QoS",
                f"{watch.topic}: a publisher offers a QoS that does not match "
                f"(policy: {policy}); its images will not arrive",
            )

        def on_lost(event: Any) -> None:
            watch.lost_events = event.total_count

        def on_info(message: CameraInfo) -> None:
            watch.camera_info(stamp_to_seconds(message.header.stamp))
            if camera == "rgb":
                self._on_rgb_info(message)

        subscriber = Subscriber(
            self._node,
            kind,
            topic,
            qos_profile=watch.qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=on_mismatch, message_lost=on_lost
            ),
        )
        self._subscriptions.append(subscriber.sub)

        def on_image(message: Any) -> None:
            watch.image(stamp_to_seconds(message.header.stamp), time.monotonic())
            self._route(camera, message, to_synchronizer)

        subscriber.registerCallback(on_image)
        self._subscriptions.append(
            self._node.create_subscription(
                CameraInfo, f"{camera}/camera_info", on_info, own_profile(qos)
            )
        )
