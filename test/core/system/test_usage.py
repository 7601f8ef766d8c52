"""Tests of processor time and memory in use."""

from __future__ import annotations

import mmap
import os
import subprocess
import time

import pytest

from ivf_core.system.usage import machine_seconds, processor_seconds, resident_mb


def test_processor_time_grows_with_work_and_is_that_of_the_process() -> None:
    machine, before = machine_seconds(), processor_seconds(os.getpid())
    own = time.process_time()
    while time.process_time() < own + 0.3:
        pass
    after = processor_seconds(os.getpid())
    assert after == pytest.approx(time.process_time(), abs=0.05)
    assert 0.25 <= after - before <= 0.6
    assert machine_seconds() - machine >= 0.25


def test_resident_memory_grows_by_what_is_touched() -> None:
    before = resident_mb(os.getpid())
    with mmap.mmap(-1, 64 * 2**20) as block:
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        assert resident_mb(os.getpid()) - before == pytest.approx(64, abs=8)


def test_usage_of_a_process_that_has_ended_is_an_error() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    for usage in (processor_seconds, resident_mb):
        with pytest.raises(FileNotFoundError, match=str(process.pid)):
            usage(process.pid)
