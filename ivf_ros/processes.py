"""Processes of this package's nodes: started, watched, and ended in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from ivf_ros.diagnostics import by_reason
from ivf_ros.transport import environment

__all__ = [
    "NodeWatcher",
    "guarded",
    "node_process",
    "use_image_transport",
    "watching",
]

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class Process(Protocol):
    """Interface of a watched process, which `subprocess.Popen` implements."""

    args: Any

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""


def guarded(name: str, run: Callable[[], int]) -> int:
    """Call a function, and print its error or interruption as one line.

    SIGTERM and SIGHUP raise KeyboardInterrupt too, so that `run` ends its processes.

    Args:
        name: name of the program, for the line.
        run: function that returns the exit status.

    Returns:
        The exit status: that of `run`, 1 after an error, 130 after Ctrl-C.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return run()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def use_image_transport() -> None:
    """Apply the Fast DDS profile for images to this process and to those that it starts."""
    os.environ.update(environment())
    os.environ.setdefault("PYTHONUNBUFFERED", "1")


@contextmanager
def node_process(
    module: str,
    parameters: Mapping[str, Any],
    remaps: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node in a process of its own, which is terminated and waited for at the end.

    Args:
        module: module of `ivf_ros` with the node.
        parameters: parameters by name.
        remaps: new names by old ones; `__ns` is the namespace.
    """
    command = [sys.executable, "-m", f"ivf_ros.{module}", "--ros-args", "--log-level", "warn"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]
    for old, new in (remaps or {}).items():
        if old != new.lstrip("/"):
            command += ["-r", f"{old}:={new}"]
    # A session of its own: Ctrl-C does not reach it, so that processes end in order, and
    # without a traceback while they import.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class NodeWatcher(Node):
    """Observer of a fusion node, by its small topics only, so that it is not disturbed.

    Used by one thread, which also spins it.

    Args:
        name: name of this node.
        namespace: namespace of the fusion node, whose name is `fusion`.

    Attributes:
        reports: number of reports of the fusion node on /diagnostics.
        values: values of the latest report.
        load: values of its part on the load.
        received: number of received images by camera, in the latest report.
    """

    def __init__(self, name: str, namespace: str = "") -> None:
        super().__init__(name, namespace=namespace)
        self.reports = 0
        self.values: dict[str, str] = {}
        self.load: dict[str, str] = {}
        self.received: dict[str, int] = {}
        self._prefix = f"{namespace}/fusion: "
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._change_state = self.create_client(ChangeState, "fusion/change_state")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """Take over the values of a report of the fusion node."""
        for status in message.status:
            if not status.name.startswith(self._prefix):
                continue
            part = status.name.removeprefix(self._prefix)
            values = {value.key: value.value for value in status.values}
            if part == "pairs":
                self.values = values
                self.reports += 1
            elif part == "load":
                self.load = values
            elif "received" in values:  # "rgb camera", "thermal camera"
                self.received[part.split()[0]] = int(values["received"])

    def spin_until(
        self, condition: Callable[[], bool], seconds: float, processes: Sequence[Process] = ()
    ) -> bool:
        """Spin until a condition holds.

        Args:
            condition: called between the rounds.
            seconds: longest time to spin.
            processes: processes that must not end meanwhile.

        Returns:
            False if the condition does not hold after `seconds`.

        Raises:
            RuntimeError: one of `processes` has ended; names it.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            for process in processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args[2]} ended early")
            if time.monotonic() > deadline:
                return False
            rclpy.spin_once(self, timeout_sec=0.1)
        return True

    def wait_until_active(
        self, processes: Sequence[Process], seconds: float = _START_SECONDS
    ) -> None:
        """Wait until the fusion node is active.

        Args:
            processes: processes that must not end meanwhile.
            seconds: longest time to wait.

        Raises:
            RuntimeError: the node is not active after `seconds`, or a process has ended.
        """
        active = lambda: self.values.get("state") == "active"  # noqa: E731
        if not self.spin_until(active, seconds, processes):
            raise RuntimeError(f"the node is not active after {seconds:.0f} s")

    def wait_until_settled(self, seconds: float, processes: Sequence[Process]) -> None:
        """Wait until no pair is under way and two reports in a row have the same counts.

        Args:
            seconds: longest time to wait.
            processes: processes that must not end meanwhile.

        Raises:
            RuntimeError: the node is not settled after `seconds`, or a process has ended.
        """
        counts: list[dict[str, int]] = []
        seen = self.reports

        def settled() -> bool:
            nonlocal seen
            if self.reports > seen:
                seen = self.reports
                counts.append(
                    {
                        **by_reason(self.values, "pairs_"),
                        **by_reason(self.values, "dropped."),
                        **by_reason(self.values, "frames."),
                        **self.received,
                    }
                )
            return len(counts) > 1 and counts[-1] == counts[-2] and counts[-1]["pending"] == 0

        if not self.spin_until(settled, seconds, processes):
            raise RuntimeError(f"the node still has pairs under way after {seconds:.0f} s")

    def deactivate(self) -> None:
        """Deactivate the fusion node, which makes it report its last counts.

        Raises:
            RuntimeError: the node is not inactive after half a minute.
        """
        request = ChangeState.Request()
        request.transition.id = Transition.TRANSITION_DEACTIVATE
        future = self._change_state.call_async(request)
        if not self.spin_until(
            lambda: future.done() and self.values.get("state") == "inactive", _STOP_SECONDS
        ):
            raise RuntimeError("the node has not deactivated")


_Watcher = TypeVar("_Watcher", bound=NodeWatcher)


@contextmanager
def watching(make: Callable[[], _Watcher]) -> Iterator[_Watcher]:
    """Create a watcher, with the ROS context of this process initialized around it.

    rclpy's signal handlers are not installed: on Ctrl-C they would end the context before
    the processes have ended.

    Args:
        make: creates the watcher.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        watcher = make()
        try:
            yield watcher
        finally:
            watcher.destroy_node()
    finally:
        rclpy.try_shutdown()
