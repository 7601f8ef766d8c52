"""Small networks of the real architectures for quick tests."""

from __future__ import annotations

from ivf_core.models.student import FastStudent, FusionStudent


def small_student(architecture: str, width: int = 4) -> FusionStudent | FastStudent:
    """Build a student with few channels of an architecture in `STUDENTS`.

    The number of channels differs between the scales of `fast`.
    """
    if architecture == "sage":
        return FusionStudent(width)
    return FastStudent((width, width + 2, width + 4), (1, 1, 2, 1, 1))
