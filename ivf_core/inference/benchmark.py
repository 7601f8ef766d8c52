"""How long a pair takes: every candidate beside two yardsticks, in one run.

The yardsticks are the published student as its authors run it, eager PyTorch in
fp32 without a head: once with the C library's own allocator settings, once with
those that keep freed memory. Every candidate lives in a process of its own, and
the processes take turns, so that whatever else the machine does meets all alike.
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
from typing import Any

import numpy as np

from ivf_core.system.child_process import Answer, Child, serve

__all__ = ["Candidate", "Row", "run", "table"]

_SEED = 7
_EAGER = "eager"


@dataclass(frozen=True)
class Candidate:
    """What is measured.

    Attributes:
        weights: shipped name or file.
        head: whether masks are computed.
        engine, device, precision, threads: as for `create_engine`; the engine "eager"
            is a yardstick: the student alone on float tensors.
        size: width and height in pixels.
        keep_memory: whether freed memory is kept (`keep_freed_memory`).
    """

    weights: str
    head: bool
    engine: str
    precision: str
    size: tuple[int, int]
    device: str = "auto"
    threads: int = 0
    keep_memory: bool = True


@dataclass(frozen=True)
class Row:
    """What was measured of a candidate.

    Attributes:
        student: the weights' name.
        head: whether masks are computed.
        engine, precision, device: those in use, after "auto".
        size: width and height in pixels.
        median_ms, p95_ms, min_ms: of one pair, uint8 pictures to uint8 pictures.
        ratio_eager_kept, ratio_eager: the yardsticks' medians over this one's.
        max_abs_diff_255, p999_abs_diff_255: of the fused picture against fp32 PyTorch
            with the same weights, in grey levels.
        gmacs: multiply-accumulates of a pair, in thousand millions.
        params: of student and head.
        peak_share: multiply-accumulates a second over those of a large matrix product
            of the same precision, measured in the same run; None where not measured.
        memory_mb: largest resident memory of the process, what compares the pictures included.
    """

    student: str
    head: bool
    engine: str
    precision: str
    device: str
    size: tuple[int, int]
    median_ms: float
    p95_ms: float
    min_ms: float
    ratio_eager_kept: float
    ratio_eager: float
    max_abs_diff_255: int
    p999_abs_diff_255: float
    gmacs: float
    params: int
    peak_share: float | None
    memory_mb: float


def run(candidates: Sequence[Candidate], *, rounds: int = 10, pairs_a_round: int = 3) -> list[Row]:
    """Measure candidates beside the yardsticks; these are the first two rows of each size.

    Args:
        rounds: turns of every process.
        pairs_a_round: pairs of each turn.

    Raises:
        ValueError: a candidate that cannot be built or run; says which and why.
    """
    if rounds < 1 or pairs_a_round < 1:
        raise ValueError(f"rounds is {rounds}, expected at least 1")
    rows: list[Row] = []
    for size in dict.fromkeys(candidate.size for candidate in candidates):
        chosen = [c for c in candidates if c.size == size]
        yardsticks = [
            Candidate("sage", False, _EAGER, "fp32", size, "cpu", chosen[0].threads, keep)
            for keep in (False, True)
        ]
        with ExitStack() as stack:
            workers = [
                stack.enter_context(_Worker(candidate)) for candidate in (*yardsticks, *chosen)
            ]
            for _ in range(rounds):
                for worker in workers:
                    worker.measure(pairs_a_round)
            eager, kept = (statistics.median(worker.times) for worker in workers[:2])
            memory = [worker.memory_mb() for worker in workers]
            peaks = workers[0].peaks()
            rows += [
                worker.row(eager, kept, peaks, mb)
                for worker, mb in zip(workers, memory, strict=True)
            ]
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as a table to read, Markdown too."""
    lines = [
        "| student | head | engine | precision | size | median | p95 | min ms "
        "| x eager kept | x eager | max, p99.9 diff/255 | GMAC | of peak | MB |",
        "|" + "---|" * 14,
    ]
    for row in rows:
        share = f"{row.peak_share:.0%}" if row.peak_share is not None else "-"
        lines.append(
            f"| {row.student} | {'yes' if row.head else 'no'} | {row.engine} | {row.precision} "
            f"| {row.size[0]}x{row.size[1]} | {row.median_ms:.1f} | {row.p95_ms:.1f} "
            f"| {row.min_ms:.1f} | {row.ratio_eager_kept:.2f} | {row.ratio_eager:.2f} "
            f"| {row.max_abs_diff_255}, {row.p999_abs_diff_255:.0f} | {row.gmacs:.2f} "
            f"| {share} | {row.memory_mb:.0f} |"
        )
    return "\n".join(lines)


class _Worker(AbstractContextManager["_Worker"]):
    """A process that holds one candidate and runs it when told to."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.times: list[float] = []
        name = f"{candidate.weights}, {candidate.engine}"
        self._child = Child("ivf_core.inference.benchmark", asdict(candidate), name)
        try:
            self._facts = self._child.answer()
        except BaseException:
            self._child.end()
            raise

    def __exit__(self, *_error: object) -> None:
        self._child.end()

    def measure(self, pairs: int) -> None:
        self.times += self._child.ask(f"run {pairs}")["times"]

    def memory_mb(self) -> float:
        return float(self._child.ask("memory")["mb"])

    def peaks(self) -> dict[str, float]:
        """Multiply-accumulates a second by precision."""
        return self._child.ask("peaks")

    def row(self, eager: float, kept: float, peaks: dict[str, float], memory_mb: float) -> Row:
        median = statistics.median(self.times)
        facts = self._facts
        ordered = sorted(self.times)
        peak = peaks.get(facts["precision"]) if facts["device"] == "cpu" else None
        return Row(
            student=self.candidate.weights,
            head=self.candidate.head,
            engine=facts["engine"] + ("" if self.candidate.keep_memory else ", as it is"),
            precision=facts["precision"],
            device=facts["device"],
            size=self.candidate.size,
            median_ms=median * 1e3,
            p95_ms=ordered[math.ceil(0.95 * len(ordered)) - 1] * 1e3,
            min_ms=ordered[0] * 1e3,
            ratio_eager_kept=kept / median,
            ratio_eager=eager / median,
            max_abs_diff_255=facts["max_diff"],
            p999_abs_diff_255=facts["p999_diff"],
            gmacs=facts["macs"] / 1e9,
            params=facts["params"],
            peak_share=facts["macs"] / median / peak if peak else None,
            memory_mb=memory_mb,
        )


# In the process of a candidate


@contextmanager
def _serving(candidate: Candidate) -> Iterator[tuple[Answer, Callable[..., Answer]]]:
    call, facts = _prepare(candidate)

    def respond(question: str, *arguments: str) -> Answer:
        if question == "run":
            return {"times": [_time(call) for _ in range(int(arguments[0]))]}
        if question == "peaks":
            return _peaks()
        return {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

    yield facts, respond


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _prepare(candidate: Candidate) -> tuple[Callable[[], object], dict[str, Any]]:
    import cv2
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ivf_core.inference.engine import create_engine
    from ivf_core.models.checkpoints import load_model
    from ivf_core.models.student import commute_merges
    from ivf_core.scenes import random_scene
    from ivf_core.system.memory import keep_freed_memory

    if candidate.keep_memory:
        keep_freed_memory()
    model = load_model(candidate.weights)
    if candidate.head and model.head is None:
        raise ValueError("these weights have no head")
    scene = random_scene(np.random.default_rng(_SEED))
    visible, infrared = (
        cv2.resize(picture, candidate.size) for picture in (scene.visible, scene.infrared)
    )
    if candidate.engine == _EAGER:
        commute_merges(model.student, False)  # as published
        if candidate.threads:
            torch.set_num_threads(candidate.threads)
    networks = [model.student, *([model.head] if candidate.head and model.head else [])]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        planes = [torch.zeros(1, 1, *visible.shape[:2]) for _ in range(2)]
        features = model.student(*planes).features
        if candidate.head and model.head is not None:
            model.head(features)
    facts: dict[str, Any] = {
        "macs": counter.get_total_flops() / 2,
        "params": sum(p.numel() for network in networks for p in network.parameters()),
        "max_diff": 0,
        "p999_diff": 0.0,
    }
    if candidate.engine == _EAGER:
        luma, thermal = (torch.rand(1, 1, *visible.shape[:2]) for _ in range(2))

        def eager() -> None:
            with torch.inference_mode():
                model.student(luma, thermal)

        eager()
        return eager, {**facts, "engine": _EAGER, "precision": "fp32", "device": "cpu"}
    engine = create_engine(
        model,
        engine=candidate.engine,
        device=candidate.device,
        precision=candidate.precision,
        threads=candidate.threads,
    )
    reference = create_engine(model, engine="torch", device="cpu", precision="fp32")
    expected, _ = reference(visible, infrared, labels=False)
    fused, _ = engine(visible, infrared, labels=candidate.head)
    assert fused is not None
    assert expected is not None
    difference = cv2.absdiff(fused, expected)
    facts["max_diff"] = int(difference.max())
    facts["p999_diff"] = float(np.percentile(difference, 99.9))
    for _ in range(3):
        engine(visible, infrared, labels=candidate.head)
    names = {"engine": engine.name, "precision": engine.precision, "device": engine.device}
    return lambda: engine(visible, infrared, labels=candidate.head), {**facts, **names}


def _peaks(side: int = 2048, times: int = 5) -> dict[str, float]:
    """Multiply-accumulates a second of a large matrix product on the CPU, by precision."""
    import torch

    peaks = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.rand(side, side).to(dtype), torch.rand(side, side).to(dtype)
        multiply = partial(torch.mm, a, b)
        peaks[name] = side**3 / min(_time(multiply) for _ in range(times))
    if hasattr(torch, "_int_mm"):  # PyTorch has no other product of 8-bit matrices
        c = torch.randint(-128, 128, (side, side), dtype=torch.int8)
        multiply = partial(torch._int_mm, c, c)
        peaks["int8"] = side**3 / min(_time(multiply) for _ in range(times))
    return peaks


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    serve(partial(_serving, Candidate(**{**fields, "size": tuple(fields["size"])})))
