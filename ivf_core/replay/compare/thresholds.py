"""Thresholds of a comparison, from a YAML file, for use in CI.

    VIF: {min_difference: -0.01}
    flip_share: {max_difference: 0.005}
    model_ms: {max_ratio: 1.1}
    pairs: {min: 100}
    AG: {min_difference: -0.2, by: estimate}

Differences are B less A and ratios B to A, of the means; `min` and `max` are for B's mean
itself. A threshold holds when the whole confidence interval does: that a drive is too short
to tell is no proof that nothing got worse. The threshold is then the margin that one is
willing to lose. With `by: estimate` the interval is not asked. Figures that are counted and
not sampled, such as `pairs`, have no interval and go by their value.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import yaml

from ivf_core.replay.compare.bootstrap import Interval
from ivf_core.replay.compare.differences import Compared

__all__ = ["Threshold", "ThresholdsError", "Verdict", "judge", "read_thresholds"]

_LIMITS = ("min_difference", "max_difference", "min_ratio", "max_ratio", "min", "max")
_BY = ("interval", "estimate")


class ThresholdsError(ValueError):
    """A file of thresholds that says something else than this module reads."""


@dataclass(frozen=True)
class Threshold:
    """One limit of one quantity.

    Attributes:
        quantity: a name that `Comparison.quantities` has.
        kind: one of the six above.
        limit: finite.
        by_interval: whether the whole interval must hold it, or the estimate.
    """

    quantity: str
    kind: str
    limit: float
    by_interval: bool = True


@dataclass(frozen=True)
class Verdict:
    """A threshold, what was found, and whether it holds."""

    threshold: Threshold
    found: Interval | None
    holds: bool

    def __str__(self) -> str:
        threshold = self.threshold
        wanted = f"{threshold.quantity}: {threshold.kind} {threshold.limit:g}"
        if self.found is None:
            return f"{wanted}: not measured in both reports"
        estimate, low, high = self.found
        state = "holds" if self.holds else "does not hold"
        bounds = "" if low == high else f", {low:.4g} to {high:.4g}"
        return f"{wanted}: {state}, {estimate:.4g}{bounds}"


def read_thresholds(path: str | os.PathLike[str]) -> list[Threshold]:
    """Read a file.

    Raises:
        ThresholdsError: names the file and the key.
    """
    path = Path(path)
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ThresholdsError(f"thresholds '{path}': {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise ThresholdsError(f"thresholds '{path}': expected quantities with their limits")
    found = []
    for quantity, limits in entries.items():
        where = f"thresholds '{path}': {quantity}"
        if not isinstance(limits, dict):
            raise ThresholdsError(f"{where}: expected limits, such as {{min_difference: -0.01}}")
        limits = dict(limits)
        by = limits.pop("by", _BY[0])
        if by not in _BY:
            raise ThresholdsError(f"{where}: by is '{by}', expected {' or '.join(_BY)}")
        if not limits:
            raise ThresholdsError(f"{where}: no limit, expected one of {', '.join(_LIMITS)}")
        for kind, limit in limits.items():
            if kind not in _LIMITS:
                raise ThresholdsError(f"{where}.{kind}: unknown, expected {', '.join(_LIMITS)}")
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if not number or not math.isfinite(limit):
                raise ThresholdsError(f"{where}.{kind}: '{limit}' is not a finite number")
            found.append(Threshold(str(quantity), kind, float(limit), by == _BY[0]))
    return found


def judge(
    thresholds: list[Threshold], quantities: Mapping[str, Compared], known: Set[str]
) -> list[Verdict]:
    """Hold what was found against thresholds.

    Args:
        thresholds: from `read_thresholds`.
        quantities: what both reports have.
        known: what either has; a quantity outside is a misspelling.

    Raises:
        ThresholdsError: names a quantity that neither report has.
    """
    for threshold in thresholds:
        if threshold.quantity not in known:
            raise ThresholdsError(
                f"thresholds: '{threshold.quantity}' is in neither report, "
                f"they have: {', '.join(sorted(known))}"
            )
    return [_judge(threshold, quantities.get(threshold.quantity)) for threshold in thresholds]


def _judge(threshold: Threshold, compared: Compared | None) -> Verdict:
    lower, _, what = threshold.kind.partition("_")
    found = None
    if compared is not None:
        found = {"difference": compared.difference, "ratio": compared.ratio, "": compared.value}[
            what
        ]
    if found is None:
        return Verdict(threshold, None, False)
    if lower == "min":
        value = found.low if threshold.by_interval else found.estimate
        return Verdict(threshold, found, value >= threshold.limit)
    value = found.high if threshold.by_interval else found.estimate
    return Verdict(threshold, found, value <= threshold.limit)
