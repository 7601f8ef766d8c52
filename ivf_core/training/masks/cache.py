"""Cache of masks on disk: one compressed file for each image, named by the image's content.

A cache is the folder `ROOT/SOURCE-DIGEST` of masks that were made with the same settings;
DIGEST is a hash of these settings. The file `settings.json` in it holds the settings. Each
`CONTENT.npz` holds the masks of an image as packed bits and is named by the SHA-256 of the
image's pixels. Nothing in a cache can run code: JSON, and npz that is read without pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.system.atomic import atomic_path, holds_files, remove_leftovers, write_json

__all__ = [
    "CACHE_FILE", "MaskCache", "MaskCacheError", "content_digest", "settings_digest",
]  # fmt: skip

CACHE_FILE = re.compile(r"[0-9a-f]{64}\.npz|settings\.json")
"""Names of the files of a cache whose files are named by content."""

_FORMAT = "ivf-masks-1"
_ABOUT = "settings.json"
_HEADERS = 4096  # upper limit in bytes for the headers of the three arrays


class MaskCacheError(ValueError):
    """Error for a cache, or a file in it, that is missing, damaged or of other settings."""


class MaskCache:
    """Cache of masks that were made with the same settings.

    Args:
        directory: a cache's folder, made by `create`.

    Attributes:
        directory: the folder.
        settings: everything that determines the masks apart from the images.
        notes: texts that were stored when the cache was last filled.

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
        self._digest = settings_digest(self.settings)

    @classmethod
    def create(
        cls,
        root: str | os.PathLike[str],
        settings: Mapping[str, object],
        notes: Mapping[str, str] | None = None,
    ) -> MaskCache:
        """Create the cache of `settings` below `root`, or open it and replace its notes.

        Temporary files that killed runs have left there are removed.

        Args:
            root: folder of caches.
            settings: values for JSON. "source" and "count", the largest number of masks of an
                image, must be among them.
            notes: texts to store with the settings. They do not determine the cache's name.

        Raises:
            MaskCacheError: the folder is there already, and no cache of these settings.
        """
        digest = settings_digest(settings).hex()
        directory = Path(root) / f"{settings['source']}-{digest[:16]}"
        if holds_files(directory):
            cls(directory)
        about = {"format": _FORMAT, "settings": dict(settings), "notes": dict(notes or {})}
        write_json(directory / _ABOUT, about)
        remove_leftovers(directory, CACHE_FILE.fullmatch)
        return cls(directory)

    def path(self, content: np.ndarray) -> Path:
        """Return the path of an image's file, which need not exist.

        Args:
            content: the array that masks are made of, H x W or H x W x C.
        """
        return self.directory / f"{content_digest(content).hex()}.npz"

    def read(self, content: np.ndarray) -> np.ndarray | None:
        """Read the masks of an image, or return None if none have been made.

        Args:
            content: the array that they were made of, H x W or H x W x C.

        Returns:
            K x H x W bool. K is 0 if nothing was found in the image.

        Raises:
            MaskCacheError: the file is damaged, or holds masks of another image or of other
                settings.
        """
        path = self.path(content)
        size = content.shape[:2]
        try:
            # A small file can unpack to a huge one: check the sizes that it states first.
            limit = int(self.settings["count"]) * _packed_length(size) + _HEADERS
            with zipfile.ZipFile(path) as archive:
                held = sum(member.file_size for member in archive.infolist())
            if held > limit:
                raise ValueError(f"holds {held} bytes, expected at most {limit}")
            with np.load(path, allow_pickle=False) as arrays:
                packed, shape, key = arrays["packed"], arrays["shape"], arrays["key"]
            if key.tobytes() != self._key(content):
                raise ValueError("made of another image or with other settings")
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
        """Write the masks of an image, first under a temporary name.

        Args:
            content: the array that they were made of, H x W or H x W x C.
            masks: K x H x W bool, with K at most the settings' count.

        Raises:
            ValueError: masks have another shape or dtype, or there are too many.
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
        """Return a hash of the settings and an image, by which its file is verified."""
        return hashlib.sha256(self._digest + content_digest(content)).digest()


def _packed_length(size: tuple[int, ...]) -> int:
    """Return the number of bytes of one mask of H x W bits."""
    return -(-size[0] * size[1] // 8)


def settings_digest(settings: Mapping[str, object]) -> bytes:
    """Return the SHA-256 of settings and of the cache's format."""
    text = json.dumps({"format": _FORMAT, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def content_digest(content: np.ndarray) -> bytes:
    """Return the SHA-256 of an array's dtype, shape and values."""
    digest = hashlib.sha256(f"{content.dtype.str} {content.shape} ".encode())
    digest.update(np.ascontiguousarray(content).data)
    return digest.digest()
