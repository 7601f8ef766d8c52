"""Header stamps of messages as they are serialised, read and moved without decoding the rest."""

from __future__ import annotations

import struct

__all__ = ["read_stamp", "shift_stamp"]

_LARGEST_STAMP_NS = 2**31 * 10**9


def read_stamp(cdr: bytes) -> int:
    """Header stamp, in ns, of a message that starts with a std_msgs/Header.

    Raises:
        ValueError: too short for a header.
    """
    if len(cdr) < 12:
        raise ValueError(f"a message of {len(cdr)} bytes is too short for its header")
    seconds, nanoseconds = struct.unpack_from(_stamp_format(cdr), cdr, 4)
    return seconds * 10**9 + nanoseconds


def shift_stamp(cdr: bytes, offset_ns: int) -> bytes:
    """The same message with its header stamp moved; the rest is not looked at.

    A stamp that leaves the range of ROS time (a camera with a clock of its own)
    is left as it is.

    Args:
        cdr: serialised message that starts with a std_msgs/Header, either byte order.
        offset_ns: added to the stamp.
    """
    stamp = read_stamp(cdr) + offset_ns
    if not 0 <= stamp < _LARGEST_STAMP_NS:
        return cdr
    patch = struct.pack(_stamp_format(cdr), *divmod(stamp, 10**9))
    return b"".join((cdr[:4], patch, memoryview(cdr)[12:]))


def _stamp_format(cdr: bytes) -> str:
    return "<iI" if cdr[1] & 1 else ">iI"  # the encapsulation's lowest bit: little endian
