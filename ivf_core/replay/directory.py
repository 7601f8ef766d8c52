"""The directory of a replay: complete or not there, and whether it is what is asked for."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ivf_core import __version__
from ivf_core.replay import summary as summaries
from ivf_core.replay.settings import ReplaySettings

__all__ = ["OUTPUTS", "finished_directory", "is_finished"]

OUTPUTS = (
    "bag", "pictures", "side_by_side.mp4", "frames.csv", "timings.csv", "report.html",
    "summary.json",
)  # fmt: skip
"""What a replay puts into its directory; summary.json comes last."""


def is_finished(path: Path, output: Path, settings: ReplaySettings) -> bool:
    """Whether `output` holds the replay of this bag by these settings and this version.

    Files count by what is in them, the number of threads not at all.
    """
    try:
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        asked = {**settings.to_json(), "files": summaries.input_fingerprints(settings)}
        free = dict.fromkeys(("threads", "weights", "registration", "recorded"))
        return bool(
            summary["format"] == summaries.FORMAT
            and summary["versions"]["ivf"] == __version__
            and {**summary["asked"], **free} == {**asked, **free}
            and summary["bag"]["fingerprint"] == summaries.fingerprint(path)
        )
    except (OSError, ValueError, KeyError, TypeError):  # missing, unfinished or of another kind
        return False


@contextmanager
def finished_directory(output: Path, recording: Path | None) -> Iterator[Path]:
    """A temporary folder whose content moves to `output` when all went well.

    A recording that lies there as the output's bag stays.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield folder
        output.mkdir(exist_ok=True)
        for name in (*OUTPUTS[-1:], *OUTPUTS[:-1]):  # the mark of a finished replay goes first
            old = output / name
            if recording is not None and recording.resolve().is_relative_to(old.resolve()):
                continue
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        for name in OUTPUTS:
            if (folder / name).exists():
                (folder / name).replace(output / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
