"""Registration of thermal images onto the pixels of the visible camera."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from ivf_core.system.atomic import atomic_path
from ivf_core.system.short_text import short_repr, short_text
from ivf_core.system.yaml_text import parse_yaml, read_small_text

__all__ = [
    "Registration",
    "RegistrationError",
    "covered_rectangle",
    "fill_uncovered",
    "size_change",
]

_KEYS = ("homography", "thermal_size", "rgb_size")
# Limit for the homography between unit squares; beyond it the image collapses to a line.
_LARGEST_CONDITION_NUMBER = 1e6
_LARGEST_SIDE = 1 << 16  # pixels
_BLOCKS = 160  # along the longer side, of which a covered rectangle is made


class RegistrationError(ValueError):
    """Error for a registration that is missing, incomplete or impossible."""


@dataclass(frozen=True)
class Registration:
    """Map from thermal images to visible ones, by their sizes or by a homography.

    `Registration()` stretches the thermal image to the visible size, which is right
    for pairs that are registered already. With a homography, the pixel
    (x, y, 1) of the thermal image is at H (x, y, 1) in the visible one.
    A homography holds for a plane, or for everything at a distance that is large compared
    with the distance between the two cameras.

    The homography belongs to the two image sizes for which it was found and is rescaled
    for others. Integer coordinates are pixel centres, so that a change of size
    from w to w' maps x to (x + 0.5) w' / w - 0.5, as `cv2.resize` does.

    The YAML file::

        # thermal pixel -> rgb pixel, row by row
        homography: [[1.25, 0.01, -80.0],
                     [0.00, 1.26, -62.5],
                     [0.00, 0.00, 1.0]]
        thermal_size: [640, 512]   # width, height
        rgb_size: [1280, 720]

    Attributes:
        homography: nine finite numbers, row by row, or None.
        thermal_size: (width, height) of the thermal image, or None without
            a homography.
        rgb_size: (width, height) of the visible image, or None without a homography.

    Raises:
        RegistrationError: an incomplete or impossible registration; the message names the
            key and what was expected.
    """

    homography: tuple[float, ...] | None = None
    thermal_size: tuple[int, int] | None = None
    rgb_size: tuple[int, int] | None = None

    time_offset_seconds: ClassVar[float] = 0.0
    """Time to add to thermal stamps, which is unknown here; a rig file may have it."""

    def __post_init__(self) -> None:
        given = [key for key in _KEYS if getattr(self, key) is not None]
        if not given:
            return
        missing = [key for key in _KEYS if key not in given]
        if missing:
            raise RegistrationError(
                f"missing {', '.join(missing)}; needs all of {', '.join(_KEYS)}"
            )
        for key in ("thermal_size", "rgb_size"):
            object.__setattr__(self, key, _checked_size(key, getattr(self, key)))
        object.__setattr__(self, "homography", self._checked_homography())

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Registration:
        """Read a registration in the format that the class describes.

        Args:
            path: YAML file.

        Raises:
            RegistrationError: the file cannot be read or is not valid; the message names the
                file, the key and what was expected.
        """
        entries = _read_yaml(Path(path))
        if not isinstance(entries, dict):
            raise RegistrationError(f"registration '{path}': expected keys {', '.join(_KEYS)}")
        unknown = [short_text(key, 40) for key in entries if key not in _KEYS]
        missing = [key for key in _KEYS if entries.get(key) is None]
        if unknown or missing:
            raise RegistrationError(
                f"registration '{path}': unknown keys: {short_text(', '.join(unknown) or 'none')}; "
                f"missing keys: {', '.join(missing) or 'none'}; expected {', '.join(_KEYS)}"
            )
        try:
            return cls(**entries)
        except RegistrationError as error:
            raise RegistrationError(f"registration '{path}': {error}") from error

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Write the homography and its sizes.

        Args:
            path: YAML file to write.

        Raises:
            RegistrationError: there is no homography.
        """
        import yaml

        if self.homography is None or self.thermal_size is None or self.rgb_size is None:
            raise RegistrationError(f"registration '{path}': no homography to write")
        entries = {
            "homography": [list(self.homography[row : row + 3]) for row in (0, 3, 6)],
            "thermal_size": list(self.thermal_size),
            "rgb_size": list(self.rgb_size),
        }
        with atomic_path(path) as temporary:
            text = yaml.safe_dump(entries, sort_keys=False, default_flow_style=None)
            temporary.write_text(text, encoding="utf-8")

    def __call__(self, infrared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Align one thermal image.

        Args:
            infrared: h x w uint8.
            size: (H, W) of the visible image.

        Returns:
            H x W uint8, 0 outside the thermal view (`coverage`); the input itself
            if it needs no change.
        """
        if self.homography is None:
            if infrared.shape == tuple(size):
                return infrared
            return cv2.resize(infrared, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        plan = _plan(self, infrared.shape, tuple(size))
        # The border repeats the edge pixels, so that the last half pixel of the
        # view does not fade to black; the mask then removes pixels outside the view.
        aligned = cv2.warpPerspective(
            infrared,
            plan.homography,
            (size[1], size[0]),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return aligned if plan.mask is None else cv2.bitwise_and(aligned, plan.mask)

    def coverage(self, infrared_shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray | None:
        """Return the mask of the visible pixels that the thermal camera sees.

        Args:
            infrared_shape: (h, w) of the thermal image.
            size: (H, W) of the visible image.

        Returns:
            H x W bool, read-only and cached, or None if all pixels are covered.
        """
        if self.homography is None:
            return None
        return _plan(self, tuple(infrared_shape), tuple(size)).coverage

    def undistort(self, visible: np.ndarray) -> np.ndarray:
        """Return the visible image as it is fused: itself, since no lens is known.

        Args:
            visible: H x W x 3 uint8.
        """
        return visible

    def undistort_labels(self, labels: np.ndarray) -> np.ndarray:
        """Return class ids of the visible image as it is fused: themselves.

        Args:
            labels: H x W uint8.
        """
        return labels

    def seen(self, infrared_shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray | None:
        """Return None: by size, the visible camera sees all thermal pixels.

        Args:
            infrared_shape: (h, w) of the thermal image.
            size: (H, W) of the visible image.
        """
        return None

    def _checked_homography(self) -> tuple[float, ...]:
        matrix = np.array(_nine_numbers(self.homography), np.float64)
        if not np.isfinite(matrix).all():
            raise RegistrationError("homography: has values that are not finite")
        matrix = matrix.reshape(3, 3)
        assert self.thermal_size is not None
        assert self.rgb_size is not None
        unit = size_change(self.rgb_size, (1, 1)) @ matrix @ size_change((1, 1), self.thermal_size)
        if not np.linalg.cond(unit) < _LARGEST_CONDITION_NUMBER:
            raise RegistrationError("homography: singular, it does not map an area to an area")
        width, height = self.thermal_size
        corners = np.array([(x, y, 1) for x in (0, width - 1) for y in (0, height - 1)])
        depths = corners @ matrix[2]
        if not (np.all(depths > 0) or np.all(depths < 0)):
            raise RegistrationError(
                "homography: maps part of the thermal image to infinity; is thermal_size right?"
            )
        return tuple(matrix.ravel().tolist())


def fill_uncovered(
    infrared: np.ndarray, visible: np.ndarray, coverage: np.ndarray | None
) -> np.ndarray:
    """Fill pixels that the thermal camera does not see with the visible luma.

    Fusion then leaves these pixels nearly as the visible camera sees them,
    instead of darkening them.

    Args:
        infrared: H x W uint8, aligned.
        visible: H x W x 3 uint8 RGB.
        coverage: H x W bool as `Registration.coverage` returns it.

    Returns:
        H x W uint8; `infrared` itself if `coverage` is None.
    """
    if coverage is None:
        return infrared
    luma = cv2.cvtColor(visible, cv2.COLOR_RGB2GRAY)
    return cv2.copyTo(infrared, coverage.view(np.uint8), luma)


def covered_rectangle(
    coverage: np.ndarray | None, size: tuple[int, int]
) -> tuple[slice, slice] | None:
    """Return rows and columns of the largest rectangle that both cameras see.

    It is made of blocks of a 160th of the longer side.

    Args:
        coverage: H x W bool as `Registration.coverage` returns it.
        size: (H, W) of the visible image.

    Returns:
        Rows and columns, the whole image if `coverage` is None; None without a covered block.
    """
    if coverage is None or coverage.all():
        return slice(0, size[0]), slice(0, size[1])
    step = math.ceil(max(size) / _BLOCKS)
    rows, columns = size[0] // step, size[1] // step
    blocks = coverage[: rows * step, : columns * step].reshape(rows, step, columns, step)
    best, area = None, 0
    heights = np.zeros(columns + 1, int)  # of the covered blocks above, with a last one of 0
    for bottom, row in enumerate(np.asarray(blocks.all(axis=(1, 3))), start=1):
        heights[:columns] = np.where(row, heights[:columns] + 1, 0)
        rising: list[tuple[int, int]] = []  # first column and height of rectangles that are open
        for right, height in enumerate(heights.tolist()):
            left = right
            while rising and rising[-1][1] >= height:
                left, tall = rising.pop()
                if tall * (right - left) > area:
                    area, best = tall * (right - left), (bottom - tall, bottom, left, right)
            rising.append((left, height))
    if best is None:
        return None
    top, bottom, left, right = (edge * step for edge in best)
    return slice(top, bottom), slice(left, right)


def _read_yaml(path: Path) -> object:
    """Return the content of a YAML file of a few lines; all its errors are RegistrationErrors."""
    try:
        return parse_yaml(read_small_text(path))
    except (OSError, ValueError) as e:
        raise RegistrationError(f"registration '{path}': cannot be read: {short_text(e)}") from e


def _nine_numbers(value: object) -> list[float]:
    """Return the numbers of a homography, of three rows or of one, or raise RegistrationError.

    The lists are not handed to NumPy unseen: with YAML's anchors a few bytes describe gigabytes.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    rows = value if isinstance(value, (list, tuple)) else ()
    if len(rows) == 3 and all(isinstance(row, (list, tuple)) and len(row) == 3 for row in rows):
        rows = [number for row in rows for number in row]
    if len(rows) != 9 or not all(
        isinstance(x, (int, float)) and not isinstance(x, bool) for x in rows
    ):
        raise RegistrationError(f"homography: {short_repr(value)}, expected 3 x 3 numbers")
    try:
        return [float(number) for number in rows]
    except OverflowError as error:
        raise RegistrationError("homography: has values that are not finite") from error


@dataclass(frozen=True)
class _Plan:
    """Matrix and masks of a registration for one pair of sizes."""

    homography: np.ndarray
    coverage: np.ndarray | None
    mask: np.ndarray | None  # the coverage as 0 and 255


@lru_cache(maxsize=8)
def _plan(
    registration: Registration, infrared_shape: tuple[int, int], size: tuple[int, int]
) -> _Plan:
    assert registration.homography is not None
    assert registration.thermal_size is not None
    assert registration.rgb_size is not None
    homography = (
        size_change(registration.rgb_size, (size[1], size[0]))
        @ np.reshape(registration.homography, (3, 3))
        @ size_change((infrared_shape[1], infrared_shape[0]), registration.thermal_size)
    )
    covered = _covered(np.linalg.inv(homography), infrared_shape, size)
    if covered.all():
        return _Plan(homography, None, None)
    covered.setflags(write=False)
    return _Plan(homography, covered, covered.astype(np.uint8) * np.uint8(255))


def _covered(
    inverse: np.ndarray, infrared_shape: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Return the visible pixels that `inverse` maps into the thermal image, H x W bool."""
    y, x = np.ogrid[: size[0], : size[1]]
    u, v, w = (row[0] * x + row[1] * y + row[2] for row in inverse)
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = u / w, v / w
    # A thousandth of a pixel allows for rounding at the outer edges.
    low, high = -0.501, np.subtract(infrared_shape, 0.499)
    return (u >= low) & (u <= high[1]) & (v >= low) & (v <= high[0])


def size_change(old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Return the matrix between the pixels of an image and those of its resized copy.

    Args:
        old: width and height of the image.
        new: width and height of the copy.

    Returns:
        3 x 3, which maps x to (x + 0.5) w' / w - 0.5, as `cv2.resize` does.
    """
    sx, sy = new[0] / old[0], new[1] / old[1]
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


def _checked_size(key: str, value: object) -> tuple[int, int]:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or not all(type(number) is int and 0 < number <= _LARGEST_SIDE for number in value)
    ):
        raise RegistrationError(f"{key}: {short_repr(value)}, expected [width, height] in pixels")
    return value[0], value[1]
