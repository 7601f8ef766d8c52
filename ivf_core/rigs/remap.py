"""Registration by a rig, with lenses or as a homography, as one precomputed remap."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from ivf_core.class_sets import UNLABELED
from ivf_core.images.registration import Registration
from ivf_core.rigs.rig import Rig
from ivf_core.rigs.rig_files import read_rig

__all__ = ["AnyRegistration", "RigRegistration", "as_remap", "read_registration"]

_KEPT_PLANS = 4
_GRID = 4  # pixels between those for which a map is computed
# OpenCV 5 samples with float maps in about half the time that it needs with fixed-point ones; in
# OpenCV 4 it is the other way round.
_FLOAT_MAPS = int(cv2.__version__.split(".")[0]) >= 5

T = TypeVar("T")


class RigRegistration:
    """Registration of thermal images onto RGB images by a rig.

    It is called as `Registration` is. The map of each pair of sizes is computed once, in tens of
    milliseconds to seconds; a call then samples the part of the thermal image that both
    cameras see. Any thread may call it.

    Args:
        rig: the rig.

    Attributes:
        rig: the rig.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._plans: OrderedDict[tuple[tuple[int, ...], ...], _Plan] = OrderedDict()
        self._lenses: OrderedDict[tuple[int, ...], _Lens] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def rgb_size(self) -> tuple[int, int]:
        """Width and height of the RGB images for which the rig was found."""
        return self.rig.rgb_size

    @property
    def time_offset_seconds(self) -> float:
        """Time to add to thermal stamps, so that they compare with RGB stamps."""
        return self.rig.time_offset_seconds

    def __call__(self, infrared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Align one thermal image.

        Args:
            infrared: h x w uint8.
            size: (H, W) of the RGB image.

        Returns:
            H x W uint8, 0 outside the thermal view (`coverage`).

        Raises:
            ValueError: the two cameras have no view in common.
        """
        plan = self._plan(infrared.shape, size)
        if plan.shrink > 1:
            shape = [n // plan.shrink for n in reversed(infrared.shape)]
            infrared = cv2.resize(infrared, shape, interpolation=cv2.INTER_AREA)
        whole = plan.maps[0].shape[:2] == tuple(size)
        aligned = (np.empty if whole else np.zeros)(size, np.uint8)
        # The border repeats the edge pixels, so that the last half pixel of the view does not
        # fade to black; the mask then removes pixels outside the view.
        part = aligned[plan.area]
        cv2.remap(infrared, *plan.maps, cv2.INTER_LINEAR, part, cv2.BORDER_REPLICATE)
        if plan.mask is not None:
            cv2.bitwise_and(part, plan.mask, part)
        return aligned

    def coverage(self, infrared_shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray | None:
        """Return the mask of the RGB pixels that the thermal camera sees.

        Args:
            infrared_shape: (h, w) of the thermal image.
            size: (H, W) of the RGB image.

        Returns:
            H x W bool, read-only and cached, or None if all pixels are covered.
        """
        return self._plan(infrared_shape, size).coverage

    def seen(self, infrared_shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray | None:
        """Return the mask of the thermal pixels that the RGB camera sees.

        Args:
            infrared_shape: (h, w) of the thermal image.
            size: (H, W) of the RGB image.

        Returns:
            h x w bool, read-only and cached, or None if all of them are.
        """
        return self._plan(infrared_shape, size).seen

    def undistort(self, visible: np.ndarray) -> np.ndarray:
        """Return the RGB image as it is fused.

        Args:
            visible: H x W x 3 uint8.

        Returns:
            H x W x 3 uint8: undistorted if the rig says so, black where the lens shows nothing;
            otherwise the image itself.
        """
        if not self.rig.undistort_rgb:
            return visible
        maps = self._lens(visible.shape[:2]).maps
        return cv2.remap(visible, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    def undistort_labels(self, labels: np.ndarray) -> np.ndarray:
        """Return class ids of the RGB image as it is fused.

        Args:
            labels: H x W uint8, for the RGB image of the camera.

        Returns:
            H x W uint8: undistorted by nearest neighbour if the rig says so, unlabeled where the
            lens shows nothing; otherwise the ids themselves.
        """
        if not self.rig.undistort_rgb:
            return labels
        maps = self._lens(labels.shape[:2]).nearest
        return cv2.remap(
            labels, *maps, cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT, borderValue=UNLABELED,
        )  # fmt: skip

    def _lens(self, size: tuple[int, ...]) -> _Lens:
        return self._kept(self._lenses, size, lambda: _lens(self.rig, size))

    def _plan(self, infrared_shape: tuple[int, ...], size: tuple[int, ...]) -> _Plan:
        key = (tuple(infrared_shape), tuple(size))
        return self._kept(self._plans, key, lambda: _plan(self.rig, *key))

    def _kept(self, kept: OrderedDict, key: tuple, make: Callable[[], T]) -> T:
        """Return an entry of a cache of a few; make it if it is missing.

        No lock is held meanwhile: others may map images of sizes that are known.
        """
        with self._lock:
            if key in kept:
                return kept[key]
        made = make()
        with self._lock:
            made = kept.setdefault(key, made)
            while len(kept) > _KEPT_PLANS:
                kept.popitem(last=False)
        return made


AnyRegistration = Registration | RigRegistration
"""Registration by the sizes of the images or by a homography, or by a rig."""


def as_remap(registration: AnyRegistration) -> AnyRegistration:
    """Return a homography as a rig, which maps it faster and knows the pixels seen by both cameras.

    Args:
        registration: any registration; one by size or by a rig is returned itself.
    """
    if isinstance(registration, Registration) and registration.homography is not None:
        return RigRegistration(Rig(homography=registration))
    return registration


def read_registration(path: str | Path | None) -> AnyRegistration:
    """Read the registration of a rig file; None stretches thermal images to the size of RGB.

    Args:
        path: see `read_rig`.

    Raises:
        RegistrationError: see `read_rig`.
    """
    return Registration() if path is None else RigRegistration(read_rig(path))


@dataclass(frozen=True)
class _Plan:
    """Map and masks of a rig for one pair of sizes.

    Attributes:
        area: rows and columns of the RGB image around the overlap.
        maps: maps of the area for `cv2.remap`.
        mask: coverage of the area as 0 and 255, or None if it is covered.
        coverage: coverage of the RGB image, or None.
        seen: thermal pixels inside the RGB image, or None for all.
        shrink: factor by which thermal images are reduced first, against aliasing.
    """

    area: tuple[slice, slice]
    maps: tuple[np.ndarray, np.ndarray]
    mask: np.ndarray | None
    coverage: np.ndarray | None
    seen: np.ndarray | None
    shrink: int


@dataclass(frozen=True)
class _Lens:
    """Maps that undistort RGB images of one size.

    Attributes:
        maps: maps for `cv2.remap`.
        nearest: maps to whole pixels for class ids: with fixed-point ones, OpenCV 4 rounds down.
    """

    maps: tuple[np.ndarray, np.ndarray]
    nearest: tuple[np.ndarray, np.ndarray]


def _plan(rig: Rig, infrared_shape: tuple[int, ...], size: tuple[int, ...]) -> _Plan:
    """Compute the map of a rig for images of two sizes (height, width)."""
    height, width = infrared_shape[:2]
    rig = rig.resized((size[1], size[0]), (width, height))
    pixels = _on_grid(size, rig.thermal_pixels)
    with np.errstate(invalid="ignore"):
        # A thousandth of a pixel allows for rounding at the outer edges.
        inside = (pixels >= -0.501) & (pixels <= (width - 0.499, height - 0.499))
    covered: np.ndarray = np.asarray(inside.all(axis=-1))
    if not covered.any():
        raise ValueError(
            f"registration: the thermal image ({width} x {height}) and the RGB image "
            f"({size[1]} x {size[0]}) have no view in common; check rotation and focal lengths"
        )
    x, y, w, h = cv2.boundingRect(covered.astype(np.uint8))
    area = slice(y, y + h), slice(x, x + w)
    part, mask = pixels[area], covered[area]
    shrink = _shrink(part, mask, min(height, width))
    seen = _seen(part[mask], (height, width), part, mask)
    if shrink > 1:
        part = (part + 0.5) / shrink - 0.5
    covered.setflags(write=False)
    return _Plan(
        area,
        _maps(np.nan_to_num(part, nan=-1.0)),
        None if mask.all() else mask.astype(np.uint8) * np.uint8(255),
        None if covered.all() else covered,
        seen,
        shrink,
    )


def _lens(rig: Rig, size: tuple[int, ...]) -> _Lens:
    """Compute the maps that undistort RGB images of a size (height, width)."""
    assert rig.rgb is not None
    camera = rig.rgb.resized((size[1], size[0]))
    flat = camera.undistorted()
    pixels = _on_grid(size, lambda points: camera.project(flat.unproject(points)))
    pixels = np.nan_to_num(pixels, nan=-10.0)
    x, y = (np.ascontiguousarray(np.rint(pixels[..., axis]), np.float32) for axis in (0, 1))
    return _Lens(_maps(pixels), (x, y))


def _on_grid(size: tuple[int, ...], function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a smooth function to the pixels of an image, H x W x 2.

    It is computed for every fourth row and column and interpolated, which is within a hundredth
    of a pixel with the lenses of cameras.
    """
    y, x = (np.arange(0, n + _GRID, _GRID, dtype=np.float64) for n in size)
    coarse = function(np.stack(np.meshgrid(x, y), axis=-1))
    # In C order: masks that follow from the result are read with each image.
    return np.ascontiguousarray(_refined(_refined(coarse, size[0], 0), size[1], 1))


def _refined(coarse: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Interpolate linearly between the rows (axis 0) or columns (axis 1) of a grid."""
    coarse = np.moveaxis(coarse, axis, 0)
    shares = (np.arange(_GRID) / _GRID).reshape(-1, *[1] * (coarse.ndim - 1))
    cells = coarse[:-1, None] * (1 - shares) + coarse[1:, None] * shares
    fine = cells.reshape(-1, *coarse.shape[1:])[:length]
    return np.moveaxis(fine, 0, axis)


def _maps(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pair of maps that `cv2.remap` samples fastest."""
    x, y = (np.ascontiguousarray(pixels[..., axis], np.float32) for axis in (0, 1))
    if _FLOAT_MAPS:
        return x, y
    coarse, fine = cv2.convertMaps(x, y, cv2.CV_16SC2)
    return coarse, fine


def _steps(part: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Return the median number of thermal pixels from one RGB pixel to the next, along x and y."""
    steps = []
    for axis in (1, 0):
        first, second = (
            np.s_[::_GRID, start:stop:_GRID] if axis else np.s_[start:stop:_GRID, ::_GRID]
            for start, stop in ((0, -1), (1, None))
        )
        both = mask[first] & mask[second]
        moves = np.linalg.norm((part[second] - part[first])[both], axis=-1)
        steps.append(float(np.median(moves)) if moves.size else 1.0)
    return steps[0], steps[1]


def _shrink(part: np.ndarray, mask: np.ndarray, side: int) -> int:
    """Return the whole factor by which thermal images are larger than their registered copy."""
    return max(1, min(math.floor(min(_steps(part, mask)) + 0.01), side // 16))


def _seen(
    pixels: np.ndarray, shape: tuple[int, int], part: np.ndarray, mask: np.ndarray
) -> np.ndarray | None:
    """Return the thermal pixels to which RGB pixels are mapped, or None for all."""
    seen = np.zeros(shape, np.uint8)
    x, y = np.rint(pixels).astype(int).T
    seen[np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)] = 1
    half = math.ceil(max(_steps(part, mask)) / 2)  # of the thermal pixels of an RGB pixel
    marked = cv2.dilate(seen, np.ones((2 * half + 1, 2 * half + 1), np.uint8))
    result = np.asarray(marked, bool)
    if result.all():
        return None
    result.setflags(write=False)
    return result
