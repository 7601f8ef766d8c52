"""Processor time and memory in use, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["machine_seconds", "processor_seconds", "resident_mb"]


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process so far: all threads, user and system.

    Args:
        pid: process id.

    Returns:
        Seconds, without the time of child processes.

    Raises:
        FileNotFoundError: there is no such process.
    """
    # The name before ")" may contain blanks; user and system time are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """Return the processor time of the whole machine so far, without idle time, in seconds."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _waiting, irq, softirq, stolen = map(int, fields)
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MiB.

    Args:
        pid: process id.

    Raises:
        FileNotFoundError: there is no such process.
    """
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
