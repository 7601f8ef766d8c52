"""Textured surfaces of a scene: upright sprites, walls, and folds of cloth."""

from __future__ import annotations

import cv2
import numpy as np

from ivf_core.scenes.camera import NEAR
from ivf_core.scenes.canvas import Canvas
from ivf_core.scenes.light import RGB
from ivf_core.scenes.textures import Texture, weave

__all__ = ["draw_sprite", "draw_wall", "modulate_by_weave"]


def draw_sprite(
    canvas: Canvas,
    texture: Texture,
    left: float,
    top: float,
    width: float,
    height: float,
    heat: float,
    *,
    contrast: float = 1.0,
    tint: RGB = (1.0, 1.0, 1.0),
) -> None:
    """Draw a texture with a mask upright, without a label.

    Args:
        canvas: canvas to draw on.
        texture: a texture with masks.
        left: column of its left edge.
        top: row of its upper edge.
        width: its width in pixels.
        height: its height in pixels.
        heat: level of heat that 128 stands for in the texture.
        contrast: factor on the texture's heat.
        tint: factor on the texture's colour.
    """
    x0, y0 = round(left), round(top)
    w, h = max(round(width), 1), max(round(height), 1)
    box = _overlap((x0, y0, x0 + w, y0 + h), canvas.labels.shape)
    if box is None:
        return
    left_px, top_px, right_px, bottom_px = box
    size = (right_px - left_px, bottom_px - top_px)
    level = texture.level_for(w)
    source, mask = texture.levels[level], texture.masks[level]
    # Only the part inside the image is resampled.
    step_x, step_y = source.shape[1] / w, source.shape[0] / h
    shift = np.array(
        [
            [step_x, 0, (left_px - x0 + 0.5) * step_x - 0.5],
            [0, step_y, (top_px - y0 + 0.5) * step_y - 0.5],
        ]
    )
    back = cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(
        source, shift, size, flags=cv2.INTER_LINEAR | back, borderMode=cv2.BORDER_REPLICATE
    )
    shape = cv2.warpAffine(mask, shift, size, flags=cv2.INTER_NEAREST | back)
    _paste(canvas, patch, shape, box, canvas.texture_transform(heat, contrast, tint))


def draw_wall(
    canvas: Canvas,
    texture: Texture,
    corners: np.ndarray,
    heat: float,
    *,
    contrast: float = 1.0,
    tint: RGB = (1.0, 1.0, 1.0),
) -> None:
    """Draw a texture on an upright rectangle of the world, without a label.

    The texture contains its own light, since its windows may glow.

    Args:
        canvas: canvas to draw on.
        texture: a texture without masks.
        corners: 4 x 3 points of the world: bottom near, bottom far, top far, top near.
        heat: level of heat that 128 stands for in the texture.
        contrast: factor on the texture's heat.
        tint: factor on the texture's colour.
    """
    near, far = corners[0], corners[1]
    start = 0.0
    if near[2] - canvas.camera.z < NEAR:
        if far[2] - canvas.camera.z <= NEAR + 0.01:
            return
        start = (canvas.camera.z + NEAR - near[2]) / (far[2] - near[2])
        cut = near + start * (far - near)
        corners = np.array([cut, far, corners[2], (cut[0], corners[3][1], cut[2])])
    quad = canvas.camera.project(corners)
    x0, y0 = np.floor(quad.min(axis=0)).astype(int)
    x1, y1 = np.ceil(quad.max(axis=0)).astype(int) + 1
    box = _overlap((x0, y0, x1, y1), canvas.labels.shape)
    if box is None:
        return
    source = texture.levels[texture.level_for(float(np.ptp(quad[:, 0])) / (1 - start + 1e-6))]
    height, width = source.shape[:2]
    origin = np.array(box[:2])
    here = (quad - origin).astype(np.float32)
    there = np.array(
        [[start * width, height], [width, height], [width, 0], [start * width, 0]], np.float32
    )
    size = (box[2] - box[0], box[3] - box[1])
    shape = np.zeros((size[1], size[0]), np.uint8)
    cv2.fillConvexPoly(shape, np.rint(here).astype(np.int32), 255)
    patch = cv2.warpPerspective(
        source,
        cv2.getPerspectiveTransform(here, there),
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    _paste(canvas, patch, shape, box, canvas.texture_transform(heat, contrast, tint, glows=True))


def modulate_by_weave(
    canvas: Canvas, left: float, top: float, right: float, bottom: float, label: int, index: int
) -> None:
    """Add the folds of cloth or the stains of metal to the pixels of a label inside a box.

    Args:
        canvas: canvas to change.
        left: left edge of the box in pixels.
        top: upper edge of the box in pixels.
        right: right edge of the box in pixels.
        bottom: lower edge of the box in pixels.
        label: class id of the pixels to change.
        index: selects a part of the texture; the same index gives the same folds.
    """
    box = _overlap((round(left), round(top), round(right), round(bottom)), canvas.labels.shape)
    if box is None:
        return
    x0, y0, x1, y1 = box
    texture = weave()
    size = texture.shape[0]
    step = 0.25 * size / max(bottom - top, 1.0)
    shift = np.array(
        [
            [step, 0, (x0 - left) * step + 61 * index % size],
            [0, step, (y0 - top) * step + 37 * index % size],
        ]
    )
    factor = cv2.warpAffine(
        texture,
        shift,
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_WRAP,
    )
    inside = canvas.pixels[y0:y1, x0:x1]
    changed = cv2.multiply(inside, factor, scale=1 / 128)
    mask = (canvas.labels[y0:y1, x0:x1] == label).view(np.uint8)
    inside[...] = cv2.copyTo(changed, mask, inside.copy())


def _paste(
    canvas: Canvas,
    patch: np.ndarray,
    shape: np.ndarray,
    box: tuple[int, int, int, int],
    transform: np.ndarray,
) -> None:
    """Copy a transformed patch into a box where its shape is 255, and remove labels there."""
    x0, y0, x1, y1 = box
    patch = cv2.transform(patch, transform)
    inside = canvas.pixels[y0:y1, x0:x1]
    inside[...] = cv2.copyTo(patch, shape, inside.copy())
    canvas.labels[y0:y1, x0:x1] &= ~shape


def _overlap(
    box: tuple[int, int, int, int], shape: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Return the part of a box (left, top, right, bottom) inside an image, or None."""
    left, top = max(int(box[0]), 0), max(int(box[1]), 0)
    right, bottom = min(int(box[2]), shape[1]), min(int(box[3]), shape[0])
    return (left, top, right, bottom) if right > left and bottom > top else None
