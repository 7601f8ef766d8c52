"""Conversion of image messages to arrays (`ivf_core.images.messages`) and back."""

from __future__ import annotations

import array as buffers
import copy
import sys

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from ivf_core.images.encodings import INFRARED_ENCODINGS, VISIBLE_ENCODINGS, check_encoding
from ivf_core.images.messages import MessageError, to_infrared, to_visible

__all__ = [
    "INFRARED_ENCODINGS",
    "VISIBLE_ENCODINGS",
    "MessageError",
    "shrink_camera_info",
    "to_image",
    "to_infrared",
    "to_jpeg",
    "to_png",
    "to_visible",
]

_PNG_LEVEL = 3  # the default of compressed_image_transport


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


def to_jpeg(rgb: np.ndarray, quality: int, header: Header) -> CompressedImage:
    """Build a JPEG message as compressed_image_transport does from an rgb8 image.

    Args:
        rgb: H x W x 3 uint8 RGB, at most 65500 pixels high and wide.
        quality: quality of the JPEG, 1 to 100.
        header: becomes the message's own, not copied.

    Raises:
        ValueError: the image cannot be encoded.
    """
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _compressed(
        ".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality], "rgb8; jpeg compressed bgr8", header
    )


def to_png(labels: np.ndarray, header: Header) -> CompressedImage:
    """Build a PNG message as compressed_image_transport does from a mono8 image.

    Args:
        labels: H x W uint8.
        header: becomes the message's own, not copied.

    Raises:
        ValueError: the image cannot be encoded.
    """
    # It names no encoding for images that are not coloured, and leaves the blank.
    return _compressed(
        ".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL], "mono8; png compressed ", header
    )


def _compressed(
    suffix: str, image: np.ndarray, options: list[int], format_: str, header: Header
) -> CompressedImage:
    """Encode an image with OpenCV."""
    size = f"image of {image.shape[1]} x {image.shape[0]}"
    try:
        done, encoded = cv2.imencode(suffix, image, options)
    except cv2.error as error:
        raise ValueError(f"{size}: cannot be encoded as {suffix[1:]}: {error}") from error
    if not done:
        raise ValueError(f"{size}: cannot be encoded as {suffix[1:]}")
    data = buffers.array("B")
    data.frombytes(encoded.data)
    return CompressedImage(header=header, format=format_, data=data)


def shrink_camera_info(info: CameraInfo, stride: int) -> CameraInfo:
    """Build the calibration of an image of which each pixel is a block of the camera's pixels.

    Centres of pixels have integer coordinates, as in OpenCV: the centre of the first block is
    at (stride - 1) / 2 of the camera's pixels, and at 0 of the result's. In matrices K and P,
    c becomes (c + 0.5) / stride - 0.5, and f and the baseline's term become f / stride.

    Args:
        info: calibration of the camera.
        stride: height and width of a block; what is left over at the right and below has no
            pixel.

    Returns:
        A new message; distortion and rectification are the same.
    """
    shrunk, roi = copy.copy(info), info.roi
    shrunk.width, shrunk.height = info.width // stride, info.height // stride
    shrunk.roi = RegionOfInterest(
        x_offset=roi.x_offset // stride,
        y_offset=roi.y_offset // stride,
        width=roi.width // stride,
        height=roi.height // stride,
        do_rectify=roi.do_rectify,
    )
    transform = np.diag((1 / stride, 1 / stride, 1.0))
    binning = max(info.binning_x, 1), max(info.binning_y, 1)
    for row, (offset, factor) in enumerate(zip((roi.x_offset, roi.y_offset), binning, strict=True)):
        # Half a pixel of the image, and what rounding took from the offset of the region.
        transform[row, 2] = factor * (1 / stride - 1) / 2 + offset // stride - offset / stride
    shrunk.k = (transform @ np.reshape(info.k, (3, 3))).ravel()
    shrunk.p = (transform @ np.reshape(info.p, (3, 4))).ravel()
    return shrunk
