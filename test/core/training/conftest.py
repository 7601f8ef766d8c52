"""Fixtures for the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import write_pairs


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data directory of a few small pairs; see `small_runs.recipe_of`."""
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    write_pairs(tmp_path)
    return tmp_path
