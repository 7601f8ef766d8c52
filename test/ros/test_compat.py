from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="ROS 2's rclpy is not installed")

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from ivf_ros import compat
from ivf_ros.benchmark_subscriber import _Subscriber
from ivf_ros.demo import _Watcher
from ivf_ros.fusion_node import FusionNode
from ivf_ros.player_node import Player
from ivf_ros.processes import NodeWatcher
from ivf_ros.recorder_node import Recorder


def _without(monkeypatch, *packages):
    """Load compat again as if the packages were not installed."""
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


def test_missing_packages_are_reported(monkeypatch):
    bare = _without(monkeypatch, "message_filters", "vision_msgs", "vision_msgs.msg")
    assert not bare.HAS_MESSAGE_FILTERS
    assert bare.LabelInfo is None
    assert bare.VisionClass is None
    assert bare.Detection2DArray is None


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("SubscriptionEventCallbacks", ("rclpy.qos_event", "rclpy.event_handler")),
        ("TopicEndpointInfo", ("rclpy.topic_endpoint_info", "rclpy.endpoint_info")),
    ],
)
def test_class_is_found_where_older_and_newer_releases_have_it(name, modules, monkeypatch):
    """Humble has the first class in another module, Lyrical the second one."""
    expected = getattr(compat, name)
    for present, absent in (modules, modules[::-1]):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, present, sys.modules[expected.__module__])
            assert getattr(_without(patch, absent), name) is expected


@pytest.mark.parametrize(
    ("rclpy_version", "expected"),
    [
        ("3.3.21", ("FASTRTPS_DEFAULT_PROFILES_FILE",)),  # Humble
        ("7.1.11", ("FASTRTPS_DEFAULT_PROFILES_FILE",)),  # Jazzy
        ("9.1.5", ("FASTDDS_DEFAULT_PROFILES_FILE",)),  # Kilted
        ("10.0.10", ("FASTDDS_DEFAULT_PROFILES_FILE",)),  # Lyrical
    ],
)
def test_profile_variable_is_that_of_the_release(rclpy_version, expected):
    assert compat.profile_variables(rclpy_version) == expected


def test_profile_variable_of_the_installed_release_is_known():
    assert len(compat.profile_variables()) == 1


def test_subscriber_feeds_message_filters(node):
    message_filters = pytest.importorskip(
        "message_filters", reason="message_filters is not installed"
    )
    subscriber = compat.Subscriber(node, String, "compat_cache")
    assert isinstance(subscriber, message_filters.SimpleFilter)
    cache = message_filters.Cache(subscriber, 2, True)
    subscriber.callback(String(data="kept"))
    assert cache.getLast().data == "kept"


@pytest.fixture
def lifecycle_node():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = LifecycleNode("compat_lifecycle", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_impossible_transition_is_rejected_and_a_possible_one_happens(lifecycle_node):
    rejected = []
    assert compat.reject_impossible_transitions(
        lifecycle_node, lambda transition, error: rejected.append(transition)
    )
    change_state = lifecycle_node._service_change_state.callback
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_ACTIVATE
    assert not change_state(request, ChangeState.Response()).success
    assert rejected in ([Transition.TRANSITION_ACTIVATE], [])  # []: rclpy 8 answers itself
    request.transition.id = Transition.TRANSITION_CONFIGURE
    assert change_state(request, ChangeState.Response()).success


@pytest.mark.parametrize("raises", [True, False])
def test_transition_that_raises_and_one_that_answers_are_both_rejected(raises):
    """Humble and Jazzy raise in the callback of the service, later releases answer."""

    def change_state(request, response):
        if raises:
            raise RuntimeError("no such transition")
        response.success = False
        return response

    node = SimpleNamespace(_service_change_state=SimpleNamespace(callback=change_state))
    rejected = []
    assert compat.reject_impossible_transitions(node, lambda *reason: rejected.append(reason))
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_ACTIVATE
    response = ChangeState.Response(success=True)
    assert not node._service_change_state.callback(request, response).success
    assert [transition for transition, _ in rejected] == [Transition.TRANSITION_ACTIVATE] * raises


def test_node_without_the_internal_service_stays_unchanged():
    assert not compat.reject_impossible_transitions(SimpleNamespace(), lambda *_: None)


def test_parameter_of_an_impossible_type_is_rejected_and_the_others_are_set(node):
    node.declare_parameter("number", 1)
    reasons = []
    compat.reject_impossible_parameters(node, reasons.append)
    services = {service.srv_type: service.callback for service in node.services}
    good = Parameter("number", value=7).to_parameter_msg()
    bad = ParameterMessage(name="number", value=ParameterValue(type=10))
    request = SetParameters.Request(parameters=[bad, good])
    results = services[SetParameters](request, SetParameters.Response()).results
    assert [result.successful for result in results] == [False, True]
    assert node.get_parameter("number").value == 7
    request = SetParametersAtomically.Request(parameters=[bad])
    result = services[SetParametersAtomically](request, SetParametersAtomically.Response()).result
    assert not result.successful
    assert "'number'" in result.reason
    assert reasons == [results[0].reason, result.reason]


def test_own_profile_is_a_copy():
    profile = QoSProfile(depth=3)
    own = compat.own_profile(profile)
    own.depth = 9
    assert profile.depth == 3


def test_spinning_survives_the_destruction_of_a_subscription(node):
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    subscriptions = [node.create_subscription(String, "compat_gone", print, 1) for _ in range(20)]

    def destroy():
        if subscriptions:
            node.destroy_subscription(subscriptions.pop())

    node.create_timer(0.001, destroy)
    deadline = time.monotonic() + 10.0
    while subscriptions and time.monotonic() < deadline:
        compat.spin_once(executor, 0.1)
    executor.shutdown()
    assert not subscriptions


@pytest.mark.parametrize(
    "node_class", [FusionNode, Player, Recorder, NodeWatcher, _Subscriber, _Watcher]
)
def test_no_private_name_of_a_node_replaces_one_of_rclpy(node_class, node, lifecycle_node):
    """An attribute `_timers` or `_parameters`, for example, would replace rclpy's own."""
    base = lifecycle_node if issubclass(node_class, LifecycleNode) else node
    assert isinstance(base, Node)
    tree = ast.parse(textwrap.dedent(inspect.getsource(node_class)))
    names = {
        item.attr if isinstance(item, ast.Attribute) else item.name
        for item in ast.walk(tree)
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store))
    }
    private = {name for name in names if name.startswith("_") and not name.endswith("__")}
    assert private
    assert private & {*vars(base), *dir(base)} == set()
