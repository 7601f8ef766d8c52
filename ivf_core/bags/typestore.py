"""Message definitions of ROS 2 Jazzy: create, encode and decode messages without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ivf_core.bags.info import BagError

__all__ = [
    "bag_types",
    "decode",
    "decoder",
    "header",
    "jazzy_types",
    "message",
    "ros1_types",
    "same_layout",
]

_HEADER_TYPE = "std_msgs/msg/Header"

_VISION_MSGS = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    "vision_msgs/msg/LabelInfo": (
        "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
    ),
}


@cache
def jazzy_types() -> Typestore:
    """Return the message definitions of ROS 2 Jazzy, and two of vision_msgs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in _VISION_MSGS.items():  # rosbags does not ship these
        store.register(get_types_from_msg(definition, name))
    return store


def bag_types(encoding: str, text: str, msgtype: str) -> dict[str, Any]:
    """Parse the definition of a type that a bag holds.

    Args:
        encoding: "ros2msg", "ros1msg", or one of IDL.
        text: the definition, with those of the types inside.
        msgtype: "package/msg/Name".

    Returns:
        Field definitions by type.
    """
    if encoding in ("ros1msg", "ros2msg"):
        return dict(get_types_from_msg(text, msgtype))
    definitions: dict[str, Any] = {}
    parts = text.split("=" * 80 + "\n")
    for part in parts:
        body = part.split("\n", 1)[1] if part.startswith("IDL: ") else part
        if body.strip():
            definitions.update(get_types_from_idl(body))
    return definitions


def decoder(definitions: Mapping[str, Any]) -> Typestore:
    """Build a type store of a bag's own definitions, and of Jazzy's for all other types.

    Args:
        definitions: field definitions by type, see `bag_types`.
    """
    store = get_typestore(Stores.EMPTY)
    store.register({**jazzy_types().fielddefs, **definitions})
    return store


def ros1_types(definitions: Mapping[str, Any]) -> Typestore:
    """Build a type store that converts rosbag1 messages to the CDR layout of ROS 2.

    Args:
        definitions: field definitions of the bag's types, by type. The header is replaced
            by that of ROS 2, which has no `seq`.
    """
    store = get_typestore(Stores.EMPTY)
    store.register({**definitions, _HEADER_TYPE: jazzy_types().fielddefs[_HEADER_TYPE]})
    return store


def same_layout(store: Typestore, reference: Typestore, msgtype: str) -> bool:
    """Return whether a type has the same serialized layout in both stores.

    A type that `reference` does not know counts as the same.

    Args:
        store: knows the type.
        reference: store to compare with.
        msgtype: "package/msg/Name".
    """
    if msgtype not in reference.fielddefs:
        return True
    fields = [field for _, field in store.fielddefs[msgtype][1]]
    if fields != [field for _, field in reference.fielddefs[msgtype][1]]:
        return False
    for field in fields:
        kind, detail = field[1][0] if field[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else field
        if kind == Nodetype.NAME and not same_layout(store, reference, str(detail)):
            return False
    return True


def message(msgtype: str, **fields: Any) -> Any:
    """Create a message of one of Jazzy's types, for `BagWriter.write`.

    Args:
        msgtype: "package/msg/Name".
        **fields: all fields of the type.
    """
    return jazzy_types().types[msgtype](**fields)


def header(stamp_ns: int, frame_id: str) -> Any:
    """Create a std_msgs/Header.

    Args:
        stamp_ns: time since the epoch in ns.
        frame_id: name of the coordinate frame.
    """
    time = message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return message(_HEADER_TYPE, stamp=time, frame_id=frame_id)


def decode(cdr: bytes, msgtype: str) -> Any:
    """Decode a message of one of Jazzy's types.

    Args:
        cdr: the serialized message.
        msgtype: "package/msg/Name".

    Raises:
        BagError: the bytes are not such a message.
    """
    try:
        return jazzy_types().deserialize_cdr(cdr, msgtype)
    except Exception as error:  # damaged bytes fail in any way
        raise BagError(
            f"not a {msgtype}: {len(cdr)} bytes ({str(error) or type(error).__name__})"
        ) from error
