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
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64, Header, String, UInt64

from ivf_core.class_sets import ClassSet
from ivf_core.images.object_boxes import find_objects
from ivf_core.images.overlay import draw_overlay
from ivf_core.inference import FusionResult
from ivf_core.inference.pipeline import resize_labels
from ivf_core.models.interface import LABEL_STRIDE
from ivf_ros.compat import Detection2DArray, LabelInfo, VisionClass, own_profile
from ivf_ros.conversions import shrink_camera_info, to_image
from ivf_ros.encoded_outputs import EncodedOutputs
from ivf_ros.object_messages import to_detections, to_json
from ivf_ros.qos import LATCHED, RESULTS, overriding_options
from ivf_ros.synchronizer import stamp_to_ns

__all__ = ["Outputs", "Wanted", "overlay_of"]

_INFOS_KEPT = 60
_NO_CLASSES = json.dumps({"name": "", "names": [], "colors": []})


@dataclass(frozen=True)
class Wanted:
    """Results that have a subscriber.

    Attributes:
        fused: whether `~/fused/image` has one.
        mask: whether `~/mask/image` has one.
        overlay: whether `~/overlay/image` has one.
        confidence: whether `~/confidence/image` has one.
        detections: whether `~/detections` has one.
        detections_json: whether `~/detections_json` has one.
        encoded: names of the encoded results that have one, of `ENCODED`.
    """

    fused: bool = False
    mask: bool = False
    overlay: bool = False
    confidence: bool = False
    detections: bool = False
    detections_json: bool = False
    encoded: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self.fused_images or self.masks

    @property
    def fused_images(self) -> bool:
        """True if the fused image itself is needed, raw or encoded."""
        return self.fused or "fused" in self.encoded

    @property
    def overlays(self) -> bool:
        """True if the overlay is needed, raw or encoded."""
        return self.overlay or "overlay" in self.encoded

    @property
    def planes(self) -> bool:
        """True if the mask itself or the confidence is needed, raw or encoded."""
        return self.mask or self.confidence or not self.encoded.isdisjoint(("mask", "autoware"))

    @property
    def masks(self) -> bool:
        """True if class ids are needed."""
        return self.planes or self.overlays or self.boxes

    @property
    def scores(self) -> bool:
        """True if the confidence in the class ids is needed."""
        return self.confidence or self.boxes

    @property
    def boxes(self) -> bool:
        """True if boxes are needed."""
        return self.detections or self.detections_json


class Outputs:
    """Publishers of a node, from configuration to cleanup.

    The executor's thread creates and destroys them, passes calibrations in, and announces
    classes and progress; the worker's thread calls `wanted`, `publish` and
    `publish_latency`.

    Args:
        node: owner of the publishers.

    Attributes:
        encoded: publishers of encoded results, whose threads the node starts and stops.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._all: list[Any] = []

        def publisher(kind: type, topic: str) -> Any:
            created = node.create_publisher(
                kind, topic, own_profile(RESULTS), qos_overriding_options=overriding_options()
            )
            self._all.append(created)
            return created

        def latched(kind: type, topic: str) -> Any:
            self._all.append(created := node.create_publisher(kind, topic, LATCHED))
            return created

        self._fused = publisher(Image, "~/fused/image")
        self._fused_info = publisher(CameraInfo, "~/fused/camera_info")
        self._mask = publisher(Image, "~/mask/image")
        self._mask_info = publisher(CameraInfo, "~/mask/camera_info")
        self._confidence = publisher(Image, "~/confidence/image")
        self._detections: Any = None
        if Detection2DArray is not None:
            self._detections = publisher(Detection2DArray, "~/detections")
        self._detections_json = publisher(String, "~/detections_json")
        self._overlay = publisher(Image, "~/overlay/image")
        self.encoded = EncodedOutputs(node, publisher)
        self._latency = publisher(Float64, "~/latency_ms")
        self._camera_health = publisher(String, "~/camera_health")
        self._frames_done = latched(UInt64, "~/rgb_frames_done")
        self._frames = -1
        self._labels = latched(String, "~/labels")
        self._label_info: Any = None
        if LabelInfo is not None:
            self._label_info = latched(LabelInfo, "~/label_info")
        self._infos: dict[int, CameraInfo] = {}  # by stamp in ns, oldest first
        self._infos_lock = threading.Lock()  # the executor's thread writes, the worker's reads

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in self._all:
            self._node.destroy_publisher(publisher)

    def wanted(self) -> Wanted:
        """Return the results that have a subscriber now; others need not be computed."""
        return Wanted(
            fused=_has_subscriber(self._fused),
            mask=_has_subscriber(self._mask),
            overlay=_has_subscriber(self._overlay),
            confidence=_has_subscriber(self._confidence),
            detections=_has_subscriber(self._detections),
            detections_json=_has_subscriber(self._detections_json),
            encoded=self.encoded.wanted(),
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
        """Publish what is wanted of a result.

        Args:
            header: header of the RGB image, or else of the thermal image, which becomes that of
                the results.
            result: result of the pair.
            wanted: results to publish.
            class_set: classes of the weights; None for weights without a head.
            settings: the node's parameters by name.
        """
        later: dict[str, np.ndarray] = {}
        if wanted.fused_images and result.fused is not None:
            if wanted.fused:
                self._fused.publish(to_image(result.fused, "rgb8", header))
            later["fused"] = result.fused
            if (info := self._info(header)) is not None:
                self._fused_info.publish(info)
        if result.labels is not None and class_set is not None:
            if wanted.planes:
                stride = LABEL_STRIDE if settings["mask_size"] == "model" else 1
                later["mask"] = later["autoware"] = self._publish_mask(
                    header, result, wanted, stride
                )
            if wanted.overlays:
                later["overlay"] = overlay_of(result, class_set, settings)
                if wanted.overlay:
                    self._overlay.publish(to_image(later["overlay"], "rgb8", header))
            if wanted.boxes:
                self._publish_boxes(header, result, wanted, class_set, settings)
        for name in later.keys() & wanted.encoded:
            self.encoded.put(name, later[name], header, class_set, settings)

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

    def _publish_mask(
        self, header: Header, result: FusionResult, wanted: Wanted, stride: int
    ) -> np.ndarray:
        """Publish mask and confidence, as far as they are wanted, and their calibration.

        The size of both follows from the stride also if the model received smaller images.

        Returns:
            The class ids of that size.
        """
        assert result.labels is not None
        height, width = result.infrared.shape
        size = height // stride, width // stride
        labels = resize_labels(result.labels, size)
        if wanted.mask:
            self._mask.publish(to_image(labels, "mono8", header))
        if wanted.confidence and result.confidence is not None:
            plane = resize_labels(result.confidence, size)
            self._confidence.publish(to_image(plane, "mono8", header))
        if (info := self._info(header)) is not None:
            self._mask_info.publish(shrink_camera_info(info, stride) if stride > 1 else info)
        return labels

    def _publish_boxes(
        self,
        header: Header,
        result: FusionResult,
        wanted: Wanted,
        class_set: ClassSet,
        settings: Mapping[str, Any],
    ) -> None:
        """Publish the boxes around the objects in a mask."""
        assert result.labels is not None
        assert result.confidence is not None
        height, width = result.infrared.shape
        boxes = find_objects(
            result.labels,
            result.confidence,
            class_set,
            (height, width),
            minimum_pixels=settings["detection_minimum_pixels"],
        )
        if wanted.detections:
            self._detections.publish(to_detections(boxes, header))
        if wanted.detections_json:
            text = to_json(boxes, header, (height, width))
            self._detections_json.publish(String(data=text))

    def _info(self, header: Header) -> CameraInfo | None:
        """Return the calibration with this stamp, or else the latest, if there is one."""
        with self._infos_lock:
            latest = next(reversed(self._infos.values()), None)
            info = self._infos.get(stamp_to_ns(header.stamp), latest)
        if info is not None:
            info = copy.copy(info)
            info.header = header
        return info


def _has_subscriber(publisher: Any) -> bool:
    """Return whether a publisher, which may be missing, has a subscriber."""
    return publisher is not None and publisher.get_subscription_count() > 0


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
