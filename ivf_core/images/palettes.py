"""Thermal palettes: false colours for single-channel images."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["PALETTES", "apply_palette"]

_GREY = np.arange(256, dtype=np.uint8)

# (grey level, (R, G, B)), from cold black through purple and orange to hot white.
_IRONBOW_POINTS = (
    (0, (0, 0, 10)),
    (32, (34, 0, 110)),
    (80, (130, 0, 155)),
    (128, (200, 35, 110)),
    (168, (235, 95, 20)),
    (212, (253, 180, 5)),
    (240, (255, 235, 100)),
    (255, (255, 255, 246)),
)


def _interpolated(points: tuple[tuple[int, tuple[int, int, int]], ...]) -> np.ndarray:
    positions = [position for position, _ in points]
    channels = zip(*(color for _, color in points), strict=True)
    table = [np.interp(_GREY, positions, channel) for channel in channels]
    return np.rint(np.stack(table, axis=1)).astype(np.uint8)


def _from_opencv(colormap: int) -> np.ndarray:
    return cv2.applyColorMap(_GREY[:, None], colormap)[:, 0, ::-1].copy()


PALETTES: dict[str, np.ndarray] = {
    "white_hot": np.repeat(_GREY[:, None], 3, axis=1),
    "black_hot": np.repeat(_GREY[::-1, None], 3, axis=1),
    "ironbow": _interpolated(_IRONBOW_POINTS),
    "inferno": _from_opencv(cv2.COLORMAP_INFERNO),
    "turbo": _from_opencv(cv2.COLORMAP_TURBO),
}
"""Tables of 256 x 3 uint8 RGB by name, from cold to hot."""

for _table in PALETTES.values():
    _table.setflags(write=False)


def apply_palette(gray: np.ndarray, name: str) -> np.ndarray:
    """Apply a palette to an image.

    Args:
        gray: H x W uint8.
        name: one of `PALETTES`.

    Returns:
        H x W x 3 uint8 RGB.

    Raises:
        ValueError: an unknown palette, or `gray` is not H x W uint8.
    """
    if name not in PALETTES:
        raise ValueError(f"palette is '{name}', expected one of: {', '.join(PALETTES)}")
    if gray.ndim != 2 or gray.dtype != np.uint8:
        raise ValueError(f"image is {gray.shape} {gray.dtype}, expected H x W uint8")
    # OpenCV applies a given table without reordering channels: RGB in, RGB out.
    return cv2.applyColorMap(gray, PALETTES[name][:, None])
