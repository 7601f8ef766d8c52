"""Still images on disk: read visible, infrared and label images, write and list them."""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

import cv2
import numpy as np

from ivf_core.images.headers import read_header
from ivf_core.system.atomic import atomic_path

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageFileError",
    "list_images",
    "read_four_channels",
    "read_infrared",
    "read_labels",
    "read_visible",
    "warn_if_colored",
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
_MOST_PIXELS = int(os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", 1 << 30))  # OpenCV's limit
_COLORED_LEVELS = 24  # JPEG's chroma of a grey image stays below
_COLORED_SHARE = 0.05
_log = logging.getLogger(__name__)
_colored_folders: set[Path] = set()

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
        H x W uint8, uint16 or float32 (also for 16-bit signed files); the luma of images with
        three channels. A warning names the first image of a folder that is in false colours.

    Raises:
        ImageFileError: the file is missing, damaged or of another depth; the message
            names it.
    """
    # Unlike IMREAD_UNCHANGED, these flags apply the orientation that cameras store, as
    # IMREAD_COLOR does, so that both images of a pair are upright.
    image = _read(path, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if image.dtype == np.int16:
        image = image.astype(np.float32)
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageFileError(
            f"thermal image '{path}': pixels are {image.dtype}, "
            "expected 8 or 16 bit unsigned or 32 bit float"
        )
    if image.ndim == 2:
        return image
    warn_if_colored(image, Path(path))
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def warn_if_colored(image: np.ndarray, path: Path) -> None:
    """Warn, once for a folder, if a thermal image is in false colours.

    The luma of a false colour does not grow with the temperature.

    Args:
        image: H x W x 3 in any order of the channels.
        path: file that it is from.
    """
    if path.parent in _colored_folders or image.dtype != np.uint8:
        return
    spread = image.max(axis=2) - image.min(axis=2)
    if (spread > _COLORED_LEVELS).mean() > _COLORED_SHARE:
        _colored_folders.add(path.parent)
        _log.warning(
            "thermal image '%s': in false colours; its luma is used, which does not grow with the "
            "temperature; expected a grey image",
            path,
        )


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
    if not data:
        raise ImageFileError(f"image '{path}': damaged or not an image: the file is empty")
    header = read_header(data)
    if header.images > 1:
        raise ImageFileError(
            f"image '{path}': it holds {header.images} images (pages, or frames of an animation), "
            "expected one; save each as a file of a folder"
        )
    if header.width * header.height > _MOST_PIXELS:
        raise ImageFileError(
            f"image '{path}': {header.width} x {header.height} pixels, expected at most "
            f"{_MOST_PIXELS} in all"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        if isinstance(error, MemoryError) or error.code == cv2.Error.StsNoMem:
            raise ImageFileError(f"image '{path}': memory is too small for it") from error
        if "IO_MAX_IMAGE" in str(error):
            raise ImageFileError(
                f"image '{path}': it has more pixels than OpenCV decodes, expected at most "
                f"{_MOST_PIXELS} in all"
            ) from error
        image = None
    if image is None and ("float" in header.pixels or "signed" in header.pixels):
        raise ImageFileError(
            f"image '{path}': its pixels are {header.pixels}, which cannot be decoded as asked; "
            "expected 8 or 16 bit unsigned, or 32 bit float in one channel for a thermal image"
        )
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
