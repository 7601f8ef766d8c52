"""Images of the page, drawn and encoded when they are asked for."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ivf_core.class_sets import ClassSet
from ivf_core.defaults import OVERLAY_OPACITY
from ivf_core.images.overlay import draw_overlay, overlay_colors
from ivf_core.images.palettes import PALETTES, apply_palette
from ivf_core.inference.pipeline import resize_labels
from ivf_core.view.protocol import Content

__all__ = ["PANELS", "Images", "class_legend", "class_shares", "page_values"]

PANELS = {
    "fused": "Fused",
    "overlay": "Overlay",
    "mask": "Mask",
    "thermal": "Thermal",
    "rgb": "RGB",
}
"""Titles of the panels by name, in the order of the page."""

_KINDS = {".jpg": "image/jpeg", ".png": "image/png"}
_QUALITY = 88


@dataclass(frozen=True)
class Images:
    """Images of one frame; None for those that it does not have.

    Attributes:
        fused: H x W x 3 uint8 RGB.
        labels: class ids, uint8 of any size.
        thermal: H x W uint8.
        rgb: H x W x 3 uint8 RGB.
        class_set: classes of the labels.
    """

    fused: np.ndarray | None
    labels: np.ndarray | None
    thermal: np.ndarray | None
    rgb: np.ndarray | None
    class_set: ClassSet | None

    @property
    def size_bytes(self) -> int:
        """Memory of the images."""
        images = (self.fused, self.labels, self.thermal, self.rgb)
        return sum(image.nbytes for image in images if image is not None)

    def names(self) -> list[str]:
        """Return the panels that can be drawn."""
        mask = self.labels is not None and self.class_set is not None
        have = {
            "fused": self.fused is not None,
            "overlay": mask and self.fused is not None,
            "mask": mask,
            "thermal": self.thermal is not None,
            "rgb": self.rgb is not None,
        }
        return [name for name in PANELS if have[name]]

    def encode(self, name: str, options: Mapping[str, str]) -> Content:
        """Return a panel as an image file.

        Args:
            name: panel with the suffix ".jpg" or ".png".
            options: `palette` of the thermal image, one of `PALETTES`; `base` of the overlay,
                one of `OVERLAY_PALETTES`, and its `opacity`, 0 to 1.

        Raises:
            LookupError: there is no such panel.
            ValueError: an option has another value; names it.
        """
        panel, dot, ending = name.partition(".")
        suffix = dot + ending
        if panel not in self.names() or suffix not in _KINDS:
            raise LookupError(f"this frame has no {name}")
        return Content(_KINDS[suffix], _encoded(self._drawn(panel, options), suffix))

    def archive(self, name: str, values: Mapping[str, Any], options: Mapping[str, str]) -> Content:
        """Return all panels as PNG, the class ids, and the values, in one ZIP file.

        Args:
            name: name of the file without its suffix.
            values: values of the frame, for frame.json.
            options: as for `encode`.
        """
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for panel in self.names():
                drawn = self._drawn(panel, options)
                archive.writestr(f"{name}/{panel}.png", _encoded(drawn, ".png"))
            if self.labels is not None:
                archive.writestr(f"{name}/class_ids.png", _encoded(self.labels, ".png"))
            archive.writestr(f"{name}/frame.json", json.dumps(values, indent=2) + "\n")
        return Content("application/zip", buffer.getvalue(), f"{name}.zip")

    def _drawn(self, panel: str, options: Mapping[str, str]) -> np.ndarray:
        """Return a panel, h x w or h x w x 3 uint8 RGB."""
        if panel == "thermal":
            assert self.thermal is not None
            palette = options.get("palette", "white_hot")
            return self.thermal if palette == "white_hot" else apply_palette(self.thermal, palette)
        if panel == "rgb":
            assert self.rgb is not None
            return self.rgb
        if panel == "fused":
            assert self.fused is not None
            return self.fused
        assert self.labels is not None
        assert self.class_set is not None
        if panel == "mask":
            return cv2.applyColorMap(self.labels, overlay_colors(self.class_set)[:, None])
        assert self.fused is not None
        height, width = self.fused.shape[:2]
        labels = resize_labels(self.labels, (height, width))
        return draw_overlay(
            self.fused, labels, self.class_set, _opacity(options), options.get("base", "natural")
        )


def class_legend(class_set: ClassSet | None) -> list[dict[str, str]]:
    """Return names and colours of the classes, as mask and overlay show them.

    Args:
        class_set: classes of the labels, or None.
    """
    if class_set is None:
        return []
    colors = overlay_colors(class_set)
    return [
        {"name": name.replace("_", " "), "color": "#{:02x}{:02x}{:02x}".format(*colors[index])}
        for index, name in enumerate(class_set.names)
    ]


def class_shares(labels: np.ndarray | None, class_set: ClassSet | None) -> list[float]:
    """Return the share of the pixels that each class has.

    Args:
        labels: class ids, uint8 of any size, or None.
        class_set: their classes, or None.
    """
    if labels is None or class_set is None:
        return []
    counts = np.bincount(labels.ravel(), minlength=256)[: len(class_set)]
    return [round(float(count) / max(1, labels.size), 4) for count in counts]


def page_values(
    title: str,
    *,
    live: bool,
    facts: list[tuple[str, str]],
    legend: list[dict[str, str]],
    rate_hz: float,
    base: str = "natural",
    opacity: float = OVERLAY_OPACITY,
) -> dict[str, Any]:
    """Return the values of the page's template.

    Args:
        title: name of the recording or node.
        live: whether new frames arrive.
        facts: what the page says about it, as label and text.
        legend: from `class_legend`.
        rate_hz: frames a second at normal speed.
        base: palette of the image under the class colours.
        opacity: opacity of the class colours at first.
    """
    return {
        "title": title,
        "live": live,
        "facts": [list(fact) for fact in facts],
        "classes": legend,
        "rate_hz": round(rate_hz, 4),
        "panels": dict(PANELS),
        "palettes": list(PALETTES),
        "base": base,
        "opacity": opacity,
    }


def _encoded(image: np.ndarray, suffix: str) -> bytes:
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if suffix == ".jpg" else []
    return cv2.imencode(suffix, image, options)[1].tobytes()


def _opacity(options: Mapping[str, str]) -> float:
    text = options.get("opacity", str(OVERLAY_OPACITY))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"opacity is {text[:40]!r}, expected 0 to 1")
    return value
