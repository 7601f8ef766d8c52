"""Convert image messages to arrays, without ROS.

Raw images are read in place with their row padding and byte order, which
neither cv_bridge nor rosbags-image handles in full; colour codes and scaling
follow cv_bridge. Messages from rclpy and from `rosbags` are read alike, by
their attributes.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ivf_core.images.compressed_headers import compressed_size
from ivf_core.images.encodings import (
    ENCODINGS,
    INFRARED_ENCODINGS,
    VISIBLE_ENCODINGS,
    Encoding,
)

__all__ = ["MAXIMUM_PIXELS", "MessageError", "to_infrared", "to_visible"]

MAXIMUM_PIXELS = 64_000_000
"""Default number of pixels beyond which an image is rejected before it is decoded."""


class MessageError(ValueError):
    """An image message that cannot be used.

    Attributes:
        reason: short key for counters, one of zero_size, odd_width, bad_step,
            short_data, too_large, unknown_encoding and undecodable.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def to_visible(message: Any, maximum_pixels: int = MAXIMUM_PIXELS) -> np.ndarray:
    """Read the image of a visible camera.

    16-bit images are scaled to 8 bits over their full range.

    Args:
        message: Image with one of `VISIBLE_ENCODINGS`, or CompressedImage
            that holds a JPEG, PNG or TIFF image.
        maximum_pixels: largest width times height.

    Returns:
        H x W x 3 uint8 RGB, contiguous. It may share the message's memory:
        neither may be written to.

    Raises:
        MessageError: the message is malformed or its encoding is not understood.
    """
    pixels, encoding = _read(message, VISIBLE_ENCODINGS, maximum_pixels)
    if encoding.order.to_rgb is not None:
        pixels = cv2.cvtColor(pixels, encoding.order.to_rgb)
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    return np.ascontiguousarray(pixels)


def to_infrared(message: Any, maximum_pixels: int = MAXIMUM_PIXELS) -> np.ndarray:
    """Read the image of a thermal camera, with the values as sent.

    Some thermal cameras send grey images in colour encodings. The luma of these is
    returned, which is exact where the channels are equal. Values that are not finite are
    kept: gain control handles them.

    Args:
        message: Image with one of `INFRARED_ENCODINGS`, or CompressedImage
            that holds a JPEG, PNG (8 or 16 bits) or TIFF image.
        maximum_pixels: largest width times height.

    Returns:
        H x W uint8, uint16 or float32 (32FC1, and 16SC1 for its negative values),
        contiguous and in native byte order. It may share the message's memory:
        neither may be written to.

    Raises:
        MessageError: the message is malformed or its encoding is not understood.
    """
    pixels, encoding = _read(message, INFRARED_ENCODINGS, maximum_pixels)
    if encoding.order.to_luma is not None:
        pixels = cv2.cvtColor(pixels, encoding.order.to_luma)
    if pixels.dtype == np.int16:
        pixels = pixels.astype(np.float32)
    return np.ascontiguousarray(pixels)


def _read(message: Any, names: tuple[str, ...], maximum_pixels: int) -> tuple[np.ndarray, Encoding]:
    """Return the pixels of a raw or compressed image, and their encoding, one of `names`."""
    if hasattr(message, "format"):
        pixels, name = _decompress(message, maximum_pixels)
        return pixels, _look_up(name, names)
    encoding = _look_up(message.encoding, names)
    pixels = _view(message, encoding)
    _check_size(f"{message.encoding} image", message.width, message.height, maximum_pixels)
    return pixels, encoding


def _check_size(source: str, width: int, height: int, maximum_pixels: int) -> None:
    if width * height > maximum_pixels:
        raise MessageError(
            "too_large",
            f"{source} of {width} x {height}: more than {maximum_pixels / 1e6:.4g} megapixels",
        )


def _look_up(name: str, names: tuple[str, ...]) -> Encoding:
    if name not in names:
        raise MessageError(
            "unknown_encoding", f"encoding {name!r:.80}: expected one of {', '.join(names)}"
        )
    return ENCODINGS[name]


def _view(message: Any, encoding: Encoding) -> np.ndarray:
    """Return H x W or H x W x C in native byte order, without a copy where the data allow it."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    size = f"{message.encoding} image of {width} x {height}"
    if height == 0 or width == 0:
        raise MessageError("zero_size", f"{size}: expected at least 1 x 1")
    if encoding.order.even_width and width % 2:
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


def _decompress(message: Any, maximum_pixels: int) -> tuple[np.ndarray, str]:
    """Decode a compressed image; return its pixels and their raw encoding."""
    source = f"compressed image (format {message.format!r:.80}, {len(message.data)} bytes)"
    if "compressedDepth" in message.format:
        raise MessageError(
            "unknown_encoding", f"{source}: compressedDepth is not supported, use compressed"
        )
    data = bytes(message.data)
    try:
        _, width, height = compressed_size(data)
    except ValueError as error:
        raise MessageError("undecodable", f"{source}: {error}") from error
    _check_size(source, width, height, maximum_pixels)
    if _is_cut_off(data):
        raise MessageError("undecodable", f"{source}: cut off, the end marker is missing")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, ValueError):  # what OpenCV or NumPy raises depends on their version
        pixels = None
    if pixels is None:
        raise MessageError("undecodable", f"{source}: expected a JPEG, PNG or TIFF image")
    return pixels, _decoded_encoding(pixels, message.format)


def _is_cut_off(data: bytes) -> bool:
    """Return whether a JPEG or PNG lacks its end, which decoders fill with grey.

    A JPEG's embedded thumbnail has an end of its own, so the end must come
    after the last start of scan; anything may follow it.
    """
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and b"IEND" not in data


def _decoded_encoding(pixels: np.ndarray, format_: str) -> str:
    """Name the encoding of decoded pixels, by the format of compressed_image_transport.

    `format` reads "rgb8; jpeg compressed bgr8": the encoding of the raw image,
    the codec, and the encoding that the codec was given, which is that of the raw
    image where nothing is named. Decoding returns the last. Formats without a
    semicolon name the codec alone; OpenCV decodes these to BGR.
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
