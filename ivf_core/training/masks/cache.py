"""Masks on disk: one compressed file a picture, found by what the picture shows.

A cache is a folder for one way to make masks, `ROOT/SOURCE-DIGEST`, the digest
being that of the settings. In it `settings.json` says what the settings are, and
each `CONTENT.npz`, named by the SHA-256 of the pixels, has the masks as packed
bits. Nothing in it can run code: JSON, and npz read without pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.system.atomic import atomic_path, write_json

__all__ = ["MaskCache", "MaskCacheError"]

_FORMAT = "ivf-masks-1"
_ABOUT = "settings.json"
# Temporary files this old are those of a run that was killed, not of one at work.
_STALE_SECONDS = 3600
_HEADERS = 4096  # bytes of the three arrays' headers, generously


class MaskCacheError(ValueError):
    """A cache, or a file in it, that is missing, damaged or not of these settings."""


class MaskCache:
    """The masks of one way to make them.

    Args:
        directory: a cache's folder, as `create` made it.

    Attributes:
        directory: the folder.
        settings: all that decides what the masks are, beside the pictures.
        notes: what else was written down when the cache was last filled.

    Raises:
        MaskCacheError: the folder has no readable settings of this format.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        path = self.directory / _ABOUT
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MaskCacheError(
                f"masks '{self.directory}': expected a folder that ivf train priors made: {error}"
            ) from error
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise MaskCacheError(f"masks '{path}': expected format {_FORMAT!r}")
        settings, notes = about.get("settings"), about.get("notes")
        if not isinstance(settings, dict) or not {"source", "count"} <= settings.keys():
            raise MaskCacheError(f"masks '{path}': expected settings with source and count")
        self.settings: dict[str, Any] = settings
        self.notes: dict[str, str] = notes if isinstance(notes, dict) else {}
        self._digest = _digest_of(self.settings)

    @classmethod
    def create(
        cls,
        root: str | os.PathLike[str],
        settings: Mapping[str, object],
        notes: Mapping[str, str] | None = None,
    ) -> MaskCache:
        """Make or go on with the cache of `settings` below `root`.

        Args:
            settings: values of JSON; "source" and "count", the most masks a
                picture has, must be among them.
            notes: kept beside them; they do not decide which cache it is.
        """
        digest = _digest_of(settings).hex()
        directory = Path(root) / f"{settings['source']}-{digest[:16]}"
        about = {"format": _FORMAT, "settings": dict(settings), "notes": dict(notes or {})}
        write_json(directory / _ABOUT, about)
        for path in directory.glob(".*.npz"):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)
        return cls(directory)

    def path(self, content: np.ndarray) -> Path:
        """The file of a picture, whether it is there or not.

        Args:
            content: the array that masks are made of, H x W or H x W x C.
        """
        return self.directory / f"{_content_digest(content).hex()}.npz"

    def read(self, content: np.ndarray) -> np.ndarray | None:
        """The masks of a picture, or None where none have been made.

        Args:
            content: the array that they were made of, H x W or H x W x C.

        Returns:
            K x H x W bool; K is 0 where nothing was found in the picture.

        Raises:
            MaskCacheError: the file is damaged, or holds masks of something else.
        """
        path = self.path(content)
        size = content.shape[:2]
        try:
            # A small file can claim to hold a lot: look before anything is unpacked.
            most = int(self.settings["count"]) * _packed_length(size) + _HEADERS
            with zipfile.ZipFile(path) as archive:
                held = sum(member.file_size for member in archive.infolist())
            if held > most:
                raise ValueError(f"holds {held} bytes, expected at most {most}")
            with np.load(path, allow_pickle=False) as arrays:
                packed, shape, key = arrays["packed"], arrays["shape"], arrays["key"]
            if key.tobytes() != self._key(content):
                raise ValueError("made of another picture or with other settings")
            if shape.shape != (3,) or tuple(shape[1:]) != size:
                raise ValueError(f"shape {shape.tolist()}, expected K x {size[0]} x {size[1]}")
            if packed.dtype != np.uint8 or packed.shape != (shape[0], _packed_length(size)):
                raise ValueError(f"{packed.dtype} {packed.shape} does not hold {shape.tolist()}")
        except FileNotFoundError:
            return None
        except Exception as error:  # damaged bytes can end zip and npz readers in any way
            raise MaskCacheError(f"masks '{path}': damaged: {error}") from error
        bits = np.unpackbits(packed, axis=1, count=size[0] * size[1])
        return bits.view(bool).reshape(len(bits), *size)

    def write(self, content: np.ndarray, masks: np.ndarray) -> None:
        """Keep the masks of a picture, under a temporary name first.

        Args:
            content: the array that they were made of, H x W or H x W x C.
            masks: K x H x W bool, K at most the settings' count.

        Raises:
            ValueError: masks of another shape or dtype, or too many.
        """
        size = content.shape[:2]
        count = int(self.settings["count"])
        if masks.dtype != bool or masks.shape[1:] != size or len(masks) > count:
            raise ValueError(
                f"masks are {masks.shape} {masks.dtype}, "
                f"expected at most {count} x {size[0]} x {size[1]} bool"
            )
        with atomic_path(self.path(content)) as temporary:
            np.savez_compressed(
                temporary,
                packed=np.packbits(masks.reshape(len(masks), size[0] * size[1]), axis=1),
                shape=np.array(masks.shape, np.int64),
                key=np.frombuffer(self._key(content), np.uint8),
            )

    def _key(self, content: np.ndarray) -> bytes:
        return hashlib.sha256(self._digest + _content_digest(content)).digest()


def _packed_length(size: tuple[int, ...]) -> int:
    return -(-size[0] * size[1] // 8)


def _digest_of(settings: Mapping[str, object]) -> bytes:
    text = json.dumps({"format": _FORMAT, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def _content_digest(content: np.ndarray) -> bytes:
    digest = hashlib.sha256(f"{content.dtype.str} {content.shape} ".encode())
    digest.update(np.ascontiguousarray(content).data)
    return digest.digest()
