"""Cache of a pair teacher's log-probabilities: one compressed file for each pair, by content.

A cache is the folder `ROOT/TEACHER-DIGEST` of one teacher's answers; DIGEST is a hash of its
weights and of the format, and `settings.json` in it holds both. Each `CONTENT.npz` is named by the
SHA-256 of both images. Nothing in a cache can run code: JSON, and npz that is read without pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.class_sets import ClassSet
from ivf_core.system.atomic import atomic_path, holds_files, remove_leftovers, write_json
from ivf_core.training.masks.cache import CACHE_FILE, content_digest

__all__ = ["LOGIT_STRIDE", "LogitCache", "LogitCacheError", "resize_shares"]

LOGIT_STRIDE = 4
"""Pixels along each side of a cell of the log-probabilities."""

_FORMAT = "ivf-logits-1"
_ABOUT = "settings.json"
_HASHED = ("format", "teacher", "class_set")
_LEVELS = 16  # of one nat: a byte holds log-probabilities down to -15.9375


class LogitCacheError(ValueError):
    """Error for a cache, or a file in it, that is missing, damaged or of another teacher."""


class LogitCache:
    """Cache of the log-probabilities of one teacher.

    They are those of the mean probabilities in cells of 4 x 4 pixels, in steps of 1/16 nat.

    Args:
        directory: a cache's folder, made by `create`.

    Attributes:
        directory: the folder.
        class_set: classes of the log-probabilities.
        teacher: kind and SHA-256 of the teacher.
        notes: what else is known of it by name, such as that parts of it were random.

    Raises:
        LogitCacheError: the folder has no readable settings of this format.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        path = self.directory / _ABOUT
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if about.get("format") != _FORMAT:
                raise ValueError(f"format is {about.get('format')!r}, expected {_FORMAT!r}")
            self.class_set = ClassSet.from_json(about["class_set"])
            self.teacher = dict(about["teacher"])
            self.notes: dict[str, str] = dict(about.get("notes", {}))
        except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise LogitCacheError(
                f"logits '{self.directory}': expected a folder that ivf train logits made: {error}"
            ) from error
        self._key = _digest({key: about[key] for key in _HASHED})

    @classmethod
    def create(
        cls,
        root: str | os.PathLike[str],
        teacher: Mapping[str, str],
        class_set: ClassSet,
        notes: Mapping[str, str] | None = None,
    ) -> LogitCache:
        """Create the cache of a teacher below `root`, or open it and replace its notes.

        Temporary files that killed runs have left there are removed.

        Args:
            root: folder of caches.
            teacher: its `kind`, such as "sartm", and the `sha256` of its weights.
            class_set: classes of its logits.
            notes: see `LogitCache`; they do not determine the cache's name.

        Raises:
            LogitCacheError: the folder is there already, and no cache.
        """
        about: dict[str, object] = {
            "format": _FORMAT,
            "teacher": dict(teacher),
            "class_set": class_set.to_json(),
        }
        directory = Path(root) / f"{teacher['kind']}-{_digest(about).hex()[:16]}"
        if holds_files(directory):
            cls(directory)
        write_json(directory / _ABOUT, {**about, "notes": dict(notes or {})})
        remove_leftovers(directory, CACHE_FILE.fullmatch)
        return cls(directory)

    @classmethod
    def find(cls, pattern: str) -> LogitCache:
        """Open the cache of a recipe.

        Args:
            pattern: its folder, or a pattern that one cache matches, such as runs/logits/sartm-*.

        Raises:
            LogitCacheError: no cache or several match; the message names them.
        """
        path = Path(pattern)
        root = Path(path.anchor or ".")
        matches = sorted(root.glob(str(path.relative_to(path.anchor))))
        found = [folder for folder in matches if (folder / _ABOUT).is_file()]
        if len(found) != 1:
            raise LogitCacheError(
                f"logits '{pattern}': expected one folder that ivf train logits made, found "
                + (", ".join(map(str, found)) or "none")
            )
        return cls(found[0])

    @property
    def title(self) -> str:
        """Kind of the teacher and the first digits of the SHA-256 of its weights."""
        return f"{self.teacher['kind']} {self.teacher['sha256'][:8]}"

    def path(self, visible: np.ndarray, infrared: np.ndarray) -> Path:
        """Return the path of a pair's file, which need not exist."""
        return self.directory / f"{self._content(visible, infrared).hex()}.npz"

    def read(self, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray | None:
        """Read the log-probabilities of a pair, or return None if there are none.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.

        Returns:
            C x ceil(H / 4) x ceil(W / 4) float32; the probabilities of a cell sum to one.

        Raises:
            LogitCacheError: the file is damaged, or of another pair or teacher.
        """
        path = self.path(visible, infrared)
        shape = (len(self.class_set), *_cells(visible.shape[:2]))
        try:
            with np.load(path, allow_pickle=False) as arrays:
                steps, key = arrays["steps"], arrays["key"]
            if key.tobytes() != self._verification(visible, infrared):
                raise ValueError("made of another pair or by another teacher")
            if steps.dtype != np.uint8 or steps.shape != shape:
                raise ValueError(f"{steps.dtype} {steps.shape}, expected uint8 {shape}")
        except FileNotFoundError:
            return None
        except Exception as error:  # damaged bytes can end zip and npz readers in any way
            raise LogitCacheError(f"logits '{path}': damaged: {error}") from error
        values = steps.astype(np.float32) / -_LEVELS
        return values - np.log(np.exp(values).sum(0, keepdims=True))

    def write(self, visible: np.ndarray, infrared: np.ndarray, logits: Tensor) -> None:
        """Write the log-probabilities of a pair, first under a temporary name.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.
            logits: C x H x W float, of the teacher.

        Raises:
            ValueError: logits have another shape, or are not finite.
        """
        shape = (len(self.class_set), *visible.shape[:2])
        if tuple(logits.shape) != shape or not logits.isfinite().all():
            raise ValueError(f"logits are {tuple(logits.shape)}, expected finite ones of {shape}")
        probabilities = logits.float().softmax(0)[None]
        means = F.avg_pool2d(probabilities, LOGIT_STRIDE, ceil_mode=True)[0]
        steps = (-_LEVELS * means.clamp_min(1e-30).log()).round().clamp(0, 255)
        with atomic_path(self.path(visible, infrared)) as temporary:
            np.savez_compressed(
                temporary,
                steps=steps.to(torch.uint8).cpu().numpy(),
                key=np.frombuffer(self._verification(visible, infrared), np.uint8),
            )

    def _content(self, visible: np.ndarray, infrared: np.ndarray) -> bytes:
        return hashlib.sha256(content_digest(visible) + content_digest(infrared)).digest()

    def _verification(self, visible: np.ndarray, infrared: np.ndarray) -> bytes:
        """Return a hash of the teacher and a pair, by which the pair's file is verified."""
        return hashlib.sha256(self._key + self._content(visible, infrared)).digest()


def resize_shares(shares: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return the shares of cells at the size of their pair, C x H x W float32, bilinearly.

    Args:
        shares: C x ceil(H / 4) x ceil(W / 4) float32.
        size: H and W in pixels.
    """
    # Cells of 4 x 4 pixels, also those that reach beyond the border.
    whole = tuple(LOGIT_STRIDE * side for side in shares.shape[:0:-1])
    planes = [cv2.resize(plane, whole, interpolation=cv2.INTER_LINEAR) for plane in shares]
    return np.stack(planes)[:, : size[0], : size[1]]


def _cells(size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    return -(-height // LOGIT_STRIDE), -(-width // LOGIT_STRIDE)


def _digest(about: Mapping[str, object]) -> bytes:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).digest()
