"""Class colours over fused pictures, and panels for looking at results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.images.palettes import PALETTES, apply_palette

__all__ = ["OVERLAY_PALETTES", "color_labels", "draw_overlay", "side_by_side"]

OVERLAY_PALETTES = ("natural", *PALETTES)
"""Bases of an overlay: the fused picture's own colours, or false colours of its luma."""

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
    brightest reach full value, and colours of one hue stay apart.

    Args:
        fused: H x W x 3 uint8 RGB.
        labels: H x W uint8 class ids. Class 0 where the set calls it unlabeled
            or background, 255 and ids outside the set are not tinted.
        class_set: names and colours of the ids.
        opacity: share of the class colour, 0 to 1.
        palette: one of `OVERLAY_PALETTES`.

    Returns:
        H x W x 3 uint8 RGB, a new array.

    Raises:
        ValueError: sizes, types, opacity or palette are not as above.
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


def color_labels(labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Show class ids in the set's published colours, black where there is no class.

    Args:
        labels: H x W uint8.
        class_set: names and colours of the ids.

    Returns:
        H x W x 3 uint8 RGB.
    """
    return cv2.applyColorMap(labels, class_set.lookup_table()[:, None])


def side_by_side(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Put pictures in a row, each under a bar with its title.

    Args:
        pictures: H x W or H x W x 3 uint8 RGB; all are brought to the largest
            height, keeping their proportions.
        titles: one a picture; ASCII.

    Returns:
        One picture, uint8 RGB.

    Raises:
        ValueError: no pictures, or not one title for each.
    """
    if not pictures or len(pictures) != len(titles):
        raise ValueError(f"{len(pictures)} pictures and {len(titles)} titles, expected one each")
    height = max(picture.shape[0] for picture in pictures)
    panels = [
        np.vstack((_caption(title, picture.shape[1], height), picture))
        for picture, title in zip((_panel(p, height) for p in pictures), titles, strict=True)
    ]
    return np.hstack(panels)


@lru_cache(maxsize=8)
def _overlay_tables(class_set: ClassSet) -> tuple[np.ndarray, np.ndarray]:
    """256 x 3 uint8 RGB colours, and 256 uint8 that are 1 for ids to tint."""
    colors = class_set.lookup_table().astype(np.float64)
    value = colors.max(axis=1, keepdims=True)
    raised = 255 * np.sqrt(value / max(value.max(), 1.0))
    colors *= raised / np.maximum(value, 1.0)
    tinted = np.zeros(256, np.uint8)
    tinted[: len(class_set)] = 1
    if class_set.names[0].lower() in _BACKGROUND_NAMES:
        tinted[0] = 0
    return np.rint(colors).astype(np.uint8), tinted


def _panel(picture: np.ndarray, height: int) -> np.ndarray:
    """`picture` as RGB at a height."""
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    if picture.shape[0] == height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def _caption(title: str, width: int, height: int) -> np.ndarray:
    """A dark bar with a title that is made to fit."""
    bar = np.full((max(20, height // 16), width, 3), 32, np.uint8)
    font, margin = cv2.FONT_HERSHEY_SIMPLEX, bar.shape[0] // 4
    scale = bar.shape[0] / 42
    (text_width, _), _ = cv2.getTextSize(title, font, scale, 1)
    scale *= min(1.0, max(1, width - 2 * margin) / max(1, text_width))
    (_, text_height), _ = cv2.getTextSize(title, font, scale, 1)
    origin = (margin, (bar.shape[0] + text_height) // 2)
    return cv2.putText(bar, title, origin, font, scale, (235, 235, 235), 1, cv2.LINE_AA)
