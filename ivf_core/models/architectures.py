"""Architectures of students and their heads, by the name in weights files."""

from __future__ import annotations

from typing import TypeAlias

from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.street import StreetHead, StreetStudent
from ivf_core.models.student import FastStudent, FusionStudent

__all__ = ["HEADS", "STUDENTS", "Head", "Student"]

Student: TypeAlias = FusionStudent | FastStudent | StreetStudent
"""A student: luma and infrared in, fused luma and five features out."""

Head: TypeAlias = SegmentationHead | StreetHead
"""A head: the student's features and small chroma in, class logits out."""

STUDENTS: dict[str, type[Student]] = {
    "sage": FusionStudent,
    "fast": FastStudent,
    "street": StreetStudent,
}
"""Students by architecture."""

HEADS: dict[str, type[Head]] = {
    "sage": SegmentationHead,
    "fast": SegmentationHead,
    "street": StreetHead,
}
"""Heads by the architecture of their student."""
