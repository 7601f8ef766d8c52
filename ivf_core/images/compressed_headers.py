"""Format and size of compressed images, from their first bytes and without decoding them."""

from __future__ import annotations

import struct

__all__ = ["FORMATS", "compressed_size"]

FORMATS = ("JPEG", "PNG", "TIFF")
"""Formats that image messages may hold."""

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of whole numbers, by their codes
_WIDTH_TAG, _HEIGHT_TAG = 256, 257
# Start of frame of a JPEG: C0 to CF without the tables C4, C8 and CC.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def compressed_size(data: bytes) -> tuple[str, int, int]:
    """Read format and size of a JPEG, PNG or TIFF image from its header.

    Args:
        data: the whole file; of a TIFF the size of the first page is read.

    Returns:
        One of `FORMATS`, width and height in pixels.

    Raises:
        ValueError: another format, or a header without a size.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return "JPEG", *_jpeg_size(data)
        if data.startswith(_PNG):
            if data[12:16] != b"IHDR":
                raise ValueError("PNG without a header")
            width, height = struct.unpack_from(">II", data, 16)
            return "PNG", width, height
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return "TIFF", *_tiff_size(data)
    except (struct.error, IndexError) as error:
        raise ValueError("the header is damaged or cut off") from error
    raise ValueError(f"expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the first start of frame."""
    position = 2
    while True:
        while data[position] != 0xFF:  # decoders skip what is between two segments
            position = data.find(b"\xff", position) % (len(data) + 1)
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 3)
            return width, height
        if marker in (0xD9, 0xDA):
            raise ValueError("JPEG without a size")
        if marker not in _WITHOUT_LENGTH and marker != 0:
            position += struct.unpack_from(">H", data, position)[0]


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the first page."""
    order = "<" if data.startswith(b"II") else ">"
    is_big = 0x2B in data[2:4]  # BigTIFF: offsets of 8 bytes
    start = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)[0]
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
    start += 8 if is_big else 2
    entry = 20 if is_big else 12
    sizes: dict[int, int] = {}
    for position in range(start, min(start + count * entry, len(data)), entry):
        tag, kind = struct.unpack_from(order + "HH", data, position)
        if tag in (_WIDTH_TAG, _HEIGHT_TAG) and kind in _TIFF_TYPES:
            value = position + (12 if is_big else 8)
            sizes[tag] = struct.unpack_from(order + _TIFF_TYPES[kind], data, value)[0]
    if len(sizes) < 2:
        raise ValueError("TIFF without a size")
    return sizes[_WIDTH_TAG], sizes[_HEIGHT_TAG]
