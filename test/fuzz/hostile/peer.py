"""Program that publishes to a fusion node, subscribes to it or calls it, until it is killed.

`python -m hostile.peer KIND NODE` prints "ready" once it is connected.
"""

from __future__ import annotations

import sys
import time

KINDS = ("publisher", "subscriber", "client")


def main(kind: str, name: str) -> None:
    """Work until the end comes from outside.

    Args:
        kind: one of `KINDS`.
        name: name of the fusion node.
    """
    import numpy as np
    import rclpy
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header
    from std_srvs.srv import Trigger

    from ivf_ros.conversions import to_image

    rclpy.init()
    node = rclpy.create_node("peer")
    header = Header(frame_id="peer")
    images = {
        "rgb": to_image(np.full((120, 160, 3), 90, np.uint8), "rgb8", header),
        "thermal": to_image(np.full((120, 160), 90, np.uint8), "mono8", header),
    }
    publishers = {
        camera: node.create_publisher(Image, f"/{camera}/image_raw", 10) for camera in images
    }
    client = node.create_client(Trigger, f"/{name}/reload_weights")
    if kind == "subscriber":
        for topic in ("fused/image", "mask/image", "overlay/image"):
            node.create_subscription(Image, f"/{name}/{topic}", lambda _: time.sleep(0.05), 10)
        connected = lambda: True  # noqa: E731
    elif kind == "client":
        connected = client.service_is_ready
    else:
        connected = lambda: publishers["rgb"].get_subscription_count() > 0  # noqa: E731
    while not connected():
        rclpy.spin_once(node, timeout_sec=0.05)
    print("ready", flush=True)
    while True:
        if kind == "publisher":
            header.stamp = node.get_clock().now().to_msg()
            for camera, publisher in publishers.items():
                publisher.publish(images[camera])
            time.sleep(0.002)
        elif kind == "client":
            client.call_async(Trigger.Request())
            time.sleep(0.1)
        else:
            rclpy.spin_once(node, timeout_sec=0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
