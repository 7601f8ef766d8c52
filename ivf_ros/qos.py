"""QoS of the node's topics: what users may override, and overrides that would be ignored."""

from __future__ import annotations

from typing import Any

from rclpy.qos import (
    DurabilityPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from ivf_ros.compat import parameter_overrides

__all__ = ["LATCHED", "RESULTS", "check_overrides", "overriding_options"]

RESULTS = QoSProfile(
    depth=10, durability=DurabilityPolicy.VOLATILE, reliability=ReliabilityPolicy.RELIABLE
)
"""Profile of results: a subscriber gets what is published while it is there, and nothing older.

The default of Fast DDS is transient local, which would hand an image of long ago to a late
subscriber.
"""

LATCHED = QoSProfile(
    depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
)
"""Profile of states: late subscribers get the latest."""

_POLICIES = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)


def overriding_options() -> QoSOverridingOptions:
    """Return the policies that parameters `qos_overrides.*` may change."""
    return QoSOverridingOptions(_POLICIES)


def check_overrides(node: Any) -> None:
    """Reject overrides of this node's topics that have no effect, and warn about others.

    Args:
        node: node whose publishers and subscriptions exist.

    Raises:
        ValueError: an override of one of its topics has no effect; names it.
    """
    topics = {entity.topic_name for entity in (*node.publishers, *node.subscriptions)}
    for name in parameter_overrides(node):
        if not name.startswith("qos_overrides.") or node.has_parameter(name):
            continue
        topic, _, rest = name.removeprefix("qos_overrides.").partition(".")
        if topic not in topics:
            node.get_logger().warning(
                f"parameter {name} has no effect: this node has no topic {topic}"
            )
            continue
        policies = ", ".join(policy.name.lower() for policy in _POLICIES)
        kinds = " and ".join(
            kind
            for kind, entities in (
                ("publisher", node.publishers),
                ("subscription", node.subscriptions),
            )
            if any(entity.topic_name == topic for entity in entities)
            and node.has_parameter(f"qos_overrides.{topic}.{kind}.depth")
        )
        expected = f"expected {kinds}.POLICY with one of {policies}"
        if not kinds:
            expected = "the QoS of this topic is fixed: late subscribers rely on it"
        raise ValueError(f"parameter {name}: '{rest}' cannot be changed; {expected}")
