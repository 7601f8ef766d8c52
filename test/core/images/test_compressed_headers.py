"""Format and size of compressed images, read without decoding; formats that are rejected."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from ivf_core.images.compressed_headers import compressed_size
from ivf_core.images.messages import MessageError, to_infrared, to_visible

IMAGE = np.random.default_rng(0).integers(0, 255, (45, 67, 3), np.uint8)


def _encode(suffix: str, image: np.ndarray = IMAGE, *options: int) -> bytes:
    return cv2.imencode(suffix, image, list(options))[1].tobytes()


def _message(data: bytes) -> SimpleNamespace:
    return SimpleNamespace(format="jpeg", data=data)


@pytest.mark.parametrize(
    ("suffix", "options", "format_"),
    [
        (".jpg", (), "JPEG"),
        (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "JPEG"),
        (".png", (), "PNG"),
        (".tiff", (), "TIFF"),
    ],
)
def test_size_is_that_of_the_decoded_image(suffix: str, options: tuple, format_: str) -> None:
    data = _encode(suffix, IMAGE, *options)
    assert compressed_size(data) == (format_, 67, 45)
    assert to_visible(_message(data)).shape == (45, 67, 3)


def test_jpeg_with_a_thumbnail_and_padding() -> None:
    data, thumbnail = _encode(".jpg"), _encode(".jpg", IMAGE[:8, :8])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    assert compressed_size(data[:2] + segment + b"\xff\xff" + data[2:]) == ("JPEG", 67, 45)


@pytest.mark.parametrize(
    "entries", [((256, 3, 67), (257, 3, 45)), ((256, 4, 67), (257, 4, 45))], ids=["short", "long"]
)
@pytest.mark.parametrize("order", ["little", "big"])
def test_tiff_of_both_byte_orders(entries: tuple, order: str) -> None:
    data = b"II*\0" if order == "little" else b"MM\0*"
    data += (8).to_bytes(4, order) + len(entries).to_bytes(2, order)
    for tag, kind, value in entries:
        data += tag.to_bytes(2, order) + kind.to_bytes(2, order) + (1).to_bytes(4, order)
        data += value.to_bytes(2 if kind == 3 else 4, order).ljust(4, b"\0")
    assert compressed_size(data) == ("TIFF", 67, 45)


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".jp2", ".ras", ".ppm", ".avif", ".gif"])
def test_other_formats_are_not_decoded(suffix: str) -> None:
    try:
        data = _encode(suffix)
    except cv2.error:
        pytest.skip(f"this OpenCV does not write {suffix}")
    with pytest.raises(MessageError, match="expected a JPEG, PNG or TIFF image") as raised:
        to_visible(_message(data))
    assert raised.value.reason == "undecodable"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff"])
def test_every_beginning_of_a_file_is_answered(suffix: str) -> None:
    data = _encode(suffix, IMAGE[:4, :4])
    for length in range(len(data)):
        try:
            assert compressed_size(data[:length])[1:] == (4, 4)
        except ValueError:
            continue


def _png_of(width: int, height: int) -> bytes:
    data = bytearray(_encode(".png", np.zeros((8, 8), np.uint8)))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("read", [to_visible, to_infrared])
def test_images_beyond_the_limit_are_rejected_unread(read: object) -> None:
    for width, height in ((40_000, 30_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(MessageError, match=f"{width} x {height}: more than 64 mega") as raised:
            read(_message(_png_of(width, height)))
        assert raised.value.reason == "too_large"
    data = _encode(".png", np.zeros((20, 51), np.uint8))
    with pytest.raises(MessageError, match=r"51 x 20: more than 0\.001 megapixels"):
        read(_message(data), 1000)
    assert read(_message(data), 1020).shape[:2] == (20, 51)


def test_limit_holds_for_raw_images() -> None:
    message = SimpleNamespace(
        encoding="mono8", height=20, width=51, step=51, is_bigendian=0, data=bytes(20 * 51)
    )
    with pytest.raises(MessageError, match="more than") as raised:
        to_infrared(message, 1000)
    assert raised.value.reason == "too_large"
