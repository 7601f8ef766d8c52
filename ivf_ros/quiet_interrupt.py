"""End of a node's process by Ctrl-C while it still imports, without a traceback.

Importing this module sets the system's handling of SIGINT, which ends the process at once,
in a process that runs a node of this package and nowhere else. The node's `main` then
installs handlers of its own.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

__all__: list[str] = []


def _runs_a_node() -> bool:
    """Return whether this process was started as `ros2 run` or `python -m` start a node."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    module = getattr(spec, "name", "") or ""
    program = Path(sys.argv[0] if sys.argv else "").name
    return module.startswith("ivf_ros.") or program in {
        "fusion_node",
        "player_node",
        "recorder_node",
        "view_node",
    }


if _runs_a_node() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
