"""Conversion of image messages to arrays (`ivf_core.images.messages`) and back."""

from __future__ import annotations

import array as buffers
import sys

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ivf_core.images.messages import (
    INFRARED_ENCODINGS,
    VISIBLE_ENCODINGS,
    MessageError,
    to_infrared,
    to_visible,
)

__all__ = [
    "INFRARED_ENCODINGS",
    "VISIBLE_ENCODINGS",
    "MessageError",
    "to_image",
    "to_infrared",
    "to_visible",
]

_ENCODINGS = {
    "rgb8": ("uint8", 3),
    "mono8": ("uint8", 1),
    "mono16": ("uint16", 1),
    "16UC1": ("uint16", 1),
    "32FC1": ("float32", 1),
}


def to_image(array: np.ndarray, encoding: str, header: Header) -> Image:
    """Build a message without row padding, in native byte order.

    Args:
        array: H x W x 3 for rgb8, otherwise H x W; uint8, uint16 or float32 as the
            encoding requires.
        encoding: rgb8, mono8, mono16, 16UC1 or 32FC1.
        header: header of the message; not copied.

    Raises:
        ValueError: array and encoding do not match; says what was expected.
    """
    if encoding not in _ENCODINGS:
        raise ValueError(f"encoding: expected one of {tuple(_ENCODINGS)}, got {encoding!r}")
    dtype, channels = _ENCODINGS[encoding]
    trailing = (channels,) if channels > 1 else ()
    if array.ndim < 2 or array.shape[2:] != trailing or array.dtype != dtype:
        expected = " x ".join(("H x W", *map(str, trailing)))
        raise ValueError(f"{encoding} needs {expected} {dtype}, got {array.shape} {array.dtype}")
    # rclpy accepts an array.array unchecked, and checks everything else byte by byte.
    data = buffers.array("B")
    data.frombytes(np.ascontiguousarray(array).view(np.uint8).data)
    message = Image(header=header, encoding=encoding)
    message.height, message.width = array.shape[:2]
    message.step = array.shape[1] * channels * array.itemsize
    message.is_bigendian = int(sys.byteorder == "big")
    message.data = data
    return message
