"""Conversion of image messages to arrays (`ivf_core.images.messages`) and back."""

from __future__ import annotations

import array as buffers
import sys

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ivf_core.images.encodings import INFRARED_ENCODINGS, VISIBLE_ENCODINGS, check_encoding
from ivf_core.images.messages import MessageError, to_infrared, to_visible

__all__ = [
    "INFRARED_ENCODINGS",
    "VISIBLE_ENCODINGS",
    "MessageError",
    "to_image",
    "to_infrared",
    "to_visible",
]


def to_image(array: np.ndarray, encoding: str, header: Header) -> Image:
    """Build a message without row padding, in native byte order.

    Args:
        array: H x W x 3 for rgb8, else H x W; uint8, uint16 or float32 as the encoding says.
        encoding: one of `WRITTEN_ENCODINGS`: rgb8, mono8, mono16, 16UC1 or 32FC1.
        header: becomes the message's own, not copied.

    Raises:
        ValueError: array and encoding do not agree.
    """
    channels = check_encoding(array, encoding).channels
    # rclpy takes an array.array as it is, and checks anything else byte by byte.
    data = buffers.array("B")
    data.frombytes(np.ascontiguousarray(array).view(np.uint8).data)
    message = Image(header=header, encoding=encoding)
    message.height, message.width = array.shape[:2]
    message.step = array.shape[1] * channels * array.itemsize
    message.is_bigendian = int(sys.byteorder == "big")
    message.data = data
    return message
