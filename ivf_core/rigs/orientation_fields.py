"""Fields of gradient orientation, in which images of an RGB and of a thermal camera agree."""

from __future__ import annotations

import cv2
import numpy as np

from ivf_core.images.registration import size_change

__all__ = ["orientation_fields", "thermal_grey", "warp_grey"]

_BLUR = 0.8  # pixels; noise of single pixels has no orientation
_NEIGHBOURHOOD = 1 / 20  # of the width, over which the strength of gradients is levelled
_LARGEST_WEIGHT = 1.5
_BACKGROUND = 1 / 8  # of the width: the mean over this window is subtracted
_EDGE = np.ones((5, 5), np.uint8)  # pixels around holes whose gradients the hole changes


def orientation_fields(grey: np.ndarray) -> np.ndarray:
    """Return e^(2i theta) and e^(4i theta) of the gradients, weighted by their strength.

    An edge that is dark to bright in one camera and bright to dark in the other has the
    same values. The strength is divided by its local mean, so that single strong
    edges do not dominate.

    Args:
        grey: H x W uint8 or float32.

    Returns:
        H x W x 4 float32: real and imaginary parts, each around its local mean.
    """
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _BLUR)
    dx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0)
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    power = dx * dx + dy * dy
    local = cv2.GaussianBlur(power, (0, 0), max(1.0, grey.shape[1] * _NEIGHBOURHOOD))
    # Half of the median keeps noise in areas without structure from being amplified.
    floor = 0.5 * float(np.median(power)) + 1.0
    weight = np.minimum(np.sqrt(power / (local + floor)), _LARGEST_WEIGHT)
    inverse = 1 / np.maximum(power, 1e-6)
    cosine, sine = (dx * dx - dy * dy) * inverse, 2 * dx * dy * inverse
    fields = cv2.merge(
        (
            cosine * weight,
            sine * weight,
            (cosine * cosine - sine * sine) * weight,
            2 * cosine * sine * weight,
        )
    )
    side = max(3, round(grey.shape[1] * _BACKGROUND))
    return fields - cv2.blur(fields, (side, side))


def thermal_grey(thermal: np.ndarray) -> np.ndarray:
    """Return a thermal image as uint8, stretched between its percentiles unless it is that.

    Args:
        thermal: h x w uint8, uint16 or float32; values that are not finite become black.
    """
    if thermal.dtype == np.uint8:
        return thermal
    values = thermal.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(thermal.shape, np.uint8)
    low, high = np.percentile(values[finite], (0.5, 99.5))
    # 0 remains for pixels that show nothing.
    scaled = 1 + (np.where(finite, values, low) - low) * (254 / max(float(high - low), 1e-6))
    return np.where(finite, np.clip(np.rint(scaled), 1, 255), 0).astype(np.uint8)


def warp_grey(
    image: np.ndarray, seen: np.ndarray, matrix: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Warp an image, and the mask of its pixels that show something.

    Args:
        image: h x w uint8.
        seen: h x w uint8, 1 where the image shows something.
        matrix: 3 x 3, pixel of the image -> pixel of the result.
        size: width and height of the result.

    Returns:
        The image H x W uint8, and the mask H x W uint8 of pixels whose gradients are known.
    """
    middle = matrix @ ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2, 1.0)
    # Area by which the map enlarges the middle of the image.
    scale = float(np.sqrt(abs(np.linalg.det(matrix)) / max(abs(middle[2]) ** 3, 1e-12)))
    if scale < 0.75:  # a warp that makes images smaller would skip pixels
        old = (image.shape[1], image.shape[0])
        new = (max(8, round(old[0] * scale)), max(8, round(old[1] * scale)))
        image = cv2.resize(image, new, interpolation=cv2.INTER_AREA)
        seen = cv2.resize(seen, new, interpolation=cv2.INTER_NEAREST)
        matrix = matrix @ size_change(new, old)
    warped = cv2.warpPerspective(image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpPerspective(seen, matrix, size, flags=cv2.INTER_NEAREST)
    return warped, cv2.erode(mask, _EDGE, borderType=cv2.BORDER_CONSTANT, borderValue=1)
