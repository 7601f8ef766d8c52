"""Select the frames of a bag that are worth a look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ivf_core.metrics.fusion import FUSION_METRICS

__all__ = ["DARK_LUMA", "MISREGISTERED_PX", "SATURATED_SHARE", "NotableFrames"]

SATURATED_SHARE = 0.05
DARK_LUMA = 20.0
MISREGISTERED_PX = 4.0

_FLIP_SHARE = 0.05
_SHARE_JUMP = 0.1
_SCORE_JUMP = 0.05
_SCORES = ("SSIM", "Qabf", "VIF", "CC")
_KEPT = 3
_APART_SECONDS = 1.0

Values = Mapping[str, float]


@dataclass
class _Rule:
    """One reason to look at a frame.

    Attributes:
        badness: returns how bad a frame is from its values and those of the frame before;
            None if it is not bad.
        text: returns the reason in words, from the same.
        worst: badness, index, seconds and text of the worst frames so far.
    """

    badness: Callable[[Values, Values], float | None]
    text: Callable[[Values, Values], str]
    worst: list[tuple[float, int, float, str]] = field(default_factory=list)

    def consider(self, index: int, seconds: float, values: Values, before: Values) -> bool:
        """Add a frame if it is among the worst so far; return whether it is.

        The worst frames are at least a second apart.

        Args:
            index: number of the pair.
            seconds: time since the start of the bag.
            values: values of the frame by column.
            before: values of the frame before.
        """
        badness = self.badness(values, before)
        if badness is None:
            return False
        near = [one for one in self.worst if abs(one[2] - seconds) < _APART_SECONDS]
        if any(one[0] >= badness for one in near):
            return False
        rest = [one for one in self.worst if one not in near]
        if len(rest) == _KEPT and rest[-1][0] >= badness:
            return False
        rest.append((badness, index, seconds, self.text(values, before)))
        self.worst = sorted(rest, key=lambda one: (-one[0], one[1]))[:_KEPT]
        return True


class NotableFrames:
    """Worst frames for each reason; the same frames for the same values."""

    def __init__(self) -> None:
        self._rules = [
            *(_lowest(name) for name in _SCORES),
            *(_jump(name) for name in _SCORES),
            _above("flip_share", _FLIP_SHARE, "{:.1%} of the mask flipped from the frame before"),
            _Rule(_share_jump, _share_jump_text),
            _above(
                "infrared_saturated_share", SATURATED_SHARE, "{:.0%} of the thermal image saturated"
            ),
            _above("infrared_frozen", 0.5, "thermal image frozen: the same as the one before"),
            _below("rgb_dark", DARK_LUMA, "dark RGB image, mean luma {:.0f} of 255"),
            _above("misregistration_px", MISREGISTERED_PX, "thermal is {:.0f} px off the RGB"),
        ]
        self._before: dict[str, float] = {}

    def consider(self, index: int, seconds: float, values: Values) -> bool:
        """Add the next frame; return whether it is, so far, one to look at.

        Args:
            index: number of the pair.
            seconds: time since the start of the bag.
            values: values of the frame by column.
        """
        found = [rule.consider(index, seconds, values, self._before) for rule in self._rules]
        # Scores are compared with the last ones known.
        self._before.update(values)
        return any(found)

    def frames(self) -> dict[int, list[str]]:
        """Return the reasons by number of the pair, both in order."""
        reasons: dict[int, list[str]] = {}
        for rule in self._rules:
            for _, index, _, text in rule.worst:
                reasons.setdefault(index, []).append(text)
        return dict(sorted(reasons.items()))


def _lowest(name: str) -> _Rule:
    sign = 1.0 if FUSION_METRICS[name].higher_is_better else -1.0
    word = "lowest" if sign > 0 else "highest"
    return _Rule(
        lambda values, _: -sign * values[name] if name in values else None,
        lambda values, _: f"among the {word} {name}: {values[name]:.3g}",
    )


def _jump(name: str) -> _Rule:
    def badness(values: Values, before: Values) -> float | None:
        if name not in values or name not in before:
            return None
        change = abs(values[name] - before[name])
        return change if change > _SCORE_JUMP else None

    return _Rule(
        badness,
        lambda values, before: f"{name} jumps from {before[name]:.3g} to {values[name]:.3g}",
    )


def _above(name: str, limit: float, text: str) -> _Rule:
    return _Rule(
        lambda values, _: values[name] if values.get(name, limit) > limit else None,
        lambda values, _: text.format(values[name]),
    )


def _below(name: str, limit: float, text: str) -> _Rule:
    return _Rule(
        lambda values, _: -values[name] if values.get(name, limit) < limit else None,
        lambda values, _: text.format(values[name]),
    )


def _largest_change(values: Values, before: Values) -> tuple[float, str]:
    changes = [
        (abs(value - before[name]), name)
        for name, value in values.items()
        if name.startswith("share_") and name in before
    ]
    return max(changes, default=(0.0, ""))


def _share_jump(values: Values, before: Values) -> float | None:
    change, _ = _largest_change(values, before)
    return change if change > _SHARE_JUMP else None


def _share_jump_text(values: Values, before: Values) -> str:
    _, name = _largest_change(values, before)
    word = name.removeprefix("share_")
    return f"share of {word} jumps from {before[name]:.0%} to {values[name]:.0%}"
