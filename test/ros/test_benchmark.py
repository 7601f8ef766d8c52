"""Benchmark of the node: real runs whose counts must agree, and clear errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from ivf_core.bags.stamps import read_stamp, shift_stamp
from ivf_core.scenes import SyntheticDrive
from ivf_core.system.usage import machine_seconds, processor_seconds, resident_mb
from ivf_ros.benchmark import Case
from ivf_ros.benchmark_cameras import due_times, serialized_pairs
from ivf_ros.conversions import to_infrared, to_visible

QUICK = ("--engine", "torch", "--device", "cpu", "--precision", "fp32", "--size", "160x120")


def start(module: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 480) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=seconds)
    finally:
        process.terminate()  # leave nothing behind if it hangs
    return process.returncode, output, errors


def check(row: dict[str, Any], published: int) -> None:
    """Check the properties of every row."""
    assert row["published"] == published
    assert 0 < row["pairs_out"] <= row["pairs_in"] <= published
    assert row["pairs_in"] == row["pairs_out"] + sum(row["dropped"].values())
    for count in row["arrived"].values():
        assert row["pairs_in"] <= count <= published
    for name in row["outputs"]:
        assert row["received"][name] == row["pairs_out"]
    for spread in (row["node_ms"], row["subscriber_ms"]):
        assert 0 < spread["median"] <= spread["p95"] <= spread["p99"]
    assert 0 < row["model_ms"] < row["node_ms"]["p99"]
    assert row["pairs_a_second"] > 0
    for intervals in (row["interval_ms"], row["stamp_interval_ms"]):
        assert intervals["mean"] > 0
        assert intervals["std"] >= 0
    assert set(row["cores"]) == {"cameras", "node", "subscriber", "others"}
    assert sum(row["cores"].values()) < os.cpu_count() + 0.5
    assert row["cores"]["node"] > 0
    assert row["memory_mb"] > 50
    assert (row["engine"], row["device"], row["precision"]) == ("torch", "cpu", "fp32")
    assert row["size"] == [160, 120]


@pytest.mark.dds
def test_counts_agree(tmp_path: Path, tiny_weights: Path) -> None:
    path = tmp_path / "rows.json"
    status, output, errors = finish(
        start("ivf_ros.benchmark", "--weights", tiny_weights, *QUICK, "--rate", 5, "--seconds", 3,
              "--json", path)
    )  # fmt: skip
    assert status == 0, errors
    assert "[ERROR]" not in errors, "the cameras rest before and after the warm-up"
    (row,) = json.loads(path.read_text())
    check(row, published=15)
    assert row["outputs"] == ["fused", "mask", "overlay"]
    assert row["head"]
    assert row["weights"] == str(tiny_weights)
    assert "| torch | fp32 | 160x120 | 5 | 15" in output
    assert f"| {row['pairs_in']} | {row['pairs_out']} |" in output


@pytest.mark.dds
def test_command_with_two_rates_and_one_output(tmp_path: Path, tiny_weights: Path) -> None:
    path = tmp_path / "rows.json"
    status, output, errors = finish(
        start("ivf_core.cli", "benchmark", "--node", "--weights", tiny_weights, *QUICK,
              "--rate", 4, 8, "--seconds", 1.5, "--outputs", "fused", "--load-policy", "full",
              "--json", path)
    )  # fmt: skip
    assert status == 0, errors
    rows = json.loads(path.read_text())
    assert {row["load_policy"] for row in rows} == {"full"}
    assert [row["rate_hz"] for row in rows] == [4, 8]
    for row, published in zip(rows, (6, 12), strict=True):
        check(row, published)
        assert row["received"] == {"fused": row["pairs_out"]}
        assert not row["head"]
    assert len(output.splitlines()) == 4


@pytest.mark.dds
def test_node_that_ends_early_is_named(tiny_weights: Path) -> None:
    status, _, errors = finish(
        start("ivf_ros.benchmark", "--weights", tiny_weights, "--device", "cuda:99")
    )
    assert status == 1
    assert "benchmark: ivf_ros.fusion_node ended early" in errors
    assert "cuda:99" in errors  # the node's own message
    assert "Traceback" not in errors


@pytest.mark.dds
def test_ctrl_c_ends_all_processes(tmp_path: Path, tiny_weights: Path) -> None:
    path = tmp_path / "rows.json"
    benchmark = start("ivf_core.cli", "benchmark", "--node", "--weights", tiny_weights, *QUICK,
                      "--seconds", 120, "--json", path)  # fmt: skip
    children: list[str] = []
    deadline = time.monotonic() + 120
    while len(children) < 3:  # node, cameras, subscriber
        assert benchmark.poll() is None, finish(benchmark)
        assert time.monotonic() < deadline
        time.sleep(0.1)
        children = Path(f"/proc/{benchmark.pid}/task/{benchmark.pid}/children").read_text().split()
    time.sleep(4)  # some are up
    benchmark.send_signal(signal.SIGINT)
    status, _, errors = finish(benchmark, 60)
    assert status == 130, errors
    assert "benchmark: interrupted" in errors
    assert "Traceback" not in errors
    assert not [pid for pid in children if Path("/proc", pid).exists()]
    assert not path.exists()


@pytest.fixture(scope="module")
def case(tiny_weights: Path) -> Case:
    return Case(
        weights=str(tiny_weights),
        engine="auto",
        device="auto",
        precision="auto",
        threads=0,
        size=(640, 480),
        rate_hz=30.0,
        seconds=20.0,
        outputs=("fused",),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_hz": 0.0}, "--rate is 0, expected more than 0"),
        ({"rate_hz": float("nan")}, "--rate is nan, expected more than 0"),
        ({"rate_hz": 5000.0}, "--rate is 5000, .* at most 1000"),
        ({"seconds": 0.01}, "--seconds is 0.01, expected at least .* 0.0667 at 30"),
        ({"seconds": float("inf")}, "--seconds is inf"),
        ({"size": (640, 8)}, "--size is 640x8, expected at least 32x32"),
        ({"weights": "none.safetensors"}, "none.safetensors"),
        ({"threads": 999}, "--threads is 999, expected 0 to 256"),
        ({"load_policy": "lazy"}, "--load-policy is 'lazy', expected one of full, adaptive"),
        ({"engine": "abacus"}, "--engine is 'abacus', expected one of"),
    ],
)
def test_invalid_case_is_rejected(case: Case, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(case, **changes)


def test_warm_up_and_run_are_whole_pairs(case: Case) -> None:
    slow = replace(case, rate_hz=0.3, seconds=10.0)
    assert (slow.warm_up_pairs, slow.pairs) == (1, 3)
    assert (case.warm_up_pairs, case.pairs) == (60, 600)
    assert replace(case, load_policy="adaptive").warm_up_pairs == 450


def test_images_of_the_cameras() -> None:
    pairs = serialized_pairs((64, 48))
    frames = SyntheticDrive(size=(64, 48), rate_hz=1.0, seconds=len(pairs))
    stamp = 1_700_000_000_123_456_789
    for (rgb, thermal), frame in zip(pairs, frames, strict=True):
        assert read_stamp(rgb) == read_stamp(thermal) == 0
        for cdr, decode, expected in (
            (rgb, to_visible, frame.visible),
            (thermal, to_infrared, frame.infrared),
        ):
            message = deserialize_message(shift_stamp(cdr, stamp), Image)
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp
            np.testing.assert_array_equal(decode(message), expected)
    assert len({rgb for rgb, _ in pairs}) == len(pairs)


def test_pairs_are_due_at_the_rate_without_drift() -> None:
    due = list(due_times(5, 90_001, 30.0))
    assert due[0] == 5
    assert due[-1] == 5 + 3000 * 10**9  # 33,333,333 ns a pair would be 30 us short
    assert {later - earlier for earlier, later in pairwise(due)} == {33_333_333, 33_333_334}


def test_resources_used_by_a_process() -> None:
    pid = os.getpid()
    before, machine_before = processor_seconds(pid), machine_seconds()
    used = time.process_time()
    while time.process_time() - used < 0.3:
        pass
    assert processor_seconds(pid) - before == pytest.approx(time.process_time() - used, abs=0.05)
    assert machine_seconds() - machine_before > 0.25
    assert resident_mb(pid) == pytest.approx(
        int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024, rel=0.1
    )
