"""Content of image messages by their encoding: colour, grey, or measured values."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ivf_core.images.encodings import ENCODINGS

__all__ = ["content_kind", "message_encoding"]

_NEEDED_SPREAD = 24  # between the channels of a pixel; JPEG leaves about 5 where it is grey


def message_encoding(message: Any) -> str:
    """Return the encoding that an image message names, "" where a compressed one names none.

    Args:
        message: `Image`, or `CompressedImage` whose format reads "mono16; png compressed".
    """
    if not hasattr(message, "format"):
        return str(message.encoding)
    raw, separator, _ = message.format.partition(";")
    return raw.strip() if separator else ""


def content_kind(message: Any) -> str:
    """Return what an image message carries: "colour", "grey", "measured" or "".

    Args:
        message: `Image` or `CompressedImage`. The image of a compressed message that names no
            encoding is decoded.

    Returns:
        "colour": colour channels or a Bayer pattern; "grey": 8 bits; "measured": 16 bits or
        more in one channel, which thermal and depth cameras send; "" if it is not known.
    """
    name = message_encoding(message)
    if name in ENCODINGS:
        encoding = ENCODINGS[name]
        if encoding.order.to_luma is not None:
            return "colour"
        return "grey" if encoding.dtype == "uint8" else "measured"
    if not hasattr(message, "format"):
        return ""
    try:
        pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, ValueError):  # what OpenCV or NumPy raises depends on their version
        return ""
    if pixels is None:
        return ""
    if pixels.ndim == 2:
        return "grey" if pixels.dtype == np.uint8 else "measured"
    colours = pixels[..., :3].astype(np.int32)
    return "colour" if np.ptp(colours, axis=2).max() > _NEEDED_SPREAD else "grey"
