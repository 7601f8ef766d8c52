"""Cameras of a small rig, and the ROS messages that describe them."""

from __future__ import annotations

from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo

from ivf_core.rigs.camera import CameraModel
from ivf_core.rigs.rig import Rig

RGB = CameraModel((320, 240), (260.0, 260.0), (160.0, 123.0), "plumb_bob",
                  (-0.2, 0.05, 0.001, 0.0))  # fmt: skip
THERMAL = CameraModel((200, 160), (190.0, 191.0), (98.0, 79.0), "equidistant",
                      (0.01, -0.01, 0.0, 0.0))  # fmt: skip
RIG = Rig(RGB, THERMAL, (1, 0, 0, 0, 1, 0, 0, 0, 1), (0.05, 0.0, 0.0))


class Transforms:
    """Message of static transforms, whose package the wheels lack.

    Its one field is that of tf2_msgs/msg/TFMessage: `geometry_msgs/TransformStamped[] transforms`.
    """

    def __init__(self, *transforms: TransformStamped) -> None:
        self.transforms = list(transforms)


def camera_info(camera: CameraModel, frame: str) -> CameraInfo:
    """Return the message of a camera."""
    info = CameraInfo(width=camera.size[0], height=camera.size[1])
    info.header.frame_id = frame
    info.k = camera.camera_matrix.ravel().tolist()
    info.distortion_model, info.d = camera.distortion_model, list(camera.distortion)
    return info


def transform(
    parent: str,
    child: str,
    position: tuple[float, float, float] = (0.0, 0.0, 0.0),
    quaternion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0),
) -> TransformStamped:
    """Return the message of a child's pose in its parent; the quaternion is x, y, z, w."""
    stamped = TransformStamped(child_frame_id=child)
    stamped.header.frame_id = parent
    t, q = stamped.transform.translation, stamped.transform.rotation
    t.x, t.y, t.z = position
    q.x, q.y, q.z, q.w = quaternion
    return stamped
