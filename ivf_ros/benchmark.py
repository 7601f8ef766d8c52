"""Benchmark of the fusion node over DDS: cameras, node and subscriber in separate processes.

`ivf benchmark --node` runs this module.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from ivf_core.commands.benchmark import add_candidates, add_node_options
from ivf_core.scenes import MINIMUM_SIZE
from ivf_core.system.atomic import write_json
from ivf_core.system.child_process import Answer, Child
from ivf_core.system.usage import machine_seconds, processor_seconds, resident_mb
from ivf_ros.diagnostics import by_reason, percentiles
from ivf_ros.parameters import PARAMETERS, reason_to_reject
from ivf_ros.processes import (
    NodeWatcher,
    Process,
    guarded,
    node_process,
    use_image_transport,
    watching,
)

__all__ = ["Case", "Row", "main", "measure", "table"]

_WARM_UP_SECONDS = {"full": 2.0, "adaptive": 15.0}  # the latter has to find its level
_READY_SECONDS = 120.0
_SETTLE_SECONDS = 120.0
_LARGEST_RATE_HZ = 1000.0
_SILENT_SECONDS = 60.0  # which the node reports; the cameras rest between warm-up and measurement


@dataclass(frozen=True)
class Case:
    """Settings of one measurement.

    Attributes:
        weights: parameter of the node; so are the following four.
        engine: see `weights`.
        device: see `weights`.
        precision: see `weights`.
        threads: see `weights`.
        size: width and height of the cameras' images, in pixels.
        rate_hz: number of pairs per second that the cameras publish.
        seconds: duration of the measured run.
        outputs: output images to subscribe to.
        load_policy: parameter of the node.

    Raises:
        ValueError: a setting is out of range; names the option.
    """

    weights: str
    engine: str
    device: str
    precision: str
    threads: int
    size: tuple[int, int]
    rate_hz: float
    seconds: float
    outputs: tuple[str, ...]
    load_policy: str = "full"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.rate_hz <= _LARGEST_RATE_HZ:
            raise ValueError(
                f"--rate is {self.rate_hz:g}, expected more than 0 and at most "
                f"{_LARGEST_RATE_HZ:g} pairs a second"
            )
        if not (math.isfinite(self.seconds) and self.pairs >= 2):
            raise ValueError(
                f"--seconds is {self.seconds:g}, expected at least the time of two pairs: "
                f"{2 / self.rate_hz:.3g} at {self.rate_hz:g} pairs a second"
            )
        if min(self.size) < MINIMUM_SIZE:
            raise ValueError(
                f"--size is {self.size[0]}x{self.size[1]}, "
                f"expected at least {MINIMUM_SIZE}x{MINIMUM_SIZE}"
            )
        defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
        reason = reason_to_reject(defaults | self.parameters, self.parameters)
        if reason is not None:
            name, _, rest = reason.partition(" ")
            option = f"--{name.replace('_', '-')} {rest}"
            raise ValueError(option if name in self.parameters else reason)

    @property
    def pairs(self) -> int:
        """Number of pairs of the measured run."""
        return round(self.seconds * self.rate_hz)

    @property
    def warm_up_pairs(self) -> int:
        """Number of pairs of the warm-up."""
        return math.ceil(_WARM_UP_SECONDS[self.load_policy] * self.rate_hz)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the node that the case sets."""
        names = ("weights", "engine", "device", "precision", "threads", "load_policy")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Row:
    """Results of one measurement. Times are in ms; percentiles are median, p95 and p99, or empty.

    Attributes:
        weights: weights in use.
        size: as in `Case`.
        rate_hz: as in `Case`.
        threads: as in `Case`.
        outputs: subscribed outputs of which images were received.
        head: whether masks were computed.
        engine: engine in use; "auto" is resolved, as in the following two.
        device: device in use.
        precision: precision in use.
        published: number of pairs that the cameras published.
        late: number of pairs that the cameras published more than 10 ms late.
        latest_ms: largest delay of a published pair.
        arrived: number of images that reached the node, by camera.
        frames_without_pair: number of these without a partner, by reason.
        pairs_in: pairs in = pairs out + pairs dropped.
        pairs_out: see `pairs_in`.
        dropped: see `pairs_in`; by reason.
        load_policy: as in `Case`.
        load: level of the load policy at the end, in words.
        pairs_a_second: rate at which the node published pairs.
        interval_ms: mean and standard deviation of the time between two published pairs.
        stamp_interval_ms: likewise of the difference between the stamps of their images.
        node_ms: percentiles of the time from stamp to last publish, over all pairs.
        received: number of images that reached the subscriber, by output.
        subscriber_ms: percentiles of the time from stamp to arrival of a pair's last image.
        model_ms: median time of the model, including the warm-up.
        wait_ms: median time of waiting for the model, including the warm-up.
        overhead_ms: median of the rest of `node_ms`, including the warm-up.
        cores: processor time divided by time, by process; `others` is the rest of the
            machine, whose work disturbs the measurement.
        memory_mb: resident memory of the node at the end, in MiB.
    """

    weights: str
    size: tuple[int, int]
    rate_hz: float
    threads: int
    outputs: list[str]
    head: bool
    engine: str
    device: str
    precision: str
    published: int
    late: int
    latest_ms: float
    arrived: dict[str, int]
    frames_without_pair: dict[str, int]
    pairs_in: int
    pairs_out: int
    dropped: dict[str, int]
    load_policy: str
    load: str
    pairs_a_second: float
    interval_ms: dict[str, float]
    stamp_interval_ms: dict[str, float]
    node_ms: dict[str, float]
    received: dict[str, int]
    subscriber_ms: dict[str, float]
    model_ms: float
    wait_ms: float
    overhead_ms: float
    cores: dict[str, float]
    memory_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases that the options describe, and print them as a table.

    Args:
        arguments: command-line arguments; by default those of the process.

    Returns:
        The exit status: 0, 1 after an error, 130 after Ctrl-C.
    """
    args = _parser().parse_args(arguments)
    return guarded("benchmark", lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        prog="python -m ivf_ros.benchmark",
        description="Measure the fusion node over DDS: rate, latency, drops, processor time.",
    )
    add_candidates(parser)
    add_node_options(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    """Measure all combinations of the options."""
    cases = [
        Case(
            weights,
            engine,
            args.device,
            precision,
            args.threads,
            size,
            rate,
            args.seconds,
            tuple(dict.fromkeys(args.outputs)),
            policy,
        )
        for size, weights, engine, precision, rate, policy in itertools.product(
            args.size, args.weights, args.engine, args.precision, args.rate, args.load_policy
        )
    ]
    use_image_transport()
    rows: list[Row] = []
    try:
        for case in cases:
            print(
                f"measuring {case.weights} at {case.rate_hz:g} pairs a second "
                f"for {case.seconds:g} s",
                file=sys.stderr,
            )
            rows.append(measure(case))
    finally:  # results so far are reported even if the next measurement fails
        if rows:
            _report(rows, args.json)
    return 0


def _report(rows: Sequence[Row], path: Path | None) -> None:
    """Print the table, and write the rows to a JSON file if a path is given."""
    print(table(rows))
    if path is not None:
        write_json(path, [asdict(row) for row in rows])


def measure(case: Case) -> Row:
    """Measure one case, in a namespace of its own.

    A warm-up at the same rate comes first and is not counted, except in the medians that
    the node itself computes. Counts are read while no pair is under way, before the first
    and after the last pair of the measured run, so that they agree exactly.

    Args:
        case: settings of the measurement.

    Raises:
        ValueError, RuntimeError: a process failed, or no pair was published; names the
            process and the reason.
    """
    # Separate from the cameras of a robot and from other benchmarks.
    namespace = f"/benchmark_{os.getpid()}"
    with ExitStack() as stack:
        node = stack.enter_context(
            node_process(
                "fusion_node",
                {**case.parameters, "timeout_seconds": _SILENT_SECONDS},
                {"__ns": namespace},
            )
        )
        cameras, subscriber = (
            stack.enter_context(
                Child(f"ivf_ros.benchmark_{name}", {**settings, "namespace": namespace})
            )
            for name, settings in (
                ("cameras", {"size": case.size}),
                ("subscriber", {"outputs": case.outputs}),
            )
        )
        watcher = stack.enter_context(watching(lambda: NodeWatcher("benchmark", namespace)))
        run = _Run(case, watcher, node, cameras, subscriber)
        run.warm_up()
        return run.measured()


class _Run:
    """Course of one measurement: the requests to its processes, in order."""

    def __init__(
        self, case: Case, watcher: NodeWatcher, node: Any, cameras: Child, subscriber: Child
    ) -> None:
        self._case = case
        self._watcher = watcher
        self._cameras, self._subscriber = cameras, subscriber
        self._processes: dict[str, Any] = {
            "cameras": cameras.process,
            "node": node,
            "subscriber": subscriber.process,
        }

    @property
    def _all(self) -> tuple[Process, ...]:
        """All processes of the measurement."""
        return tuple(self._processes.values())

    def warm_up(self) -> None:
        """Wait until all processes are ready, and run until pairs were published.

        Raises:
            RuntimeError: the node published no pair, or a process has ended early.
        """
        for child in (self._cameras, self._subscriber):
            self._answer(child, _READY_SECONDS)
        self._watcher.wait_until_active(self._all, _READY_SECONDS)
        self._publish(self._case.warm_up_pairs)
        self._watcher.wait_until_settled(_SETTLE_SECONDS, self._all)
        values, arrived = self._watcher.values, self._watcher.received
        if not int(values["pairs_out"]):
            raise RuntimeError(
                f"the node published no pair: {self._case.warm_up_pairs} pairs sent, "
                f"images received {arrived}, dropped {by_reason(values, 'dropped.')}"
            )

    def measured(self) -> Row:
        """Run the measurement and return its results."""
        before, arrived_before = self._watcher.values, dict(self._watcher.received)
        self._subscriber.ask("restart")
        processor, start = self._processor_seconds(), time.monotonic()
        published = self._publish(self._case.pairs)
        seconds = time.monotonic() - start
        level = self._watcher.load.get("load.level_text", "")  # without input it rises again
        cores = {
            name: (used - processor[name]) / seconds
            for name, used in self._processor_seconds().items()
        }
        self._watcher.wait_until_settled(_SETTLE_SECONDS, self._all)
        counts = self._subscriber.ask("report")
        after = self._watcher.values
        engine, _, device, _, precision = after["engine"].split()  # "... on ... in ..."
        pairs = _grown(before, after, "pairs_")
        received = {name: counts["received"].get(name, 0) for name in self._case.outputs}
        return Row(
            weights=after["weights"],
            size=self._case.size,
            rate_hz=self._case.rate_hz,
            threads=self._case.threads,
            outputs=[name for name, count in received.items() if count],
            head=any(received.get(name) for name in ("mask", "overlay")),
            engine=engine,
            device=device,
            precision=precision,
            **published,
            arrived=_difference(arrived_before, self._watcher.received),
            frames_without_pair=_grown(before, after, "frames."),
            pairs_in=pairs.get("in", 0),
            pairs_out=pairs.get("out", 0),
            dropped=_grown(before, after, "dropped."),
            load_policy=self._case.load_policy,
            load=level,
            pairs_a_second=counts["hz"],
            interval_ms=_mean_and_std(counts["intervals_ms"]),
            stamp_interval_ms=_mean_and_std(counts["stamp_intervals_ms"]),
            node_ms=percentiles(counts["node_ms"]),
            received=received,
            subscriber_ms=percentiles(counts["pair_ms"]),
            model_ms=float(after["model_ms.median"]),
            wait_ms=float(after["wait_ms.median"]),
            overhead_ms=float(after["overhead_ms.median"]),
            cores=cores,
            memory_mb=resident_mb(self._processes["node"].pid),
        )

    def _publish(self, pairs: int) -> Answer:
        """Let the cameras publish a number of pairs."""
        rate = self._case.rate_hz
        self._cameras.send(f"publish {pairs} {rate}")
        return self._answer(self._cameras, 2 * pairs / rate + _READY_SECONDS)

    def _answer(self, child: Child, seconds: float) -> Answer:
        """Return the next answer of a process, while all processes are watched."""
        if not self._watcher.spin_until(child.answered, seconds, self._all):
            raise RuntimeError(f"{child.name} has not answered in {seconds:.0f} s")
        return child.answer()

    def _processor_seconds(self) -> dict[str, float]:
        """Return the processor time by process, and that of the rest of the machine."""
        ours = {name: processor_seconds(p.pid) for name, p in self._processes.items()}
        return {**ours, "others": machine_seconds() - sum(ours.values())}


def _mean_and_std(values: Sequence[float]) -> dict[str, float]:
    """Return mean and standard deviation, or nothing without values."""
    return {"mean": fmean(values), "std": pstdev(values)} if values else {}


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return the increase of each count."""
    return {name: count - before.get(name, 0) for name, count in after.items()}


def _grown(before: dict[str, str], after: dict[str, str], prefix: str) -> dict[str, int]:
    """Return the increase of the counters with a prefix, of those that have increased."""
    grown = _difference(by_reason(before, prefix), by_reason(after, prefix))
    return {name: count for name, count in grown.items() if count}


def table(rows: Sequence[Row]) -> str:
    """Format results as a readable table, which is also Markdown.

    Args:
        rows: results.
    """
    lines = [
        "| weights | head | engine | precision | size | Hz requested | published | in | out "
        "| dropped | pairs/s | interval mean, std ms | stamps mean, std ms | masks | load "
        "| node median / p95 / p99 ms | subscriber ms | model | waiting | rest "
        "| cores cameras, node, subscriber, others | MB |",
        "|" + "---|" * 22,
    ]
    for row in rows:
        dropped = ", ".join(f"{n} {reason}" for reason, n in row.dropped.items()) or "0"
        late = f" ({row.late} late)" if row.late else ""
        cores = ", ".join(f"{max(value, 0):.2f}" for value in row.cores.values())
        lines.append(
            f"| {row.weights} | {'yes' if row.head else 'no'} | {row.engine} | {row.precision} "
            f"| {row.size[0]}x{row.size[1]} | {row.rate_hz:g} | {row.published}{late} "
            f"| {row.pairs_in} | {row.pairs_out} | {dropped} | {row.pairs_a_second:.1f} "
            f"| {_spread(row.interval_ms)} | {_spread(row.stamp_interval_ms)} "
            f"| {row.received.get('mask', '-')} | {row.load_policy}: {row.load} "
            f"| {_spread(row.node_ms)} | {_spread(row.subscriber_ms)} "
            f"| {row.model_ms:.1f} | {row.wait_ms:.1f} | {row.overhead_ms:.1f} "
            f"| {cores} | {row.memory_mb:.0f} |"
        )
    return "\n".join(lines)


def _spread(values: dict[str, float]) -> str:
    """Format percentiles."""
    return " / ".join(f"{value:.1f}" for value in values.values()) or "-"


if __name__ == "__main__":
    sys.exit(main())
