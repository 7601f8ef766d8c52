"""Replay one bag from end to end: read, pair, fuse, write, score, summarize, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ivf_core.bags.info import BagMessage
from ivf_core.bags.salvage import open_bag
from ivf_core.replay.directory import OUTPUTS
from ivf_core.replay.frames import FusedFrame
from ivf_core.replay.live import read_live
from ivf_core.replay.provenance import input_fingerprints
from ivf_core.replay.report.page import write_report
from ivf_core.replay.result_sources import open_result_source
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.stages.fuse import FuseStage
from ivf_core.replay.stages.read import ReadStage
from ivf_core.replay.stages.score import ScoreStage
from ivf_core.replay.stages.write import WriteStage
from ivf_core.replay.summary import Durations, FinishedReplay, build_summary
from ivf_core.replay.threads import Sink, prefetched
from ivf_core.system.atomic import write_json
from ivf_core.system.results import file_names, new_results

__all__ = ["replay_bag", "run_stages"]

_QUEUE_SIZE = 6

Progress = Callable[[int, int], None]
"""Function called with the pairs done, and the largest number there can be."""


def replay_bag(
    path: Path,
    output: Path,
    settings: ReplaySettings,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Replay one bag.

    Args:
        path: rosbag2 folder or file, or rosbag1 file.
        output: directory for `OUTPUTS`; those of an earlier replay are replaced, at the end,
            and nothing else is. After an error, what was finished is in OUTPUT.unfinished.
        settings: settings of the replay.
        progress: called after each pair.

    Returns:
        The content of summary.json.

    Raises:
        BagError: nothing can be read, or a topic is missing; names the bag.
        OutputError: the output contains the bag, or something that no replay has made.
        OSError: a file cannot be written.
    """
    live, recording = None, None
    if settings.recorded is not None:
        recording = Path(settings.recorded or path)
        with open_bag(recording, []) as recorded:
            live = read_live(recorded)
    used = live.settings(settings) if live is not None else settings
    # A recording of the node has its results in a bag already, which may be the output's.
    names = [name for name in OUTPUTS if name != "bag" or recording is None or settings.inputs]
    with (
        new_results(output, names, [path], keep=recording) as folder,
        open_result_source(used, path) as results,
    ):
        with ReadStage.open(path, used) as read:
            files = input_fingerprints(settings)
            results.reset()
            fuse = FuseStage(results, read.info.start_ns)
            score = ScoreStage(folder, used, results.class_set, read)
            write = WriteStage(folder, used, results, rate_hz=read.rate_hz)
            durations = run_stages(read, fuse, write, score, progress or _ignore)
        summary = build_summary(
            FinishedReplay(read, fuse, score, results, settings, used, files, live, durations)
        )
        made = {*file_names(folder), "summary.json", "report.html"}
        summary["outputs"] = sorted(made)
        write_json(folder / "summary.json", summary)
        write_report(folder)
        return summary


def run_stages(
    read: ReadStage, fuse: FuseStage, write: WriteStage, score: ScoreStage, progress: Progress
) -> Durations:
    """Run the stages side by side until the bag ends.

    Args:
        read: first stage.
        fuse: second stage.
        write: third stage.
        score: last stage.
        progress: called after each pair.

    Returns:
        The duration, and the processor time by stage.

    Raises:
        BagError, OSError: the bag cannot be read, or a file cannot be written.
    """
    began, processor = time.perf_counter(), time.process_time()
    # At the block's end the threads end from first to last, each after its last item.
    with (
        Sink(score.score, _QUEUE_SIZE, "score", within=score) as scored,
        Sink(_write_then(write, scored), _QUEUE_SIZE, "write", within=write) as written,
        prefetched(read, _QUEUE_SIZE) as items,
    ):
        done = 0
        for item in fuse.fuse(items):
            if item is not None:
                written.put(item)
            if not isinstance(item, BagMessage):
                done += 1
                progress(done, read.most_pairs)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    stages = {
        "read": read.processor_seconds,
        "write": write.processor_seconds,
        "score": score.processor_seconds,
    }
    return Durations(seconds, {**stages, "fuse": processor - sum(stages.values())})


def _write_then(
    write: WriteStage, scored: Sink[FusedFrame]
) -> Callable[[FusedFrame | BagMessage], None]:
    """Return a function that writes an item and passes frames on."""

    def function(item: FusedFrame | BagMessage) -> None:
        write.write(item)
        if isinstance(item, FusedFrame):
            scored.put(item)

    return function


def _ignore(done: int, total: int) -> None:
    """Show no progress."""
