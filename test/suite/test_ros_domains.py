"""ROS domains of the tests."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ros_domains import DOMAINS, reserve_domain

HELPERS = Path(__file__).parents[1] / "helpers"
RESERVE = "import ros_domains as r; domain, kept = r.reserve_domain(); print(domain, flush=True)"


def test_a_domain_is_reserved_once_until_it_is_released() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", f"{RESERVE}; input()"],
        cwd=HELPERS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    theirs = int(child.stdout.readline())
    kept: list[tuple[int, socket.socket]] = []

    def reserve_all() -> None:
        while True:
            kept.append(reserve_domain())

    try:
        with pytest.raises(RuntimeError, match="all ROS domains from 1 to 101"):
            reserve_all()
        ours = [domain for domain, _ in kept]
        assert theirs not in ours
        assert len(set(ours)) == len(ours)
        assert set(ours) <= set(DOMAINS)
        child.communicate("\n")
        kept.append(reserve_domain())
        assert kept[-1][0] == theirs
    finally:
        child.kill()
        child.communicate()
        for _, reservation in kept:
            reservation.close()
