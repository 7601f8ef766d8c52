"""Image messages to arrays.

Raw images are read in place with their row padding and byte order, which
neither cv_bridge nor rosbags-image handles in full; colour codes and scaling
follow cv_bridge. Messages from rclpy and from `rosbags` are read alike, by
their attributes: no ROS is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

__all__ = [
    "INFRARED_ENCODINGS",
    "VISIBLE_ENCODINGS",
    "MessageError",
    "to_infrared",
    "to_visible",
]


class MessageError(ValueError):
    """An image message that cannot be used.

    Attributes:
        reason: short key for counters, one of zero_size, odd_width, bad_step,
            short_data, unknown_encoding and undecodable.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Encoding(NamedTuple):
    """How pixels lie in memory, and the OpenCV codes that convert them (None: as they are)."""

    dtype: str
    channels: int
    to_rgb: int | None = None
    to_luma: int | None = None


# OpenCV names a Bayer pattern by its second row, ROS by its first: RGGB is BG.
_FAMILIES = {
    "mono": (1, cv2.COLOR_GRAY2RGB, None),
    "rgb": (3, None, cv2.COLOR_RGB2GRAY),
    "bgr": (3, cv2.COLOR_BGR2RGB, cv2.COLOR_BGR2GRAY),
    "rgba": (4, cv2.COLOR_RGBA2RGB, cv2.COLOR_RGBA2GRAY),
    "bgra": (4, cv2.COLOR_BGRA2RGB, cv2.COLOR_BGRA2GRAY),
    "bayer_rggb": (1, cv2.COLOR_BayerBG2RGB, cv2.COLOR_BayerBG2GRAY),
    "bayer_bggr": (1, cv2.COLOR_BayerRG2RGB, cv2.COLOR_BayerRG2GRAY),
    "bayer_gbrg": (1, cv2.COLOR_BayerGR2RGB, cv2.COLOR_BayerGR2GRAY),
    "bayer_grbg": (1, cv2.COLOR_BayerGB2RGB, cv2.COLOR_BayerGB2GRAY),
}
_COLORS = {
    f"{family}{bits}": _Encoding(f"uint{bits}", *layout)
    for bits in (8, 16)
    for family, layout in _FAMILIES.items()
}
# Encodings without colour are taken as OpenCV's own order, as cv_bridge does for display.
_GENERIC = {
    f"{bits}UC{_COLORS[name].channels}": _COLORS[name]
    for bits in (8, 16)
    for name in (f"mono{bits}", f"bgr{bits}", f"bgra{bits}")
}
_UYVY = _Encoding("uint8", 2, cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2GRAY_UYVY)
_YUYV = _Encoding("uint8", 2, cv2.COLOR_YUV2RGB_YUY2, cv2.COLOR_YUV2GRAY_YUY2)
_YUV = {"yuv422": _UYVY, "uyvy": _UYVY, "yuv422_yuy2": _YUYV, "yuyv": _YUYV}

_VISIBLE = {**_COLORS, **_GENERIC, **_YUV}
_INFRARED = {**_VISIBLE, "16SC1": _Encoding("int16", 1), "32FC1": _Encoding("float32", 1)}

VISIBLE_ENCODINGS = tuple(_VISIBLE)
"""What `to_visible` understands in raw images."""

INFRARED_ENCODINGS = tuple(_INFRARED)
"""What `to_infrared` understands in raw images."""


def to_visible(message: Any) -> np.ndarray:
    """Read the image of a visible camera.

    16-bit images are scaled to 8 bits over their full range.

    Args:
        message: Image with one of `VISIBLE_ENCODINGS`, or CompressedImage
            with a JPEG, PNG or TIFF picture.

    Returns:
        H x W x 3 uint8 RGB, contiguous. It may share the message's memory:
        neither may be written to.

    Raises:
        MessageError: if the message is malformed or its encoding is not understood.
    """
    pixels, encoding = _read(message, _VISIBLE)
    if encoding.to_rgb is not None:
        pixels = cv2.cvtColor(pixels, encoding.to_rgb)
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    return np.ascontiguousarray(pixels)


def to_infrared(message: Any) -> np.ndarray:
    """Read the image of a thermal camera, values as sent.

    Thermal cameras also send grey pictures in colour encodings: of those the
    luma is taken, which is exact where the channels are equal. Values that are
    not finite are left to gain control.

    Args:
        message: Image with one of `INFRARED_ENCODINGS`, or CompressedImage
            with a JPEG, PNG (16-bit too) or TIFF picture.

    Returns:
        H x W uint8, uint16 or float32 (32FC1, and 16SC1 for its negative values),
        contiguous and in native byte order. It may share the message's memory:
        neither may be written to.

    Raises:
        MessageError: if the message is malformed or its encoding is not understood.
    """
    pixels, encoding = _read(message, _INFRARED)
    if encoding.to_luma is not None:
        pixels = cv2.cvtColor(pixels, encoding.to_luma)
    if pixels.dtype == np.int16:
        pixels = pixels.astype(np.float32)
    return np.ascontiguousarray(pixels)


def _read(message: Any, known: Mapping[str, _Encoding]) -> tuple[np.ndarray, _Encoding]:
    if hasattr(message, "format"):
        pixels, name = _decompress(message)
        return pixels, _look_up(name, known)
    encoding = _look_up(message.encoding, known)
    return _view(message, encoding), encoding


def _look_up(name: str, known: Mapping[str, _Encoding]) -> _Encoding:
    try:
        return known[name]
    except KeyError:
        raise MessageError(
            "unknown_encoding", f"encoding {name!r:.80}: expected one of {', '.join(known)}"
        ) from None


def _view(message: Any, encoding: _Encoding) -> np.ndarray:
    """H x W or H x W x C in native byte order, without a copy where the data allow it."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    size = f"{message.encoding} image of {width} x {height}"
    if height == 0 or width == 0:
        raise MessageError("zero_size", f"{size}: expected at least 1 x 1")
    if encoding in (_UYVY, _YUYV) and width % 2:
        raise MessageError("odd_width", f"{size}: expected an even width, pairs share their chroma")
    dtype = np.dtype(encoding.dtype)
    pixel_bytes = encoding.channels * dtype.itemsize
    if step < width * pixel_bytes:
        raise MessageError(
            "bad_step", f"{size}: step must be at least {width * pixel_bytes}, got {step}"
        )
    # The last row may lack its padding.
    needed = step * (height - 1) + width * pixel_bytes
    if len(message.data) < needed:
        raise MessageError(
            "short_data",
            f"{size}, step {step}: expected at least {needed} bytes, got {len(message.data)}",
        )
    shape: tuple[int, ...] = (height, width)
    strides: tuple[int, ...] = (step, pixel_bytes)
    if encoding.channels > 1:
        shape, strides = (*shape, encoding.channels), (*strides, dtype.itemsize)
    pixels = np.ndarray(
        shape, dtype.newbyteorder(">" if message.is_bigendian else "<"), message.data, 0, strides
    )
    return pixels.astype(dtype, copy=not pixels.flags.aligned)


def _decompress(message: Any) -> tuple[np.ndarray, str]:
    """Decoded pixels and the raw encoding that they have."""
    source = f"compressed image (format {message.format!r:.80}, {len(message.data)} bytes)"
    if "compressedDepth" in message.format:
        raise MessageError(
            "unknown_encoding", f"{source}: compressedDepth is not supported, use compressed"
        )
    data = bytes(message.data)
    if _is_cut_off(data):
        raise MessageError("undecodable", f"{source}: cut off, the end marker is missing")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, ValueError):  # what OpenCV or NumPy raises depends on their version
        pixels = None
    if pixels is None:
        raise MessageError("undecodable", f"{source}: expected a JPEG, PNG or TIFF picture")
    return pixels, _decoded_encoding(pixels, message.format)


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which decoders fill with grey.

    A JPEG's embedded thumbnail has an end of its own, so the end must come
    after the last start of scan; anything may follow it.
    """
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and b"IEND" not in data


def _decoded_encoding(pixels: np.ndarray, format_: str) -> str:
    """Name what the decoder returned, by what compressed_image_transport writes.

    `format` reads "rgb8; jpeg compressed bgr8": the encoding of the raw image,
    the codec, and what was handed to the codec, which is the raw image itself
    where nothing is named. Decoding returns that. Formats without a semicolon
    are a codec alone, whose pictures OpenCV decodes to BGR.
    """
    raw, separator, codec = format_.partition(";")
    encoded = (codec.rpartition("compressed")[2].strip() or raw) if separator else ""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = 8 * pixels.itemsize
    if pixels.dtype in (np.uint8, np.uint16) and channels in (1, 3, 4):
        if channels == 1 and encoded.startswith("bayer_"):
            return encoded
        order = "rgb" if encoded.startswith("rgb") else "bgr"
        return {1: "mono", 3: order, 4: order + "a"}[channels] + str(bits)
    kind = {"f": "F", "i": "S"}.get(pixels.dtype.kind, "U")
    return f"{bits}{kind}C{channels}"
