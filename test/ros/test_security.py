"""SROS2 policy: it lets the nodes do what they do, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from harness import PERIOD_NS, START_NS, Graph, stop
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String

from ivf_core.bags.writer import BagWriter
from ivf_ros import compat, recorder_node
from ivf_ros.parameters import PUBLISHED

POLICY = Path(__file__).resolve().parents[2] / "config" / "sros2_policy.xml"
NODES = ("fusion", "player", "recorder")
CAMERAS = ("rgb", "thermal")

Rights = set[tuple[str, str]]
"""Uses of topics and services, as (use, full name)."""

# The graph does not show them where their packages are missing.
NOT_HERE: Rights = set()
if compat.LabelInfo is None:
    NOT_HERE |= {
        ("publish", topic.name.replace("~", "/fusion"))
        for topic in PUBLISHED
        if topic.type.startswith("vision_msgs/")
    }
STATIC: Rights = {("subscribe", "/tf_static")}
if compat.message_class("tf2_msgs/msg/TFMessage") is None:
    NOT_HERE |= STATIC
    STATIC = set()
if os.environ.get("ROS_DISTRO") == "humble":
    NOT_HERE |= {("reply", f"/{node}/get_type_description") for node in NODES}

RAW = {("subscribe", f"/{camera}/image_raw") for camera in CAMERAS}
COMPRESSED = {("subscribe", f"/{camera}/image_raw/compressed") for camera in CAMERAS}


def in_policy(node: str) -> Rights:
    """Return what the policy allows to a node."""
    (profile,) = ElementTree.parse(POLICY).iterfind(
        f"enclaves/enclave[@path='/ivf_ros/{node}']/profiles/profile"
    )
    assert (profile.get("ns"), profile.get("node")) == ("/", node)
    rights = []
    for rules in profile:
        ((use, rule),) = rules.attrib.items()
        assert rule == "ALLOW"
        for entry in rules:
            name = (entry.text or "").replace("~", f"/{node}")
            rights.append((use, name if name.startswith("/") else f"/{name}"))
    assert len(rights) == len(set(rights))
    return set(rights)


def in_graph(graph: Graph, node: str) -> Rights:
    """Return what the graph shows of a node; nothing while it is not there."""
    if node not in graph.node.get_node_names():
        return set()
    lists = {
        "publish": graph.node.get_publisher_names_and_types_by_node,
        "subscribe": graph.node.get_subscriber_names_and_types_by_node,
        "reply": graph.node.get_service_names_and_types_by_node,
        "request": graph.node.get_client_names_and_types_by_node,
    }
    return {(use, name) for use, listed in lists.items() for name, _ in listed(node, "/")}


def modes(node: str, folder: Path) -> Iterator[tuple[dict[str, Any], Rights]]:
    """Yield the parameters of each mode, with what the node does in other modes only."""
    if node == "fusion":
        yield {}, COMPRESSED | {("subscribe", "/clock")} | STATIC
        transports = {f"{camera}_transport": "compressed" for camera in CAMERAS}
        yield {**transports, "use_sim_time": True, "registration": "camera_info"}, RAW
    elif node == "player":
        values = {"bag": str(write_cameras(folder / "bag")), "wait_for_subscribers_seconds": 60.0}
        yield {**values, "restamp": True}, {("publish", "/clock")}
        yield {**values, "publish_clock": True}, {("publish", "/player/restamped_ns")}
    else:
        yield {"output": str(folder / "bag")}, set()


def write_cameras(path: Path) -> Path:
    """Write a bag with the images of both cameras, raw and compressed, and CameraInfo."""
    image = np.zeros((4, 6), np.uint8)
    info = serialize_message(CameraInfo())
    with BagWriter(path) as bag:
        for stamp in (START_NS, START_NS + PERIOD_NS):
            for camera in CAMERAS:
                topic = f"/{camera}/image_raw"
                bag.write_image(topic, stamp, image, "mono8", camera)
                bag.write_compressed(f"{topic}/compressed", stamp, image, "mono8", camera)
                bag.write(f"/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", stamp, info)
    return path


@pytest.mark.dds
@pytest.mark.parametrize("node", NODES)
def test_policy_is_what_the_graph_shows(
    graph: Graph, node: str, tiny_weights: Path, tmp_path: Path
) -> None:
    if node == "recorder":  # it subscribes to what is published
        (topics,) = (p.default for p in recorder_node.PARAMETERS if p.name == "topics")
        for topic in topics:
            kind = DiagnosticArray if topic == "/diagnostics" else String
            graph.node.create_publisher(kind, topic, 10)
    policy = in_policy(node) - NOT_HERE
    shown: Rights = set()
    for parameters, absent in modes(node, tmp_path):
        assert absent <= policy
        if node == "fusion":
            process = graph.start_fusion(tiny_weights, **parameters)
        else:
            process = graph.start(f"{node}_node", **parameters)
        with suppress(AssertionError):  # the next line shows the difference
            graph.until(lambda absent=absent: in_graph(graph, node) == policy - absent)
        assert in_graph(graph, node) == policy - absent
        shown |= policy - absent
        stop(process)
        graph.until(lambda: not in_graph(graph, node))
    assert shown == policy


# With the sources of sros2, on a keystore made by it.


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    """Create a keystore with the enclaves and permissions of the policy."""
    sros2 = pytest.importorskip("sros2.keystore", reason="sros2 is not installed")
    path = tmp_path / "keystore"
    sros2.create_keystore(path)
    for node in NODES:
        sros2.create_enclave(path, f"/ivf_ros/{node}")
        sros2.create_permission(path, f"/ivf_ros/{node}", POLICY)  # checked against policy.xsd
    return path


def permitted(keystore: Path, node: str, verb: str, dds_topic: str) -> bool:
    """Apply permissions.xml as DDS Security does: the first rule that matches decides."""
    permissions = ElementTree.parse(keystore / "enclaves" / "ivf_ros" / node / "permissions.xml")
    (grant,) = permissions.iterfind("permissions/grant")
    assert grant.findtext("subject_name") == f"CN=/ivf_ros/{node}"
    for rule in grant:
        patterns = [entry.text or "" for entry in rule.iterfind(f"{verb}/topics/topic")]
        if any(fnmatchcase(dds_topic, pattern) for pattern in patterns):
            return rule.tag == "allow_rule"
    return grant.findtext("default") == "ALLOW"


def dds_rights(rights: Rights) -> Rights:
    """Return the DDS topics behind topics and services of ROS, as (verb, name)."""
    names: Rights = set()
    for use, name in rights:
        if use == "reply":
            names |= {("publish", f"rr{name}Reply"), ("subscribe", f"rq{name}Request")}
        elif use == "request":
            names |= {("publish", f"rq{name}Request"), ("subscribe", f"rr{name}Reply")}
        else:
            names.add((use, f"rt{name}"))
    return names


def test_permissions_let_the_nodes_work_and_nothing_else(keystore: Path) -> None:
    discovery = {(verb, "ros_discovery_info") for verb in ("publish", "subscribe")}
    rights = {node: dds_rights(in_policy(node)) for node in NODES}
    everything = {
        (verb, name)
        for verb in ("publish", "subscribe")
        for _, name in set().union(*rights.values())
    } | {("publish", "rt/cmd_vel"), ("subscribe", "rt/tf"), ("publish", "rq/fusionX/shutRequest")}
    for node in NODES:
        given = {pair for pair in everything | discovery if permitted(keystore, node, *pair)}
        assert given == rights[node] | discovery


def test_node_without_its_enclave_does_not_start(keystore: Path) -> None:
    security = {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(keystore),
    }
    command = [sys.executable, "-m", "ivf_ros.recorder_node", "--ros-args", "--enclave"]
    done = subprocess.run(
        [*command, "/ivf_ros/nobody"],
        env={**os.environ, **security},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "/ivf_ros/nobody' does not exist" in done.stderr
