"""Edge metrics: edges of the sources that fusion preserves (Qabf), and artefacts (Nabf)."""

from __future__ import annotations

import math

import cv2
import numpy as np

from ivf_core.metrics.inputs import grey_images

__all__ = ["nabf", "qabf"]


def qabf(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    """Compute Qabf: edge information preserved from the sources (Xydeas and Petrovic, 2000).

    With G and A the relative strength and orientation of an edge in source and fused
    image, Q = 0.9994 / (1 + exp(-15 (G - 0.5))) x 0.9879 / (1 + exp(-22 (A - 0.8))), and
    the value is the mean of Q over both sources, weighted by the strength of their edges
    (L = 1). The images get a border of zeros for Sobel's operators, as in the common
    implementations. Edges of equal strength have G = 1; IVIF_ZOO sets G to their strength
    instead, which changes the value by 5e-4 at most.

    Args:
        visible: H x W uint8, float32 or float64 in 0..255, at least 2 x 2.
        infrared: same shape and range.
        fused: same shape and range.

    Returns:
        A value in [0, 1); NaN where both sources are black.

    Raises:
        ValueError: see `check_images`.
    """
    images = grey_images(2, visible=visible, infrared=infrared, fused=fused)
    *sources, edges = (_slopes(x, cv2.BORDER_CONSTANT) for x in images)
    fused_strength, fused_angle = _strength(*edges), _angle(*edges)
    kept = total = 0.0
    for slopes in sources:
        strength = _strength(*slopes)
        alignment = 1 - np.abs(_angle(*slopes) - fused_angle) / (math.pi / 2)
        quality = (0.9994 * 0.9879) / (
            (1 + np.exp(-15 * (_relative(strength, fused_strength) - 0.5)))
            * (1 + np.exp(-22 * (alignment - 0.8)))
        )
        kept += float((quality * strength).sum())
        total += float(strength.sum())
    return kept / total if total > 0 else math.nan


def nabf(
    visible: np.ndarray,
    infrared: np.ndarray,
    fused: np.ndarray,
    *,
    minimum_weight: float = 0.001,
) -> float:
    """Compute Nabf: artefacts, edges of the fused image that neither source has, N^AB/F.

    Petrovic and Xydeas, ICCV 2005, as modified by Shreyamsha Kumar, SIViP 2013: the loss
    1 - Q, weighted by the strength of the sources' edges to the power 1.5, where the fused
    image's edge is stronger than both. Q is the root of the product of
    0.9999 / (1 + exp(-19 (G - 0.5))) and 0.9995 / (1 + exp(-22 (A - 0.5))). Sobel's operators
    are divided by 8, and images are mirrored at their borders.

    Args:
        visible: H x W uint8, float32 or float64 in 0..255, at least 3 x 3.
        infrared: same shape and range.
        fused: same shape and range.
        minimum_weight: weight of pixels whose edge is weaker than 2; IVIF_ZOO's value of 0
            ignores them.

    Returns:
        A value in [0, 1], lower is better; NaN if all weights are 0.

    Raises:
        ValueError: see `check_images`.
    """
    images = grey_images(3, visible=visible, infrared=infrared, fused=fused)
    slopes = [_slopes(x / 8, cv2.BORDER_REFLECT_101) for x in images]
    *sources, fused_strength = (_strength(*pair) for pair in slopes)
    invented = fused_strength > np.maximum(*sources)
    # Angles, the costly part, are needed at these pixels alone.
    *angles, fused_angle = (_angle(*(slope[invented] for slope in pair)) for pair in slopes)
    fused_strength = fused_strength[invented]
    lost = total = 0.0
    for strength, angle in zip(sources, angles, strict=True):
        weight = np.where(strength >= 2, strength * np.sqrt(strength), minimum_weight)
        total += float(weight.sum())
        relative = _relative(strength[invented], fused_strength)
        difference = np.abs(angle - fused_angle)
        alignment = np.abs(difference - math.pi / 2) / (math.pi / 2)
        quality = (0.9999 * 0.9995) / (
            (1 + np.exp(-19 * (relative - 0.5))) * (1 + np.exp(-22 * (alignment - 0.5)))
        )
        lost += float(((1 - np.sqrt(quality)) * weight[invented]).sum())
    return lost / total if total > 0 else math.nan


def _slopes(image: np.ndarray, border: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the horizontal and the upward slope by Sobel's operators.

    Args:
        image: H x W float64.
        border: OpenCV's type of border.
    """
    x = cv2.copyMakeBorder(image, 1, 1, 1, 1, border, value=0)
    rows = x[:-2] + 2 * x[1:-1] + x[2:]
    columns = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    return rows[:, 2:] - rows[:, :-2], columns[:-2] - columns[2:]


def _strength(horizontal: np.ndarray, upward: np.ndarray) -> np.ndarray:
    """Compute the strength of edges from their slopes."""
    # hypot is not used, since equal sums of squares must give equal strengths.
    squares = horizontal * horizontal
    squares += upward * upward
    return np.sqrt(squares, out=squares)


def _angle(horizontal: np.ndarray, upward: np.ndarray) -> np.ndarray:
    """Compute the angle of edges in (-pi/2, pi/2]; pi/2 if there is no horizontal slope."""
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.arctan(upward / horizontal)
    np.copyto(angle, math.pi / 2, where=horizontal == 0)
    return angle


def _relative(strength: np.ndarray, fused_strength: np.ndarray) -> np.ndarray:
    """Divide the weaker edge by the stronger one, giving [0, 1]; 0 if there is no edge."""
    stronger = np.maximum(strength, fused_strength)
    np.maximum(stronger, np.finfo(np.float64).tiny, out=stronger)
    return np.minimum(strength, fused_strength) / stronger
