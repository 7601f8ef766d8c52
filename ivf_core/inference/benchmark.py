"""Benchmark of engines: the time per pair of every candidate and of two baselines.

The baselines are the published student as its authors run it, eager PyTorch in
fp32 without a head: once with the default allocator settings of the C library, once
with settings that keep freed memory. Every candidate has its own process, and
the processes take turns, so that other load on the machine affects all of them alike.
A turn of a slow candidate ends after a second, so that no baseline makes the others wait.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ivf_core.system.child_process import Answer, Child, serve
from ivf_core.system.processor import INSTRUCTION_LIMITS

if TYPE_CHECKING:
    from ivf_core.models.checkpoints import FusionModel

__all__ = ["Candidate", "Row", "peer_table", "run", "table"]

_SEED = 7
_EAGER = "eager"
_TURN_SECONDS = 1.0
_PEAK_SIDES = (256, 512, 1024, 2048)
_PEAK_SECONDS = 0.25  # a matrix product that takes longer is large enough
_PEAK_TYPES = ("fp32", "bf16")


def _ignore(line: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Candidate:
    """Settings of one measurement.

    Attributes:
        weights: shipped name or file; for a peer the folder of its clone.
        head: whether masks are computed.
        engine: see `create_engine`; "eager" is a baseline, the student alone on float tensors.
        precision: see `create_engine`.
        size: width and height in pixels.
        device: see `create_engine`.
        threads: see `create_engine`.
        keep_memory: whether freed memory is kept (`keep_freed_memory`).
        instructions: newest instructions that the engines use, a key of
            `INSTRUCTION_LIMITS`, or "native".
        peer: whether it is a published network of others, see `ivf_core.inference.peers`.
    """

    weights: str
    head: bool
    engine: str
    precision: str
    size: tuple[int, int]
    device: str = "auto"
    threads: int = 0
    keep_memory: bool = True
    instructions: str = "native"
    peer: bool = False


@dataclass(frozen=True)
class Row:
    """Measurements of one candidate.

    Attributes:
        student: name of the weights.
        head: whether masks are computed.
        engine: engine in use, after "auto".
        precision: precision in use, after "auto".
        device: device in use, after "auto".
        size: width and height in pixels.
        instructions: as in `Candidate`.
        median_ms: median time of a pair, from uint8 images to uint8 images.
        p95_ms: 95th percentile of the time of a pair.
        min_ms: shortest time of a pair.
        ratio_eager_kept: median of the baseline that keeps freed memory, divided by this one;
            None without baselines.
        ratio_eager: median of the baseline with default settings, divided by this one.
        max_abs_diff_255: largest difference of the fused image from fp32 PyTorch with the
            same weights, in grey levels.
        p999_abs_diff_255: 99.9th percentile of that difference.
        gmacs: multiply-accumulates of a pair, in units of 1e9.
        params: number of parameters of student and head.
        peak_share: multiply-accumulates per second, divided by those of a large matrix
            product of the same precision, measured in the same run; None if not measured,
            as for int8, of which PyTorch has no fast product on every processor.
        memory_mb: largest resident memory of the process, including the comparison of images.
        peer: as in `Candidate`.
    """

    student: str
    head: bool
    engine: str
    precision: str
    device: str
    size: tuple[int, int]
    instructions: str
    median_ms: float
    p95_ms: float
    min_ms: float
    ratio_eager_kept: float | None
    ratio_eager: float | None
    max_abs_diff_255: int
    p999_abs_diff_255: float
    gmacs: float
    params: int
    peak_share: float | None
    memory_mb: float
    peer: bool = False


def run(
    candidates: Sequence[Candidate],
    *,
    rounds: int = 10,
    pairs_a_round: int = 3,
    baselines: bool = True,
    report: Callable[[str], None] = _ignore,
) -> list[Row]:
    """Measure candidates and two baselines, the first rows of each size and instructions.

    Args:
        candidates: settings to measure.
        rounds: number of turns of every process.
        pairs_a_round: largest number of pairs in each turn, which ends early after a second.
        baselines: whether the published student is measured as well.
        report: called with a line before each long step.

    Returns:
        One row for each candidate and baseline.

    Raises:
        ValueError: a candidate that cannot be built or run; the message names it and the
            reason.
    """
    if rounds < 1 or pairs_a_round < 1:
        raise ValueError(f"rounds is {rounds}, expected at least 1")
    rows: list[Row] = []
    for group in dict.fromkeys((c.size, c.instructions) for c in candidates):
        size, instructions = group
        chosen = [c for c in candidates if (c.size, c.instructions) == group]
        threads = chosen[0].threads
        eager = [
            Candidate("sage", False, _EAGER, "fp32", size, "cpu", threads, keep, instructions)
            for keep in ((False, True) if baselines else ())
        ]
        with ExitStack() as stack:
            workers = []
            for number, candidate in enumerate(together := (*eager, *chosen), start=1):
                report(f"preparing {number} of {len(together)}: {_describe(candidate)}")
                workers.append(stack.enter_context(_Worker(candidate)))
            for number in range(1, rounds + 1):
                report(f"turn {number} of {rounds}")
                for worker in workers:
                    worker.measure(pairs_a_round)
            medians = [statistics.median(worker.times) for worker in workers[: len(eager)]]
            memory = [worker.memory_mb() for worker in workers]
            precisions = sorted({worker.precision for worker in workers} & set(_PEAK_TYPES))
            report(f"measuring a matrix product in {' and '.join(precisions)}")
            peaks = workers[0].peaks(precisions)
            rows += [
                worker.row(medians, peaks, mb) for worker, mb in zip(workers, memory, strict=True)
            ]
    return rows


def peer_table(rows: Sequence[Row]) -> str:
    """Format the times relative to those of the peers as a Markdown table."""
    peers = [row for row in rows if row.peer]
    names = " | ".join(f"x {name}" for name in dict.fromkeys(row.student for row in peers))
    count = len(dict.fromkeys(row.student for row in peers))
    lines = [
        f"| network | head | parameters | size | instructions | median ms | {names} |",
        "|" + "---|" * (6 + count),
    ]
    for row in rows:
        if not row.peer and row.engine.startswith(_EAGER):
            continue
        group = [p for p in peers if (p.size, p.instructions) == (row.size, row.instructions)]
        ratios = " | ".join(f"{row.median_ms / peer.median_ms:.2f}" for peer in group)
        lines.append(
            f"| {row.student} | {'yes' if row.head else 'no'} | {row.params} "
            f"| {row.size[0]}x{row.size[1]} | {row.instructions} | {row.median_ms:.2f} | {ratios} |"
        )
    return "\n".join(lines)


def _describe(candidate: Candidate) -> str:
    """Return a candidate in words."""
    head = "with head" if candidate.head else "without head"
    memory = "" if candidate.keep_memory else ", default memory"
    width, height = candidate.size
    return (
        f"{candidate.weights} {head}, {candidate.engine}{memory}, {candidate.precision}, "
        f"{width}x{height}, {candidate.instructions} instructions"
    )


def table(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table."""
    lines = [
        "| student | head | engine | precision | size | instructions | median | p95 | min ms "
        "| x eager kept | x eager | max, p99.9 diff/255 | GMAC | of peak | MB |",
        "|" + "---|" * 15,
    ]
    for row in rows:
        share = f"{row.peak_share:.0%}" if row.peak_share is not None else "-"
        ratios = [
            "-" if ratio is None else f"{ratio:.2f}"
            for ratio in (row.ratio_eager_kept, row.ratio_eager)
        ]
        lines.append(
            f"| {row.student} | {'yes' if row.head else 'no'} | {row.engine} | {row.precision} "
            f"| {row.size[0]}x{row.size[1]} | {row.instructions} "
            f"| {row.median_ms:.1f} | {row.p95_ms:.1f} | {row.min_ms:.1f} "
            f"| {' | '.join(ratios)} "
            f"| {row.max_abs_diff_255}, {row.p999_abs_diff_255:.0f} | {row.gmacs:.2f} "
            f"| {share} | {row.memory_mb:.0f} |"
        )
    return "\n".join(lines)


class _Worker(AbstractContextManager["_Worker"]):
    """Process that runs one candidate on request."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.times: list[float] = []
        name = f"{candidate.weights}, {candidate.engine}"
        limit = INSTRUCTION_LIMITS.get(candidate.instructions, {})
        self._child = Child("ivf_core.inference.benchmark", asdict(candidate), name, limit)
        try:
            self._facts = self._child.answer()
        except BaseException:
            self._child.end()
            raise

    def __exit__(self, *_error: object) -> None:
        self._child.end()

    @property
    def precision(self) -> str:
        """Precision in use, after "auto"."""
        return str(self._facts["precision"])

    def measure(self, pairs: int) -> None:
        self.times += self._child.ask(f"run {pairs}")["times"]

    def memory_mb(self) -> float:
        return float(self._child.ask("memory")["mb"])

    def peaks(self, precisions: Sequence[str]) -> dict[str, float]:
        """Return the multiply-accumulates per second of a matrix product, by precision."""
        return self._child.ask(f"peaks {' '.join(precisions)}")

    def row(self, baselines: Sequence[float], peaks: dict[str, float], memory_mb: float) -> Row:
        """Return the row, given the medians of the baselines, if they were measured."""
        median = statistics.median(self.times)
        eager, kept = (b / median for b in baselines) if baselines else (None, None)
        facts = self._facts
        ordered = sorted(self.times)
        peak = peaks.get(facts["precision"]) if facts["device"] == "cpu" else None
        return Row(
            student=facts.get("student", self.candidate.weights),
            head=self.candidate.head,
            engine=facts["engine"] + ("" if self.candidate.keep_memory else ", default memory"),
            precision=facts["precision"],
            device=facts["device"],
            size=self.candidate.size,
            instructions=self.candidate.instructions,
            median_ms=median * 1e3,
            p95_ms=ordered[math.ceil(0.95 * len(ordered)) - 1] * 1e3,
            min_ms=ordered[0] * 1e3,
            ratio_eager_kept=kept,
            ratio_eager=eager,
            max_abs_diff_255=facts["max_diff"],
            p999_abs_diff_255=facts["p999_diff"],
            gmacs=facts["macs"] / 1e9,
            params=facts["params"],
            peak_share=facts["macs"] / median / peak if peak else None,
            memory_mb=memory_mb,
            peer=self.candidate.peer,
        )


# Functions below run in the process of a candidate.


@contextmanager
def _serving(candidate: Candidate) -> Iterator[tuple[Answer, Callable[..., Answer]]]:
    call, facts = _prepare(candidate)

    def respond(question: str, *arguments: str) -> Answer:
        if question == "run":
            return {"times": _turn(call, int(arguments[0]))}
        if question == "peaks":
            return _peaks(arguments)
        return {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

    yield facts, respond


def _turn(call: Callable[[], object], most: int) -> list[float]:
    """Time calls: at least one, and no further one after a second."""
    times = [_time(call)]
    while len(times) < most and sum(times) < _TURN_SECONDS:
        times.append(_time(call))
    return times


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _prepare(candidate: Candidate) -> tuple[Callable[[], object], dict[str, Any]]:
    """Build a candidate.

    Returns:
        The function to measure, and facts about the candidate for its row.
    """
    from ivf_core.models.checkpoints import load_model
    from ivf_core.models.student import commute_merges
    from ivf_core.system.memory import keep_freed_memory

    if candidate.keep_memory:
        keep_freed_memory()
    if candidate.peer:
        from ivf_core.inference.peers import prepare_peer

        images = _images(candidate.size)
        return prepare_peer(Path(candidate.weights), candidate.size, candidate.threads, *images)
    model = load_model(candidate.weights)
    if candidate.head and model.head is None:
        raise ValueError("these weights have no head")
    if candidate.engine == _EAGER:
        commute_merges(model.student, False)  # in the published order of operations
    facts = _count_operations(model, candidate)
    prepare = _prepare_eager if candidate.engine == _EAGER else _prepare_engine
    call, measured = prepare(model, candidate)
    return call, {**facts, **measured}


def _count_operations(model: FusionModel, candidate: Candidate) -> dict[str, Any]:
    """Count multiply-accumulates of a pair, and parameters."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    head = model.head if candidate.head else None
    width, height = candidate.size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        features = model.student(*(torch.zeros(1, 1, height, width) for _ in range(2))).features
        if head is not None:
            head(features)
    networks = [network for network in (model.student, head) if network is not None]
    return {
        "macs": counter.get_total_flops() / 2,
        "params": sum(p.numel() for network in networks for p in network.parameters()),
    }


def _prepare_eager(
    model: FusionModel, candidate: Candidate
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Prepare a baseline: the student alone, on float tensors."""
    import torch

    if candidate.threads:
        torch.set_num_threads(candidate.threads)
    width, height = candidate.size
    luma, thermal = (torch.rand(1, 1, height, width) for _ in range(2))

    def eager() -> None:
        with torch.inference_mode():
            model.student(luma, thermal)

    eager()
    facts = {"engine": _EAGER, "precision": "fp32", "device": "cpu"}
    return eager, {**facts, "max_diff": 0, "p999_diff": 0.0}


def _prepare_engine(
    model: FusionModel, candidate: Candidate
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Build and warm up an engine, and compare its fused image with fp32 PyTorch."""
    import cv2

    from ivf_core.inference.engine import create_engine

    visible, infrared = _images(candidate.size)
    engine = create_engine(
        model,
        engine=candidate.engine,
        device=candidate.device,
        precision=candidate.precision,
        threads=candidate.threads,
    )
    reference = create_engine(model, engine="torch", device="cpu", precision="fp32")
    expected = reference(visible, infrared, labels=False).fused
    fused = engine(visible, infrared, labels=candidate.head).fused
    assert fused is not None
    assert expected is not None
    difference = cv2.absdiff(fused, expected)
    for _ in range(3):
        engine(visible, infrared, labels=candidate.head)
    return lambda: engine(visible, infrared, labels=candidate.head), {
        "engine": engine.name,
        "precision": engine.precision,
        "device": engine.device,
        "max_diff": int(difference.max()),
        "p999_diff": float(np.percentile(difference, 99.9)),
    }


def _images(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the visible and the infrared image of a synthetic scene."""
    import cv2

    from ivf_core.scenes import random_scene

    scene = random_scene(np.random.default_rng(_SEED))
    return cv2.resize(scene.visible, size), cv2.resize(scene.infrared, size)


def _peaks(precisions: Sequence[str], times: int = 5) -> dict[str, float]:
    """Measure multiply-accumulates per second of a large matrix product, by precision.

    The product is as large as the processor computes in a fraction of a second: without
    instructions for bfloat16 one of 2048 x 2048 takes minutes.
    """
    import torch

    peaks = {}
    for name in precisions:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
        for side in _PEAK_SIDES:
            a, b = torch.rand(side, side).to(dtype), torch.rand(side, side).to(dtype)
            multiply = partial(torch.mm, a, b)
            if (first := _time(multiply)) > _PEAK_SECONDS:
                break
        peaks[name] = side**3 / min(first, *_turn(multiply, times))
    return peaks


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    serve(partial(_serving, Candidate(**{**fields, "size": tuple(fields["size"])})))
