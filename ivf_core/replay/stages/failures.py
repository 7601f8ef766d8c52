"""Counters of pairs and images that a stage could not use."""

from __future__ import annotations

from collections import Counter

__all__ = ["Failures"]


class Failures:
    """Counter of pairs and images that could not be used, by reason.

    Attributes:
        counts: number by reason.
        details: first detail by reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.details: dict[str, str] = {}

    def add(self, reason: str, detail: str) -> None:
        """Count one failure.

        Args:
            reason: short key.
            detail: the reason in words.
        """
        self.counts[reason] += 1
        self.details.setdefault(reason, detail)
