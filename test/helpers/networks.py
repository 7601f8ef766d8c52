"""Small networks of the real architectures for quick tests."""

from __future__ import annotations

from pathlib import Path

from ivf_core.class_sets import ClassSet
from ivf_core.models.architectures import HEADS, Head, Student
from ivf_core.models.checkpoints import FusionModel, save_model
from ivf_core.models.segmentation import SegmentationHead
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


def tiny_with(classes: ClassSet, tiny_model: FusionModel, path: Path) -> Path:
    """Write weights whose head has these classes."""
    head = SegmentationHead(len(classes), tiny_model.student.feature_channels, (8, 8, 8))
    save_model(FusionModel(tiny_model.student, head.eval(), classes), path)
    return path
