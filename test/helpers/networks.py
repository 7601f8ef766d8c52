"""Small networks of the real architectures for quick tests."""

from __future__ import annotations

from ivf_core.models.architectures import HEADS, Head, Student
from ivf_core.models.street import StreetStudent
from ivf_core.models.student import FastStudent, FusionStudent


def small_student(architecture: str, width: int = 4) -> Student:
    """Build a student with few channels of an architecture in `STUDENTS`.

    The number of channels differs between the scales of `fast` and `street`.
    """
    if architecture == "sage":
        return FusionStudent(width)
    if architecture == "fast":
        return FastStudent((width, width + 2, width + 4), (1, 1, 2, 1, 1))
    return StreetStudent((width, width + 2, width + 4), (width + 1, width))


def small_head(architecture: str, student: Student, num_classes: int, width: int = 8) -> Head:
    """Build a head with few channels for a student of an architecture in `HEADS`."""
    widths = (width,) * (4 if architecture == "street" else 3)
    return HEADS[architecture](num_classes, student.feature_channels, widths, student.layout)
