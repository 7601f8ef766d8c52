"""Run a node of one's own until the process is asked to end."""

from __future__ import annotations

from collections.abc import Callable

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from ivf_core.system.interrupts import interrupt_flag
from ivf_ros.compat import initialize, spin_once

__all__ = ["run_node"]


def run_node(name: str, create: Callable[[], Node]) -> int:
    """Run a node in this thread, the main one, until SIGINT or SIGTERM.

    The signals set a flag: an exception inside rclpy's compiled calls can be lost there, and
    rclpy's own handlers end the context in a thread of their own, beside the node's callbacks.

    Args:
        name: name of the program, for errors.
        create: creates the node, once rclpy is initialized.

    Returns:
        The exit status: 1 if rclpy does not accept the arguments of the process.
    """
    stopping = interrupt_flag()
    if not initialize(name, None):
        return 1
    executor = SingleThreadedExecutor()
    node = create()
    executor.add_node(node)
    try:
        while not stopping.is_set():
            spin_once(executor, 0.2)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
