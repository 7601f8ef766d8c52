"""Check of the images that metrics take."""

from __future__ import annotations

import numpy as np

__all__ = ["check_images", "grey_images"]

_TYPES = (np.uint8, np.float32, np.float64)


def check_images(smallest: int = 1, *, color: bool = False, **images: np.ndarray) -> None:
    """Reject images that a metric cannot score.

    Args:
        smallest: height and width that the metric needs.
        color: take colour images, H x W x 3, as well.
        images: images by name, each H x W uint8, float32 or float64, values 0..255.

    Raises:
        ValueError: another type, shape or range, a value that is not finite, or an image that
            is too small; the message names the image and what was expected.
    """
    first_name, first = next(iter(images.items()))
    for name, image in images.items():
        if not isinstance(image, np.ndarray) or image.dtype not in _TYPES:
            found = image.dtype if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
            raise ValueError(f"{name} is {found}, expected an array of uint8, float32 or float64")
        shape = image.shape
        if image.ndim != 2 and not (color and image.ndim == 3 and shape[2] == 3):
            expected = "H x W or H x W x 3" if color else "H x W"
            raise ValueError(f"{name} is {shape}, expected {expected}")
        if min(shape[:2]) < smallest:
            raise ValueError(
                f"{name} is {shape[0]} x {shape[1]}, expected at least {smallest} x {smallest}"
            )
        if shape != first.shape:
            raise ValueError(f"{name} is {shape}, expected {first.shape} as {first_name}")
        if image.dtype != np.uint8:
            low, high = image.min(), image.max()
            if not 0 <= low <= high <= 255:  # false for NaN too
                raise ValueError(f"{name} has values {low:g} to {high:g}, expected 0 to 255")


def grey_images(smallest: int = 1, **images: np.ndarray) -> list[np.ndarray]:
    """Check grey images and convert them to contiguous float64.

    Args:
        smallest: see `check_images`.
        images: see `check_images`.

    Returns:
        The images in their order; those that are contiguous float64 are not copied.

    Raises:
        ValueError: see `check_images`.
    """
    check_images(smallest, color=False, **images)
    return [np.ascontiguousarray(image, np.float64) for image in images.values()]
