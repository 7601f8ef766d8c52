"""Contradictions between a camera and what its topic carries."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from harness import smooth_image
from sensor_msgs.msg import CompressedImage, Image

from ivf_ros.content_watch import ContentWatch

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
COLOUR = smooth_image(48, 64, 1)
GREY = COLOUR[..., :1].repeat(3, 2)
COUNTS = COLOUR[..., 0].astype(np.uint16) + 7000


def raw(pixels: np.ndarray, encoding: str) -> Image:
    height, width = pixels.shape[:2]
    return Image(
        height=height, width=width, encoding=encoding, step=pixels.nbytes // height,
        data=np.ascontiguousarray(pixels).tobytes(),
    )  # fmt: skip


def compressed(pixels: np.ndarray, kind: str, format_: str) -> CompressedImage:
    return CompressedImage(format=format_, data=cv2.imencode(kind, pixels)[1].tobytes())


@pytest.mark.parametrize(
    ("camera", "message", "words"),
    [
        ("rgb", raw(COLOUR, "rgb8"), ""),
        ("rgb", raw(COLOUR[..., 0], "mono8"), ""),
        ("rgb", raw(COUNTS, "mono16"), "carries mono16: thermal or depth images"),
        ("rgb", raw(COUNTS.astype(np.float32), "32FC1"), "carries 32FC1"),
        ("rgb", compressed(COUNTS, ".png", "16UC1; png compressed"), "carries 16UC1"),
        ("rgb", compressed(COLOUR, ".jpg", "jpeg"), ""),
        ("thermal", raw(COUNTS, "mono16"), ""),
        ("thermal", raw(COLOUR[..., 0], "mono8"), ""),
        ("thermal", raw(COLOUR, "rgb8"), "carries rgb8 in colours"),
        ("thermal", raw(COLOUR[..., 0], "bayer_rggb8"), "images of a colour camera"),
        ("thermal", compressed(COLOUR, ".jpg", "bgr8; jpeg compressed bgr8"), "bgr8 in colours"),
        ("thermal", compressed(COLOUR, ".jpg", "jpeg"), "compressed images in colours"),
        ("thermal", compressed(GREY, ".jpg", "jpeg"), ""),
    ],
)
def test_contradiction(camera: str, message: object, words: str) -> None:
    watch = ContentWatch(camera, f"/{camera}/image_raw")
    watch.image(message, 1.0)
    level, text = watch.finding()
    assert level == (WARN if words else OK)
    assert words in text
    assert bool(text) == bool(words)
    assert watch.suits_other == bool(words)


def test_grey_in_a_colour_encoding_is_mentioned() -> None:
    watch = ContentWatch("thermal", "/thermal/image_raw")
    watch.image(raw(GREY, "rgb8"), 1.0)
    assert watch.finding() == (OK, "rgb8 whose channels are equal, taken as grey")


def test_depth_by_its_name() -> None:
    watch = ContentWatch("thermal", "/camera/depth/image_raw")
    watch.image(raw(COUNTS, "16UC1"), 1.0)
    level, text = watch.finding()
    assert level == WARN
    assert "a depth topic by its name" in text


def test_images_are_examined_now_and_then() -> None:
    watch = ContentWatch("rgb", "/rgb/image_raw")
    watch.image(raw(COUNTS, "mono16"), 1.0)
    watch.image(raw(COLOUR, "rgb8"), 2.0)
    assert watch.finding()[0] == WARN
    watch.image(raw(COLOUR, "rgb8"), 3.0)
    assert watch.finding() == (OK, "")
