"""Summary of the demo: the lines on overload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ivf_core.defaults import DEFAULT_WEIGHTS
from ivf_ros.demo_results import print_summary


def summary(out: int, **dropped: int) -> dict[str, Any]:
    spread = lambda median: {"median": median, "p95": 2 * median}  # noqa: E731
    return {
        "pairing": {"received": {"rgb": 300, "thermal": 300}},
        "settings": {"weights": "sage", "engine": "openvino on cpu in fp32"},
        "live": {
            "pairs_in": out + sum(dropped.values()),
            "pairs_out": out,
            "dropped": dropped,
            "frames_without_pair": {},
            "images_received": {"rgb": 300, "thermal": 300},
            "rate_hz": 3.6,
            "latency_ms": spread(290.0),
            "timings_ms": {
                "decode": spread(1.0),
                "prepare": spread(2.0),
                "model": spread(270.0),
                "publish": spread(3.0),
                "wait": spread(17.0),
            },
            "processor": {"node_cores": 0.99},
            "memory_mib": 900.0,
        },
    }


def test_overload_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(summary(40, replaced_by_newer=260), tmp_path)
    output = capsys.readouterr().out
    assert "260 of 300 pairs came while the machine was busy" in output
    assert "it sustains 3.6 pairs a second: 276 ms each, 270 of them in the model" in output
    assert "to keep up: --load-policy adaptive" in output


def test_remedy_does_not_name_the_policy_in_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(summary(100, skipped_by_load_policy=200), tmp_path)
    output = capsys.readouterr().out
    assert "200 of 300 pairs" in output
    assert "--load-policy" not in output


@pytest.mark.parametrize(("weights", "named"), [("sage", True), (DEFAULT_WEIGHTS, False)])
def test_remedy_names_the_fastest_weights_unless_they_are_in_use(
    weights: str, named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = summary(40, replaced_by_newer=260)
    result["settings"]["weights"] = weights
    print_summary(result, tmp_path)
    assert (f"--weights {DEFAULT_WEIGHTS}, smaller images" in capsys.readouterr().out) == named


@pytest.mark.parametrize("dropped", [{}, {"replaced_by_newer": 1}, {"thermal_bad_step": 200}])
def test_nothing_is_printed_for_a_node_that_keeps_up(
    dropped: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(summary(299, **dropped), tmp_path)
    assert "overload" not in capsys.readouterr().out
