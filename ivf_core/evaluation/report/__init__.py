"""The HTML report of a replay: one file that opens offline, with pictures and charts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ivf_core.evaluation.reference import reference_bands
from ivf_core.evaluation.replay_directory import ReplayDirectory
from ivf_core.evaluation.report.charts import chart_data, class_colors
from ivf_core.evaluation.report.page import write_page
from ivf_core.evaluation.report.pictures import embed_pictures
from ivf_core.evaluation.report.words import flat, metric_rows, sentences, tiles

__all__ = ["write_report"]

_PICTURE_BYTES = 5_500_000


def write_report(
    directory: str | os.PathLike[str],
    *,
    bands: Mapping[str, Mapping[str, float]] | None = None,
    picture_bytes: int = _PICTURE_BYTES,
) -> Path:
    """Write DIR/report.html of what `ivf replay` left in DIR.

    Args:
        directory: as `ReplayDirectory` reads it.
        bands: quantiles by metric that the charts are shown against; the default is the
            published student's on the shared pairs.
        picture_bytes: about how much of the page may be pictures.

    Returns:
        The page's path.

    Raises:
        ValueError: names the file of the directory that is missing or wrong.
    """
    replay = ReplayDirectory.read(directory)
    bands = reference_bands() if bands is None else bands
    summary = replay.summary
    notable = [entry["frame"] for entry in summary.get("notable", [])]
    path = replay.path / "report.html"
    write_page(
        path,
        "report.html.j2",
        title=Path(summary["bag"]["path"]).name,
        kind="replay report",
        summary=summary,
        replay=replay,
        tiles=tiles(replay),
        sentences=sentences(replay, bands),
        metrics=metric_rows(replay, bands),
        settings=flat({**(summary.get("settings") or {}), "version": summary["versions"]}),
        class_colors=class_colors(summary["classes"]),
        data=chart_data(replay, bands),
        pictures=embed_pictures(replay.pictures, notable, picture_bytes),
    )
    return path
