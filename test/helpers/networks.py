"""Networks that are right in kind and quick to run."""

from __future__ import annotations

from ivf_core.models.student import FastStudent, FusionStudent


def small_student(structure: str, width: int = 4) -> FusionStudent | FastStudent:
    """A student of one of `STUDENTS` with few channels, different ones at each scale of `fast`."""
    if structure == "sage":
        return FusionStudent(width)
    return FastStudent((width, width + 2, width + 4), (1, 1, 2, 1, 1))
