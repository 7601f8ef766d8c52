"""ROS domain of the tests, on this machine only, and the graph in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import Graph
from ros_domains import own_domain


@pytest.fixture(scope="session", autouse=True)
def own_ros_domain() -> Iterator[None]:
    """Keep the nodes of the tests apart from all others."""
    with own_domain():
        yield


@pytest.fixture
def graph() -> Iterator[Graph]:
    """Provide a graph whose processes end with the test."""
    graph = Graph()
    try:
        yield graph
    finally:
        graph.close()
