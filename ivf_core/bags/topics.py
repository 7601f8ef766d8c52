"""Guess which topics of a bag are the RGB and the thermal camera."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ivf_core.bags.info import IMAGE_TYPE, BagError, TopicInfo

__all__ = ["guess_camera_topics"]

_THERMAL_WORDS = {"thermal", "infrared", "ir", "lwir"}
_RGB_WORDS = {"rgb", "color", "colour", "visible"}
_THERMAL_MAKERS = {"flir"}  # makes colour cameras as well: counts only where no other word does


def guess_camera_topics(topics: Iterable[TopicInfo]) -> tuple[str, str]:
    """Guess the RGB and the thermal topic of a bag from types and names.

    If only one of two image topics has a telling name, the other topic is the other camera.
    Raw images are preferred to compressed ones of the same camera, and `image_raw` to
    processed images. Topics without messages are ignored.

    Args:
        topics: topics of the bag.

    Returns:
        Names of the RGB and the thermal topic.

    Raises:
        BagError: the topics are ambiguous; lists the image topics.
    """
    images = [topic for topic in topics if topic.is_image and topic.count]
    names = {topic.name for topic in images}
    # A compressed copy next to its raw image is the same camera.
    names -= {f"{topic.name}/compressed" for topic in images if topic.type == IMAGE_TYPE}
    kinds = {name: _camera_kind(name) for name in names}
    rgb, thermal = ({n for n in names if kinds[n] == kind} for kind in ("rgb", "thermal"))
    if len(names) == 2:
        rgb, thermal = rgb or names - thermal, thermal or names - rgb
    rgb, thermal = _prefer_raw(rgb), _prefer_raw(thermal)
    if len(rgb) != 1 or len(thermal) != 1:
        listing = "\n".join(f"  {topic.name} ({topic.type})" for topic in images) or "  none"
        raise BagError(
            "cannot tell which topics are the RGB and the thermal camera: name both. "
            f"Image topics:\n{listing}"
        )
    return rgb.pop(), thermal.pop()


def _camera_kind(topic: str) -> str | None:
    """Return "rgb" or "thermal" where the topic's name tells, else None."""
    words = set(re.findall("[a-z]+", topic.lower()))
    thermal, rgb = bool(words & _THERMAL_WORDS), bool(words & _RGB_WORDS)
    if thermal != rgb:
        return "thermal" if thermal else "rgb"
    if not thermal and words & _THERMAL_MAKERS:
        return "thermal"
    return None


def _prefer_raw(names: set[str]) -> set[str]:
    """Return the names with an `image_raw` part, or all where there is none."""
    raw = {name for name in names if "image_raw" in name.split("/")}
    return raw or set(names)
