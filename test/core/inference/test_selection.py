"""Tests of the choice of engine and precision by measurement."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest

from ivf_core.inference.artifacts import ArtifactCache
from ivf_core.inference.engine import create_engine, describe, describe_measurements
from ivf_core.inference.protocol import EngineResult
from ivf_core.inference.selection import (
    FUSED_TOLERANCE,
    LABELS_ALIKE,
    MeasuredEngine,
    Measurement,
    choose,
    real_looking_pair,
)
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.weights_files import open_weights


@pytest.mark.parametrize(
    ("measurements", "expected"),
    [
        ([("fp32", 20, 0, 100), ("bf16", 10, 1, 99.5), ("int8", 5, 1, 99)], "int8"),
        ([("fp32", 20, 0, 100), ("bf16", 10, 1, 99.5), ("int8", 5, 2, 100)], "bf16"),
        ([("fp32", 20, 0, 100), ("bf16", 10, 1, 99.5), ("int8", 5, 0, 98.9)], "bf16"),
        ([("fp32", 20, 0, 100), ("bf16", 30, 0, 100), ("int8", 25, 0, 100)], "fp32"),
        ([("fp32", 20, 0, 100), ("bf16", 19.5, 0, 100)], "fp32"),  # not worth the loss
        ([("fp32", 20, 0, 100), ("bf16", 10, 0, 100), ("int8", 9.8, 0, 100)], "bf16"),
        ([("fp32", 20, 0, 100)], "fp32"),
    ],
)
def test_the_fastest_that_preserves_the_results(
    measurements: list[tuple[str, float, float, float]], expected: str
) -> None:
    chosen = choose([Measurement("openvino", *fields) for fields in measurements])
    assert chosen.precision == expected


def test_what_does_not_run_is_never_chosen() -> None:
    broken = Measurement("openvino", "bf16", 0.0, error="no such instruction")
    reference = Measurement("openvino", "fp32", 20.0)
    assert choose([reference, broken]) is reference
    assert str(broken) == "openvino bf16 does not run (no such instruction)"


class _Engine:
    """Engine that takes some time and is off by some grey levels, or differs in its classes."""

    name, device = "fake", "cpu"
    native_precisions = ("bf16", "int8")

    def __init__(self, precision: str, seconds: float, off: int = 0, wrong: float = 0.0) -> None:
        self.precision = precision
        self._seconds, self._off, self._wrong = seconds, off, wrong
        self.sizes: list[tuple[int, ...]] = []

    def __call__(
        self,
        visible: np.ndarray,
        infrared: np.ndarray,
        *,
        fused: bool = True,
        labels: bool = True,
        confidence: bool = False,
    ) -> EngineResult:
        time.sleep(self._seconds)
        self.sizes.append(infrared.shape)
        ids = np.zeros(infrared.shape, np.uint8)
        ids.flat[: round(self._wrong * ids.size)] = 1
        return EngineResult(np.full_like(visible, 100 + self._off), ids, None)


_SLOW, _QUICK = 0.02, 0.0


def measured(engines: dict[str, _Engine], cache: ArtifactCache) -> MeasuredEngine:
    candidates = [("fake", precision) for precision in engines]
    return MeasuredEngine(candidates, lambda candidate: engines[candidate[1]], cache, {"test": 1})


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


@pytest.mark.parametrize(
    ("off", "wrong", "expected"),
    [
        (int(FUSED_TOLERANCE), 0.0, "int8"),
        (int(FUSED_TOLERANCE) + 1, 0.0, "fp32"),
        (0, 1.5 * (100 - LABELS_ALIKE) / 100, "fp32"),
    ],
)
def test_deviations_are_measured(
    cache: ArtifactCache, off: int, wrong: float, expected: str
) -> None:
    engines = {"fp32": _Engine("fp32", _SLOW), "int8": _Engine("int8", _QUICK, off, wrong)}
    engine = measured(engines, cache)
    engine(*real_looking_pair((32, 48), 0))
    assert engine.precision == expected
    (int8,) = (m for m in engine.measurements if m.precision == "int8")
    assert int8.deviation == off
    assert int8.labels_alike == pytest.approx(100 - 100 * wrong, abs=100 / (32 * 48))


def test_a_size_is_measured_once(cache: ArtifactCache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engines = {"fp32": _Engine("fp32", _SLOW), "int8": _Engine("int8", _QUICK)}
    engine = measured(engines, cache)
    engine(*real_looking_pair((32, 48), 0))
    assert "48x32 runs on fake int8" in caplog.text
    count = len(engines["fp32"].sizes)
    engine(*real_looking_pair((32, 48), 1))
    # Another process finds the measurement in the cache.
    again = measured(engines, cache)
    again(*real_looking_pair((32, 48), 1))
    assert again.precision == "int8"
    assert len(engines["fp32"].sizes) == count
    again(*real_looking_pair((48, 32), 1))
    assert set(engines["fp32"].sizes[count:]) == {(48, 32)}


@pytest.mark.parametrize(
    "forged",
    [
        b"no JSON",
        b"[]",
        b"{}",
        b"[1, 2]",
        b'[{"engine": "torch", "precision": "fp32", "least_ms": 1}]',
        b'[{"engine": "fake", "precision": "fp32", "least_ms": null}]',
        b"\xff\xfe",
    ],
)
def test_entries_that_are_no_measurements_are_replaced(cache: ArtifactCache, forged: bytes) -> None:
    engines = {precision: _Engine(precision, 0) for precision in ("fp32", "int8")}
    measured(engines, cache).select((32, 48))
    (path,) = cache.directory.iterdir()
    key = json.loads(path.read_bytes()[47:].split(b"\n", 1)[0])
    cache.discard(key)
    cache.get(key, lambda: forged)
    engine = measured(engines, cache)
    engine.select((32, 48))
    assert {m.precision for m in engine.measurements} == {"fp32", "int8"}


def test_other_processors_measure_again(cache: ArtifactCache) -> None:
    engines = {"fp32": _Engine("fp32", _SLOW), "int8": _Engine("int8", _QUICK)}
    for number in (1, 2):
        candidates = [("fake", precision) for precision in engines]
        engine = MeasuredEngine(
            candidates, lambda candidate: engines[candidate[1]], cache, {"processor": number}
        )
        before = len(engines["fp32"].sizes)
        engine(*real_looking_pair((32, 48), 0))
        assert len(engines["fp32"].sizes) > before


def test_precisions_that_cannot_be_built(cache: ArtifactCache) -> None:
    reference = _Engine("fp32", _QUICK)

    def build(candidate: tuple[str, str]) -> _Engine:
        if candidate[1] == "bf16":
            raise RuntimeError("Exception from a library:\n\nno bf16 here\n")
        return reference

    engine = MeasuredEngine([("fake", "fp32"), ("fake", "bf16")], build, cache, {})
    engine(*real_looking_pair((32, 48), 0))
    assert engine.precision == "fp32"
    assert "fake bf16 does not run (no bf16 here)" in describe_measurements(engine)


def test_a_reference_that_fails_is_an_error(cache: ArtifactCache) -> None:
    def build(candidate: tuple[str, str]) -> _Engine:
        raise ValueError("no device")

    with pytest.raises(ValueError, match="no device"):
        MeasuredEngine([("fake", "fp32"), ("fake", "bf16")], build, cache, {})


def test_requests_are_not_measured(tiny_model: FusionModel) -> None:
    engine = create_engine(tiny_model, engine="torch", device="cpu", precision="fp32")
    assert describe_measurements(engine) == ""
    assert describe(engine) == "torch on cpu in fp32"


def test_auto_reports_what_it_measured() -> None:
    pytest.importorskip("openvino")
    engine = create_engine(open_weights("clear"), engine="openvino", device="cpu")
    engine(*real_looking_pair((64, 96), 0))
    report = describe_measurements(engine)
    assert report.startswith(f"openvino {engine.precision} ")
    assert "openvino fp32" in report
    assert "int8" in report  # `clear` is calibrated
