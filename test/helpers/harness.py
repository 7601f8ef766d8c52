"""Harness of the tests over DDS: real nodes in other processes, and a node in the test."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from ivf_core.bags.writer import BagWriter
from ivf_ros.transport import environment

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
START_SECONDS = 60.0
SECONDS = 30.0


_QUICK_TO_START = {
    "engine": "torch",
    "device": "cpu",
    "precision": "fp32",
    "diagnostics_period_seconds": 0.2,
}


class Graph:
    """Graph of the nodes under test: starts them, collects their messages, and ends them.

    Args:
        name: name of the fusion node.
    """

    def __init__(self, name: str = "fusion") -> None:
        self.name = name
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("test", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.messages: dict[str, list[Any]] = defaultdict(list)
        self._processes: list[subprocess.Popen[str]] = []
        self.listen("/diagnostics", DiagnosticArray)

    def close(self) -> None:
        """End all started processes and the test's node."""
        for process in self._processes:
            stop(process)
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def start(self, name: str, *arguments: str, **parameters: Any) -> subprocess.Popen[str]:
        """Start a node of this package; `arguments` follow --ros-args."""
        command = [sys.executable, "-m", f"ivf_ros.{name}", "--ros-args", *arguments]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={json.dumps(value)}"]
        process = subprocess.Popen(
            command, env=environment(), stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        return process

    def start_fusion(
        self, weights: Path, *arguments: str, **parameters: Any
    ) -> subprocess.Popen[str]:
        """Start a fusion node and wait until it is active."""
        process = self.start(
            "fusion_node",
            *arguments,
            weights=str(weights),
            **{**_QUICK_TO_START, **parameters},
        )
        self.until(
            lambda: self.values().get("state") == "active" or process.poll() is not None,
            START_SECONDS,
        )
        assert process.poll() is None, process.communicate()[0]
        return process

    def play(self, bag: Path, **parameters: Any) -> None:
        """Play a bag to its end."""
        process = self.start("player_node", bag=str(bag), **parameters)
        self.until(lambda: process.poll() is not None, START_SECONDS)
        assert process.returncode == 0, process.communicate()[0]

    def listen(self, topic: str, kind: type, qos: QoSProfile | int = 100) -> None:
        """Collect the messages of a topic in `messages`."""
        self.node.create_subscription(kind, topic, self.messages[topic].append, qos)

    def until(self, condition: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Spin until a condition holds; fail after a time."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (
                f"condition false after {seconds} s; {self.values()}"
            )
            self.executor.spin_once(timeout_sec=0.05)

    def comes_true(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Spin until a condition holds, or for a time; return whether it holds."""
        end = time.monotonic() + seconds
        self.until(lambda: condition() or time.monotonic() > end, seconds + SECONDS)
        return condition()

    def spin(self, seconds: float) -> None:
        """Spin for a time."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, seconds + SECONDS)

    def call(self, kind: type, service: str, request: Any, *, again: bool = False) -> Any:
        """Call a service and return its response.

        With `again`, for requests that change nothing, it is called again after 5 s without one:
        rmw_fastrtps drops a response if the server finds the client's reader late.
        """
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(SECONDS), service
        future = client.call_async(request)
        if again and not self.comes_true(future.done, 5):
            future = client.call_async(request)
        self.until(future.done)
        self.node.destroy_client(client)
        return future.result()

    def trigger(self, service: str) -> Trigger.Response:
        """Call a Trigger service of the fusion node."""
        return self.call(Trigger, f"/{self.name}/{service}", Trigger.Request())

    def change_state(self, transition: int) -> bool:
        """Request a transition of the fusion node; return its success."""
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, f"/{self.name}/change_state", request).success

    def state(self) -> str:
        """Return the lifecycle state of the fusion node."""
        request = GetState.Request()
        return self.call(
            GetState, f"/{self.name}/get_state", request, again=True
        ).current_state.label

    def set(self, **values: Any) -> list[Any]:
        """Set parameters of the fusion node one by one; return their `successful` and `reason`."""
        parameters = [
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
        ]
        request = SetParameters.Request(parameters=parameters)
        return self.call(SetParameters, f"/{self.name}/set_parameters", request).results

    def status(self, part: str) -> Any:
        """Return the latest DiagnosticStatus of a part of the fusion node, or None."""
        for message in reversed(self.messages["/diagnostics"]):
            for status in message.status:
                if status.name == f"/{self.name}: {part}":
                    return status
        return None

    def values(self, part: str = "pairs") -> dict[str, str]:
        """Return the values of the latest DiagnosticStatus of a part; empty without one."""
        status = self.status(part)
        return {} if status is None else {pair.key: pair.value for pair in status.values}

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Return pairs in, pairs out, and pairs dropped by reason."""
        values = self.values()
        dropped = {
            key.removeprefix("dropped."): int(value)
            for key, value in values.items()
            if key.startswith("dropped.")
        }
        return int(values["pairs_in"]), int(values["pairs_out"]), dropped

    def settle(self, pairs: int) -> None:
        """Spin until a number of pairs has come in and all are published or dropped."""

        def settled() -> bool:
            came_in, out, dropped = self.counts()
            return came_in == pairs and came_in == out + sum(dropped.values())

        self.until(settled)


def stop(process: subprocess.Popen[str]) -> str:
    """Interrupt a node, wait for its end, and return its output."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]


def smooth_image(height: int, width: int, seed: int) -> np.ndarray:
    """Make a smooth random RGB image, whose neighbouring pixels differ little."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    phase, wave = random.uniform(0, 6, 3), random.uniform(10, 30, 3)
    values = 127 + 120 * np.sin(x[..., None] / wave + y[..., None] / wave[::-1] + phase)
    return values.astype(np.uint8)


def write_pairs(
    path: Path,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    encoding: str = "mono8",
    start: int = 0,
) -> Path:
    """Write a bag of pairs with equal stamps, ten pairs a second."""
    with BagWriter(path) as bag:
        for index, (visible, infrared) in enumerate(pairs, start=start):
            stamp = START_NS + index * PERIOD_NS
            bag.write_image("/rgb/image_raw", stamp, visible, "rgb8", f"rgb_{index}")
            bag.write_image("/thermal/image_raw", stamp, infrared, encoding, "thermal")
    return path
