"""Canvas that draws flat shapes into colour, heat and labels at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np

from ivf_core.scenes.camera import Camera, Points
from ivf_core.scenes.light import RGB, Light

__all__ = ["Canvas"]


class Canvas:
    """Colour, heat and labels of a scene, drawn together so that they agree to the pixel.

    Args:
        camera: the camera.
        light: light and haze of the visible image.
        heat: level of heat by material, 0..255, with "ambient" for the air and "contrast",
            the factor on the variations of textures.

    Attributes:
        pixels: red, green, blue and heat, H x W x 4 uint8.
        labels: class ids, H x W uint8.
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

    def set_position(self, x: float, z: float) -> None:
        """Use the light and haze at x, z (in metres) for everything that is drawn next."""
        self._gain = float(self.light.gain(np.float32(x), np.float32(z)))
        self._veil = self.light.veil(z - self.camera.z)
        r, g, b = self._veil_color
        self._veiling = (r * self._veil, g * self._veil, b * self._veil)

    def _ink(self, color: RGB, heat: float, glows: bool) -> tuple[float, float, float, float]:
        """Return a colour in the present light and haze, and its heat."""
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
        """Fill a polygon.

        Args:
            points: its corners as (column, row); fewer than three draw nothing.
            color: its colour in full light.
            heat: its level of heat, 0..255.
            label: its class id.
            glows: whether it keeps its colour at night.
        """
        if len(points) < 3:
            return
        corners = [np.rint(np.array(points)).astype(np.int32)]
        cv2.fillPoly(self.pixels, corners, self._ink(color, heat, glows))
        cv2.fillPoly(self.labels, corners, label)

    def label_polygon(self, points: Points, label: int) -> None:
        """Label a polygon without drawing it, such as a fence, which is labelled with its holes."""
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
        """Draw a tapered stroke with round ends.

        Args:
            start: its first end as (column, row).
            end: its second end.
            radii: radii of both ends in pixels.
            color: its colour in full light.
            heat: its level of heat, 0..255.
            label: its class id.
        """
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
        """Draw an ellipse or a ring; its label always covers the full ellipse.

        Args:
            center: its centre as (column, row).
            axes: half its width and half its height in pixels.
            color: its colour in full light.
            heat: its level of heat, 0..255.
            label: its class id.
            ring: thickness of a ring in pixels; 0 fills the ellipse.
            glows: whether it keeps its colour at night.
        """
        middle = (round(center[0]), round(center[1]))
        half = (max(round(axes[0]), 0), max(round(axes[1]), 0))
        ink = self._ink(color, heat, glows)
        cv2.ellipse(self.pixels, middle, half, 0, 0, 360, ink, ring or -1)
        cv2.ellipse(self.labels, middle, half, 0, 0, 360, label, -1)
        if ring > 1:
            cv2.ellipse(self.labels, middle, half, 0, 0, 360, label, ring)

    def texture_transform(
        self, heat: float, contrast: float, tint: RGB, *, glows: bool = False
    ) -> np.ndarray:
        """Return the matrix that brings a texture into the present light, haze and temperature.

        Args:
            heat: level of heat that 128 stands for in the texture.
            contrast: factor on the texture's heat.
            tint: factor on the texture's colour.
            glows: whether the texture contains its own light.

        Returns:
            4 x 5 float64, for `cv2.transform`.
        """
        gain = 1.0 if glows else self._gain
        matrix = np.zeros((4, 5))
        for channel in range(3):
            matrix[channel, channel] = gain * (1 - self._veil) * tint[channel]
            matrix[channel, 4] = self._veiling[channel]
        matrix[3, 3] = contrast
        matrix[3, 4] = heat - 128 * contrast
        return matrix
