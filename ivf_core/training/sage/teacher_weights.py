"""Files of SAGE's teacher: its weights, options and metadata."""

from __future__ import annotations

import os
from typing import Any

from ivf_core.models.teacher import Teacher
from ivf_core.training.runs.network_files import load_network, save_network

__all__ = ["load_teacher", "save_teacher"]


def save_teacher(teacher: Teacher, path: str | os.PathLike[str], **metadata: str) -> None:
    """Save a teacher with its options and metadata; see `save_network`."""
    options: dict[str, object] = {
        "masks": teacher.masks,
        "patches": teacher.patches,
        "keep_latent": teacher.attention.keep_latent,
        "keep_keys_values": teacher.attention.keep_keys_values,
    }
    save_network(teacher, path, "teacher", options, **metadata)


def load_teacher(path: str | os.PathLike[str]) -> tuple[Teacher, dict[str, str]]:
    """Load a teacher in evaluation mode and its metadata; see `load_network`.

    A file that does not say whether its teacher saw patches is older than these: it saw masks.
    """

    def build(*, patches: bool = False, **options: Any) -> Teacher:
        return Teacher(patches=patches, **options)

    return load_network(path, "teacher", build)
