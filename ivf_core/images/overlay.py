"""Overlays of class colours on fused images, and panels of several images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.images.palettes import PALETTES, apply_palette

__all__ = [
    "OVERLAY_PALETTES",
    "color_labels",
    "draw_overlay",
    "overlay_colors",
    "side_by_side",
    "stack_rows",
]

OVERLAY_PALETTES = ("natural", *PALETTES)
"""Base images of an overlay: the fused image's own colours, or false colours of its luma."""

_BACKGROUND_NAMES = ("unlabeled", "unlabelled", "background")


def draw_overlay(
    fused: np.ndarray,
    labels: np.ndarray,
    class_set: ClassSet,
    opacity: float,
    palette: str = "natural",
) -> np.ndarray:
    """Tint the pixels of each class with its colour.

    Published class colours are often too dark to see on a night scene. Here
    they keep hue and saturation, and their value (HSV) v becomes
    sqrt(v / v_max), v_max being that of the set's brightest colour: the
    brightest reach full value, and colours of the same hue remain distinct.

    Args:
        fused: H x W x 3 uint8 RGB.
        labels: H x W uint8 class ids. Ids outside the set are not tinted, nor 255, nor
            class 0 if the set names it unlabeled or background.
        class_set: names and colours of the ids.
        opacity: share of the class colour, 0 to 1.
        palette: one of `OVERLAY_PALETTES`.

    Returns:
        H x W x 3 uint8 RGB, a new array.

    Raises:
        ValueError: sizes, dtypes, opacity or palette are not as above.
    """
    if fused.ndim != 3 or fused.shape[2] != 3 or fused.dtype != np.uint8:
        raise ValueError(f"fused is {fused.shape} {fused.dtype}, expected H x W x 3 uint8")
    if labels.shape != fused.shape[:2] or labels.dtype != np.uint8:
        raise ValueError(
            f"labels are {labels.shape} {labels.dtype}, expected {fused.shape[:2]} uint8"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}, expected 0 to 1")
    if palette not in OVERLAY_PALETTES:
        raise ValueError(f"palette is '{palette}', expected one of: {', '.join(OVERLAY_PALETTES)}")
    if palette == "natural":
        base = fused.copy()
    else:
        base = apply_palette(cv2.cvtColor(fused, cv2.COLOR_RGB2GRAY), palette)
    colors, tinted = _overlay_tables(class_set)
    tint = cv2.applyColorMap(labels, colors[:, None])
    tint = cv2.addWeighted(base, 1 - opacity, tint, opacity, 0)
    return cv2.copyTo(tint, cv2.LUT(labels, tinted), base)


def overlay_colors(class_set: ClassSet) -> np.ndarray:
    """Return the colours that `draw_overlay` tints with, by class id.

    Args:
        class_set: names and colours of the ids.

    Returns:
        256 x 3 uint8 RGB, black for ids that are not tinted.
    """
    colors, tinted = _overlay_tables(class_set)
    return colors * tinted[:, None]


def color_labels(labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Colour class ids with the set's published colours, black for ids without a class.

    Args:
        labels: H x W uint8.
        class_set: names and colours of the ids.

    Returns:
        H x W x 3 uint8 RGB.
    """
    return cv2.applyColorMap(labels, class_set.lookup_table()[:, None])


def side_by_side(images: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Join images in a row, each below a bar with its title.

    Args:
        images: H x W or H x W x 3 uint8 RGB; all are scaled to the largest
            height, keeping their proportions.
        titles: one for each image; ASCII.

    Returns:
        One image, H x W x 3 uint8 RGB.

    Raises:
        ValueError: no images, or not one title for each.
    """
    if not images or len(images) != len(titles):
        raise ValueError(f"{len(images)} images and {len(titles)} titles, expected one each")
    height = max(image.shape[0] for image in images)
    panels = [
        np.vstack((_caption(title, panel.shape[1], height), panel))
        for panel, title in zip((_panel(i, height) for i in images), titles, strict=True)
    ]
    return np.hstack(panels)


def stack_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Join rows of images below one another, filled with black to the widest, 4 pixels apart.

    Args:
        rows: H x W x 3 uint8 RGB each, at least one.

    Returns:
        One image, H x W x 3 uint8 RGB.
    """
    width = max(row.shape[1] for row in rows)
    return np.vstack(
        [cv2.copyMakeBorder(r, 0, 4, 0, width - r.shape[1], cv2.BORDER_CONSTANT) for r in rows]
    )


@lru_cache(maxsize=8)
def _overlay_tables(class_set: ClassSet) -> tuple[np.ndarray, np.ndarray]:
    """Return 256 x 3 uint8 RGB colours, and 256 uint8 that are 1 for ids to tint."""
    colors = class_set.lookup_table().astype(np.float64)
    value = colors.max(axis=1, keepdims=True)
    raised = 255 * np.sqrt(value / max(value.max(), 1.0))
    colors *= raised / np.maximum(value, 1.0)
    tinted = np.zeros(256, np.uint8)
    tinted[: len(class_set)] = 1
    if class_set.names[0].lower() in _BACKGROUND_NAMES:
        tinted[0] = 0
    return np.rint(colors).astype(np.uint8), tinted


def _panel(image: np.ndarray, height: int) -> np.ndarray:
    """Convert an image to RGB and scale it to a height."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _caption(title: str, width: int, height: int) -> np.ndarray:
    """Draw a dark bar with a title scaled to fit."""
    bar = np.full((max(20, height // 16), width, 3), 32, np.uint8)
    font, margin = cv2.FONT_HERSHEY_SIMPLEX, bar.shape[0] // 4
    scale = bar.shape[0] / 42
    (text_width, _), _ = cv2.getTextSize(title, font, scale, 1)
    scale *= min(1.0, max(1, width - 2 * margin) / max(1, text_width))
    (_, text_height), _ = cv2.getTextSize(title, font, scale, 1)
    origin = (margin, (bar.shape[0] + text_height) // 2)
    return cv2.putText(bar, title, origin, font, scale, (235, 235, 235), 1, cv2.LINE_AA)
