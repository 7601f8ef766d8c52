"""Run the replay of one bag in a process of its own. Imports nothing heavy, for Ray's workers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["Outcome", "outcome_of", "run_job"]

_WORKER = "ivf_core.replay.fleet_worker"


@dataclass(frozen=True)
class Outcome:
    """Outcome of one bag of a fleet.

    Attributes:
        name: its folder in the output.
        bag: its path.
        status: "done", "kept" (finished by an earlier run) or "failed".
        error: reason why it failed.
    """

    name: str
    bag: str
    status: str
    error: str = ""


def run_job(job: dict[str, Any]) -> Outcome:
    """Replay a bag in a process that ends with it, and frees its memory.

    Args:
        job: name, bag, output and settings, as `fleet_worker` reads them.
    """
    command = [sys.executable, "-m", _WORKER, json.dumps(job)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if not ended.returncode:
        return outcome_of(job)
    lines = ended.stderr.strip().splitlines() or [f"its process ended with {ended.returncode}"]
    return outcome_of(job, lines[-1])


def outcome_of(job: dict[str, Any], error: str = "") -> Outcome:
    """Return the outcome of a job: failed if there is an error, else done.

    Args:
        job: as for `run_job`.
        error: reason why it failed.
    """
    return Outcome(job["name"], job["bag"], "failed" if error else "done", error)
