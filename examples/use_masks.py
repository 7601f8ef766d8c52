"""Subscribe to the masks of a running fusion node, and report people ahead.

python examples/use_masks.py --ros-args -r mask:=/fusion/mask/image -r labels:=/fusion/labels
"""

from __future__ import annotations

import json
import sys

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String

from ivf_ros.running import run_node

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class PeopleAhead(Node):
    """Node that publishes the share of the middle of the image that shows people."""

    def __init__(self) -> None:
        super().__init__("people_ahead")
        self.person: int | None = None  # id of the class, known once the names have come
        self.create_subscription(String, "labels", self.on_labels, LATCHED)
        self.create_subscription(Image, "mask", self.on_mask, 10)
        self.publisher = self.create_publisher(Float64, "~/share", 10)

    def on_labels(self, message: String) -> None:
        """Find the class; the names come once, and again with other weights."""
        names = json.loads(message.data)["names"]
        self.person = names.index("person") if "person" in names else None

    def on_mask(self, message: Image) -> None:
        """Measure a mask: mono8, one class id a pixel, rows of `step` bytes."""
        if self.person is None:
            return
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        mask = rows[:, : message.width]
        ahead = mask[:, message.width // 3 : -message.width // 3]
        share = float((ahead == self.person).mean())
        self.publisher.publish(Float64(data=share))
        if share > 0.05:
            self.get_logger().warning(f"people fill {share:.0%} of the way ahead")


if __name__ == "__main__":
    sys.exit(run_node("use_masks", PeopleAhead))
