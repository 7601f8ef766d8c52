"""Scores of SAGE's published student on test pairs of MSRS, RoadScene and TNO."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

__all__ = ["reference_bands"]


@cache
def reference_bands() -> Mapping[str, Mapping[str, float]]:
    """Return mean, sd, p5, p25, median, p75 and p95 of the published student by metric.

    They show in which range scores usually are; see `reference_bands.json` for the pairs.
    """
    file = resources.files("ivf_core.replay.report") / "reference_bands.json"
    return json.loads(file.read_text(encoding="utf-8"))["metrics"]
