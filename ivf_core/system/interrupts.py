"""Ctrl-C, for processes that were started in the background too."""

from __future__ import annotations

import signal

__all__ = ["obey_interrupts"]


def obey_interrupts() -> None:
    """Make SIGINT raise KeyboardInterrupt if this process was started to ignore it.

    A shell without job control starts jobs in the background with SIGINT ignored, and Python
    leaves it so. `ros2 launch`, which ends its processes by SIGINT, hands this on to them.
    Call it in the main thread.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
