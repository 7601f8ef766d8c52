"""Pipeline that computes several pairs at once: the results of one pair after the other."""

from __future__ import annotations

import numpy as np
import pytest

from ivf_core.images.thermal import GainControl, ThermalNormalizer
from ivf_core.inference import FusionPipeline, FusionResult, ImagePair
from ivf_core.inference.concurrent import ConcurrentPipeline
from ivf_core.inference.pipeline import PreparedPair
from ivf_core.inference.protocol import Engine
from ivf_core.models.checkpoints import FusionModel


def pairs(count: int, size: tuple[int, int] = (48, 64)) -> list[ImagePair]:
    """Return pairs whose thermal range drifts, so that the gain depends on those before."""
    random = np.random.default_rng(1)
    return [
        ImagePair(
            random.integers(0, 256, (*size, 3), np.uint8),
            random.integers(7000 + 100 * k, 7400 + 150 * k, size).astype(np.uint16),
            k / 30,
        )
        for k in range(count)
    ]


def pipeline(model: FusionModel, engine: str, kind: type = FusionPipeline) -> FusionPipeline:
    normalizer = ThermalNormalizer(gain=GainControl(smoothing_seconds=0.5))
    options = {"device": "cpu", "precision": "fp32", "threads": 1, "normalizer": normalizer}
    return kind(model, engine=engine, **options)


def assert_same(results: list[FusionResult], expected: list[FusionResult]) -> None:
    assert len(results) == len(expected)
    for result, other in zip(results, expected, strict=True):
        for name in ("fused", "labels", "infrared"):
            np.testing.assert_array_equal(getattr(result, name), getattr(other, name))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_results_are_those_of_one_pair_after_the_other(
    tiny_model: FusionModel, engine: str
) -> None:
    # The size changes while pairs of the size before are still under way.
    given = [*pairs(9), *pairs(5, (36, 80)), *pairs(4)]
    single = pipeline(tiny_model, engine)
    expected = [single(pair) for pair in given]
    with ConcurrentPipeline(pipeline(tiny_model, engine), threads=3) as concurrent:
        assert concurrent.lanes == 3
        started = [concurrent.start(pair) for pair in given]
        assert_same([future.result() for future in started], expected)


@pytest.mark.parametrize(("engine", "threads"), [("torch", 2), ("openvino", 1)])
def test_one_lane_where_several_would_not_help(
    tiny_model: FusionModel, engine: str, threads: int
) -> None:
    given = pairs(3)
    single = pipeline(tiny_model, engine)
    with ConcurrentPipeline(pipeline(tiny_model, engine), threads) as concurrent:
        assert concurrent.lanes == concurrent.most_started == 1
        started = [concurrent.start(pair) for pair in given]
        assert all(future.done() for future in started)
    assert_same([future.result() for future in started], [single(pair) for pair in given])


class _Faulty(FusionPipeline):
    """Pipeline that cannot compute images with a black corner."""

    def complete(
        self,
        prepared: PreparedPair,
        engine: Engine | None = None,
        *,
        fused: bool = True,
        labels: bool = True,
    ) -> FusionResult:
        if not prepared.visible[0, 0].any():
            raise RuntimeError("black corner")
        return super().complete(prepared, engine, fused=fused, labels=labels)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_belongs_to_its_pair(tiny_model: FusionModel, threads: int) -> None:
    given = pairs(12)
    for pair in given:
        pair.visible[0, 0] = 255
    for number in (1, 4, 5, 6):  # more than there are lanes
        given[number].visible[0, 0] = 0
    given[8] = ImagePair(given[8].visible[..., 0], given[8].infrared, given[8].seconds)
    with ConcurrentPipeline(pipeline(tiny_model, "openvino", _Faulty), threads) as concurrent:
        started = [concurrent.start(pair) for pair in given]
        errors = {k: str(f.exception()) for k, f in enumerate(started) if f.exception()}
    assert {k for k, text in errors.items() if text == "black corner"} == {1, 4, 5, 6}
    assert set(errors) == {1, 4, 5, 6, 8}
    assert "visible image is uint8 (48, 64)" in errors[8]
    single = pipeline(tiny_model, "openvino")
    good = [single(pair) for k, pair in enumerate(given) if k != 8]
    del good[4:7], good[1]
    assert_same([f.result() for k, f in enumerate(started) if k not in errors], good)
