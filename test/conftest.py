"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ivf_core.class_sets import MFNET
from ivf_core.models.checkpoints import FusionModel, save_model
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.student import FusionStudent

# A job in the background of a script ignores SIGINT. The processes that tests start and
# interrupt would inherit this.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Humble's messages check the types of their fields, those of later distributions if this is set
# before they are imported.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")


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
