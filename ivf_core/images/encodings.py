"""Pixel encodings of `sensor_msgs/Image`, in one table that readers and writers share.

Colour codes follow cv_bridge. Names are those of ROS (`sensor_msgs/image_encodings.hpp`).
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

__all__ = [
    "ENCODINGS",
    "INFRARED_ENCODINGS",
    "VISIBLE_ENCODINGS",
    "WRITTEN_ENCODINGS",
    "ColorOrder",
    "Encoding",
    "check_encoding",
    "thermal_encoding",
]


class ColorOrder(NamedTuple):
    """Order of the channels of a pixel, and how OpenCV converts it.

    Attributes:
        channels: number of channels.
        to_rgb: OpenCV's conversion code to RGB; None: it is RGB.
        to_luma: OpenCV's conversion code to grey; None: it is grey.
        even_width: true if two pixels share their chroma, so that the width must be even.
    """

    channels: int
    to_rgb: int | None
    to_luma: int | None
    even_width: bool = False


# OpenCV names a Bayer pattern by its second row, ROS by its first: RGGB is BG.
_ORDERS = {
    "mono": ColorOrder(1, cv2.COLOR_GRAY2RGB, None),
    "rgb": ColorOrder(3, None, cv2.COLOR_RGB2GRAY),
    "bgr": ColorOrder(3, cv2.COLOR_BGR2RGB, cv2.COLOR_BGR2GRAY),
    "rgba": ColorOrder(4, cv2.COLOR_RGBA2RGB, cv2.COLOR_RGBA2GRAY),
    "bgra": ColorOrder(4, cv2.COLOR_BGRA2RGB, cv2.COLOR_BGRA2GRAY),
    "bayer_rggb": ColorOrder(1, cv2.COLOR_BayerBG2RGB, cv2.COLOR_BayerBG2GRAY),
    "bayer_bggr": ColorOrder(1, cv2.COLOR_BayerRG2RGB, cv2.COLOR_BayerRG2GRAY),
    "bayer_gbrg": ColorOrder(1, cv2.COLOR_BayerGR2RGB, cv2.COLOR_BayerGR2GRAY),
    "bayer_grbg": ColorOrder(1, cv2.COLOR_BayerGB2RGB, cv2.COLOR_BayerGB2GRAY),
}
_UYVY = ColorOrder(2, cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2GRAY_UYVY, even_width=True)
_YUYV = ColorOrder(2, cv2.COLOR_YUV2RGB_YUY2, cv2.COLOR_YUV2GRAY_YUY2, even_width=True)


class Encoding(NamedTuple):
    """Layout of the pixels of an image message.

    Attributes:
        name: encoding as in the message, "rgb8".
        dtype: NumPy's name of the type of a channel.
        order: order of the channels.
        visible: true if images of a visible camera can have it.
    """

    name: str
    dtype: str
    order: ColorOrder
    visible: bool = True

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.order.channels

    @property
    def shape(self) -> str:
        """Shape of an array of such pixels, in words."""
        return "H x W" if self.channels == 1 else f"H x W x {self.channels}"


# Encodings without a colour are taken as OpenCV's own order, as cv_bridge does for display.
_LAYOUTS = [
    *((f"{order}{bits}", f"uint{bits}", order) for bits in (8, 16) for order in _ORDERS),
    *(
        (f"{bits}UC{_ORDERS[order].channels}", f"uint{bits}", order)
        for bits in (8, 16)
        for order in ("mono", "bgr", "bgra")
    ),
]

ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        *(Encoding(name, dtype, _ORDERS[order]) for name, dtype, order in _LAYOUTS),
        Encoding("yuv422", "uint8", _UYVY),
        Encoding("uyvy", "uint8", _UYVY),
        Encoding("yuv422_yuy2", "uint8", _YUYV),
        Encoding("yuyv", "uint8", _YUYV),
        Encoding("16SC1", "int16", _ORDERS["mono"], visible=False),
        Encoding("32FC1", "float32", _ORDERS["mono"], visible=False),
    )
}
"""All encodings that are understood, by name."""

VISIBLE_ENCODINGS = tuple(name for name, encoding in ENCODINGS.items() if encoding.visible)
"""Encodings of raw images that `to_visible` understands."""

INFRARED_ENCODINGS = tuple(ENCODINGS)
"""Encodings of raw images that `to_infrared` understands."""

WRITTEN_ENCODINGS = ("rgb8", "mono8", "mono16", "16UC1", "32FC1")
"""Encodings of the images that we write: to bags and on topics."""


def check_encoding(array: np.ndarray, name: str) -> Encoding:
    """Return the encoding of an image that is to be written, or raise.

    Args:
        array: H x W x 3 for rgb8, else H x W; uint8 for rgb8 and mono8, uint16 for mono16
            and 16UC1, float32 for 32FC1; in native byte order.
        name: one of `WRITTEN_ENCODINGS`.

    Raises:
        ValueError: the encoding is another, or the array does not suit it; names the expected ones.
    """
    if name not in WRITTEN_ENCODINGS:
        raise ValueError(f"encoding {name!r}: expected one of {', '.join(WRITTEN_ENCODINGS)}")
    encoding = ENCODINGS[name]
    trailing = (encoding.channels,) if encoding.channels > 1 else ()
    if array.shape[2:] != trailing or array.ndim < 2 or array.dtype != encoding.dtype:
        raise ValueError(
            f"{name} needs {encoding.shape} {encoding.dtype}, got {array.shape} {array.dtype}"
        )
    return encoding


def thermal_encoding(dtype: np.dtype) -> str:
    """Return the encoding to write a thermal image of this type: mono8, mono16 or 32FC1.

    Args:
        dtype: uint8, uint16 or float32.

    Raises:
        ValueError: another type.
    """
    for name in WRITTEN_ENCODINGS:
        if ENCODINGS[name].channels == 1 and ENCODINGS[name].dtype == dtype:
            return name
    raise ValueError(f"thermal image is {dtype}, expected uint8, uint16 or float32")
