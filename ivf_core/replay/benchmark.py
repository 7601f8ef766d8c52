"""Measure what a replay costs beyond the pipeline: both in turns, on a synthetic bag."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ivf_core.bags.convert import LABELS_TOPIC, RGB_TOPIC, THERMAL_TOPIC, write_drive_bag
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.engine import describe
from ivf_core.replay.run import replay_bag
from ivf_core.replay.settings import ReplaySettings
from ivf_core.scenes import SyntheticDrive

__all__ = ["ReplayRow", "run", "table"]

_RATE_HZ = 30.0
_HELD = 60  # decoded pairs in memory, for the pipeline alone


@dataclass(frozen=True)
class ReplayRow:
    """Result for one choice of weights, engine and precision.

    Attributes:
        weights: name of the weights.
        engine: engine, device and precision of the pipeline alone.
        size: width and height of the images.
        pairs: number of pairs of the bag.
        rounds: number of turns.
        alone_hz: pairs per second of the pipeline alone, pair after pair, of images in
            memory; median of the turns.
        replay_hz: pairs per second of the replay; median of the turns.
        ratio: median of the turns' ratios of both.
        alone_ms: processor time of a pair alone, median.
        stages_ms: processor time of a pair in the replay by stage, medians.
    """

    weights: str
    engine: str
    size: tuple[int, int]
    pairs: int
    rounds: int
    alone_hz: float
    replay_hz: float
    ratio: float
    alone_ms: float
    stages_ms: dict[str, float]


def run(
    choices: Sequence[ReplaySettings],
    size: tuple[int, int] = (640, 480),
    *,
    pairs: int = 240,
    rounds: int = 5,
) -> list[ReplayRow]:
    """Measure the pipeline alone and the replay, one after the other in each turn.

    The bag is a `SyntheticDrive` with true class ids, in a temporary folder.

    Args:
        choices: settings of the replays; their topics are not used.
        size: width and height of the images.
        pairs: number of pairs of the bag.
        rounds: number of turns of each choice.

    Returns:
        A row for each choice.

    Raises:
        ValueError: a number below 1, or settings that cannot be used.
    """
    if rounds < 1 or pairs < 1:
        raise ValueError(f"rounds is {rounds} and pairs {pairs}, expected at least 1 each")
    drive = SyntheticDrive(size=size, rate_hz=_RATE_HZ, seconds=pairs / _RATE_HZ)
    with tempfile.TemporaryDirectory(prefix="ivf_benchmark_") as folder:
        bag = Path(folder) / "bag"
        write_drive_bag(bag, drive, _RATE_HZ)
        every = -(-pairs // _HELD)
        held = [
            ImagePair(frame.visible, frame.infrared, number / _RATE_HZ)
            for number, frame in enumerate(drive)
            if number % every == 0
        ]
        return [_measure(choice, bag, held, size, pairs, rounds) for choice in choices]


def table(rows: Sequence[ReplayRow]) -> str:
    """Format rows as a Markdown table."""
    stages = list(rows[0].stages_ms) if rows else []
    lines = [
        "| weights | engine | size | alone Hz | replay Hz | ratio | processor ms alone "
        f"| {' | '.join(stages)} |",
        "|" + "---|" * (7 + len(stages)),
    ]
    for row in rows:
        times = " | ".join(f"{row.stages_ms[stage]:.1f}" for stage in stages)
        lines.append(
            f"| {row.weights} | {row.engine} | {row.size[0]}x{row.size[1]} | {row.alone_hz:.1f} "
            f"| {row.replay_hz:.1f} | {row.ratio:.0%} | {row.alone_ms:.1f} | {times} |"
        )
    return "\n".join(lines)


def _measure(
    choice: ReplaySettings,
    bag: Path,
    held: Sequence[ImagePair],
    size: tuple[int, int],
    pairs: int,
    rounds: int,
) -> ReplayRow:
    pipeline = FusionPipeline(
        choice.weights,
        engine=choice.engine,
        device=choice.device,
        precision=choice.precision,
        threads=choice.threads,
    )
    pipeline.warm_up(size[::-1])
    alone: list[tuple[float, float]] = []
    replayed: list[dict[str, float]] = []
    for _ in range(rounds):
        alone.append(_run_alone(pipeline, held, pairs))
        replayed.append(_run_replay(choice, bag))
    speeds = [stages.pop("pairs_per_second") for stages in replayed]
    return ReplayRow(
        weights=pipeline.weights,
        engine=describe(pipeline.engine),
        size=size,
        pairs=pairs,
        rounds=rounds,
        alone_hz=statistics.median(speed for speed, _ in alone),
        replay_hz=statistics.median(speeds),
        ratio=statistics.median(
            speed / other for speed, (other, _) in zip(speeds, alone, strict=True)
        ),
        alone_ms=statistics.median(ms for _, ms in alone),
        stages_ms={k: statistics.median(stages[k] for stages in replayed) for k in replayed[0]},
    )


def _run_alone(
    pipeline: FusionPipeline, held: Sequence[ImagePair], pairs: int
) -> tuple[float, float]:
    """Return pairs per second, and the processor time of a pair in ms."""
    began, processor = time.perf_counter(), time.process_time()
    for number in range(pairs):
        pipeline(held[number % len(held)])
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    return pairs / seconds, processor / pairs * 1e3


def _run_replay(choice: ReplaySettings, bag: Path) -> dict[str, float]:
    """Return pairs per second, and the processor time of a pair in ms by stage."""
    with tempfile.TemporaryDirectory(prefix="replay_", dir=bag.parent) as folder:
        settings = replace(
            choice,
            rgb_topic=RGB_TOPIC,
            thermal_topic=THERMAL_TOPIC,
            labels_topic=LABELS_TOPIC,
        )
        summary = replay_bag(bag, Path(folder) / "replay", settings)
    throughput = summary["throughput"]
    return {"pairs_per_second": throughput["pairs_per_second"], **throughput["processor_ms"]}
