"""Fixtures for the tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import write_pairs

from ivf_core.training.runs import calibration


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data directory of a few small pairs; see `small_runs.recipe_of`."""
    monkeypatch.setenv("IVF_DATA", str(tmp_path))
    write_pairs(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def quick_calibration() -> Iterator[None]:
    """Measure each convolution in 8 bits on one pair, in tests that ask nothing of the choice.

    Random weights fail the bound until every convolution is back in floating point: on all
    pairs that takes half of the time of a run of a few steps.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_CHECK_PAIRS", 1)
        patch.setattr(calibration, "_SENSITIVITY_PAIRS", 1)
        yield
