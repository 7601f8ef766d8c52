"""A pinhole camera over a flat road, the light, and a canvas that draws in both bands at once.

World coordinates are metres: x to the right, y up, z along the road.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ivf_core.scenes.textures import Texture, weave

__all__ = ["NEAR", "RGB", "Camera", "Canvas", "Light", "Points", "Points3"]

NEAR = 0.5
"""Nothing nearer than this many metres is drawn."""

RGB = tuple[float, float, float]
Points = Sequence[tuple[float, float]]
"""Columns and rows in the picture, or two coordinates of a flat outline."""
Points3 = Sequence[tuple[float, float, float]]
"""x, y, z in metres."""


@dataclass(frozen=True)
class Camera:
    """A level camera looking down the road.

    Attributes:
        width, height: of the picture in pixels.
        focal: focal length in pixels.
        horizon: row of the horizon.
        center: column in which the road vanishes.
        elevation: metres above the road.
        x, z: position in metres.
        bend: the road's curvature: it is `bend` z^2 metres to the right at distance z.
    """

    width: int
    height: int
    focal: float
    horizon: float
    center: float
    elevation: float
    x: float = 0.0
    z: float = 0.0
    bend: float = 0.0

    def spot(self, x: float, z: float) -> tuple[float, float, float]:
        """Column, row, and pixels per metre of a point on the ground."""
        depth = max(z - self.z, NEAR)
        scale = self.focal / depth
        column = self.center + scale * (x - self.x) + self.focal * self.bend * depth
        return column, self.horizon + scale * self.elevation, scale

    def project(self, points: np.ndarray) -> np.ndarray:
        """N x 3 world points, none behind NEAR, to N x 2 columns and rows."""
        depth = points[:, 2] - self.z
        scale = self.focal / depth
        columns = self.center + scale * (points[:, 0] - self.x) + self.focal * self.bend * depth
        rows = self.horizon + scale * (self.elevation - points[:, 1])
        return np.stack((columns, rows), axis=1)

    def outline(self, points: Points3) -> list[tuple[float, float]]:
        """Project a polygon, cut off at the near plane; may return no points.

        Plain Python: for the few corners of a polygon it is faster than arrays.
        """
        limit = self.z + NEAR
        if any(z < limit for _, _, z in points):
            points = _cut(points, limit)
        picture = []
        for x, y, z in points:
            depth = z - self.z
            scale = self.focal / depth
            column = self.center + scale * (x - self.x) + self.focal * self.bend * depth
            picture.append((column, self.horizon + scale * (self.elevation - y)))
        return picture

    def strip(self, x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
        """Outline of a strip of ground along the road, following its bend."""
        start = max(z0 - self.z, NEAR)
        stop = max(z1 - self.z, start)
        along = self.z + start * (max(stop, 1e-3) / start) ** np.linspace(0, 1, 9)
        level = np.zeros(9)
        left = np.stack((np.full(9, x0), level, along), axis=1)
        right = np.stack((np.full(9, x1), level, along), axis=1)[::-1]
        return self.project(np.concatenate((left, right)))


@dataclass(frozen=True)
class Light:
    """What lights the visible picture and what veils it with distance.

    Attributes:
        daylight: 1 by day, 0 by night.
        day, night: ambient light of either, 1 showing colours as they are.
        headlights: strength of our own at night, 0 for none.
        lamps: positions (x, z) of street lamps.
        sun: metres of shadow (in x and z) for a metre of height; (0, 0) when overcast.
        haze: share of the picture lost to haze per metre.
        haze_color: what it turns into, by day.
        x, z: where our headlights are.
    """

    daylight: float = 1.0
    day: float = 1.0
    night: float = 0.06
    headlights: float = 0.8
    lamps: tuple[tuple[float, float], ...] = ()
    sun: tuple[float, float] = (0.0, 0.0)
    haze: float = 0.001
    haze_color: RGB = (205.0, 210.0, 215.0)
    x: float = 0.0
    z: float = 0.0

    @property
    def ambient(self) -> float:
        return self.daylight * self.day + (1 - self.daylight) * self.night

    def gain(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Factor on the colours of things at x, z, arrays of one shape."""
        if self.daylight >= 1:
            return np.full(np.shape(x), self.day, np.float32)
        ahead = np.maximum(z - self.z, 0.5)
        aside = (x - self.x) / (1.6 + 0.13 * ahead)
        beam = self.headlights * np.exp(-aside * aside) / (1 + (ahead / 13) ** 2)
        beam = beam * np.minimum(ahead / 5, 1)
        for lamp_x, lamp_z in self.lamps:
            beam = beam + 0.3 * np.exp(-((x - lamp_x) ** 2 + (z - lamp_z) ** 2) / 45)
        return self.ambient + (1 - self.daylight) * beam

    def veil(self, distance: float) -> float:
        """Share of the colour lost to haze at a distance in metres."""
        return 1 - math.exp(-self.haze * max(distance, 0.0))

    def veil_color(self) -> RGB:
        r, g, b = self.haze_color
        level = min(self.ambient + 0.04, 1.0)
        return r * level, g * level, b * level


class Canvas:
    """Colour, heat and labels, drawn together so that they agree to the pixel.

    Args:
        camera: the view.
        light: the light.
        heat: temperature by material, 0..255, with "ambient" for textures.

    Attributes:
        pixels: H x W x 4 uint8: red, green, blue, heat.
        labels: H x W uint8.
    """

    def __init__(self, camera: Camera, light: Light, heat: Mapping[str, float]) -> None:
        self.camera = camera
        self.light = light
        self.heat = heat
        self.pixels = np.zeros((camera.height, camera.width, 4), np.uint8)
        self.labels = np.zeros((camera.height, camera.width), np.uint8)
        self._gain = 1.0
        self._veil = 0.0
        self._veil_color = light.veil_color()
        self._veiling = (0.0, 0.0, 0.0)

    def stand_at(self, x: float, z: float) -> None:
        """Light and haze of everything drawn from now on are those at x, z."""
        self._gain = float(self.light.gain(np.float32(x), np.float32(z)))
        self._veil = self.light.veil(z - self.camera.z)
        r, g, b = self._veil_color
        self._veiling = (r * self._veil, g * self._veil, b * self._veil)

    def _ink(self, color: RGB, heat: float, glows: bool) -> tuple[float, float, float, float]:
        gain = (1.0 if glows else self._gain) * (1 - self._veil)
        red, green, blue = self._veiling
        r, g, b = color
        return (
            min(r * gain + red, 255.0),
            min(g * gain + green, 255.0),
            min(b * gain + blue, 255.0),
            min(max(heat, 0.0), 255.0),
        )

    def polygon(
        self,
        points: Points,
        color: RGB,
        heat: float,
        label: int = 0,
        *,
        glows: bool = False,
    ) -> None:
        """Fill a polygon given in columns and rows; what glows is not darkened at night."""
        if len(points) < 3:
            return
        corners = [np.rint(np.array(points)).astype(np.int32)]
        cv2.fillPoly(self.pixels, corners, self._ink(color, heat, glows))
        cv2.fillPoly(self.labels, corners, label)

    def claim(self, points: Points, label: int) -> None:
        """Label a polygon without drawing it: what has holes is labelled as a whole."""
        if len(points) >= 3:
            cv2.fillPoly(self.labels, [np.rint(np.array(points)).astype(np.int32)], label)

    def limb(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        radii: tuple[float, float],
        color: RGB,
        heat: float,
        label: int = 0,
    ) -> None:
        """A tapered stroke with round ends; radii in pixels."""
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        points = []
        steps = (-1.5, -0.75, 0.0, 0.75, 1.5) if max(radii) > 2 else (-1.5, 1.5)
        for (x, y), radius, turn in ((end, radii[1], 0.0), (start, radii[0], math.pi)):
            for step in steps:
                at = angle + turn + step
                points.append((x + radius * math.cos(at), y + radius * math.sin(at)))
        self.polygon(points, color, heat, label)

    def ellipse(
        self,
        center: tuple[float, float],
        axes: tuple[float, float],
        color: RGB,
        heat: float,
        label: int = 0,
        *,
        ring: int = 0,
        glows: bool = False,
    ) -> None:
        """A disc, or a ring of that many pixels; its label is always the full disc."""
        middle = (round(center[0]), round(center[1]))
        half = (max(round(axes[0]), 0), max(round(axes[1]), 0))
        ink = self._ink(color, heat, glows)
        cv2.ellipse(self.pixels, middle, half, 0, 0, 360, ink, ring or -1)
        cv2.ellipse(self.labels, middle, half, 0, 0, 360, label, -1)
        if ring > 1:
            cv2.ellipse(self.labels, middle, half, 0, 0, 360, label, ring)

    def weave(
        self, left: float, top: float, right: float, bottom: float, label: int, index: int
    ) -> None:
        """Give what has a label inside a box the folds of cloth or the stains of metal.

        Args:
            left, top, right, bottom: the box, in pixels.
            label: of what is changed.
            index: which part of the texture; the same one gives the same folds.
        """
        box = _overlap((round(left), round(top), round(right), round(bottom)), self.labels.shape)
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
        inside = self.pixels[y0:y1, x0:x1]
        changed = cv2.multiply(inside, factor, scale=1 / 128)
        mask = (self.labels[y0:y1, x0:x1] == label).view(np.uint8)
        inside[...] = cv2.copyTo(changed, mask, inside.copy())

    def _tint(self, heat: float, contrast: float, gain: float, tint: RGB) -> np.ndarray:
        """4 x 5 matrix that brings a texture into this light and temperature."""
        matrix = np.zeros((4, 5))
        for channel in range(3):
            matrix[channel, channel] = gain * (1 - self._veil) * tint[channel]
            matrix[channel, 4] = self._veiling[channel]
        matrix[3, 3] = contrast
        matrix[3, 4] = heat - 128 * contrast
        return matrix

    def sprite(
        self,
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
        """Show a texture with its mask upright, unlabeled, at a place in the picture."""
        x0, y0 = round(left), round(top)
        w, h = max(round(width), 1), max(round(height), 1)
        box = _overlap((x0, y0, x0 + w, y0 + h), self.labels.shape)
        if box is None:
            return
        left_px, top_px, right_px, bottom_px = box
        size = (right_px - left_px, bottom_px - top_px)
        level = texture.level_for(w)
        source, mask = texture.levels[level], texture.masks[level]
        # Only the part inside the picture is resampled.
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
        self._paste(patch, shape, box, self._tint(heat, contrast, self._gain, tint))

    def wall(
        self,
        texture: Texture,
        corners: np.ndarray,
        heat: float,
        *,
        contrast: float = 1.0,
        tint: RGB = (1.0, 1.0, 1.0),
    ) -> None:
        """Show a texture on an upright rectangle of the world, unlabeled.

        The texture holds its own light, since its windows may glow.

        Args:
            texture: without mask.
            corners: 4 x 3 world points: bottom near, bottom far, top far, top near.
            heat: temperature that stands for 128 in the texture.
            contrast: factor on the texture's heat.
            tint: factor on the texture's colour.
        """
        near, far = corners[0], corners[1]
        start = 0.0
        if near[2] - self.camera.z < NEAR:
            if far[2] - self.camera.z <= NEAR + 0.01:
                return
            start = (self.camera.z + NEAR - near[2]) / (far[2] - near[2])
            cut = near + start * (far - near)
            corners = np.array([cut, far, corners[2], (cut[0], corners[3][1], cut[2])])
        quad = self.camera.project(corners)
        x0, y0 = np.floor(quad.min(axis=0)).astype(int)
        x1, y1 = np.ceil(quad.max(axis=0)).astype(int) + 1
        box = _overlap((x0, y0, x1, y1), self.labels.shape)
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
        self._paste(patch, shape, box, self._tint(heat, contrast, 1.0, tint))

    def _paste(
        self, patch: np.ndarray, shape: np.ndarray, box: tuple[int, int, int, int], tint: np.ndarray
    ) -> None:
        x0, y0, x1, y1 = box
        patch = cv2.transform(patch, tint)
        inside = self.pixels[y0:y1, x0:x1]
        inside[...] = cv2.copyTo(patch, shape, inside.copy())
        self.labels[y0:y1, x0:x1] &= ~shape


def _cut(points: Points3, limit: float) -> Points3:
    """The part of a polygon with z of at least `limit`."""
    kept = []
    for a, b in zip((points[-1], *points[:-1]), points, strict=True):
        if (a[2] < limit) != (b[2] < limit):
            share = (limit - a[2]) / (b[2] - a[2])
            kept.append((a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), limit))
        if b[2] >= limit:
            kept.append(b)
    return kept


def _overlap(
    box: tuple[int, int, int, int], shape: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """The part of a box (left, top, right, bottom) inside a picture, or None."""
    left, top = max(int(box[0]), 0), max(int(box[1]), 0)
    right, bottom = min(int(box[2]), shape[1]), min(int(box[3]), shape[0])
    return (left, top, right, bottom) if right > left and bottom > top else None
