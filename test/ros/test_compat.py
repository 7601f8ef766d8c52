from __future__ import annotations

import importlib.util
import os
import sys
import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2's rclpy is not installed")

import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from ivf_ros import compat


def _without(monkeypatch, *packages):
    """A fresh compat, loaded as if the packages were not installed."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    spec = importlib.util.spec_from_file_location("compat_without", compat.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["as installed", "without message_filters"])
def any_compat(request, monkeypatch):
    if request.param == "as installed":
        return compat
    return _without(monkeypatch, "message_filters")


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("compat_test", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def _spin_until(node, condition, seconds=10.0):
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()


def test_filter_calls_every_callback_with_its_arguments(any_compat):
    calls = []
    filter_ = any_compat.SimpleFilter()
    first = filter_.registerCallback(lambda *args: calls.append(("first", args)))
    second = filter_.registerCallback(lambda *args: calls.append(("second", args)), "extra", 3)
    filter_.signalMessage("visible", "infrared")
    assert (first, second) == (0, 1)
    assert calls == [
        ("first", ("visible", "infrared")),
        ("second", ("visible", "infrared", "extra", 3)),
    ]


def test_filter_lets_exceptions_through(any_compat):
    filter_ = any_compat.SimpleFilter()
    filter_.registerCallback(int)
    with pytest.raises(ValueError, match="invalid literal"):
        filter_.signalMessage("not a number")


def test_subscriber_passes_messages_on(any_compat, node):
    topic = f"compat_{os.getpid()}"
    qos = QoSProfile(depth=7, reliability=ReliabilityPolicy.RELIABLE)
    group = MutuallyExclusiveCallbackGroup()
    subscriber = any_compat.Subscriber(
        node,
        String,
        topic,
        qos_profile=qos,
        callback_group=group,
        event_callbacks=any_compat.SubscriptionEventCallbacks(incompatible_qos=lambda _: None),
    )
    assert subscriber.getTopic() == subscriber.topic == topic
    assert subscriber.sub.topic_name == f"/{topic}"
    assert subscriber.sub.qos_profile.depth == 7
    assert group.has_entity(subscriber.sub)

    received = []
    subscriber.registerCallback(lambda message, tag: received.append((message.data, tag)), "rgb")
    publisher = node.create_publisher(String, topic, qos)
    _spin_until(node, lambda: node.count_publishers(topic) and publisher.get_subscription_count())
    publisher.publish(String(data="hello"))
    _spin_until(node, lambda: received)
    assert received == [("hello", "rgb")]


def test_subscriber_has_a_default_depth(any_compat, node):
    assert any_compat.Subscriber(node, String, "compat_default").sub.qos_profile.depth == 10


def test_missing_packages_are_told(monkeypatch):
    bare = _without(monkeypatch, "message_filters", "vision_msgs", "vision_msgs.msg")
    assert not bare.HAS_MESSAGE_FILTERS
    assert bare.LabelInfo is None
    assert bare.VisionClass is None


def test_subscriber_feeds_message_filters(node):
    message_filters = pytest.importorskip(
        "message_filters", reason="message_filters is not installed"
    )
    subscriber = compat.Subscriber(node, String, "compat_cache")
    assert isinstance(subscriber, message_filters.SimpleFilter)
    cache = message_filters.Cache(subscriber, 2, True)
    subscriber.callback(String(data="kept"))
    assert cache.getLast().data == "kept"
