"""Measure the stability of masks: the share of pixels that change class between frames."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["FlipMeter", "flip_share"]

_FLOW_WIDTH = 160
_LARGEST_RESIDUAL = 25


class FlipMeter:
    """Comparison of the labels of each frame with those of the frame before.

    The labels before are warped by optical flow (DIS: Kroeger et al., ECCV 2016) of the
    visible images at a width of 160 pixels. Pixels do not count where the warped image
    differs by more than 25 grey levels (occlusion, wrong flow), and outside the image
    before.
    """

    def __init__(self) -> None:
        create = cv2.DISOpticalFlow_create  # type: ignore[attr-defined]
        self._flow = create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, grey: np.ndarray, labels: np.ndarray) -> float:
        """Add the next frame.

        Args:
            grey: H x W uint8, the visible luma, of any size.
            labels: h x w uint8 class ids, of any size.

        Returns:
            The share of pixels that changed class, 0 to 1; NaN for the first frame, after
            a change of size, and if no pixel counts.
        """
        size = (_FLOW_WIDTH, max(16, round(grey.shape[0] * _FLOW_WIDTH / grey.shape[1])))
        now = (
            cv2.resize(grey, size, interpolation=cv2.INTER_AREA),
            cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST),
        )
        before, self._before = self._before, now
        if before is None or before[0].shape != now[0].shape:
            return float("nan")
        return flip_share(before, now, self._flow.calc(now[0], before[0], None))


def flip_share(
    before: tuple[np.ndarray, np.ndarray], now: tuple[np.ndarray, np.ndarray], flow: np.ndarray
) -> float:
    """Return the share of pixels whose class changed along the flow.

    Args:
        before: luma and labels of the frame before, H x W uint8 each.
        now: luma and labels of this frame, H x W uint8 each.
        flow: H x W x 2 float32; the pixel at x now was at x + flow(x) before.

    Returns:
        The share, 0 to 1; NaN if no pixel can be compared.
    """
    height, width = now[0].shape
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    warped = cv2.remap(before[0], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    labels = cv2.remap(before[1], x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    counted = inside & (cv2.absdiff(warped, now[0]) <= _LARGEST_RESIDUAL)
    number = int(np.count_nonzero(counted))
    return int(np.count_nonzero(counted & (labels != now[1]))) / number if number else float("nan")
