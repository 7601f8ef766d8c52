"""A ROS domain of the tests' own, on this machine only, and a graph in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from harness import Graph


@pytest.fixture(scope="session", autouse=True)
def own_ros_domain() -> Iterator[None]:
    """Set before the first rclpy.init, and inherited by the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
        if os.environ.get("ROS_DISTRO") == "humble":
            patch.setenv("ROS_LOCALHOST_ONLY", "1")
        else:  # later distributions warn about the old variable
            patch.delenv("ROS_LOCALHOST_ONLY", raising=False)
            patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph()
    try:
        yield graph
    finally:
        graph.close()
