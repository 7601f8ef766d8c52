"""Votes of networks that segment pairs: they see both cameras at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ivf_core.class_sets import STREET, STREET_MAPPINGS, UNLABELED
from ivf_core.training.segmentation.fused_labels.networks import NETWORKS
from ivf_core.training.segmentation.logit_cache import resize_shares

if TYPE_CHECKING:
    from ivf_core.training.segmentation.asked_teacher import AskedTeacher

__all__ = [
    "CAMERAS",
    "OpenTeacher",
    "PairVoter",
    "check_teachers",
    "is_pair_teacher",
    "pair_teacher_name",
]

CAMERAS = "both"
"""Cameras of a pair's votes, after the colon in the name of a teacher."""

OpenTeacher = Callable[[str, Path], "AskedTeacher"]
"""Function that opens KIND:FILE, with the folder of its answers."""


def is_pair_teacher(teacher: str) -> bool:
    """Tell KIND:FILE from the name of a network."""
    return ":" in teacher


def pair_teacher_name(teacher: str) -> str:
    """Return the name of a teacher KIND:FILE in tables and pages: the stem of its file."""
    return Path(teacher.partition(":")[2]).stem


def check_teachers(teachers: Sequence[str]) -> None:
    """Raise ValueError for names that are unknown, or that two teachers share."""
    names = []
    for teacher in teachers:
        if is_pair_teacher(teacher):
            names.append(pair_teacher_name(teacher))
            if not names[-1]:
                raise ValueError(f"teachers: '{teacher}' names no file, expected KIND:FILE")
        elif teacher not in NETWORKS:
            raise ValueError(
                f"teachers: '{teacher}', known: {', '.join(NETWORKS)}, or KIND:FILE for a "
                "network that segments pairs, such as sartm:runs/sartm.safetensors"
            )
        else:
            names.append(teacher)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"teachers: {', '.join(twice)}: names must differ; rename a file")


class PairVoter:
    """Network that segments pairs, as one more segmenter.

    Args:
        teacher: KIND:FILE.
        folder: folder of the answers' caches.
        open_teacher: function that opens the network.

    Attributes:
        name: see `pair_teacher_name`.
        digest: hash of the network's weights and of its classes.
        origin: kind and SHA-256 of the network, and what of it was random, by name.

    Raises:
        ValueError: the network cannot be opened, or its classes cannot be mapped onto `STREET`.
    """

    def __init__(self, teacher: str, folder: Path, open_teacher: OpenTeacher) -> None:
        self.name = pair_teacher_name(teacher)
        self._asked = open_teacher(teacher, folder)
        cache = self._asked.cache
        known = STREET_MAPPINGS.get(cache.class_set.name)
        if known is None or known.source.names != cache.class_set.names:
            raise ValueError(
                f"teacher '{teacher}': its classes are those of '{cache.class_set.name}', which "
                f"cannot be mapped onto 'street'; expected one of {', '.join(STREET_MAPPINGS)}"
            )
        self._targets = known.table[: len(cache.class_set)]
        self.digest = cache.directory.name
        self.origin = {**cache.teacher, **cache.notes}

    def prepare(self, visible: np.ndarray, infrared: np.ndarray) -> None:
        """Ask about a pair, so that the answer is on disk; see `votes`."""
        self._asked.ask(visible, infrared)

    def votes(self, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        """Return the probabilities of a pair's pixels; those without a class in `STREET` are none.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.

        Returns:
            C x H x W uint8, 0..255 for 0..1, one plane for each class of `STREET`.
        """
        values = self._asked.ask(visible, infrared)
        shares = np.zeros((len(STREET), *values.shape[1:]), np.float32)
        for plane, target in zip(np.exp(values), self._targets, strict=True):
            if target != UNLABELED:
                shares[target] += plane
        return np.rint(255 * resize_shares(shares, infrared.shape).clip(0, 1)).astype(np.uint8)
