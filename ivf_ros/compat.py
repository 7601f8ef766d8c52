"""What differs between ROS distributions and the client wheels on PyPI.

Distributions have message_filters and vision_msgs; the wheels have neither.
Everything else imports these names from here and does not ask where it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

try:
    from message_filters import SimpleFilter

    HAS_MESSAGE_FILTERS = True
except ImportError:  # not among the wheels
    HAS_MESSAGE_FILTERS = False

    class SimpleFilter:  # type: ignore[no-redef]
        """Base of filters: passes messages on to the callbacks registered with it."""

        def __init__(self) -> None:
            self.callbacks: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}

        def registerCallback(self, callback: Callable[..., None], *args: Any) -> int:  # noqa: N802
            """Have `callback(*messages, *args)` called for every output; returns its index.

            Pass the callback by position: releases differ in the name of the argument.
            """
            connection = len(self.callbacks)
            self.callbacks[connection] = (callback, args)
            return connection

        def signalMessage(self, *messages: Any) -> None:  # noqa: N802
            """Call every registered callback, in the order of registration."""
            for callback, args in self.callbacks.values():
                callback(*messages, *args)


class Subscriber(SimpleFilter):
    """The first filter of a chain: passes on what arrives on a topic.

    Stands in for `message_filters.Subscriber` on distributions too, because some
    releases of it take no callback group and no event callbacks (7.1.5, for one).

    Args:
        node: owner of the subscription.
        msg_type: class of the messages.
        topic: name, resolved by the node.
        qos_profile: profile, or depth of a reliable one.
        **kwargs: further ones of `rclpy.node.Node.create_subscription`.

    Attributes:
        topic: as given.
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
        self.signalMessage(message)

    def getTopic(self) -> str:  # noqa: N802
        return self.topic


try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not among the wheels
    LabelInfo = VisionClass = None


def message_class(name: str) -> Any:
    """The class of "package/msg/Name", or None where its package is not installed.

    rosidl_runtime_py has this in a distribution; the wheels have not.
    """
    package, _, message = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), message, None)
    except ImportError:
        return None


__all__ = [
    "HAS_MESSAGE_FILTERS",
    "LabelInfo",
    "SimpleFilter",
    "Subscriber",
    "SubscriptionEventCallbacks",
    "VisionClass",
    "message_class",
]
