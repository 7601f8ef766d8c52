"""The HTML report of a replay: one file that opens offline, with pictures and charts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ivf_core.html.filters import flat
from ivf_core.html.render import write_page
from ivf_core.replay.report.charts import chart_data, class_colors
from ivf_core.replay.report.images import embed_pictures
from ivf_core.replay.report.reference import reference_bands
from ivf_core.replay.report.words import metric_rows, sentences, tiles
from ivf_core.replay.saved_replay import ReplayDirectory

__all__ = ["write_report"]

_PAGE_BYTES = 8_000_000
_LEAST_PICTURES = 1 / 3


def write_report(
    directory: str | os.PathLike[str],
    *,
    bands: Mapping[str, Mapping[str, float]] | None = None,
    page_bytes: int = _PAGE_BYTES,
) -> Path:
    """Write DIR/report.html of what `ivf replay` left in DIR.

    Args:
        directory: as `ReplayDirectory` reads it.
        bands: quantiles by metric that the charts are shown against; the default is the
            published student's on the shared pairs.
        page_bytes: about the size of the page. Pictures get what the numbers leave of it,
            a third at least.

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
    data = chart_data(replay, bands)
    left = page_bytes - len(json.dumps(data, separators=(",", ":")))
    budget = max(left, int(_LEAST_PICTURES * page_bytes))
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
        data=data,
        pictures=embed_pictures(replay.pictures, notable, budget),
    )
    return path
