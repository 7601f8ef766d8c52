"""Versions and fingerprints of the code and the files that a replay was made with."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ivf_core import __version__
from ivf_core.models.weights_files import find_weights
from ivf_core.replay.settings import ReplaySettings

__all__ = ["fingerprint", "input_fingerprints", "versions"]

_FINGERPRINT_BYTES = 1 << 20
_PACKAGES = ("numpy", "opencv-python-headless", "rosbags", "torch", "openvino", "onnxruntime")


def versions() -> dict[str, str]:
    """Return the versions of this package, Python, and the packages that compute the results."""
    found = {"ivf": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def input_fingerprints(settings: ReplaySettings) -> dict[str, str]:
    """Hash the files that settings name: weights, registration, and another recording.

    Args:
        settings: settings as given.

    Returns:
        A hash for each of "weights", "registration" and "recorded" that is a file.
    """
    files = {"registration": settings.registration}
    if settings.recorded is None:
        files["weights"] = find_weights(settings.weights)
    elif settings.recorded:
        files["recorded"] = Path(settings.recorded)
    return {name: fingerprint(path) for name, path in files.items() if path is not None}


def fingerprint(path: Path) -> str:
    """Return a hash of the names, sizes, first and last bytes of a bag's files.

    Args:
        path: file or folder; the first and the last MiB of each file are read.
    """
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_FINGERPRINT_BYTES))
            stream.seek(max(0, size - _FINGERPRINT_BYTES))
            digest.update(stream.read(_FINGERPRINT_BYTES))
    return digest.hexdigest()[:32]
