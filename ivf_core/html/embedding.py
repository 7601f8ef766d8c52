"""Images as data URIs, so that a page is one file that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from pathlib import Path

import cv2
import numpy as np

__all__ = ["data_uri", "embed_file", "embed_images"]

_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}

_WIDTHS = (480, 400, 320, 256, 192)
_QUALITY = 80
_SAMPLES = 12  # pairs from which the size of all images is estimated
_BASE64 = 4 / 3


def data_uri(data: bytes, suffix: str) -> str:
    """Return the data URI of an image file's bytes.

    Args:
        data: content of the file.
        suffix: ".svg", ".png" or ".jpg".
    """
    return f"data:{_MEDIA_TYPES[suffix]};base64,{base64.b64encode(data).decode('ascii')}"


def embed_file(path: Path) -> str:
    """Return the data URI of an SVG, PNG or JPEG file."""
    return data_uri(path.read_bytes(), path.suffix)


def embed_images(
    images: Mapping[int, Mapping[str, Path]], required: Collection[int], budget: int
) -> dict[int, dict[str, str]]:
    """Return images as data URIs that fit a budget: first narrower, then fewer.

    Args:
        images: JPEG files by pair number and kind.
        required: pair numbers that must not be left out.
        budget: size of all URIs together in bytes. It is approximate, since the size is
            estimated from a sample, and is exceeded where `required` alone exceeds it.

    Returns:
        URIs by pair number and kind.

    Raises:
        ValueError: a file is not an image; names its path.
    """
    pairs = sorted(images)
    if not pairs:
        return {}
    sample = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, _SAMPLES).astype(int))]
    for width in _WIDTHS:
        size = _BASE64 * sum(
            len(_jpeg(path, width)) for pair in sample for path in images[pair].values()
        )
        affordable = int(budget / (size / len(sample)))
        if len(pairs) <= affordable:
            break
    else:
        pairs = _thin(pairs, set(required), affordable)
    return {
        pair: {kind: data_uri(_jpeg(path, width), ".jpg") for kind, path in images[pair].items()}
        for pair in pairs
    }


def _thin(pairs: list[int], required: set[int], count: int) -> list[int]:
    """Return all required pairs, and others at even distances, up to `count` pairs."""
    chosen = [pair for pair in pairs if pair in required]
    others = [pair for pair in pairs if pair not in required]
    places = np.linspace(0, len(others) - 1, max(0, min(count - len(chosen), len(others))))
    return sorted(chosen + [others[place] for place in places.round().astype(int)])


def _jpeg(path: Path, width: int) -> bytes:
    """Return a JPEG at most `width` pixels wide; the file's own bytes where they are that."""
    data = path.read_bytes()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError(f"'{path}' is not an image")
    if image.shape[1] <= width:
        return data
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
