"""Cache of compiled models on disk, which rebuilds files that are damaged or out of date."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ivf_core.system.atomic import atomic_path, remove_leftovers

__all__ = ["ArtifactCache", "cache_directory"]

_MAGIC = b"ivf-artifact-1\n"
_DIGEST_BYTES = 32
_KEPT_BYTES = 500_000_000
_FILE = re.compile(r"[0-9a-f]{32}\.bin")


def cache_directory() -> Path:
    """Return the folder of compiled models: IVF_CACHE, or ivf_ros in the user's cache folder."""
    if path := os.environ.get("IVF_CACHE"):
        return Path(path)
    if path := os.environ.get("XDG_CACHE_HOME"):
        return Path(path) / "ivf_ros"
    try:
        return Path.home() / ".cache" / "ivf_ros"
    except RuntimeError:  # a user without a home, as in some containers
        return Path(tempfile.gettempdir()) / f"ivf_ros-{os.getuid()}"


class ArtifactCache:
    """Cache of files that can be built again, with everything that they depend on as the key.

    A file contains its complete key and a SHA-256 of key and content. A file that is
    truncated, damaged or made for another key is built again; if the folder cannot be
    written, nothing is stored and every call builds. Beyond half a gigabyte the oldest
    files are removed. Engines run what the files contain, so that the folder is used only if
    it belongs to the user (or to root) and nobody else can write it.

    Args:
        directory: folder of the files; `cache_directory()` by default.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory if directory is not None else cache_directory()
        self._log = logging.getLogger(__name__)
        self._distrusted = False

    def get(self, key: Mapping[str, object], build: Callable[[], bytes]) -> bytes:
        """Return the content for a key, from disk or newly built and stored.

        Args:
            key: everything that the content depends on, as JSON values.
            build: called if there is no valid file for the key.
        """
        if not self._is_trusted():
            return build()
        path, encoded = self._locate(key)
        content = self._read(path, encoded)
        if content is None:
            content = build()
            self._write(path, encoded, content)
        return content

    def discard(self, key: Mapping[str, object]) -> None:
        """Remove the file for a key, for readers that cannot use its content.

        Args:
            key: the key given to `get`.
        """
        path, _ = self._locate(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._log.info("%s: cannot be removed: %s", path, error)

    def _is_trusted(self) -> bool:
        """Return whether nobody else can have written the files; log once if so."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            facts = self.directory.stat()
        except OSError:
            return True  # nothing to read, and writing says why it fails
        if facts.st_uid in (os.getuid(), 0) and not facts.st_mode & stat.S_IWOTH:
            return True
        if not self._distrusted:
            self._distrusted = True
            self._log.warning(
                "cache '%s': other users can write it, so it is not used, and every start compiles "
                "again; chmod o-w it, or set IVF_CACHE to a folder of your own",
                self.directory,
            )
        return False

    def _locate(self, key: Mapping[str, object]) -> tuple[Path, bytes]:
        encoded = json.dumps(key, sort_keys=True).encode()
        return self.directory / f"{hashlib.sha256(encoded).hexdigest()[:32]}.bin", encoded

    def _read(self, path: Path, key: bytes) -> bytes | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._log.info("%s: cannot be read, is built again: %s", path, error)
            return None
        start = len(_MAGIC) + _DIGEST_BYTES
        digest, body = data[len(_MAGIC) : start], data[start:]
        head = key + b"\n"
        if (
            data.startswith(_MAGIC)
            and body.startswith(head)
            and hashlib.sha256(body).digest() == digest
        ):
            return body[len(head) :]
        self._log.warning("%s: damaged or out of date, is built again", path)
        return None

    def _write(self, path: Path, key: bytes, content: bytes) -> None:
        body = key + b"\n" + content
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(_MAGIC + hashlib.sha256(body).digest() + body)
            self._remove_oldest()
        except OSError as error:
            self._log.info("%s: cannot be written, is not stored: %s", path, error)

    def _remove_oldest(self) -> None:
        remove_leftovers(self.directory, _FILE.fullmatch)
        files = [(path, path.stat()) for path in self.directory.glob("[!.]*.bin")]
        left = sum(facts.st_size for _, facts in files)
        for path, facts in sorted(files, key=lambda file: file[1].st_mtime):
            if left <= _KEPT_BYTES:
                break
            path.unlink(missing_ok=True)
            left -= facts.st_size
