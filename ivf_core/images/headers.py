"""Headers of image files: size, number of images and kind of pixels, before they are decoded."""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["ImageHeader", "read_header"]

_FLOAT, _SIGNED = 3, 2
_WIDTH, _HEIGHT, _BITS, _FORMAT, _SUBFILE = 256, 257, 258, 339, 254
_VALUE_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_PAGES = 100_000


class ImageHeader(NamedTuple):
    """Header of an image file.

    Attributes:
        width: width of the first image in pixels, 0 where it is unknown.
        height: its height.
        images: number of images: pages without thumbnails, or frames of an animation.
        pixels: kind of pixels in words, "16-bit float"; "" where it is unknown.
    """

    width: int = 0
    height: int = 0
    images: int = 1
    pixels: str = ""


def read_header(data: bytes) -> ImageHeader:
    """Read the header of a TIFF, PNG or WebP file; of others, what is known of all.

    Args:
        data: content of the file.
    """
    try:
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, ValueError, IndexError, KeyError):  # cut off
        pass
    return ImageHeader()


def _png(data: bytes) -> ImageHeader:
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    images, place = 1, 8
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"acTL":
            (images,) = struct.unpack_from(">I", data, place + 8)
        if kind in (b"IDAT", b"IEND"):
            break
        place += 12 + length
    return ImageHeader(width, height, images, f"{bits}-bit")


def _webp(data: bytes) -> ImageHeader:
    images, place = 0, 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        images += kind == b"ANMF"
        place += 8 + length + length % 2
    return ImageHeader(images=max(1, images))


def _tiff(data: bytes) -> ImageHeader:
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count_format, entry, offset_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    place = struct.unpack_from(order + offset_format, data, 8 if big else 4)[0]
    first: dict[int, int] = {}
    pages, seen = 0, set[int]()
    while place and place not in seen and len(seen) < _MOST_PAGES:
        seen.add(place)
        (count,) = struct.unpack_from(order + count_format, data, place)
        at = place + struct.calcsize(order + count_format)
        tags = {}
        for number in range(count):
            tag, value = _tiff_entry(data, at + number * entry, order, big)
            tags[tag] = value
        # A thumbnail or an overview of another page has bit 0, a mask bit 2.
        if not tags.get(_SUBFILE, 0) & 5:
            pages += 1
            first = first or tags
        place = struct.unpack_from(order + offset_format, data, at + count * entry)[0]
    kind = {_FLOAT: " float", _SIGNED: " signed"}.get(first.get(_FORMAT, 1), "")
    pixels = f"{first.get(_BITS, 1)}-bit{kind}"
    return ImageHeader(first.get(_WIDTH, 0), first.get(_HEIGHT, 0), max(1, pages), pixels)


def _tiff_entry(data: bytes, at: int, order: str, big: bool) -> tuple[int, int]:
    """Read tag and first value of an entry of a directory; the value is 0 for other types."""
    tag, kind = struct.unpack_from(order + "HH", data, at)
    (count,) = struct.unpack_from(order + ("Q" if big else "I"), data, at + 4)
    at += 12 if big else 8
    if kind not in _VALUE_FORMATS:
        return tag, 0
    value = order + _VALUE_FORMATS[kind]
    if struct.calcsize(value) * count > (8 if big else 4):
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
    return tag, int(struct.unpack_from(value, data, at)[0])
