"""Files of SAGE's teacher: its weights, options and metadata."""

from __future__ import annotations

import os

from ivf_core.models.teacher import Teacher
from ivf_core.training.runs.network_files import load_network, save_network

__all__ = ["load_teacher", "save_teacher"]


def save_teacher(teacher: Teacher, path: str | os.PathLike[str], **metadata: str) -> None:
    """Save a teacher with its options and metadata; see `save_network`."""
    options: dict[str, object] = {
        "masks": teacher.masks,
        "keep_latent": teacher.attention.keep_latent,
        "keep_keys_values": teacher.attention.keep_keys_values,
    }
    save_network(teacher, path, "teacher", options, **metadata)


def load_teacher(path: str | os.PathLike[str]) -> tuple[Teacher, dict[str, str]]:
    """Load a teacher in evaluation mode and its metadata; see `load_network`."""
    return load_network(path, "teacher", Teacher)
