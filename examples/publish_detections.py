"""Publish the nearest road users as detections of one's own, from the mask and its confidence.

python examples/publish_detections.py --ros-args -r __ns:=/fusion

The fusion node publishes boxes of everything on ~/detections; this node shows how to make others:
only those of at least `minimum_pixels`, low in the image, as vision_msgs where it is installed.
"""

from __future__ import annotations

import sys

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String

from ivf_core.class_sets import ClassSet
from ivf_core.images.object_boxes import find_objects
from ivf_ros.compat import Detection2DArray
from ivf_ros.conversions import to_infrared
from ivf_ros.object_messages import to_detections, to_json
from ivf_ros.running import run_node


class NearObjects(Node):
    """Node that publishes boxes of near objects, each with stamp and frame of its image."""

    def __init__(self) -> None:
        super().__init__("near_objects")
        self.minimum = self.declare_parameter("minimum_pixels", 400).value
        self.class_set: ClassSet | None = None
        self.mask: Image | None = None
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(String, "labels", self.on_labels, latched)
        self.create_subscription(Image, "mask/image", self.on_mask, 10)
        self.create_subscription(Image, "confidence/image", self.on_confidence, 10)
        kind = Detection2DArray or String
        self.publisher = self.create_publisher(kind, "~/detections", 10)

    def on_labels(self, message: String) -> None:
        """Take over names and colours of the classes."""
        self.class_set = ClassSet.from_json(message.data)

    def on_mask(self, message: Image) -> None:
        """Keep the mask until its confidence comes; both have the same stamp."""
        self.mask = message

    def on_confidence(self, message: Image) -> None:
        """Find the objects, and publish those whose feet are in the lower half."""
        if self.class_set is None or self.mask is None or self.mask.header != message.header:
            return
        labels, confidence = (np.ascontiguousarray(to_infrared(m)) for m in (self.mask, message))
        size = labels.shape
        found = find_objects(labels, confidence, self.class_set, size, minimum_pixels=self.minimum)
        near = [box for box in found if box.top + box.height > size[0] / 2]
        if Detection2DArray is not None:
            self.publisher.publish(to_detections(near, message.header))
        else:
            self.publisher.publish(String(data=to_json(near, message.header, size)))


if __name__ == "__main__":
    sys.exit(run_node("publish_detections", NearObjects))
