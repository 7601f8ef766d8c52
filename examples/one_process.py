"""Run the fusion node and a node of your own in one process.

    python3 examples/one_process.py --ros-args -r rgb/image_raw:=/camera/image_raw

rclpy has no components: nodes in Python cannot be loaded into a container of
rclcpp_components, and images between two nodes of one process pass through the middleware too
(on one machine through shared memory). One process saves a second interpreter and its memory, and
starts and ends both nodes together.

The fusion node needs an executor of its own with one thread: its parts rely on callbacks that do
not run at the same time. Your node may have any executor, here one with several threads. Python
runs one of all these threads at a time, but for the time that NumPy, OpenCV and the engines work.
"""

from __future__ import annotations

import sys
import threading

import numpy as np
import rclpy
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from ivf_core.system.interrupts import interrupt_flag
from ivf_ros.compat import initialize, spin_once
from ivf_ros.fusion_node import FusionNode


class MaskWatcher(Node):
    """Node of your own: logs the share of each class in the masks."""

    def __init__(self) -> None:
        super().__init__("mask_watcher")
        self.create_subscription(Image, "fusion/mask/image", self._on_mask, qos_profile_sensor_data)

    def _on_mask(self, message: Image) -> None:
        labels = np.frombuffer(message.data, np.uint8)
        ids, counts = np.unique(labels, return_counts=True)
        shares = ", ".join(
            f"{100 * count / labels.size:.0f} % of {label}"
            for label, count in zip(ids, counts, strict=True)
        )
        self.get_logger().info(f"mask of {message.header.frame_id}: {shares}")


def main() -> int:
    """Run both nodes until SIGINT or SIGTERM; return the exit status."""
    ending = interrupt_flag()
    # Without rclpy's handlers: they would end the context while the model's thread publishes.
    if not initialize("one_process", None):
        return 1
    fusion, watcher = FusionNode(), MaskWatcher()
    fusion_executor, executor = SingleThreadedExecutor(), MultiThreadedExecutor()
    fusion_executor.add_node(fusion)
    executor.add_node(watcher)

    def spin_fusion() -> None:
        while not ending.is_set():
            spin_once(fusion_executor, 0.2, fusion.on_callback_error)

    thread = threading.Thread(target=spin_fusion, name="fusion executor")
    try:
        for start in (fusion.trigger_configure, fusion.trigger_activate):
            if start() != TransitionCallbackReturn.SUCCESS:
                return 1  # the node has logged the reason
        thread.start()
        while not ending.is_set():
            executor.spin_once(timeout_sec=0.2)
        return 0
    finally:
        ending.set()
        if thread.is_alive():
            thread.join()
        fusion.close()
        for spun in (fusion_executor, executor):
            spun.shutdown()
        for node in (fusion, watcher):
            node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
