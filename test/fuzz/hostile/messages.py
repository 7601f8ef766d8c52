"""Hostile image messages: wrong sizes, steps, encodings, stamps, formats and damaged data."""

from __future__ import annotations

import array
from typing import Any, NamedTuple

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from hostile.damage import damaged
from hostile.texts import mostly, texts
from ivf_core.images.encodings import ENCODINGS

_LARGEST = 2**32 - 1
_CLAIMED = ((), (), (), (), ("height",), ("width",), ("step",), ("width", "height"))
_CODES = (".png", ".jpg", ".tiff", ".bmp", ".webp", ".pgm")
_BEGINNINGS = (
    b"", b"\xff\xd8", b"\xff\xd8\xff\xda\xff\xd9", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*",
    b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"P5\n1 1\n", b"\0\0\0\0ftypavif", b"#?RADIANCE\n",
)  # fmt: skip
_FORMATS = (
    "", "jpeg", "png", "tiff", ";", "rgb8; jpeg compressed bgr8", "mono16; png compressed ",
    "16UC1; compressedDepth png", "bayer_rggb8; png compressed bayer_rggb8", "mono8; jpeg",
    "32FC1; tiff compressed", "rgb8; png compressed rgb16",
)  # fmt: skip

Message = Any  # a message of ROS, or the bytes of a serialized one


class Shot(NamedTuple):
    """Messages of both cameras at one moment.

    Attributes:
        rgb: image of the RGB camera, or None.
        thermal: image of the thermal camera, or None.
        info: calibration of the RGB camera, or None.
        stamp: stamp of all, or None for that of the time of publication.
    """

    rgb: Message
    thermal: Message
    info: CameraInfo | None
    stamp: Time | None


def raw_images() -> st.SearchStrategy[Image]:
    """Draw a raw image, of which at most some fields agree with each other."""
    return _raw_images()


@st.composite
def _raw_images(draw: st.DrawFn) -> Image:
    encoding = draw(mostly(st.sampled_from(sorted(ENCODINGS)), texts()))
    known = ENCODINGS.get(encoding)
    pixel_bytes = known.channels * np.dtype(known.dtype).itemsize if known else 3
    height, width = (draw(mostly(st.integers(16, 40), st.integers(1, 15))) for _ in range(2))
    step = width * pixel_bytes + draw(st.sampled_from((0, 0, 0, 0, 1, 7)))
    size = max(0, step * height + draw(st.sampled_from((0, 0, 0, 0, -1, 1, -step, -step * height))))
    fill = draw(st.sampled_from((None, None, b"\0", b"\xff", b"\0\0\xc0\x7f", b"\0\0\x80\x7f")))
    if fill is None:
        random = np.random.default_rng(draw(st.integers(0, 9)))
        data = random.integers(0, 256, size, np.uint8).tobytes()
    else:
        data = (fill * size)[:size]
    message = Image(encoding=encoding, height=height, width=width, step=step)
    message.is_bigendian = draw(st.sampled_from((0, 0, 1, 255)))
    message.header = Header(frame_id=draw(mostly(st.just("camera"), texts())))
    message.data = array.array("B", data)
    for field in draw(st.sampled_from(_CLAIMED)):
        setattr(message, field, draw(st.sampled_from((0, 1, 2, 65535, 2**31, _LARGEST))))
    return message


def compressed_images() -> st.SearchStrategy[CompressedImage]:
    """Draw a compressed image, most with damaged data or a format of another codec."""
    return _compressed_images()


@st.composite
def _compressed_images(draw: st.DrawFn) -> CompressedImage:
    random = np.random.default_rng(draw(st.integers(0, 9)))
    code = draw(st.sampled_from(_CODES))
    deep = code in (".png", ".tiff") and draw(st.booleans())
    shape = draw(st.sampled_from(((18, 24), (18, 24, 3), (24, 18, 3), (1, 1), (5, 7, 3))))
    pixels = random.integers(0, 256, shape).astype(np.uint16 if deep else np.uint8)
    if code == ".pgm":
        pixels = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., 0])
    content = cv2.imencode(code, pixels)[1].tobytes()
    beginnings = st.builds(bytes.__add__, st.sampled_from(_BEGINNINGS), st.binary(max_size=40))
    data = draw(mostly(st.just(content), damaged(content) | beginnings))
    message = CompressedImage(format=draw(mostly(st.sampled_from(_FORMATS), texts())))
    message.header = Header(frame_id=draw(mostly(st.just("camera"), texts())))
    message.data = array.array("B", data)
    return message


def stamps() -> st.SearchStrategy[Time]:
    """Draw a hostile stamp: zero, before 1970, far in the future, impossible nanoseconds."""
    seconds = st.sampled_from((0, 1, -1, -(2**31), 2**31 - 1, 1_000)) | st.integers(0, 3)
    nanoseconds = st.sampled_from((0, 1, 999_999_999, 10**9, _LARGEST))
    return st.builds(Time, sec=seconds, nanosec=nanoseconds)


def calibrations() -> st.SearchStrategy[CameraInfo]:
    """Draw a calibration with hostile sizes and numbers."""
    size = st.sampled_from((0, 1, 640, _LARGEST))
    number = st.sampled_from((0.0, -1.0, 500.0, 1e308, float("nan"), float("inf")))
    return st.builds(
        CameraInfo,
        width=size,
        height=size,
        distortion_model=texts(),
        d=st.lists(number, max_size=20),
        k=st.lists(number, min_size=9, max_size=9),
        p=st.lists(number, min_size=12, max_size=12),
        binning_x=size,
    )


def shots(images: st.SearchStrategy[Any]) -> st.SearchStrategy[Shot]:
    """Draw messages of both cameras, some of them serialized and cut off or overwritten.

    Args:
        images: strategy of their images.
    """
    image = mostly(images, st.none() | images.flatmap(_serialized))
    return st.builds(
        Shot, image, image, mostly(st.none(), calibrations()), mostly(st.none(), stamps())
    )


def _serialized(message: Any) -> st.SearchStrategy[bytes]:
    """Draw the serialized form of a message, damaged beyond the four bytes of its header."""
    content = bytes(serialize_message(message))
    return damaged(content[4:]).map(lambda body: content[:4] + body)
