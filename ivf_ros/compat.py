"""Differences between ROS distributions, and all use of rclpy's internals.

Distributions have message_filters and vision_msgs; the client wheels on PyPI have
neither. All other modules import these names from here and need not know where they
run. docs/distributions.md lists what this package uses and where distributions differ.
"Read in" below means that the source of that rclpy version was checked (Humble 3.3.21,
Jazzy 7.1.11, Kilted 9.1.5, Lyrical 10.0.10); "run with" means that the tests ran with it.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, ShutdownException
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

try:
    from rclpy.topic_endpoint_info import TopicEndpointInfo
except ImportError:  # Lyrical
    from rclpy.endpoint_info import TopicEndpointInfo  # type: ignore[no-redef]

try:
    from message_filters import SimpleFilter

    HAS_MESSAGE_FILTERS = True
except ImportError:  # the wheels do not contain it
    HAS_MESSAGE_FILTERS = False

    class SimpleFilter:  # type: ignore[no-redef]
        """Base class of filters: passes messages on to its registered callbacks."""

        def __init__(self) -> None:
            self.callbacks: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}

        def registerCallback(self, callback: Callable[..., None], *args: Any) -> int:  # noqa: N802
            """Register a callback for every output of the filter.

            Args:
                callback: called as `callback(*messages, *args)`. Pass it by position:
                    releases of message_filters differ in the name of this argument.
                *args: further arguments of each call.

            Returns:
                The index of the callback.
            """
            connection = len(self.callbacks)
            self.callbacks[connection] = (callback, args)
            return connection

        def signalMessage(self, *messages: Any) -> None:  # noqa: N802
            """Call all registered callbacks, in the order of registration."""
            for callback, args in self.callbacks.values():
                callback(*messages, *args)


class Subscriber(SimpleFilter):
    """First filter of a chain: passes on the messages of a topic.

    Replaces `message_filters.Subscriber` on distributions too, because some of its
    releases (4.3.12, 4.11.10 and 7.1.5) accept neither a callback group nor event callbacks.

    Args:
        node: owner of the subscription.
        msg_type: class of the messages.
        topic: name of the topic; the node resolves it.
        qos_profile: QoS profile, or the depth of a reliable one.
        **kwargs: further arguments of `rclpy.node.Node.create_subscription`.

    Attributes:
        topic: name of the topic as given.
        sub: the rclpy subscription.
    """

    def __init__(
        self, node: Any, msg_type: type, topic: str, qos_profile: Any = 10, **kwargs: Any
    ) -> None:
        super().__init__()
        self.node = node
        self.topic = topic
        self.sub = node.create_subscription(msg_type, topic, self.callback, qos_profile, **kwargs)

    def callback(self, message: Any) -> None:
        """Pass a message on to the registered callbacks."""
        self.signalMessage(message)

    def getTopic(self) -> str:  # noqa: N802
        """Return the name of the topic as given."""
        return self.topic


try:
    from vision_msgs.msg import (
        BoundingBox2D,
        Detection2D,
        Detection2DArray,
        LabelInfo,
        ObjectHypothesis,
        ObjectHypothesisWithPose,
        VisionClass,
    )
except ImportError:  # the wheels do not contain it
    BoundingBox2D = Detection2D = Detection2DArray = LabelInfo = None
    ObjectHypothesis = ObjectHypothesisWithPose = VisionClass = None


def message_class(name: str) -> Any:
    """Return the class of a message type, or None if its package is not installed.

    `rosidl_runtime_py` offers this in a distribution; the wheels do not contain it.

    Args:
        name: type as "package/msg/Name".
    """
    package, _, message = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), message, None)
    except ImportError:
        return None


def profile_variables(rclpy_version: str | None = None) -> tuple[str, ...]:
    """Return the environment variables that name Fast DDS's XML profile.

    Fast DDS 2 (Humble, Jazzy) and Fast DDS 3 (Kilted and later) read different ones. On
    Kilted and later, each process warns that the older one is deprecated (read in
    rmw_fastrtps_shared_cpp 9.3.4 and 9.4.7, run with 9.3.3), so that only one is set.

    Args:
        rclpy_version: version of rclpy; by default that of the installed one.

    Returns:
        One name; both if the version is unknown.
    """
    older, newer = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
    if rclpy_version is None:
        try:
            rclpy_version = importlib.metadata.version("rclpy")
        except importlib.metadata.PackageNotFoundError:
            return older, newer
    return (older,) if int(rclpy_version.partition(".")[0]) <= 7 else (newer,)


def own_profile(profile: QoSProfile) -> QoSProfile:
    """Return a copy of a QoS profile, for one publisher or subscription only.

    rclpy writes QoS overrides of parameters into the profile that it receives
    (`rclpy.qos_overriding_options`; read in all four, run with 7.1.5 and 9.1.2). With a
    shared profile, an override of one topic would also apply to the topics created later.

    Args:
        profile: profile to copy.
    """
    return copy.copy(profile)


def parameter_overrides(node: Any) -> dict[str, Any]:
    """Return the parameters given at the start of a node, by name, which may be changed.

    It is the attribute `_parameter_overrides` of `rclpy.node.Node` (read in all four, run with
    7.1.5 and 9.1.2); without it nothing is known of them.

    Args:
        node: the node.
    """
    overrides = getattr(node, "_parameter_overrides", None)
    return overrides if isinstance(overrides, dict) else {}


def reject_impossible_transitions(node: Any, on_rejected: Callable[[int, Exception], None]) -> bool:
    """Make a lifecycle node answer an impossible transition with `success = False`.

    On Humble and Jazzy, the request raises in the callback of the node's `change_state`
    service, which ends the process. This function wraps that callback. It uses the
    attribute `_service_change_state` of `rclpy.lifecycle.LifecycleNode` (read in all four,
    run with 7.1.5 and 9.1.2). From Kilted on, rclpy catches the error itself, so that the
    wrapper then has no effect.

    Args:
        node: lifecycle node.
        on_rejected: called with the id of the transition and the error.

    Returns:
        Whether the callback was wrapped; False, with the node unchanged, if this version
        of rclpy has no such attribute.
    """
    service = getattr(node, "_service_change_state", None)
    if service is None:
        return False
    change_state = service.callback

    def guarded(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:
            on_rejected(request.transition.id, error)
            response.success = False
            return response

    service.callback = guarded
    return True


def reject_impossible_parameters(node: Any, on_rejected: Callable[[str], None]) -> None:
    """Make a node answer a request with an impossible parameter with `successful = False`.

    The services that set parameters raise at a value whose type does not exist, and pass on
    what a callback of the node raises; this ends the process (read in rclpy 7.1.5). This
    function wraps their callbacks.

    Args:
        node: node with the services that rclpy creates; without them nothing changes.
        on_rejected: called with the reason of each rejection.
    """

    def rejection(parameters: Sequence[Any], error: Exception) -> SetParametersResult:
        names = ", ".join(parameter.name for parameter in parameters)
        reason = f"parameter '{names:.200}' cannot be set: {str(error) or type(error).__name__}"
        on_rejected(reason)
        return SetParametersResult(successful=False, reason=reason)

    def one_by_one(set_parameters: Callable[..., Any], request: Any, response: Any) -> Any:
        results = []
        for parameter in request.parameters:
            one = SetParameters.Request(parameters=[parameter])
            try:
                results += set_parameters(one, SetParameters.Response()).results
            except Exception as error:
                results.append(rejection([parameter], error))
        response.results = results
        return response

    def at_once(set_parameters: Callable[..., Any], request: Any, response: Any) -> Any:
        try:
            return set_parameters(request, response)
        except Exception as error:
            response.result = rejection(request.parameters, error)
            return response

    guards = {SetParameters: one_by_one, SetParametersAtomically: at_once}
    for service in node.services:
        if service.srv_type in guards:
            service.callback = functools.partial(guards[service.srv_type], service.callback)


def initialize(program: str, args: list[str] | None) -> bool:
    """Initialize rclpy without signal handlers, or print its error as one line.

    rclpy's own handlers would end the context while a thread still publishes.

    Args:
        program: name of the program, for the line.
        args: command-line arguments; None takes those of the process.

    Returns:
        Whether the program can continue. It cannot after arguments that rcl cannot parse, a
        parameter file that it cannot read, or without a folder for logs.
    """
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # RCLError, UnknownROSArgsError and others by release
        unknown = type(error).__name__ == "UnknownROSArgsError"  # whose text is their list
        text = f"unknown arguments after --ros-args: {error}" if unknown else str(error)
        print(f"{program}: {' '.join(text.split())}", file=sys.stderr)
        rclpy.try_shutdown()
        return False
    return True


def spin_once(
    executor: Any, seconds: float, on_error: Callable[[Exception], None] | None = None
) -> None:
    """Run the next callback of an executor, or return after a time without one.

    A lifecycle transition may destroy a subscription for which the executor waits in the
    same round. Some releases of rclpy (7.1.5, for example) then raise `InvalidHandle`; on
    Humble, so does taking a message of it (read in 3.3.21; later releases skip it). The
    error is ignored here: the next round no longer contains the subscription.

    Args:
        executor: executor of rclpy.
        seconds: longest time to wait.
        on_error: called with an exception that a callback raised, which would otherwise end
            the process; None raises it.

    Raises:
        ExternalShutdownException, ShutdownException: the context or the executor has ended.
    """
    with suppress(InvalidHandle):
        try:
            executor.spin_once(timeout_sec=seconds)
        except (InvalidHandle, ExternalShutdownException, ShutdownException):
            raise
        except Exception as error:
            if on_error is None:
                raise
            on_error(error)


__all__ = [
    "HAS_MESSAGE_FILTERS",
    "BoundingBox2D",
    "Detection2D",
    "Detection2DArray",
    "LabelInfo",
    "ObjectHypothesis",
    "ObjectHypothesisWithPose",
    "SimpleFilter",
    "Subscriber",
    "SubscriptionEventCallbacks",
    "TopicEndpointInfo",
    "VisionClass",
    "initialize",
    "message_class",
    "own_profile",
    "parameter_overrides",
    "profile_variables",
    "reject_impossible_parameters",
    "reject_impossible_transitions",
    "spin_once",
]
