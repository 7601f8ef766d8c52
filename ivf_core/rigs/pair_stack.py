"""Grey images of a set of pairs, and their correlation summed over the set."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from ivf_core.images.registration import size_change
from ivf_core.rigs.orientation_fields import (
    orientation_fields,
    thermal_grey,
    warp_grey,
)

__all__ = ["PairStack", "TileSurfaces"]

_LEAST_COVERAGE = 0.5  # of a tile


class PairStack:
    """Grey images of pairs of one rig; fields of the RGB images are kept by their width.

    Args:
        rgb: N images, H x W x 3 uint8.
        thermal: N images, h x w uint8, uint16 or float32.

    Attributes:
        rgb_size: width and height of the RGB images.
        thermal_size: width and height of the thermal images.
        thermal: N images, h x w uint8.
        seen: h x w uint8, 1 where any thermal image shows something.
    """

    def __init__(self, rgb: Sequence[np.ndarray], thermal: Sequence[np.ndarray]) -> None:
        self._rgb = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in rgb]
        self.thermal = [thermal_grey(image) for image in thermal]
        self.rgb_size = self._rgb[0].shape[1], self._rgb[0].shape[0]
        self.thermal_size = self.thermal[0].shape[1], self.thermal[0].shape[0]
        # What is 0 in all pairs shows no scene, as the border of an image that was warped before.
        largest = np.max(self.thermal, axis=0)
        self.seen = (largest > 0).astype(np.uint8)
        self._fields: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._rgb)

    def size_at(self, width: int) -> tuple[int, int]:
        """Return (width, height) of RGB images that are made smaller to a width."""
        width = min(width, self.rgb_size[0])
        return width, max(16, round(self.rgb_size[1] * width / self.rgb_size[0]))

    def rgb_fields(self, index: int, width: int) -> np.ndarray:
        """Return the orientation fields of an RGB image at a width, H x W x 4 float32."""
        if (index, width) not in self._fields:
            small = cv2.resize(self._rgb[index], self.size_at(width), interpolation=cv2.INTER_AREA)
            self._fields[index, width] = orientation_fields(small)
        return self._fields[index, width]

    def forget(self, width: int) -> None:
        """Free the fields of a width."""
        self._fields = {key: value for key, value in self._fields.items() if key[1] != width}


class TileSurfaces:
    """Correlation of tiles of the RGB images with the warped thermal images.

    The spectra of even and odd pairs are summed apart, so that one half can check the other.

    Args:
        stack: images.
        indices: pairs to use.
        homography: 3 x 3, thermal pixel -> RGB pixel.
        width: of the images to compare.
        tile: side of a tile in pixels; tiles overlap by half.
        reach: largest displacement in pixels.

    Attributes:
        centres: N x 2 middles of tiles as (x, y) at that width.
        size: width and height of the compared images.
    """

    def __init__(
        self,
        stack: PairStack,
        indices: Sequence[int],
        homography: np.ndarray,
        width: int,
        tile: int,
        reach: int,
    ) -> None:
        self.size = stack.size_at(width)
        self._tile = min(tile, self.size[0] // 2 * 2, self.size[1] // 2 * 2)
        self._reach = min(reach, self._tile // 2 - 1)
        matrix = size_change(stack.rgb_size, self.size) @ homography
        _, mask = warp_grey(stack.thermal[0], stack.seen, matrix, self.size)
        self._places = self._covered_places(mask)
        self.centres = np.reshape(self._places, (-1, 2))[:, ::-1] + (self._tile - 1) / 2
        count = len(self._places)
        self._sums = np.zeros((2, count, self._tile, self._tile), np.complex64)
        self._energy = np.zeros((2, 2, count))
        self._pairs = len(indices)
        with ThreadPoolExecutor(2) as pool:
            halves = [(half, indices[half::2], stack, matrix, width) for half in (0, 1)]
            list(pool.map(self._add_half, *zip(*halves, strict=True)))

    def halves(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return tiles and surfaces of both halves: of even and odd pairs, or of one pair's tiles.

        Returns:
            Twice the indices of M tiles, and their surfaces M x (2 R + 1) x (2 R + 1).
        """
        every = np.arange(len(self._places))
        if self._pairs > 1:
            return [
                (every, self._surfaces(sums, energy))
                for sums, energy in zip(self._sums, self._energy, strict=True)
            ]
        # Neighbours overlap, so that the halves are groups of tiles, like a chessboard's fields.
        blocks = (self.centres // (1.5 * self._tile)).astype(int).sum(axis=1) % 2
        total = self.total()
        return [(every[blocks == half], total[blocks == half]) for half in (0, 1)]

    def total(self) -> np.ndarray:
        """Return the surfaces of all pairs, N x (2 R + 1) x (2 R + 1) float32, at most 1."""
        return self._surfaces(self._sums.sum(axis=0), self._energy.sum(axis=0))

    def _covered_places(self, mask: np.ndarray) -> list[tuple[int, int]]:
        tile = self._tile
        rows, columns = (
            np.unique(
                np.linspace(0, n - tile, max(2, round(2 * (n - tile) / tile) + 1)).astype(int)
            )
            for n in mask.shape
        )
        return [
            (y, x)
            for y in rows.tolist()
            for x in columns.tolist()
            if mask[y : y + tile, x : x + tile].mean() >= _LEAST_COVERAGE
        ]

    def _add_half(
        self, half: int, indices: Sequence[int], stack: PairStack, matrix: np.ndarray, width: int
    ) -> None:
        for index in indices:
            warped, mask = warp_grey(stack.thermal[index], stack.seen, matrix, self.size)
            self._add(half, stack.rgb_fields(index, width), orientation_fields(warped), mask)

    def _add(self, half: int, rgb: np.ndarray, thermal: np.ndarray, mask: np.ndarray) -> None:
        window = cv2.createHanningWindow((self._tile, self._tile), cv2.CV_32F)
        window = np.sqrt(np.maximum(window, 0))[..., None]
        rgb, thermal = rgb * mask[..., None], thermal * mask[..., None]
        for place, (y, x) in enumerate(self._places):
            a = rgb[y : y + self._tile, x : x + self._tile] * window
            b = thermal[y : y + self._tile, x : x + self._tile] * window
            self._energy[half, :, place] += (
                cv2.norm(a, cv2.NORM_L2SQR),
                cv2.norm(b, cv2.NORM_L2SQR),
            )
            for k in (0, 2):
                first = cv2.dft(np.ascontiguousarray(a[..., k : k + 2]))
                second = cv2.dft(np.ascontiguousarray(b[..., k : k + 2]))
                product = cv2.mulSpectrums(first, second, 0, conjB=True)
                self._sums[half, place] += product.view(np.complex64)[..., 0]

    def _surfaces(self, spectra: np.ndarray, energy: np.ndarray) -> np.ndarray:
        near = np.arange(-self._reach, self._reach + 1) % self._tile
        surfaces = np.zeros((len(spectra), len(near), len(near)), np.float32)
        for place, spectrum in enumerate(spectra):
            parts = np.ascontiguousarray(spectrum).view(np.float32)
            parts = parts.reshape(self._tile, self._tile, 2)
            whole = cv2.dft(parts, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE)[..., 0]
            norm = max(float(np.sqrt(energy[0, place] * energy[1, place])), 1e-6)
            surfaces[place] = whole[np.ix_(near, near)] / norm
        return surfaces
