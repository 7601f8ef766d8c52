"""Ctrl-C, for processes that were started in the background too."""

from __future__ import annotations

import signal
import threading

__all__ = ["interrupt_flag", "obey_interrupts"]


def interrupt_flag() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set from now on, in place of ending the process.

    For programs that call compiled code such as rclpy's, where a KeyboardInterrupt can be lost.
    Call it in the main thread, and there ask `is_set`: a wait would hold the lock that the signal
    handler, which runs in the same thread, takes.
    """
    flag = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: flag.set())
    return flag


def obey_interrupts() -> None:
    """Make SIGINT raise KeyboardInterrupt if this process was started to ignore it.

    A shell without job control starts jobs in the background with SIGINT ignored, and Python
    leaves it so. `ros2 launch`, which ends its processes by SIGINT, hands this on to them.
    Call it in the main thread.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
