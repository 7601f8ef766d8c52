"""Processor of this machine, and limits on the instructions that the engines may use."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from pathlib import Path

__all__ = [
    "INSTRUCTION_LIMITS",
    "allows_bfloat16",
    "has_cuda_device",
    "instruction_limit",
    "processor_fingerprint",
]

_LIMIT = "ONEDNN_MAX_CPU_ISA"

INSTRUCTION_LIMITS = {
    "avx2": {_LIMIT: "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "sse41": {_LIMIT: "SSE41", "ATEN_CPU_CAPABILITY": "default"},
}
"""Environment variables by which oneDNN (in PyTorch and OpenVINO) and PyTorch's own kernels
use no newer instructions. They are read when a library is first used."""


def instruction_limit() -> str:
    """Return oneDNN's limit on instructions in upper case, or "" if none is set."""
    limit = os.environ.get(_LIMIT, os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    return "" if limit in ("DEFAULT", "ALL") else limit


def allows_bfloat16() -> bool:
    """Return whether oneDNN's limit leaves it the instructions for bfloat16."""
    limit = instruction_limit()
    return not limit or any(word in limit for word in ("BF16", "FP16", "AMX", "AVX10", "VNNI_2"))


def has_cuda_device() -> bool:
    """Return whether NVIDIA's driver finds a device; this loads neither PyTorch nor CUDA."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        return (
            driver.cuInit(0) == 0
            and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
            and count.value > 0
        )
    except (OSError, AttributeError):  # no driver, or no library of this kind
        return False


def processor_fingerprint() -> str:
    """Return a digest of the processor's model, its instructions, their limit and the cores.

    Cores are those on which this process may run. Timings of one fingerprint are comparable.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = [platform.processor(), platform.machine()]
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU "))]
    cores = len(os.sched_getaffinity(0))
    parts = [*(kept or lines), f"{cores} cores", instruction_limit()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
