"""Scores of the published student on the shared pairs, to read other scores against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

__all__ = ["reference_bands"]


@cache
def reference_bands() -> Mapping[str, Mapping[str, float]]:
    """By metric: mean, sd, p5, p25, median, p75 and p95."""
    file = resources.files("ivf_core.replay.report") / "reference_bands.json"
    return json.loads(file.read_text(encoding="utf-8"))["metrics"]
