"""Still images on disk: read visible, infrared and label images, write and list them."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import cv2
import numpy as np

from ivf_core.system.atomic import atomic_path

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageFileError",
    "list_images",
    "read_four_channels",
    "read_infrared",
    "read_labels",
    "read_visible",
    "write_image",
]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# Suffixes of formats that store a dtype without loss.
_WRITABLE = {
    "uint8": IMAGE_SUFFIXES,
    "uint16": (".png", ".tif", ".tiff"),
    "float32": (".tif", ".tiff"),
}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_END = 33
_PNG_PALETTE = 3

_PathLike = str | os.PathLike[str]


class ImageFileError(ValueError):
    """Error for an image, folder or video that is missing, damaged or of the wrong kind."""


def read_visible(path: _PathLike) -> np.ndarray:
    """Read a colour or grey image as RGB.

    Args:
        path: file in any format of `IMAGE_SUFFIXES`.

    Returns:
        H x W x 3 uint8 RGB; the upper eight bits of deeper files.

    Raises:
        ImageFileError: the file is missing or damaged; the message names it.
    """
    return cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_infrared(path: _PathLike) -> np.ndarray:
    """Read a thermal image at the depth of its file.

    Args:
        path: file in any format of `IMAGE_SUFFIXES`.

    Returns:
        H x W uint8, uint16 or float32; the luma of images with three channels.

    Raises:
        ImageFileError: the file is missing, damaged or of another depth; the message
            names it.
    """
    # Unlike IMREAD_UNCHANGED, these flags apply the orientation that cameras store, as
    # IMREAD_COLOR does, so that both images of a pair are upright.
    image = _read(path, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageFileError(
            f"thermal image '{path}': pixels are {image.dtype}, "
            "expected 8 or 16 bit unsigned or 32 bit float"
        )
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def read_four_channels(path: _PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Read an image whose fourth channel is the thermal one, the format of MFNet's pairs.

    Args:
        path: file with four 8-bit channels.

    Returns:
        H x W x 3 uint8 RGB and H x W uint8 thermal.

    Raises:
        ImageFileError: the file is missing, damaged or of another format; the message
            names it.
    """
    image = _read(path, cv2.IMREAD_UNCHANGED)
    if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        raise ImageFileError(
            f"image '{path}': {' x '.join(map(str, image.shape))} {image.dtype}, "
            "expected four 8-bit channels, RGB and thermal"
        )
    return cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB), image[..., 3].copy()


def read_labels(path: _PathLike) -> np.ndarray:
    """Read an image of class ids as stored, without scaling or colours.

    The ids of a PNG with a palette are its palette indices.

    Args:
        path: single-channel 8-bit file.

    Returns:
        H x W uint8.

    Raises:
        ImageFileError: the file is missing, damaged or of another format; the message
            names it.
    """
    data = _read_bytes(path)
    stored, factor = _without_palette(data)
    ids = _decode(path, stored, cv2.IMREAD_UNCHANGED)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ImageFileError(f"labels '{path}': expected a single-channel 8-bit image of ids")
    return ids // np.uint8(factor)


def write_image(path: _PathLike, image: np.ndarray) -> None:
    """Write an image in the format of its suffix, under a temporary name first.

    Args:
        path: ends in one of `IMAGE_SUFFIXES`; missing folders are created.
        image: H x W x 3 RGB or H x W, uint8; for PNG and TIFF also uint16, for
            TIFF also float32.

    Raises:
        ImageFileError: the suffix is unknown or its format cannot hold the image.
    """
    path = Path(path)
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] == 3):
        raise ImageFileError(f"'{path}': shape {image.shape}, expected H x W or H x W x 3")
    suffixes = _WRITABLE.get(image.dtype.name, ())
    if path.suffix.lower() not in suffixes:
        raise ImageFileError(
            f"'{path}': {image.dtype} cannot be written to '{path.suffix}', "
            f"expected {', '.join(suffixes) or 'uint8, uint16 or float32'}"
        )
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        _, encoded = cv2.imencode(path.suffix.lower(), image)
    except cv2.error as error:
        raise ImageFileError(f"'{path}': cannot be encoded: {error}") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def list_images(folder: _PathLike) -> dict[str, Path]:
    """List the images in a folder by stem, sorted, without hidden files and other types.

    Args:
        folder: directory to list, without its subdirectories.

    Returns:
        Paths by stem.

    Raises:
        ImageFileError: `folder` is not a directory, or two images share a stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageFileError(f"'{folder}': no such folder")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if not path.is_file():
            continue
        if path.stem in images:
            raise ImageFileError(
                f"'{folder}': {images[path.stem].name} and {path.name} share a stem"
            )
        images[path.stem] = path
    return dict(sorted(images.items()))


def _read(path: _PathLike, flags: int) -> np.ndarray:
    """Decode a file: H x W or H x W x 3 in OpenCV's order."""
    return _decode(path, _read_bytes(path), flags)


def _read_bytes(path: _PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageFileError(f"image '{path}': no such file") from error
    except OSError as error:
        raise ImageFileError(f"image '{path}': cannot be read: {error}") from error


def _decode(path: _PathLike, data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        image = None
    if image is None or _is_truncated_jpeg(data):
        raise ImageFileError(f"image '{path}': damaged or not an image")
    return image


def _without_palette(data: bytes) -> tuple[bytes, int]:
    """Turn a PNG with a palette into one of grey values, and return OpenCV's factor on them.

    OpenCV replaces palette indices by their colours, and scales values of 1, 2 and 4 bits
    to 0..255.
    """
    if data[:8] != _PNG or len(data) < _PNG_HEADER_END:
        return data, 1
    bits, color_type = data[24], data[25]
    if color_type == _PNG_PALETTE:
        header = data[12:25] + b"\0" + data[26:29]  # 0: grey
        chunks = [data[:12], header, zlib.crc32(header).to_bytes(4, "big")]
        start = _PNG_HEADER_END
        while start < len(data):
            end = start + 12 + int.from_bytes(data[start : start + 4], "big")
            if data[start + 4 : start + 8] in (b"IDAT", b"IEND"):
                chunks.append(data[start:end])
            start = end
        data = b"".join(chunks)
    return data, 255 // (2**bits - 1) if bits in (1, 2, 4) else 1


def _is_truncated_jpeg(data: bytes) -> bool:
    """Return whether a JPEG lacks its end marker; libjpeg fills the missing part with grey.

    Neither marker can occur in compressed data, and a thumbnail, which has both, precedes
    the image.
    """
    start_of_scan, end = b"\xff\xda", b"\xff\xd9"
    return data.startswith(b"\xff\xd8") and data.rfind(end) < data.rfind(start_of_scan)
