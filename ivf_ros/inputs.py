"""Inputs of the fusion node: subscriptions of both cameras, their watches, and the pairs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, qos_policy_name_from_kind
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ivf_core.camera_choice import CAMERAS, CameraChoice, Route
from ivf_ros.camera_watch import CameraWatch
from ivf_ros.compat import SimpleFilter, Subscriber, SubscriptionEventCallbacks, own_profile
from ivf_ros.content_watch import SWAPPED, ContentWatch
from ivf_ros.diagnostics import OK, WARN, Finding, FindingLog, WarningLog
from ivf_ros.pairing_watch import PairingSettings, PairingWatch
from ivf_ros.parameters import FusionParameters
from ivf_ros.qos import check_overrides, overriding_options
from ivf_ros.synchronizer import PairSynchronizer, stamp_to_seconds
from ivf_ros.transport import image_topics

__all__ = ["Inputs"]

_CHECK_SECONDS = 0.5  # between two looks at the findings for the log
_OTHER_TRANSPORT = {"raw": "compressed", "compressed": "raw"}
_TYPES = {"raw": Image, "compressed": CompressedImage}

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
        on_info: called with "rgb" or "thermal" and each CameraInfo of that camera.
        offset_seconds: returns the time to add to thermal stamps.
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
        on_info: Callable[[str, CameraInfo], None],
        offset_seconds: Callable[[], float],
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._warnings = warnings
        self._on_frames = on_frames
        self._on_cameras = on_cameras
        self._unusable = unusable
        self._on_info = on_info
        self._offset_seconds = offset_seconds
        self._watches: dict[str, CameraWatch] = {}
        self._contents: dict[str, ContentWatch] = {}
        self._pairing = PairingWatch()
        self._log = FindingLog(node.get_logger())
        self._next_check = 0.0
        self._dead: frozenset[str] = frozenset()  # cameras without an image for too long
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
            offset_ns=round(self._offset_seconds() * 1e9),
            minimum_interval_ns=self._parameters.nanoseconds("minimum_interval_seconds"),
        )
        self._synchronizer.registerCallback(lambda rgb, thermal: self._hand_on(rgb, thermal, ""))
        for camera in CAMERAS:
            self._subscribe_camera(camera, qos, images[camera].signalMessage)
        check_overrides(self._node)

    def apply_parameters(self) -> None:
        """Pass changed parameters on to the synchronizer."""
        if self._synchronizer is not None:
            nanoseconds = self._parameters.nanoseconds
            self._synchronizer.set_tolerance(nanoseconds("tolerance_seconds"))
            self._synchronizer.set_offset(round(self._offset_seconds() * 1e9))
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

    def camera_findings(self) -> dict[str, Finding]:
        """Return the finding of each camera's watches, by "rgb" and "thermal"."""
        findings: dict[str, Finding] = {}
        swapped = self._are_swapped()
        for camera, (level, text) in self._arrivals().items():
            content = self._contents[camera]
            content_level, contradiction = content.finding()
            level = max(level, content_level, WARN if swapped else OK)
            parts = (text, contradiction, SWAPPED if swapped else "")
            values = {**self._watches[camera].report(), "encoding": content.encoding}
            findings[camera] = level, "; ".join(part for part in parts if part), values
        return findings

    def _arrivals(self) -> dict[str, tuple[bytes, str]]:
        """Return level and message on the arrival of each camera's images."""
        now, timeout = time.monotonic(), self._parameters["timeout_seconds"]
        return {
            camera: watch.check(
                now,
                self._since,
                timeout,
                self._node.get_publishers_info_by_topic(watch.topic),
                self._node.count_publishers(watch.other_transport[0]),
            )
            for camera, watch in self._watches.items()
        }

    def _are_swapped(self) -> bool:
        """Return whether each camera sends what the other one should."""
        contents = self._contents.values()
        return bool(contents) and all(content.suits_other for content in contents)

    def findings(self) -> dict[str, Finding]:
        """Return the findings about the pairing and the graph, by the part of diagnostics."""
        pairing: tuple[bytes, str] = OK, "not subscribed"
        if self._synchronizer is not None:
            pairing = self._pairing.check(
                time.monotonic(),
                self._since,
                self._parameters["timeout_seconds"],
                self._synchronizer.counters(),
                PairingSettings(
                    self._parameters["tolerance_seconds"],
                    self._offset_seconds(),
                    self._parameters["queue_size"],
                ),
                {camera: watch.lost_share() for camera, watch in self._watches.items()},
            )
        graph = self._same_names()
        return {"pairing": (*pairing, {}), "graph": (*graph, {})}

    def _same_names(self) -> tuple[bytes, str]:
        """Return level and message on other nodes of this node's name."""
        own = self._node.get_name(), self._node.get_namespace()
        count = self._node.get_node_names_and_namespaces().count(own)
        if count <= 1:
            return OK, "one node of this name"
        name = self._node.get_fully_qualified_name()
        return WARN, (
            f"{count} nodes are named {name}: parameters and services reach any of them, and "
            "topics mix their images; start each with -r __node:=NAME"
        )

    def check(self, now: float) -> None:
        """Log the findings that begin and end, and note cameras that are dead.

        Args:
            now: monotonic time in seconds.
        """
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        timeout = self._parameters["timeout_seconds"]
        dead = frozenset(
            camera
            for camera, watch in self._watches.items()
            if now - (watch.last_arrival or self._since) > timeout
        )
        if self._parameters["mode"] == "replay" and len(dead) == len(CAMERAS):
            return  # before a bag, or after it
        findings = {part: (level, text) for part, (level, text, _) in self.findings().items()}
        for camera, arrival in self._arrivals().items():
            findings[f"{camera} camera"] = arrival
            findings[f"{camera} topic"] = self._contents[camera].finding()
        findings["topics"] = (WARN, SWAPPED) if self._are_swapped() else (OK, "not swapped")
        for part, (level, text) in findings.items():
            self._log.note(part, level, text, now)
        if dead != self._dead:
            self._dead = dead
            self._on_cameras(self._choice.alone, self._silent())

    def _silent(self) -> frozenset[str]:
        """Return the cameras that are silent, while the other one delivers or not."""
        return self._choice.silent | self._dead

    def _hand_on(self, rgb: Any, thermal: Any, alone: str) -> None:
        """Hand a pair, or a frame alone, to the node."""
        self._pairing.delivered(time.monotonic())
        self._on_frames(rgb, thermal, alone)

    def _route(self, camera: str, message: Any, to_synchronizer: Callable[[Any], None]) -> None:
        """Pass an image to the synchronizer, or on its own while one camera is used alone."""
        before = self._choice.alone, self._silent()
        self._dead -= {camera}
        route = self._choice.take(
            camera,
            stamp_to_seconds(message.header.stamp),
            time.monotonic(),
            first_seconds=self._parameters["timeout_seconds"],
            unusable=self._unusable(),
            enabled=self._parameters["single_camera"] == "fuse"
            and self._parameters["mode"] == "live",
        )
        after = self._choice.alone, self._silent()
        if after != before:
            if after[0] and after[0] != before[0] and self._synchronizer is not None:
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
            self._hand_on(*frames, camera)

    def _subscribe_camera(
        self, camera: str, qos: QoSProfile, to_synchronizer: Callable[[Any], None]
    ) -> None:
        """Subscribe to the images and to the CameraInfo of one camera."""
        transport = self._parameters[f"{camera}_transport"]
        topics, kind = image_topics(self._node, f"{camera}/image_raw"), _TYPES[transport]
        other = _OTHER_TRANSPORT[transport]
        watch = CameraWatch(
            topics[transport],
            own_profile(qos),
            f"sensor_msgs/msg/{kind.__name__}",
            (topics[other], f"{camera}_transport:={other}"),
        )
        self._watches[camera] = watch
        content = self._contents[camera] = ContentWatch(camera, watch.topic)

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
            self._on_info(camera, message)

        subscriber = Subscriber(
            self._node,
            kind,
            watch.topic,
            qos_profile=watch.qos,
            qos_overriding_options=overriding_options(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=on_mismatch, message_lost=on_lost
            ),
        )
        self._subscriptions.append(subscriber.sub)

        def on_image(message: Any) -> None:
            stamp, now = stamp_to_seconds(message.header.stamp), time.monotonic()
            watch.image(stamp, now)
            content.image(message, now)
            self._pairing.image(camera, stamp, now)
            self._route(camera, message, to_synchronizer)

        subscriber.registerCallback(on_image)
        self._subscriptions.append(
            self._node.create_subscription(
                CameraInfo,
                f"{camera}/camera_info",
                on_info,
                own_profile(qos),
                qos_overriding_options=overriding_options(),
            )
        )
