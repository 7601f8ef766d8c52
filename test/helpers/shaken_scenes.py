"""Scenes that two cameras see while they shake: random patterns, and a warped thermal view."""

from __future__ import annotations

import cv2
import numpy as np

from ivf_core.images.registration import size_change


def pattern(seed: int, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """Return overlapping polygons of several greys over soft noise, H x W uint8."""
    rng = np.random.default_rng(seed)
    width, height = size
    image = np.full((height, width), 120, np.uint8)
    for _ in range(60):
        middle = rng.uniform(0, 1, 2) * size
        corners = middle + rng.uniform(-0.09, 0.09, (rng.integers(3, 6), 2)) * width
        cv2.fillPoly(
            image, [cv2.convexHull(corners.astype(np.int32))], int(rng.integers(30, 230)),
            cv2.LINE_AA,
        )  # fmt: skip
    return image


def thermal_view(
    scene: np.ndarray, homography: np.ndarray, size: tuple[int, int], seed: int
) -> np.ndarray:
    """Return what a thermal camera sees of a scene: other contrasts, inverted, soft, noisy.

    Args:
        scene: H x W uint8.
        homography: 3 x 3, thermal pixel -> pixel of the scene.
        size: width and height of the thermal image.
        seed: seed of the noise and of the contrasts.

    Returns:
        h x w uint16.
    """
    rng = np.random.default_rng(seed)
    # Greys get other temperatures, in no order of brightness, but an inverted one on the whole.
    levels = np.interp(np.arange(256), np.linspace(0, 255, 12), rng.permutation(12) * 12.0)
    heat = cv2.LUT(scene, np.clip(levels + 0.5 * (255 - np.arange(256)), 0, 255).astype(np.uint8))
    # Drawn at twice the resolution of the thermal image, and then averaged.
    fine = (2 * size[0], 2 * size[1])
    matrix = homography @ size_change(fine, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpPerspective(
        cv2.GaussianBlur(heat, (0, 0), 1.0),
        matrix,
        fine,
        flags=flags,
        borderMode=cv2.BORDER_REFLECT,
    )
    view = cv2.resize(view, size, interpolation=cv2.INTER_AREA).astype(np.float64)
    return np.rint(7000 + 10 * view + rng.normal(0, 15, view.shape)).astype(np.uint16)


def pairs(
    homography: np.ndarray, size: tuple[int, int], count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of RGB (320 x 240) and thermal images of different scenes."""
    scenes = [pattern(seed) for seed in range(count)]
    return [
        (np.repeat(scene[..., None], 3, axis=2), thermal_view(scene, homography, size, 100 + seed))
        for seed, scene in enumerate(scenes)
    ]


class ShakenScene:
    """Scene that moves over the images of two cameras, as a function of time.

    Args:
        seed: seed of the scene and of the motion.
        vibration_pixels: amplitude of a vibration at 7.3 Hz and 11.3 Hz.
    """

    def __init__(self, seed: int = 0, vibration_pixels: float = 0.0) -> None:
        self._scene = pattern(seed, (400, 320))
        rng = np.random.default_rng(seed)
        self._waves = [
            (rng.uniform(0.6, 4.0), rng.uniform(0, 6.3), rng.uniform(-3, 3, 2)) for _ in range(6)
        ]
        if vibration_pixels:
            for frequency, phase in ((7.3, 0.4), (11.3, 2.0)):
                self._waves.append((frequency, phase, np.full(2, vibration_pixels)))

    def rgb(self, seconds: float) -> np.ndarray:
        """Return the RGB image of a moment, 240 x 320 x 3 uint8."""
        view = self._view(seconds, (320, 240), 1.0, (40.0, 40.0))
        return np.repeat(view[..., None], 3, axis=2)

    def thermal(self, seconds: float) -> np.ndarray:
        """Return the thermal image of a moment, 120 x 160 uint8, of a narrower view."""
        return 255 - self._view(seconds, (160, 120), 1.4, (88.0, 76.0))

    def _view(
        self, seconds: float, size: tuple[int, int], scale: float, origin: tuple[float, float]
    ) -> np.ndarray:
        moved = sum(
            share * np.sin(2 * np.pi * frequency * seconds + phase)
            for frequency, phase, share in self._waves
        )
        x, y = np.add(origin, moved)
        matrix = np.array([[scale, 0, x], [0, scale, y]])
        return cv2.warpAffine(
            self._scene, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
