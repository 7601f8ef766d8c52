"""Tests that replays, their pages and their scores need no PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Python takes a module that is None for one that is not installed.
_BLOCK = "import sys; sys.modules['torch'] = None\n"

_IMPORT_ALL = """
import importlib, pkgutil
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
"""

_SCORE = """
import cv2
import numpy as np
from ivf_core.evaluation.scores import find_metrics
from ivf_core.metrics.fusion import FUSION_METRICS
from ivf_core.replay.frames import FusedFrame
from ivf_core.replay.measure.scorer import Scorer, one_thread

rgb, fused = np.random.default_rng(0).integers(0, 255, (2, 170, 180, 3), np.uint8)
thermal = fused[..., 0].copy()
frame = FusedFrame(0, 0, 0, "rgb", 0.0, 0.0, rgb, thermal, thermal, fused, None)
with one_thread():
    assert cv2.getNumThreads() == 1
    values = Scorer(None, score_every=1).measure(frame)
grey, luma = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (rgb, fused))
for metric in find_metrics():
    assert metric.score(grey, thermal, luma, fused) == values[metric.name]
assert set(FUSION_METRICS) <= set(values)
"""


def run_without_torch(code: str, *arguments: str) -> None:
    """Run code in an interpreter in which PyTorch cannot be imported."""
    command = [sys.executable, "-c", _BLOCK + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "package",
    [
        "ivf_core.bags",
        "ivf_core.evaluation",
        "ivf_core.html",
        "ivf_core.images",
        "ivf_core.metrics",
        "ivf_core.replay",
        "ivf_core.scenes",
    ],
)
def test_every_module_is_imported_without_torch(package: str) -> None:
    run_without_torch(_IMPORT_ALL, package)


def test_fusion_metrics_are_computed_without_torch() -> None:
    run_without_torch(_SCORE)
