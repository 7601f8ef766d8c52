"""Page of a replay: one HTML file that opens offline, with images and charts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ivf_core.html.embedding import embed_images
from ivf_core.html.filters import flat
from ivf_core.html.render import write_page
from ivf_core.replay.report.charts import class_colors, report_data
from ivf_core.replay.report.findings import metric_rows, sentences, tiles
from ivf_core.replay.report.reference import reference_bands
from ivf_core.replay.saved_replay import ReplayDirectory

__all__ = ["write_report"]

_PAGE_BYTES = 8_000_000
_LEAST_IMAGE_SHARE = 1 / 3


def write_report(
    directory: str | os.PathLike[str],
    *,
    bands: Mapping[str, Mapping[str, float]] | None = None,
    page_bytes: int = _PAGE_BYTES,
) -> Path:
    """Write DIR/report.html from the files that `ivf replay` wrote into DIR.

    Args:
        directory: DIR, as `ReplayDirectory` reads it.
        bands: quantiles by metric that charts show behind the scores; by default those of
            `reference_bands`.
        page_bytes: approximate size of the page. Images get the bytes that the numbers
            leave, at least a third.

    Returns:
        The page's path.

    Raises:
        ValueError: a file of the directory is missing or wrong; names it.
    """
    replay = ReplayDirectory.read(directory)
    bands = reference_bands() if bands is None else bands
    summary = replay.summary
    notable = [entry["frame"] for entry in summary.get("notable", [])]
    path = replay.path / "report.html"
    data = report_data(replay, bands)
    left = page_bytes - len(json.dumps(data, separators=(",", ":")))
    budget = max(left, int(_LEAST_IMAGE_SHARE * page_bytes))
    write_page(
        path,
        "replay_report.html.j2",
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
        images=embed_images(replay.images, notable, budget),
    )
    return path
