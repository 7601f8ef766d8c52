"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ivf_core.class_sets import MFNET
from ivf_core.models.checkpoints import FusionModel, save_model
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.student import FusionStudent
from ivf_core.system.interrupts import obey_interrupts

pytest_plugins = ["listed_skips", "pytester"]

# A job in the background of a script ignores SIGINT. The processes that tests start and
# interrupt would inherit this.
obey_interrupts()

# Humble's messages check the types of their fields, those of later distributions if this is set
# before they are imported.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")


def pytest_configure() -> None:
    """Share the processors among the workers of pytest-xdist."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that tests start


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a temporary cache of compiled models instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IVF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real data (IVF_DATA), or skip the test if there is none."""
    root = Path(__file__).parent.parent
    path = (root / os.environ.get("IVF_DATA", "../shared/data")).resolve()
    if not path.is_dir():
        pytest.skip(f"no real data at {path} (set IVF_DATA)")
    return path


@pytest.fixture(scope="session")
def tiny_model() -> FusionModel:
    """Return a student and a head with few channels and random weights, for quick tests."""
    torch.manual_seed(0)
    student = FusionStudent(8).eval().requires_grad_(False)
    head = (
        SegmentationHead(len(MFNET), student.feature_channels, (8, 8, 8))
        .eval()
        .requires_grad_(False)
    )
    return FusionModel(student, head, MFNET, name="tiny")


@pytest.fixture(scope="session")
def tiny_weights(tiny_model: FusionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a file with the weights of `tiny_model`."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(tiny_model, path)
    return path
