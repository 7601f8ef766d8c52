"""Replay many bags in parallel, each in a process of its own, on this machine or on Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from ivf_core.bags.info import BagError
from ivf_core.html.render import write_page
from ivf_core.replay.directory import is_finished
from ivf_core.replay.fleet_jobs import Outcome, outcome_of, run_job
from ivf_core.replay.settings import ReplaySettings
from ivf_core.system.atomic import write_json
from ivf_core.system.results import check_inputs, check_output

__all__ = ["Outcome", "find_bags", "replay_fleet"]

_STORAGE = (".bag", ".mcap", ".db3")
_DEPTH = 3
_PAGE, _DATA = "index.html", "fleet.json"

Reporter = Callable[["Outcome"], None]
"""Function called with the outcome of each bag, as it comes."""


def find_bags(paths: Iterable[Path]) -> dict[str, Path]:
    """Find bags, and give each a unique name.

    Bags of one name get their folder's name in front.

    Args:
        paths: bags, and folders that are searched for bags down to three levels.

    Returns:
        Paths by name.

    Raises:
        BagError: a path does not exist, or a folder has no bags.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise BagError(f"bag '{path}': no such file or folder")
        bags = list(_bags_in(path, _DEPTH))
        if not bags:
            raise BagError(f"'{path}': neither a bag nor a folder with bags")
        found += [bag for bag in bags if bag not in found]
    stems = [path.stem if path.is_file() else path.name for path in found]
    named: dict[str, Path] = {}
    for path, stem in zip(found, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}_{stem}"
        while name in named:
            name += "_"
        named[name] = path
    return named


def _bags_in(path: Path, depth: int) -> Iterator[Path]:
    """Yield the path if it is a bag, else the bags in it, down to `depth` levels."""
    if path.is_file():
        yield path
        return
    children = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    if any(".mcap" in child.name or ".db3" in child.name for child in children if child.is_file()):
        yield path
        return
    for child in children:
        if child.is_dir() and depth:
            yield from _bags_in(child, depth - 1)
        elif child.suffix in _STORAGE:
            yield child


def replay_fleet(
    bags: dict[str, Path],
    output: Path,
    settings: ReplaySettings,
    *,
    jobs: int = 0,
    ray: str | None = None,
    report: Reporter | None = None,
) -> list[Outcome]:
    """Replay each bag into output/NAME, and keep replays that an earlier run has finished.

    A bag that fails, or whose process dies, does not stop the others. All outcomes are
    written to output/fleet.json, and to output/index.html, which links the reports.

    Args:
        bags: paths by name.
        output: folder for the replays.
        settings: settings of all replays.
        jobs: bags at a time; 0: one for every two cores. They share the cores.
        ray: address of a Ray cluster whose machines see bags and output under the same
            paths, or "local" for one on this machine; None uses processes.
        report: called with each outcome as it comes.

    Returns:
        The outcome of each bag, in the order of `bags`.

    Raises:
        OutputError: the output contains a bag, or an index.html that is not ours.
        ValueError: Ray is asked for and not installed, or cannot be reached.
    """
    if jobs < 0:
        raise ValueError(f"jobs is {jobs}, expected 0 or more")
    check_inputs(output, bags.values())
    check_output(output, [_PAGE], _DATA)
    output.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    jobs = jobs or max(1, cores // 2)
    outcomes = {}
    waiting = {}
    for name, bag in bags.items():
        if is_finished(bag, output / name, settings):
            outcomes[name] = Outcome(name, str(bag), "kept")
            if report is not None:
                report(outcomes[name])
        else:
            waiting[name] = bag
    settings = _anywhere(settings)
    if settings.threads == 0:
        threads = max(1, cores // max(1, min(jobs, len(waiting) or 1)))
        settings = replace(settings, threads=threads)
    work = [_job(name, bag, output, settings) for name, bag in waiting.items()]
    for outcome in _on_ray(work, ray, settings.threads) if ray else _in_processes(work, jobs):
        outcomes[outcome.name] = outcome
        if report is not None:
            report(outcome)
    ordered = [outcomes[name] for name in bags]
    _write_summary(output, ordered)
    return ordered


def _job(name: str, bag: Path, output: Path, settings: ReplaySettings) -> dict[str, Any]:
    """Return the job of a bag, as `run_job` takes it."""
    return {
        "name": name,
        "bag": str(bag.resolve()),
        "output": str((output / name).resolve()),
        "settings": settings.to_json(),
    }


def _anywhere(settings: ReplaySettings) -> ReplaySettings:
    """Return settings with absolute paths, for processes with other working directories."""
    weights, registration = Path(settings.weights), settings.registration
    return replace(
        settings,
        weights=str(weights.resolve()) if weights.is_file() else settings.weights,
        registration=registration.resolve() if registration is not None else None,
        recorded=str(Path(settings.recorded).resolve()) if settings.recorded else settings.recorded,
    )


def _in_processes(work: Sequence[dict[str, Any]], jobs: int) -> Iterator[Outcome]:
    with ThreadPoolExecutor(jobs, thread_name_prefix="bag") as threads:
        running = [threads.submit(run_job, job) for job in work]
        try:
            for done in as_completed(running):
                yield done.result()
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _on_ray(work: Sequence[dict[str, Any]], address: str, threads: int) -> Iterator[Outcome]:
    try:
        import ray
    except ImportError as error:
        raise ValueError("--ray needs Ray: pip install 'ray>=2.9' (extra `fleet`)") from error
    try:
        ray.init(
            address=None if address == "local" else address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
        )
    except Exception as error:  # connection errors of several kinds
        raise ValueError(f"Ray at '{address}' cannot be reached: {error}") from error
    try:
        remote = ray.remote(num_cpus=threads, max_retries=1)(run_job)
        running = {remote.remote(job): job for job in work}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:
                yield outcome_of(job, str(error).splitlines()[0])
    finally:
        ray.shutdown()


def _write_summary(output: Path, outcomes: Sequence[Outcome]) -> None:
    rows = [_row(output, outcome) for outcome in outcomes]
    write_json(output / _DATA, {"format": 1, "outputs": [_DATA, _PAGE], "bags": rows})
    write_page(output / _PAGE, "fleet.html.j2", rows=rows)


def _row(output: Path, outcome: Outcome) -> dict[str, Any]:
    """Return the row of a bag: the part of its summary that can be compared between bags."""
    row: dict[str, Any] = {
        "name": outcome.name,
        "bag": outcome.bag,
        "status": outcome.status,
        "error": outcome.error,
    }
    if outcome.status == "failed":
        return row
    folder = output / outcome.name
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    segmentation = summary["segmentation"]
    pages = [name for name in ("report.html", "summary.json") if (folder / name).is_file()]
    return row | {
        "page": f"{outcome.name}/{pages[0]}",
        "seconds": summary["bag"]["duration_seconds"],
        "pairs": summary["pairing"]["pairs"],
        "received": summary["pairing"]["received"],
        "failed_pairs": sum(summary["failed"].values()),
        "pairs_per_second": summary["throughput"]["pairs_per_second"],
        "metrics": {name: entry["mean"] for name, entry in summary["metrics"].items()},
        "miou": segmentation["miou"] if segmentation else None,
        "warnings": [warning["text"] for warning in summary["warnings"]],
        "left_out": summary["left_out"],
    }
