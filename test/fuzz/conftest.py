"""Fixtures, number of inputs and figures of the fuzz tests.

Without FUZZ_SECONDS each test draws the same inputs in each run. With it, the tests are repeated
with random inputs until the time is over, and the nodes live through all rounds.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.budget import CAMPAIGN_SECONDS
from hostile.live_node import LiveNode
from ros_domains import own_domain

from ivf_core.system.usage import resident_mb


class Figures(Counter[str]):
    """Numbers of inputs by kind."""

    def __repr__(self) -> str:  # among the inputs of a failure
        return "figures"


_FIGURES = Figures()
_NODES: dict[str, dict[str, object]] = {}
_MEMORY: list[float] = []
_FAILED: set[str] = set()


@pytest.fixture(scope="session", autouse=True)
def own_ros_domain() -> Iterator[None]:
    """Keep the nodes of the tests apart from all others."""
    with own_domain():
        yield


@pytest.fixture(scope="session")
def figures() -> Counter[str]:
    """Return the numbers of inputs by kind, which the tests count up."""
    return _FIGURES


@pytest.fixture(scope="session")
def raw_node(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNode]:
    """Provide a node that takes raw images."""
    yield from _live_node("fusion_raw", tiny_weights, "raw", tmp_path_factory)


@pytest.fixture(scope="session")
def compressed_node(
    tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveNode]:
    """Provide a node that takes compressed images."""
    yield from _live_node("fusion_compressed", tiny_weights, "compressed", tmp_path_factory)


def _live_node(
    name: str, weights: Path, transport: str, factory: pytest.TempPathFactory
) -> Iterator[LiveNode]:
    node = LiveNode(name, weights, transport, factory.mktemp(name))
    try:
        yield node
    finally:
        _NODES[name] = node.figures()
        node.close()


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Repeat the tests that have not failed until the time of a campaign is over."""
    if not CAMPAIGN_SECONDS or session.testsfailed or session.config.option.collectonly:
        return None
    end = time.monotonic() + CAMPAIGN_SECONDS
    while items := [item for item in session.items if item.nodeid not in _FAILED]:
        _FIGURES["rounds"] += 1
        for index, item in enumerate(items, 1):
            # The fixtures of the session stay, as a test of the next round follows the last one.
            left = items[index:] or [i for i in items if i.nodeid not in _FAILED] or [item]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=left[0])
            if session.shouldfail or session.shouldstop or time.monotonic() >= end:
                return True
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the tests that failed."""
    if report.failed:
        _FAILED.add(report.nodeid)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note the memory of this process once the first test has loaded what it needs."""
    _MEMORY[1:] = [resident_mb(os.getpid())]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of the inputs, the nodes and the memory."""
    if not _FIGURES:
        return
    terminalreporter.section("fuzz")
    rows = dict(sorted(_FIGURES.items()))
    rows["failed tests"] = len(_FAILED)
    for name, values in _NODES.items():
        rows |= {f"{name}: {key}": value for key, value in values.items()}
    rows["tests: memory in MiB"] = " to ".join(f"{m:.0f}" for m in _MEMORY)
    width = max(map(len, rows))
    for key, value in rows.items():
        terminalreporter.write_line(f"{key:<{width}}  {value}")
