"""A fusion node in a process of its own, kept for many hostile inputs and checked after each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from harness import START_SECONDS, Graph, stop
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from hostile.messages import Shot
from ivf_ros.conversions import to_image
from ivf_ros.diagnostics import by_reason
from ivf_ros.transport import environment

_ROOT = Path(__file__).parents[3]
_KINDS = {"raw": (Image, ""), "compressed": (CompressedImage, "/compressed")}
_STREAMS = {"rgb": "visible", "thermal": "infrared"}
_SPACING_SECONDS = 0.01
_ANSWER_SECONDS = 60.0
_ANSWERS_QOS = QoSProfile(depth=200)
_RECOVERY_SECONDS = 60.0  # the node needs some frames after a time jump or a silent camera
_QUEUES = 3  # frames that wait for a partner, for an earlier frame, or for their turn
_GROWTH_LIMIT_MIB = 1024  # inputs are below 100 kB: more follows a size that one of them claims

_STEPS_TO_ACTIVE = {
    "unconfigured": Transition.TRANSITION_CONFIGURE,
    "inactive": Transition.TRANSITION_ACTIVATE,
}


class LiveNode:
    """Fusion node that receives hostile inputs, and the checks that it still works.

    Args:
        name: name of the node.
        weights: weights file.
        transport: "raw" or "compressed", of both cameras.
        folder: folder of its log.

    Attributes:
        graph: publishers and clients of the test.
        starts: number of times that it was started.
        totals: pairs in, out and dropped by reason, over all activations.
        memory: resident memory in MiB, of the first and of the latest report.
    """

    def __init__(self, name: str, weights: Path, transport: str, folder: Path) -> None:
        self.name, self.weights, self.transport = name, weights, transport
        self.graph = Graph(name)
        self.log = folder / f"{name}.log"
        self._folder = folder
        self.starts = 0
        self.totals: Counter[str] = Counter()
        self.memory: list[float] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()  # of the present activation
        kind, suffix = _KINDS[transport]
        self._publishers = {
            camera: self.graph.node.create_publisher(kind, f"/{camera}/image_raw{suffix}", 10)
            for camera in _STREAMS
        }
        self._info = self.graph.node.create_publisher(CameraInfo, "/rgb/camera_info", 10)
        self.graph.listen(f"/{name}/fused/image", Image)
        self._good = self._good_pair()

    def __repr__(self) -> str:  # of the inputs of a failure
        return self.name

    def close(self) -> None:
        """End the node."""
        if self._process is not None:
            stop(self._process)
        self.graph.close()

    def start(self) -> None:
        """Start the node, unless it runs, and wait until it is active."""
        if self._process is not None and self._process.poll() is None:
            return
        self.starts += 1
        self._end_activation()
        self.graph.messages["/diagnostics"].clear()
        parameters = {
            "weights": str(self.weights), "engine": "torch", "device": "cpu", "precision": "fp32",
            "threads": 1, "diagnostics_period_seconds": 0.1,
            **{f"{camera}_transport": self.transport for camera in _STREAMS},
        }  # fmt: skip
        command = [sys.executable, "-m", "ivf_ros.fusion_node", "--ros-args"]
        command += ["-r", f"__node:={self.name}"]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={json.dumps(value)}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self.environment(),
                cwd=self._folder,  # of snapshots with a relative path
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.graph.until(
            lambda: self.graph.values().get("state") == "active" or not self.runs(),
            START_SECONDS,
        )
        self.check()

    def runs(self) -> bool:
        """Return whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def publish(self, shots: Sequence[Shot]) -> int:
        """Publish messages, and return how many."""
        sent = 0
        for shot in shots:
            stamp = shot.stamp or self._now()
            for publisher, message in (
                (self._info, shot.info),
                (self._publishers["rgb"], shot.rgb),
                (self._publishers["thermal"], shot.thermal),
            ):
                if message is None:
                    continue
                if not isinstance(message, bytes):
                    message.header.stamp = stamp
                publisher.publish(message)
                sent += 1
            self.graph.executor.spin_once(timeout_sec=_SPACING_SECONDS)
        return sent

    def expect_fusion(self) -> None:
        """Publish good pairs until one of them is fused; fail if none is."""
        fused = self.graph.messages[f"/{self.name}/fused/image"]
        fused.clear()
        stamps: set[tuple[int, int]] = set()
        end = time.monotonic() + _RECOVERY_SECONDS
        while not any((m.header.stamp.sec, m.header.stamp.nanosec) in stamps for m in fused):
            assert time.monotonic() < end, f"no good pair is fused any more: {self._tell()}"
            stamp = self._now()
            stamps.add((stamp.sec, stamp.nanosec))
            self.publish([Shot(*self._good, None, stamp)])
        self.check(reports=2)

    def check(self, reports: int = 1) -> None:
        """Check that the node runs and that its next reports are consistent."""
        diagnostics = self.graph.messages["/diagnostics"]
        diagnostics.clear()
        mine = 0
        while mine < reports:
            self.graph.until(lambda: bool(diagnostics) or not self.runs())
            assert self.runs(), f"the node has ended: {self._tell()}"
            for message in diagnostics:
                parts = _parts(message, self.name)
                if parts:
                    mine += 1
                    self._check_report(parts)
            diagnostics.clear()

    def call(self, kind: type, service: str, request: Any) -> Any:
        """Call a service of the node and return its response."""
        return self.call_all([(kind, service, request)])[0]

    def call_all(self, calls: Sequence[tuple[type, str, Any]]) -> list[Any]:
        """Call services at once, while good pairs arrive, and return the responses.

        Args:
            calls: type, name below the node's, and request of each.
        """
        for kind, service, _ in calls:
            if service not in self._clients:
                # The default keeps ten answers, and a busy machine takes them late.
                client = self.graph.node.create_client(
                    kind, f"/{self.name}/{service}", qos_profile=_ANSWERS_QOS
                )
                self._clients[service] = client
        for _, service, _ in calls:
            ready = self._clients[service].service_is_ready
            self.graph.until(lambda ready=ready: ready() or not self.runs())
        futures = [self._clients[service].call_async(request) for _, service, request in calls]
        end = time.monotonic() + _ANSWER_SECONDS
        while not all(future.done() for future in futures):
            assert self.runs(), f"the node has ended: {self._tell()}"
            assert time.monotonic() < end, (
                f"{sum(not f.done() for f in futures)} of {len(futures)} calls of "
                f"{sorted({c[1] for c in calls})} are not answered: {self._tell()}"
            )
            self.publish([Shot(*self._good, None, None)])
        return [future.result() for future in futures]

    def environment(self) -> dict[str, str]:
        """Return the environment of processes that run in another folder than the tests."""
        folders = [str(_ROOT), str(_ROOT / "test/fuzz"), os.environ.get("PYTHONPATH", "")]
        return {
            **environment(),
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
            "HOME": str(self._folder),
        }

    def activate(self) -> None:
        """Bring the node back into the active state after any transitions."""
        while (state := self._state()) != "active":
            if state == "finalized":
                assert self._process is not None
                stop(self._process)
                self.start()
                return
            request = ChangeState.Request()
            request.transition.id = _STEPS_TO_ACTIVE[state]
            assert self.call(ChangeState, "change_state", request).success, self._tell()

    def _state(self) -> str:
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def _check_report(self, parts: dict[str, dict[str, str]]) -> None:
        """Check the counters of a report: none negative, in = out + dropped + pending."""
        pairs = parts["pairs"]
        dropped, frames = by_reason(pairs, "dropped."), by_reason(pairs, "frames.")
        alone = by_reason(pairs, "single_camera.")
        came_in, out, pending = (int(pairs[f"pairs_{key}"]) for key in ("in", "out", "pending"))
        numbers = [came_in, out, pending, *dropped.values(), *frames.values(), *alone.values()]
        assert min(numbers) >= 0, pairs
        assert came_in == out + sum(dropped.values()) + pending, pairs
        assert dropped.get("internal_error", 0) == 0, f"unforeseen error: {self._tell()}"
        together = came_in - sum(alone.get(f"{camera}_in", 0) for camera in _STREAMS)
        for camera, stream in _STREAMS.items():
            received = int(parts[f"{camera} camera"]["received"])
            lost = sum(n for reason, n in frames.items() if reason.endswith(f"_{stream}"))
            waiting = received - together - alone.get(f"{camera}_in", 0) - lost
            most = _QUEUES * int(parts["settings"]["queue_size"])
            assert 0 <= waiting <= most, f"{camera}: {waiting} of {received} frames: {pairs}"
        self._count(Counter({"in": came_in, "out": out, **dropped}), float(pairs["memory_mib"]))

    def _count(self, counts: Counter[str], memory: float) -> None:
        if counts["in"] < self._counts["in"]:  # activated again
            self._end_activation()
        self._counts = counts
        self.memory = [*self.memory[:1], memory]
        assert memory - self.memory[0] < _GROWTH_LIMIT_MIB, f"memory grows: {self.memory} MiB"

    def _end_activation(self) -> None:
        self.totals, self._counts = self.totals + self._counts, Counter()

    def figures(self) -> dict[str, Any]:
        """Return totals of pairs, starts and memory."""
        totals = self.totals + self._counts
        return {
            "pairs": ", ".join(f"{n} {reason}" for reason, n in totals.most_common()),
            "starts": self.starts,
            "memory in MiB": " to ".join(f"{m:.0f}" for m in self.memory),
        }

    def _now(self) -> Time:
        return self.graph.node.get_clock().now().to_msg()

    def _good_pair(self) -> tuple[Any, Any]:
        """Return images that every check of the cameras' health passes."""
        y, x = np.mgrid[0:48, 0:64]
        visible = np.dstack((40 + 3 * x, 60 + 4 * y, 200 - 3 * x)).astype(np.uint8)
        infrared = (20 + 2 * x + 2 * y).astype(np.uint8)
        header = Header(frame_id="camera")
        if self.transport == "raw":
            return to_image(visible, "rgb8", header), to_image(infrared, "mono8", header)
        images = cv2.cvtColor(visible, cv2.COLOR_RGB2BGR), infrared
        encoded = [cv2.imencode(".png", image)[1].tobytes() for image in images]
        return tuple(CompressedImage(header=header, format="png", data=data) for data in encoded)

    def _tell(self) -> str:
        """Return the end of the log and the latest counters."""
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([str(self.graph.values()), *lines])


def _parts(message: Any, name: str) -> dict[str, dict[str, str]]:
    """Return the values of a node's report by part, or nothing for that of another node."""
    prefix = f"/{name}: "
    return {
        status.name.removeprefix(prefix): {pair.key: pair.value for pair in status.values}
        for status in message.status
        if status.name.startswith(prefix)
    }
