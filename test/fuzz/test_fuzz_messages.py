"""Hostile messages: converted and fused in this process, and sent to live nodes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hostile.budget import inputs
from hostile.limits import short_error
from hostile.live_node import LiveNode
from hostile.messages import Shot, compressed_images, raw_images, shots
from hypothesis import given
from hypothesis import strategies as st

from ivf_core.images.messages import MessageError, to_infrared, to_visible
from ivf_core.inference import FusionPipeline, ImagePair

IMAGES = {"raw": raw_images(), "compressed": compressed_images()}


@pytest.fixture(scope="session")
def pipeline(tiny_weights: Path) -> FusionPipeline:
    return FusionPipeline(tiny_weights, engine="torch", device="cpu", precision="fp32", threads=1)


@inputs(300)
@given(message=raw_images() | compressed_images())
def test_message_is_read_or_rejected_in_a_line(
    message: object, pipeline: FusionPipeline, figures: Counter[str]
) -> None:
    figures["messages converted"] += 1
    visible = infrared = None
    with short_error(MessageError):
        visible = to_visible(message)
        assert visible.dtype == np.uint8
        assert visible.ndim == 3
    with short_error(MessageError):
        infrared = to_infrared(message)
        assert infrared.dtype in (np.uint8, np.uint16, np.float32)
        assert infrared.ndim == 2
    if visible is None and infrared is not None:
        visible = np.zeros((*infrared.shape, 3), np.uint8)
    if visible is not None:
        with short_error(ValueError):
            result = pipeline(ImagePair(visible, infrared, 0.0))
            assert result.fused is not None
            assert result.fused.shape == visible.shape
            figures["messages fused"] += 1


@pytest.mark.dds
@pytest.mark.slow
@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_node_lives_and_counts_each_message(
    transport: str, request: pytest.FixtureRequest, figures: Counter[str]
) -> None:
    node: LiveNode = request.getfixturevalue(f"{transport}_node")

    @inputs(15, shrink=False)
    @given(batch=st.lists(shots(IMAGES[transport]), min_size=1, max_size=12))
    def check(batch: list[Shot]) -> None:
        node.start()
        figures["messages sent to nodes"] += node.publish(batch)
        node.check()
        node.expect_fusion()

    check()
