"""ROS domains that no other run of the tests on this machine uses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# Linux's ephemeral ports begin above those of domain 101; 0 is everybody's default.
DOMAINS = range(1, 102)


def reserve_domain() -> tuple[int, socket.socket]:
    """Find a free domain, and reserve it until the socket is closed or this process ends.

    The socket has an abstract name: the kernel knows it, no file is left behind.

    Returns:
        The domain and the socket.

    Raises:
        RuntimeError: all domains are reserved.
    """
    # Other processes begin elsewhere: nodes that just ended may still be known in a domain.
    first = os.getpid()
    for number in range(len(DOMAINS)):
        domain = DOMAINS[(first + number) % len(DOMAINS)]
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            reservation.bind(f"\0ivf_ros_test_domain_{domain}")
        except OSError:
            reservation.close()
            continue
        return domain, reservation
    raise RuntimeError(f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use by tests")


@contextmanager
def own_domain() -> Iterator[None]:
    """Set a free domain on this machine only, before the first rclpy.init.

    Processes that are started inside inherit it.
    """
    domain, reservation = reserve_domain()
    with reservation, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        if os.environ.get("ROS_DISTRO") == "humble":
            patch.setenv("ROS_LOCALHOST_ONLY", "1")
        else:  # later distributions warn about that variable
            patch.delenv("ROS_LOCALHOST_ONLY", raising=False)
            patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield
