"""Message types of ROS 2 Jazzy: new messages, decoding, and types of rosbag1."""

from __future__ import annotations

from functools import cache
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ivf_core.bags.info import BagError

__all__ = [
    "cdr_store",
    "decode",
    "header",
    "jazzy",
    "message",
    "same_layout",
]

_HEADER_TYPE = "std_msgs/msg/Header"

_VISION_MSGS = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    "vision_msgs/msg/LabelInfo": (
        "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
    ),
}


def decode(cdr: bytes, msgtype: str) -> Any:
    """A message of one of Jazzy's types as an object.

    Raises:
        BagError: bytes that are not such a message.
    """
    try:
        return jazzy().deserialize_cdr(cdr, msgtype)
    except Exception as error:  # damaged bytes fail in any way
        raise BagError(
            f"not a {msgtype}: {len(cdr)} bytes ({str(error) or type(error).__name__})"
        ) from error


def message(msgtype: str, **fields: Any) -> Any:
    """A new message of one of Jazzy's types, to be written with `BagWriter.write`."""
    return jazzy().types[msgtype](**fields)


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    types = jazzy().types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    return types[_HEADER_TYPE](stamp=stamp, frame_id=frame_id)


@cache
def jazzy() -> Typestore:
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in _VISION_MSGS.items():  # not among rosbags' own
        store.register(get_types_from_msg(definition, name))
    return store


def cdr_store(reader: AnyReader) -> Typestore:
    """The types of a rosbag1 bag with ROS 2's header, which has no `seq`."""
    store = get_typestore(Stores.EMPTY)
    store.register({**reader.typestore.fielddefs, _HEADER_TYPE: jazzy().fielddefs[_HEADER_TYPE]})
    return store


def same_layout(store: Typestore, reference: Typestore, msgtype: str) -> bool:
    """Whether both stores put the same bytes on the wire; yes where only one knows the type."""
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
