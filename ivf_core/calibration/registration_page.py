"""Page of a registration: what it says of itself, and images that let a person judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ivf_core.html.embedding import data_uri
from ivf_core.html.render import write_page
from ivf_core.rigs.rig import Rig

__all__ = ["checkerboard", "edges_over_edges", "write_registration_page"]

_WIDTH = 640  # pixels of an image in the page
_FIELDS = 10  # of the checkerboard along the width
_QUALITY = 85
_DISTANCES = (2, 5, 10, 20, 50, 100)  # metres
_EDGE_SHARE = 0.9  # of the gradients are below those of edges
_FRAME = 0.012  # of the width: gradients beside the end of the thermal view are not the scene's


def write_registration_page(
    path: Path,
    summary: Mapping[str, Any],
    rig: Rig,
    before: Rig | None,
    images: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    """Write the page, with its images inside it.

    Args:
        path: HTML file to write.
        summary: content of summary.json.
        rig: the estimated rig.
        before: the rig that was refined, or None.
        images: RGB (H x W x 3 uint8), thermal as before and registered thermal (H x W uint8)
            of some pairs.
    """
    parallax = []
    if rig.rgb is not None:
        off = rig.parallax_pixels(np.array(_DISTANCES, np.float64))
        parallax = [
            (f"{distance} m", f"{value:.1f} px")
            for distance, value in zip(_DISTANCES, off, strict=True)
            if np.isfinite(value)
        ]
    write_page(
        path,
        "registration.html.j2",
        title="Registration of " + " and ".join(Path(name).name for name in summary["source"]),
        summary=summary,
        before_name="stretched to the RGB size" if before is None else "with the given rig",
        parallax=parallax,
        baseline=rig.baseline,
        pairs=[_views(*triple) for triple in images],
    )


def checkerboard(rgb: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """Return fields of two images in turn, where lines that cross them must continue.

    Args:
        rgb: H x W x 3 uint8.
        thermal: H x W uint8, registered; where it is 0 it shows nothing, and RGB stays.

    Returns:
        H x W x 3 uint8.
    """
    height, width = thermal.shape
    side = max(1, width // _FIELDS)
    rows, columns = np.arange(height)[:, None] // side, np.arange(width) // side
    odd = ((rows + columns) % 2).astype(bool) & (thermal > 0)
    result = rgb.copy()
    result[odd] = np.repeat(thermal[odd][:, None], 3, axis=1)
    return result


def edges_over_edges(rgb: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """Return edges of the RGB image in blue and of the thermal one in orange, both in white.

    Args:
        rgb: H x W x 3 uint8.
        thermal: H x W uint8, registered, 0 where it shows nothing.

    Returns:
        H x W x 3 uint8.
    """
    strengths = [
        _edge_strength(image, seen)
        for image, seen in (
            (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.ones(thermal.shape, np.uint8)),
            (thermal, (thermal > 0).astype(np.uint8)),
        )
    ]
    colors = np.array([[70, 150, 255], [255, 120, 20]], np.float32)
    mixed = sum(
        strength[..., None] * color for strength, color in zip(strengths, colors, strict=True)
    )
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _edge_strength(grey: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the gradient of a grey image from 0 to 1, 0 at the border of what is seen."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0)
    power = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    side = 2 * round(_FRAME * grey.shape[1]) + 1
    inside = cv2.erode(seen, np.ones((side, side), np.uint8)).astype(bool)
    if not inside.any():
        return np.zeros(grey.shape, np.float32)
    # Local contrast, so that dim parts show their edges, too.
    local = cv2.GaussianBlur(power, (0, 0), grey.shape[1] / 24) + 4
    ratio = np.where(inside, power / local, 0)
    limit = max(float(np.quantile(ratio[inside], _EDGE_SHARE)), 1e-3)
    return np.clip((ratio / limit - 0.6) / 0.8, 0, 1).astype(np.float32)


def _views(rgb: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, str]:
    """Return the data URIs of the images of one pair."""
    height, width = after.shape
    if width > _WIDTH:
        size = _WIDTH, max(1, round(height * _WIDTH / width))
        rgb, before, after = (
            cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (rgb, before, after)
        )
    before, after = _stretched(before), _stretched(after)
    # Outside the thermal view the blinking image stays as it is.
    filled = np.where((after > 0)[..., None], after[..., None], rgb)
    return {
        "rgb": _jpeg(rgb),
        "thermal": _jpeg(after),
        "filled": _jpeg(filled),
        "edges_before": _jpeg(edges_over_edges(rgb, before)),
        "edges": _jpeg(edges_over_edges(rgb, after)),
        "checkerboard_before": _jpeg(checkerboard(rgb, before)),
        "checkerboard": _jpeg(checkerboard(rgb, after)),
    }


def _stretched(thermal: np.ndarray) -> np.ndarray:
    """Return a thermal image over all greys from 1, 0 where it shows nothing."""
    seen = thermal > 0
    if not seen.any():
        return thermal
    low, high = np.percentile(thermal[seen], (1, 99))
    scaled = 1 + (thermal.astype(np.float32) - low) * (254 / max(float(high - low), 1.0))
    return np.where(seen, np.clip(scaled, 1, 255), 0).astype(np.uint8)


def _jpeg(image: np.ndarray) -> str:
    ordered = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    data = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return data_uri(data, ".jpg")
