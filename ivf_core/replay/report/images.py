"""The pictures of a report: JPEGs as data URIs, as many and as large as a budget allows."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from pathlib import Path

import cv2
import numpy as np

__all__ = ["embed_pictures"]

_WIDTHS = (480, 400, 320, 256, 192)
_QUALITY = 80
_SAMPLES = 12  # pairs that the size of all is estimated from
_BASE64 = 4 / 3


def embed_pictures(
    pictures: Mapping[int, Mapping[str, Path]], keep: Collection[int], budget: int
) -> dict[int, dict[str, str]]:
    """Pictures as data URIs, first made narrower, then fewer, until they fit.

    Args:
        pictures: JPEG files by pair number and kind.
        keep: pair numbers that must not be left out.
        budget: bytes of all URIs together; about, as it is estimated from a sample, and
            not kept where `keep` alone exceeds it.

    Returns:
        URIs by pair number and kind.

    Raises:
        ValueError: a file that is not a picture, by its path.
    """
    pairs = sorted(pictures)
    if not pairs:
        return {}
    sample = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, _SAMPLES).astype(int))]
    for width in _WIDTHS:
        size = _BASE64 * sum(
            len(_jpeg(path, width)) for pair in sample for path in pictures[pair].values()
        )
        affordable = int(budget / (size / len(sample)))
        if len(pairs) <= affordable:
            break
    else:
        pairs = _thin(pairs, set(keep), affordable)
    return {
        pair: {kind: _data_uri(_jpeg(path, width)) for kind, path in pictures[pair].items()}
        for pair in pairs
    }


def _thin(pairs: list[int], keep: set[int], count: int) -> list[int]:
    """All of `keep`, and of the others so many, evenly spread, that there are `count`."""
    kept = [pair for pair in pairs if pair in keep]
    others = [pair for pair in pairs if pair not in keep]
    places = np.linspace(0, len(others) - 1, max(0, min(count - len(kept), len(others))))
    return sorted(kept + [others[place] for place in places.round().astype(int)])


def _jpeg(path: Path, width: int) -> bytes:
    """A JPEG file at most `width` wide; its own bytes where it is that already."""
    data = path.read_bytes()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError(f"'{path}' is not a picture")
    if image.shape[1] <= width:
        return data
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
