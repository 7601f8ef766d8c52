"""Page that shows the fusion node's results in a browser, from a process of its own.

The fusion node does nothing for it: this node subscribes to its topics like any other, and to
its images only while a page asks for frames, so that nothing is computed for nobody.
"""

from __future__ import annotations

import ivf_ros.quiet_interrupt  # noqa: F401  first: importing the rest takes seconds

# isort: split
import json
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from ivf_core.class_sets import ClassSet
from ivf_core.images.symptoms import Severity
from ivf_core.system.interrupts import interrupt_flag
from ivf_core.system.memory import keep_freed_memory
from ivf_core.view.live import LiveView
from ivf_core.view.server import DEFAULT_HOST, DEFAULT_PORT, ViewServer
from ivf_ros.compat import initialize
from ivf_ros.conversions import MessageError, to_infrared, to_visible
from ivf_ros.diagnostics import WarningLog, by_reason
from ivf_ros.parameters import Parameter, declare
from ivf_ros.qos import LATCHED
from ivf_ros.synchronizer import stamp_to_ns

__all__ = ["PARAMETERS", "ViewNode", "main"]

PARAMETERS = (
    Parameter("node", "fusion", "Name of the fusion node to show, in this node's namespace."),
    Parameter(
        "host",
        DEFAULT_HOST,
        "Address to listen at. The default shows the page on this machine only, 0.0.0.0 to "
        "everybody in the network.",
    ),
    Parameter("port", DEFAULT_PORT, "Port to listen at; 0 takes a free one.", 0, 65535),
)
"""Parameters of the view node."""

_CHECK_SECONDS = 0.2
# Reliable, but never waited for: a reader that keeps two images holds no writer up.
_RESULTS = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
_LABELS = {"rgb": "RGB camera", "thermal": "thermal camera"}
_STATES = {"active": "", "inactive": "the node is inactive", "": "waiting for the node"}


class ViewNode(Node):
    """Node `view`: server of the page, and subscriptions that feed it.

    The executor's thread runs its callbacks; the server has threads of its own.

    Args:
        **kwargs: arguments of `rclpy.node.Node`, without the name.

    Attributes:
        url: address of the page.

    Raises:
        ParameterException: a parameter has the wrong type or is out of range.
        ValueError: nothing can listen at host and port.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("view", **kwargs)
        values = declare(self, PARAMETERS)
        name = values["node"]
        self._name = self.resolve_topic_name(name)
        self._view = LiveView(self._name)
        self._server = ViewServer(self._view, values["host"], values["port"])
        self.url = self._server.url
        self._warnings = WarningLog(self.get_logger())
        self._images: dict[str, Any] = {}  # subscriptions by topic, while a page is open
        self._results = {"fused": f"{name}/fused/image", "mask": f"{name}/mask/image"}
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_subscription(String, f"{name}/labels", self._on_labels, LATCHED)
        self.create_subscription(String, f"{name}/camera_health", self._on_health, 10)
        # On steady time: a simulation whose clock stands still can be looked at, too.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_CHECK_SECONDS, self._check, clock=steady)
        self.get_logger().info(f"watch {self._name} at {self.url}")
        if not self._server.is_local:
            self.get_logger().warning(
                f"host {values['host']}: everybody who reaches it can see the images"
            )

    def close(self) -> None:
        """Stop the server."""
        self._view.close()
        self._server.close()

    def _check(self) -> None:
        """Subscribe to the images while a page is open, and only then."""
        if not self._view.is_watched:
            for subscription in self._images.values():
                self.destroy_subscription(subscription)
            if self._images:
                self._images.clear()
                self._view.forget_images()
            return
        for kind, topic in self._results.items():
            if topic not in self._images:
                self._subscribe(topic, Image, _RESULTS, self._on_result(kind))
        for camera in _LABELS:
            raw = f"{camera}/image_raw"
            topics = ((raw, Image), (f"{raw}/compressed", CompressedImage))
            if any(topic in self._images for topic, _ in topics):
                continue
            for topic, message in topics:
                if self.count_publishers(self.resolve_topic_name(topic)):
                    self._subscribe(topic, message, qos_profile_sensor_data, self._on_input(camera))
                    break

    def _subscribe(
        self, topic: str, kind: type, qos: QoSProfile, callback: Callable[[Any], None]
    ) -> None:
        self._images[topic] = self.create_subscription(kind, topic, callback, qos)

    def _on_result(self, kind: str) -> Callable[[Any], None]:
        read = to_visible if kind == "fused" else to_infrared

        def take(message: Any) -> None:
            try:
                self._view.take_result(kind, stamp_to_ns(message.header.stamp), read(message))
            except MessageError as error:
                self._warnings.warn(kind, f"{kind} image: {error}")

        return take

    def _on_input(self, camera: str) -> Callable[[Any], None]:
        read = to_visible if camera == "rgb" else to_infrared

        def take(message: Any) -> None:
            try:
                self._view.take_input(camera, stamp_to_ns(message.header.stamp), read(message))
            except ValueError as error:  # malformed, or without any finite pixel
                self._warnings.warn(camera, f"{camera} image: {error}")

        return take

    def _on_labels(self, message: String) -> None:
        """Take over the classes that the node announces."""
        try:
            named = bool(json.loads(message.data)["names"])
            self._view.take_classes(ClassSet.from_json(message.data) if named else None)
        except (ValueError, KeyError, TypeError) as error:
            self._warnings.warn("labels", f"classes of {self._name}: {error}")

    def _on_health(self, message: String) -> None:
        """Take over the health of the cameras."""
        try:
            report = json.loads(message.data)
            health, worst = [], Severity.OK
            for camera, label in _LABELS.items():
                symptoms = report[camera]["symptoms"]
                severity = Severity[report[camera]["severity"].upper()]
                worst = max(worst, severity)
                health.append(
                    {
                        "camera": label,
                        "severity": severity.name.lower(),
                        "text": "; ".join(s["text"] for s in symptoms) or "in order",
                        "remedy": "; ".join(s["remedy"] for s in symptoms),
                    }
                )
            alone = report["cameras"].removesuffix(" only")
        except (ValueError, KeyError, TypeError) as error:
            self._warnings.warn("health", f"health of {self._name}: {error}")
            return
        self._view.take_health(health, worst, "" if alone == "both" else alone)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """Take over counters and timings of the node's report."""
        for status in message.status:
            if status.name == f"{self._name}: pairs":
                self._take_report({pair.key: pair.value for pair in status.values})

    def _take_report(self, values: dict[str, str]) -> None:
        state = values.get("state", "")
        lost = {
            f"{what} {reason.replace('_', ' ')}": count
            for what, prefix in (("dropped:", "dropped."), ("without a pair:", "frames."))
            for reason, count in by_reason(values, prefix).items()
        }
        counters = {
            label: int(values[key])
            for label, key in (
                ("pairs in", "pairs_in"),
                ("pairs out", "pairs_out"),
                ("with a mask", "masks_out"),
            )
            if key in values
        }
        timings = {
            key.removesuffix("_ms.median"): float(value)
            for key, value in values.items()
            if key.endswith("_ms.median")
        }
        facts = [
            [label, values[key]]
            for label, key in (
                ("frames a second", "throughput_hz"),
                ("engine", "engine"),
                ("weights", "weights"),
                ("memory, MiB", "memory_mib"),
            )
            if values.get(key)
        ]
        self._view.take_report(
            state=_STATES.get(state, state),
            lost=lost,
            counters=counters,
            timings=timings,
            facts=facts,
        )


def main(args: list[str] | None = None) -> int:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        args: command-line arguments; by default those of the process.

    Returns:
        The exit status: 1 if a parameter is rejected or the port is taken.
    """
    keep_freed_memory()
    stopping = interrupt_flag()
    if not initialize("view_node", args):
        return 1
    try:
        node = ViewNode()
    except (ParameterException, ValueError, RuntimeError) as error:
        print(f"view_node: {' '.join(str(error).split())}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.2)
        return 0
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
