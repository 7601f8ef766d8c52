"""Names in the directory of a replay, and whether it is up to date."""

from __future__ import annotations

import json
from pathlib import Path

from ivf_core import __version__
from ivf_core.replay.provenance import fingerprint, input_fingerprints
from ivf_core.replay.saved_replay import FORMAT
from ivf_core.replay.settings import ReplaySettings

__all__ = ["OUTPUTS", "is_finished"]

OUTPUTS = (
    "bag", "images", "side_by_side.mp4", "frames.csv", "timings.csv", "report.html",
    "summary.json",
)  # fmt: skip
"""Names in the directory of a replay; summary.json is written last."""


def is_finished(path: Path, output: Path, settings: ReplaySettings) -> bool:
    """Return whether a directory holds the replay of this bag by these settings and version.

    Files that the settings name are compared by their content. The number of threads does
    not matter.

    Args:
        path: the bag.
        output: directory of the replay.
        settings: settings as given.
    """
    try:
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        asked = {**settings.to_json(), "files": input_fingerprints(settings)}
        free = dict.fromkeys(("threads", "weights", "registration", "recorded"))
        return bool(
            summary["format"] == FORMAT
            and summary["versions"]["ivf"] == __version__
            and {**summary["asked"], **free} == {**asked, **free}
            and summary["bag"]["fingerprint"] == fingerprint(path)
        )
    except (OSError, ValueError, KeyError, TypeError):  # missing, unfinished or of another kind
        return False
