"""Header stamps of serialized messages, read and shifted without decoding the rest."""

from __future__ import annotations

import struct

__all__ = ["read_stamp", "shift_stamp"]

_LARGEST_STAMP_NS = 2**31 * 10**9


def read_stamp(cdr: bytes) -> int:
    """Return the header stamp, in ns, of a message that starts with a std_msgs/Header.

    Args:
        cdr: serialized message, either byte order.

    Raises:
        ValueError: the message is too short for a header.
    """
    if len(cdr) < 12:
        raise ValueError(f"a message of {len(cdr)} bytes is too short for its header")
    seconds, nanoseconds = struct.unpack_from(_stamp_format(cdr), cdr, 4)
    return seconds * 10**9 + nanoseconds


def shift_stamp(cdr: bytes, offset_ns: int) -> bytes:
    """Return a copy of a message with its header stamp shifted; all other bytes stay.

    If the shifted stamp leaves the range of ROS time (a camera with a clock of its own), the
    message is returned unchanged.

    Args:
        cdr: serialized message that starts with a std_msgs/Header, either byte order.
        offset_ns: added to the stamp.

    Raises:
        ValueError: the message is too short for a header.
    """
    stamp = read_stamp(cdr) + offset_ns
    if not 0 <= stamp < _LARGEST_STAMP_NS:
        return cdr
    patch = struct.pack(_stamp_format(cdr), *divmod(stamp, 10**9))
    return b"".join((cdr[:4], patch, memoryview(cdr)[12:]))


def _stamp_format(cdr: bytes) -> str:
    return "<iI" if cdr[1] & 1 else ">iI"  # the encapsulation's lowest bit: little endian
