"""Cache of what networks predict for images, one compressed file for each image content."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.class_sets import STREET
from ivf_core.system.atomic import atomic_path, remove_leftovers, write_json
from ivf_core.training.masks.cache import CACHE_FILE, content_digest, settings_digest
from ivf_core.training.runs.weights_origin import file_digest
from ivf_core.training.segmentation.fused_labels.networks import (
    NETWORKS,
    Boxes,
    NetworkError,
    open_network,
)

__all__ = ["CachedNetwork"]

_REVISION = 1
"""Number to raise when the code of networks.py changes what they predict."""


class CachedNetwork:
    """Network whose predictions are kept on disk.

    Args:
        name: one of `NETWORKS`.
        folder: folder of the networks' files.
        root: folder of caches; the network gets one that is named by its file's content.
        threads: number of threads.

    Attributes:
        name: the name.
        made: number of predictions that were made, not read.

    Raises:
        NetworkError: the file is missing.
    """

    def __init__(self, name: str, folder: Path, root: Path, threads: int = 1) -> None:
        self.name = name
        self.made = 0
        self._network = open_network(name, folder, threads)
        settings = {"network": name, "sha256": _digest_of(folder / NETWORKS[name]),
                    "revision": _REVISION, "classes": list(STREET.names)}  # fmt: skip
        self.digest = settings_digest(settings).hex()
        self._directory = root / f"{name}-{self.digest[:16]}"
        write_json(self._directory / "settings.json", settings)
        remove_leftovers(self._directory, CACHE_FILE.fullmatch)

    @cached_property
    def detects(self) -> bool:
        """True for a detector, False for a segmenter."""
        return hasattr(self._network, "boxes")

    def _path(self, image: np.ndarray) -> Path:
        return self._directory / f"{content_digest(image).hex()}.npz"

    def prepare(self, image: np.ndarray) -> None:
        """Predict an image, H x W x 3 uint8 RGB, unless there is a file of it."""
        if not self._path(image).is_file():
            self.predict(image)

    def predict(self, image: np.ndarray) -> np.ndarray | Boxes:
        """Return boxes, or votes C x H x W uint8, from the cache where they are there.

        A damaged file is made again.

        Args:
            image: H x W x 3 uint8 RGB.
        """
        path = self._path(image)
        arrays = _read(path)
        try:
            if arrays is not None:
                return Boxes(**arrays) if self.detects else _check(arrays["votes"], image)
        except (KeyError, TypeError, ValueError):
            pass
        self.made += 1
        if self.detects:
            boxes = self._network.boxes(image)
            _write(path, boxes._asdict())
            return boxes
        votes = self._network.votes(image)
        _write(path, {"votes": votes})
        return votes


def _check(votes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return votes if they are of this image's size, or raise ValueError."""
    if votes.dtype != np.uint8 or votes.shape != (len(STREET), *image.shape[:2]):
        raise ValueError("votes of another shape")
    return votes


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """Read all arrays of a file, or return None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # damaged bytes can end zip and npz readers in any way
        return None


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def _digest_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a network's file, and of the weights beside an OpenVINO file."""
    path = Path(path)
    weights = path.with_suffix(".bin")
    if path.suffix != ".xml":
        return file_digest(path)
    if not weights.is_file():
        raise NetworkError(f"network '{weights}': no such file")
    return file_digest(path, weights)
