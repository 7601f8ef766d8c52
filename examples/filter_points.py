"""Keep the points of a cloud that the mask shows as one of some classes.

python examples/filter_points.py --ros-args -p classes:="[person, car]" -r points:=/lidar/points \
    -r mask:=/fusion/mask/image -r info:=/fusion/mask/camera_info -r labels:=/fusion/labels

The cloud must be in the camera's optical frame (tf2's do_transform_cloud); distortion is left out.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import String

from ivf_ros.running import run_node


def select(cloud: PointCloud2, mask: Image, info: CameraInfo, ids: list[int]) -> np.ndarray:
    """Return which points of a cloud have a class id in the mask, N bool."""
    offsets = [next(f.offset for f in cloud.fields if f.name == axis) for axis in "xyz"]
    kinds = {"names": list("xyz"), "formats": ["<f4"] * 3, "offsets": offsets}
    points = np.frombuffer(cloud.data, np.dtype({**kinds, "itemsize": cloud.point_step}))
    xyz = np.stack([points[axis] for axis in "xyz"]).astype(np.float64)  # 3 x N
    ahead = np.isfinite(xyz).all(0) & (xyz[2] > 0)
    u, v, w = np.reshape(info.p, (3, 4))[:, :3] @ np.where(ahead, xyz, 1.0)
    column, row = np.rint(u / w), np.rint(v / w)  # of the mask, whose own calibration this is
    inside = ahead & (column >= 0) & (column < mask.width) & (row >= 0) & (row < mask.height)
    labels = np.frombuffer(mask.data, np.uint8).reshape(mask.height, mask.step)
    kept = np.zeros(len(points), bool)
    kept[inside] = np.isin(labels[row[inside].astype(int), column[inside].astype(int)], ids)
    return kept


class PointFilter(Node):
    """Node that publishes the points of some classes."""

    def __init__(self) -> None:
        super().__init__("point_filter")
        self.classes = self.declare_parameter("classes", ["person"]).value
        self.latest: dict[str, Any] = {}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(String, "labels", self.keep("labels"), latched)
        self.create_subscription(Image, "mask", self.keep("mask"), 10)
        self.create_subscription(CameraInfo, "info", self.keep("info"), 10)
        self.create_subscription(PointCloud2, "points", self.on_points, 10)
        self.publisher = self.create_publisher(PointCloud2, "~/points", 10)

    def keep(self, name: str) -> Any:
        """Return a callback that keeps the latest message."""
        return lambda message: self.latest.update({name: message})

    def on_points(self, cloud: PointCloud2) -> None:
        """Publish the points that the latest mask shows as one of the classes."""
        if len(self.latest) < 3:
            return
        names = json.loads(self.latest["labels"].data)["names"]
        ids = [names.index(name) for name in self.classes if name in names]
        kept = select(cloud, self.latest["mask"], self.latest["info"], ids)
        rows = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_step)[kept]
        cloud.height, cloud.width, cloud.row_step = 1, len(rows), rows.size
        cloud.data = rows.tobytes()
        self.publisher.publish(cloud)


if __name__ == "__main__":
    sys.exit(run_node("filter_points", PointFilter))
