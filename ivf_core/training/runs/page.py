"""Page of a training run, made of the files of its record: see `ivf_core.training.runs.record`."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.html.embedding import data_uri, embed_file
from ivf_core.html.plots import draw_curves
from ivf_core.html.render import write_page

__all__ = ["image_files", "read_losses", "write_summary"]

RECIPE = "recipe.yaml"
METADATA = "metadata.json"
LOSSES = "losses.csv"
SCORES = "scores.json"
IMAGES = "images"
PAGE = "summary.html"

RUNNING, FINISHED = "running", "finished"

_IMAGES_OF_OLDER_RECORDS = "pictures"  # plain: pictures


def write_summary(directory: str | os.PathLike[str]) -> Path:
    """Write `summary.html`: outcome, warnings, scores, curves, images, recipe and origin.

    The page is one file with its images inside it. Without matplotlib it has no curves, and
    says so.

    Args:
        directory: folder of a run's record.

    Returns:
        The page.
    """
    directory = Path(directory)
    metadata = json.loads((directory / METADATA).read_text(encoding="utf-8"))
    scores = directory / SCORES
    losses = read_losses(directory)
    session = metadata["sessions"][-1]
    last = session["last_step"]
    done = session["first_step"] if last is None else last + 1
    page = directory / PAGE
    write_page(
        page,
        "training_run.html.j2",
        title=f"{metadata['part']}: {directory.resolve().name}",
        finished=session["outcome"] == FINISHED,
        steps=f"{done} of {metadata['total_steps']} steps",
        outcome=session["outcome"],
        warnings=metadata["warnings"],
        scores=json.loads(scores.read_text(encoding="utf-8")) if scores.is_file() else {},
        losses=LOSSES if losses else "",
        curves=_curves(losses),
        images=_selected_images(directory),
        recipe=(directory / RECIPE).read_text(encoding="utf-8"),
        sessions=[_facts(session) for session in metadata["sessions"]],
    )
    return page


def read_losses(directory: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read steps (int64) and values (float64) of each loss by name, in their order in the file.

    Args:
        directory: folder of a run's record.
    """
    found: dict[str, tuple[list[int], list[float]]] = {}
    with (Path(directory) / LOSSES).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            steps, values = found.setdefault(row["loss"], ([], []))
            steps.append(int(row["step"]))
            values.append(float(row["value"]))
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in found.items()}


def image_files(directory: str | os.PathLike[str]) -> dict[int, Path]:
    """Return the PNG files of a run's record by step, in ascending order.

    Args:
        directory: folder of a run's record; images are in its folder `images`, or in that of
            older records.
    """
    paths = [
        path
        for folder in (_IMAGES_OF_OLDER_RECORDS, IMAGES)
        for path in (Path(directory) / folder).glob("*.png")
    ]
    found = {int(path.stem): path for path in paths if path.stem.isdecimal()}
    return dict(sorted(found.items()))


def _curves(losses: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Return the chart of the losses as a data URI; "" where there are none or no matplotlib."""
    if not losses:
        return ""
    try:
        return data_uri(draw_curves(losses), ".svg")
    except ImportError:
        logging.getLogger(__name__).warning(
            "matplotlib is not installed (extra `training`): the summary has no curves"
        )
        return ""


def _selected_images(directory: Path) -> dict[int, str]:
    """Return the first, the middle and the last image by step as data URIs."""
    files = list(image_files(directory).items())
    chosen = sorted({0, len(files) // 2, len(files) - 1}) if files else ()
    return {files[index][0]: embed_file(files[index][1]) for index in chosen}


def _facts(session: Mapping[str, Any]) -> dict[str, str]:
    """Return a session as the rows of a table."""
    return {
        "steps": f"from {session['first_step']}, last {session['last_step']}",
        "started": session["started"],
        "ended": f"{session['ended'] or 'unknown'}: {session['outcome']}",
        "command": session["command"],
        "revision": session["revision"],
        "versions": ", ".join(f"{name} {value}" for name, value in session["versions"].items()),
        "machine": ", ".join(f"{name}: {value}" for name, value in session["machine"].items()),
    }
