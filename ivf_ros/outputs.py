"""Publishers of the fusion node: results, class names, calibration, latency."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_system_default,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64, Header, String, UInt64

from ivf_core.class_sets import ClassSet
from ivf_core.images.overlay import draw_overlay
from ivf_core.inference import FusionResult
from ivf_core.inference.pipeline import resize_labels
from ivf_ros.compat import LabelInfo, VisionClass, own_profile
from ivf_ros.conversions import to_image
from ivf_ros.synchronizer import stamp_to_ns

__all__ = ["Outputs", "Wanted", "overlay_of"]

_LATCHED = QoSProfile(
    depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
)
_INFOS_KEPT = 60
_NO_CLASSES = json.dumps({"name": "", "names": [], "colors": []})


@dataclass(frozen=True)
class Wanted:
    """Images that have a subscriber.

    Attributes:
        fused: whether `~/fused/image` has one.
        mask: whether `~/mask/image` has one.
        overlay: whether `~/overlay/image` has one.
    """

    fused: bool
    mask: bool
    overlay: bool

    def __bool__(self) -> bool:
        return self.fused or self.mask or self.overlay


class Outputs:
    """Publishers of a node, from configuration to cleanup.

    The executor's thread creates and destroys them, passes calibrations in, and announces
    classes and progress; the worker's thread calls `wanted`, `publish` and
    `publish_latency`.

    Args:
        node: owner of the publishers.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        override = QoSOverridingOptions.with_default_policies()

        def publisher(kind: type, topic: str) -> Any:
            qos = own_profile(qos_profile_system_default)
            return node.create_publisher(kind, topic, qos, qos_overriding_options=override)

        self._fused = publisher(Image, "~/fused/image")
        self._fused_info = publisher(CameraInfo, "~/fused/camera_info")
        self._mask = publisher(Image, "~/mask/image")
        self._overlay = publisher(Image, "~/overlay/image")
        self._latency = publisher(Float64, "~/latency_ms")
        self._camera_health = publisher(String, "~/camera_health")
        self._frames_done = node.create_publisher(UInt64, "~/rgb_frames_done", _LATCHED)
        self._frames = -1
        self._labels = node.create_publisher(String, "~/labels", _LATCHED)
        self._all = [
            self._fused, self._fused_info, self._mask, self._overlay, self._latency,
            self._camera_health, self._frames_done, self._labels,
        ]  # fmt: skip
        self._label_info: Any = None
        if LabelInfo is not None:
            self._label_info = node.create_publisher(LabelInfo, "~/label_info", _LATCHED)
            self._all.append(self._label_info)
        self._infos: dict[int, CameraInfo] = {}  # by stamp in ns, oldest first
        self._infos_lock = threading.Lock()  # the executor's thread writes, the worker's reads

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in self._all:
            self._node.destroy_publisher(publisher)

    def wanted(self) -> Wanted:
        """Return the images that have a subscriber now; others need not be computed."""
        return Wanted(
            *(p.get_subscription_count() > 0 for p in (self._fused, self._mask, self._overlay))
        )

    def announce_classes(self, class_set: ClassSet | None) -> None:
        """Publish names and colours of the classes, for present and later subscribers.

        Args:
            class_set: classes of the weights; None for weights without a head.
        """
        self._labels.publish(String(data=class_set.to_json() if class_set else _NO_CLASSES))
        if self._label_info is not None:
            message = LabelInfo()
            message.header.stamp = self._node.get_clock().now().to_msg()
            message.class_map = [
                VisionClass(class_id=index, class_name=name)
                for index, name in enumerate(class_set.names if class_set else ())
            ]
            self._label_info.publish(message)

    def take_camera_info(self, info: CameraInfo) -> None:
        """Store a calibration of the RGB camera for the image with its stamp.

        Args:
            info: message of the RGB camera.
        """
        with self._infos_lock:
            self._infos[stamp_to_ns(info.header.stamp)] = info
            while len(self._infos) > _INFOS_KEPT:
                del self._infos[next(iter(self._infos))]

    def publish(
        self,
        header: Header,
        result: FusionResult,
        wanted: Wanted,
        class_set: ClassSet | None,
        settings: Mapping[str, Any],
    ) -> None:
        """Publish the wanted images of a result.

        Args:
            header: header of the RGB image, or else of the thermal image, which becomes that of
                the results.
            result: result of the pair.
            wanted: images to publish.
            class_set: classes of the weights; None for weights without a head.
            settings: the node's parameters by name.
        """
        size = result.infrared.shape
        if wanted.fused and result.fused is not None:
            self._fused.publish(to_image(result.fused, "rgb8", header))
            self._publish_info(header)
        if result.labels is None or class_set is None:
            return
        if wanted.mask:
            if settings["mask_size"] == "model":  # also if the model received smaller images
                size = (size[0] // 2, size[1] // 2)
            labels = resize_labels(result.labels, size)
            self._mask.publish(to_image(labels, "mono8", header))
        if wanted.overlay:
            overlay = overlay_of(result, class_set, settings)
            self._overlay.publish(to_image(overlay, "rgb8", header))

    def publish_latency(self, milliseconds: float) -> None:
        """Publish the latency of a pair.

        Args:
            milliseconds: time from the stamp to the last publish; NaN if unknown.
        """
        self._latency.publish(Float64(data=milliseconds))

    def publish_camera_health(self, text: str) -> None:
        """Publish the health of the cameras.

        Args:
            text: JSON of `HealthMonitor.to_json`.
        """
        self._camera_health.publish(String(data=text))

    def health_wanted(self) -> bool:
        """Return whether `~/camera_health` has a subscriber."""
        return self._camera_health.get_subscription_count() > 0

    def publish_frames_done(self, frames: int) -> None:
        """Publish the number of settled RGB frames if it has changed.

        Args:
            frames: frames that were published, dropped or had no partner.
        """
        if frames != self._frames:
            self._frames = frames
            self._frames_done.publish(UInt64(data=frames))

    def _publish_info(self, header: Header) -> None:
        """Publish the calibration with this stamp, or else the latest, if there is one."""
        with self._infos_lock:
            latest = next(reversed(self._infos.values()), None)
            info = self._infos.get(stamp_to_ns(header.stamp), latest)
        if info is not None:
            info = copy.copy(info)
            info.header = header
            self._fused_info.publish(info)


def overlay_of(
    result: FusionResult, class_set: ClassSet, settings: Mapping[str, Any]
) -> np.ndarray:
    """Draw the class colours of a result over its fused image.

    Args:
        result: result with `fused` and `labels`.
        class_set: classes of the weights.
        settings: the node's parameters by name; `overlay_opacity` and `palette` are used.

    Returns:
        H x W x 3 uint8 RGB.
    """
    assert result.fused is not None
    assert result.labels is not None
    return draw_overlay(
        result.fused,
        resize_labels(result.labels, result.infrared.shape),
        class_set,
        settings["overlay_opacity"],
        settings["palette"],
    )
