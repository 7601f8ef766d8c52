"""Digests of weights, of a file or of all files of a directory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ivf_core.training.runs.weights_origin import file_digest, weights_digest


def test_digests_are_of_the_content(tmp_path: Path) -> None:
    """Several files count in order, those of a directory in the order of their names."""
    for name, content in (("b.safetensors", b"2"), ("a.safetensors", b"1"), ("c.json", b"3")):
        (tmp_path / name).write_bytes(content)
    expected = hashlib.sha256(b"12").hexdigest()
    assert weights_digest(tmp_path) == expected
    assert file_digest(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == expected
    assert weights_digest(tmp_path / "c.json") == hashlib.sha256(b"3").hexdigest()


def test_what_is_missing_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        weights_digest(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        file_digest(tmp_path)
