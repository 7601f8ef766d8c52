"""Labels on disk: ids and confidence as PNG files, and a file that says what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ivf_core.images.files import ImageFileError, read_labels, write_image
from ivf_core.system.atomic import remove_leftovers_of, write_json
from ivf_core.training.segmentation.fused_labels.sources import LabelSource

__all__ = ["LabelStore", "digest_files"]


class LabelStore:
    """Folder of a set with `labels/STEM.png`, `confidence/STEM.png` and `sources/STEM.json`.

    The JSON is written last. It holds a key, a hash of everything that the labels depend on:
    files of the same key are kept.

    Args:
        directory: the folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, stem: str, key: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Read labels and confidence, or return None if they are missing, damaged or others.

        Args:
            stem: stem of the image.
            key: see `LabelStore`.

        Returns:
            Two arrays of H x W uint8, or None.
        """
        try:
            about = json.loads(self._path("sources", stem, ".json").read_text(encoding="utf-8"))
            if about["key"] != key:
                return None
            labels = read_labels(self._path("labels", stem))
            confidence = read_labels(self._path("confidence", stem))
            if about["content"] != _content(labels, confidence):
                return None
        except (OSError, KeyError, TypeError, ValueError, ImageFileError):
            return None
        return labels, confidence

    def write(
        self,
        stem: str,
        key: str,
        labels: np.ndarray,
        confidence: np.ndarray,
        facts: Mapping[str, object],
    ) -> None:
        """Write labels and confidence, each under a temporary name first.

        Args:
            stem: stem of the image.
            key: see `LabelStore`.
            labels: H x W uint8 ids.
            confidence: H x W uint8.
            facts: values for JSON to store beside.
        """
        write_image(self._path("labels", stem), labels)
        write_image(self._path("confidence", stem), confidence)
        about = {"key": key, "content": _content(labels, confidence), **facts}
        write_json(self._path("sources", stem, ".json"), about)

    def remove_leftovers(self, stems: Iterable[str]) -> None:
        """Remove temporary files that killed runs left for images of these stems."""
        remove_leftovers_of(
            self._path(kind, stem, suffix)
            for stem in stems
            for kind, suffix in (("labels", ".png"), ("confidence", ".png"), ("sources", ".json"))
        )

    def _path(self, kind: str, stem: str, suffix: str = ".png") -> Path:
        return self.directory / kind / f"{stem}{suffix}"


def digest_files(sources: Iterable[LabelSource]) -> str:
    """Return a SHA-256 of the files of images and of what is known of them, by content."""
    digest = hashlib.sha256()
    for source in sources:
        known: list[Path | None] = [source.visible, source.infrared, source.boxes]
        known += [source.truth[1]] if source.truth else []
        for _, ids, confidence in source.given.values():
            known += [ids, confidence]
        options = (source.stem, source.night_below, source.detect, source.absent, source.cold_sky)
        digest.update(repr(options).encode())
        for path in known:
            data = path.read_bytes() if path is not None else b""
            digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _content(labels: np.ndarray, confidence: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(labels).data)
    digest.update(np.ascontiguousarray(confidence).data)
    return digest.hexdigest()
