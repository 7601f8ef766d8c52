"""Thresholds that a comparison must satisfy, from a YAML file, for use in CI.

    VIF: {min_difference: -0.01}
    flip_share: {max_difference: 0.005}
    model_ms: {max_ratio: 1.1}
    pairs: {min: 100}
    AG: {min_difference: -0.2, by: estimate}

Differences are B minus A and ratios are B / A, both of the means; `min` and `max` are limits
of B's mean. A threshold holds when the whole confidence interval satisfies it: a drive that is
too short to show a difference does not prove that nothing got worse. The limit is then the
loss that is acceptable. With `by: estimate`, the estimate alone must satisfy the threshold.
Figures that are counted, such as `pairs`, have no interval and are compared by value.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from ivf_core.replay.compare.bootstrap import Interval
from ivf_core.replay.compare.differences import QuantityDifference
from ivf_core.system.short_text import short_repr, short_text
from ivf_core.system.yaml_text import parse_yaml

__all__ = [
    "Threshold",
    "ThresholdResult",
    "ThresholdsError",
    "check_thresholds",
    "read_thresholds",
]

_LIMITS = ("min_difference", "max_difference", "min_ratio", "max_ratio", "min", "max")
_BY = ("interval", "estimate")


class ThresholdsError(ValueError):
    """Raised for a file of thresholds that this module cannot read."""


@dataclass(frozen=True)
class Threshold:
    """Limit of one quantity.

    Attributes:
        quantity: a name in `Comparison.quantities`.
        kind: min_difference, max_difference, min_ratio, max_ratio, min or max.
        limit: the limit, finite.
        by_interval: whether the whole interval must satisfy the limit, or the estimate.
    """

    quantity: str
    kind: str
    limit: float
    by_interval: bool = True


@dataclass(frozen=True)
class ThresholdResult:
    """Threshold, the interval that was measured, and whether the threshold holds.

    Attributes:
        threshold: the threshold.
        found: the difference, ratio or mean that it limits; None where it was not measured
            in both replays.
        holds: whether the threshold holds.
    """

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
    """Read a file of thresholds.

    Args:
        path: YAML file: by quantity, its limits.

    Raises:
        ThresholdsError: the file cannot be read, or a key or limit is wrong; names the file
            and the key.
    """
    path = Path(path)
    try:
        entries = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ThresholdsError(f"thresholds '{path}': {short_text(error)}") from error
    if not isinstance(entries, dict) or not entries:
        raise ThresholdsError(f"thresholds '{path}': expected quantities with their limits")
    found = []
    for quantity, limits in entries.items():
        where = f"thresholds '{path}': {short_text(quantity, 80)}"
        if not isinstance(limits, dict):
            raise ThresholdsError(f"{where}: expected limits, such as {{min_difference: -0.01}}")
        limits = dict(limits)
        by = limits.pop("by", _BY[0])
        if by not in _BY:
            raise ThresholdsError(f"{where}: by is {short_repr(by)}, expected {' or '.join(_BY)}")
        if not limits:
            raise ThresholdsError(f"{where}: no limit, expected one of {', '.join(_LIMITS)}")
        for kind, limit in limits.items():
            if kind not in _LIMITS:
                raise ThresholdsError(
                    f"{where}.{short_text(kind, 80)}: unknown, expected {', '.join(_LIMITS)}"
                )
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if not number or not math.isfinite(limit):
                raise ThresholdsError(f"{where}.{kind}: {short_repr(limit)} is not a finite number")
            found.append(Threshold(str(quantity), kind, float(limit), by == _BY[0]))
    return found


def check_thresholds(
    thresholds: list[Threshold], quantities: Mapping[str, QuantityDifference], known: Set[str]
) -> list[ThresholdResult]:
    """Check which thresholds hold.

    Args:
        thresholds: from `read_thresholds`.
        quantities: differences of the quantities that both replays have, by name.
        known: quantities that either replay has; any other name is a misspelling.

    Raises:
        ThresholdsError: a threshold's quantity is in neither replay; names it.
    """
    for threshold in thresholds:
        if threshold.quantity not in known:
            raise ThresholdsError(
                f"thresholds: '{threshold.quantity}' is in neither report, "
                f"they have: {', '.join(sorted(known))}"
            )
    return [_check(threshold, quantities.get(threshold.quantity)) for threshold in thresholds]


def _check(threshold: Threshold, compared: QuantityDifference | None) -> ThresholdResult:
    lower, _, measure = threshold.kind.partition("_")
    found = None
    if compared is not None:
        found = {"difference": compared.difference, "ratio": compared.ratio, "": compared.value}[
            measure
        ]
    if found is None:
        return ThresholdResult(threshold, None, False)
    if lower == "min":
        value = found.low if threshold.by_interval else found.estimate
        return ThresholdResult(threshold, found, value >= threshold.limit)
    value = found.high if threshold.by_interval else found.estimate
    return ThresholdResult(threshold, found, value <= threshold.limit)
