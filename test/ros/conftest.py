"""ROS domain of the tests, on this machine only, and the graph in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from harness import Graph
from ros_domains import reserve_domain


@pytest.fixture(scope="session", autouse=True)
def own_ros_domain() -> Iterator[None]:
    """Set the domain before the first rclpy.init; processes that tests start inherit it."""
    domain, reservation = reserve_domain()
    with reservation, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        if os.environ.get("ROS_DISTRO") == "humble":
            patch.setenv("ROS_LOCALHOST_ONLY", "1")
        else:  # later distributions warn about that variable
            patch.delenv("ROS_LOCALHOST_ONLY", raising=False)
            patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@pytest.fixture
def graph() -> Iterator[Graph]:
    """Provide a graph whose processes end with the test."""
    graph = Graph()
    try:
        yield graph
    finally:
        graph.close()
