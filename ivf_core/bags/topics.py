"""Guess which topics of a bag are the RGB and the thermal camera."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from ivf_core.bags.info import IMAGE_TYPE, BagError, BagMessage, TopicInfo
from ivf_core.bags.typestore import decode
from ivf_core.images.content import content_kind

__all__ = ["contradictions", "first_kinds", "guess_camera_topics"]

_THERMAL_WORDS = {"thermal", "infrared", "ir", "lwir"}
_RGB_WORDS = {"rgb", "color", "colour", "visible"}
_DEPTH_WORDS = {"depth", "disparity"}
_THERMAL_MAKERS = {"flir"}  # makes colour cameras as well: counts only where no other word does

# By camera: kinds of content, the likeliest first. No colour camera sends measured values.
_LIKELY_KINDS = {
    "rgb": (("colour",), ("grey", "")),
    "thermal": (("measured",), ("grey", ""), ("colour",)),
}


class _Raw(Protocol):
    """Bag whose messages can be read."""

    def raw(self, topics: list[str]) -> Iterator[BagMessage]:
        """Yield messages of these topics as CDR bytes."""
        ...


def first_kinds(bag: _Raw, topics: Iterable[TopicInfo]) -> dict[str, str]:
    """Return what the first message of each image topic carries.

    Args:
        bag: open for reading.
        topics: topics of the bag.

    Returns:
        `ivf_core.images.content.content_kind` by topic, "" where the message cannot be read.
    """
    kinds = {}
    for topic in topics:
        if not (topic.is_image and topic.count):
            continue
        try:
            first = next(bag.raw([topic.name]), None)
            kinds[topic.name] = content_kind(decode(first.message, first.type)) if first else ""
        except BagError:
            kinds[topic.name] = ""
    return kinds


def guess_camera_topics(
    topics: Iterable[TopicInfo], kinds: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Guess the RGB and the thermal topic of a bag from contents, types and names.

    What the topics carry decides first: colour images are the RGB camera's, images of 16 bits
    or floats the thermal camera's, and never depth topics. Names decide among what is left.
    Raw images are preferred to compressed ones of the same camera, and `image_raw` to processed
    images. Topics without messages are ignored.

    Args:
        topics: topics of the bag.
        kinds: what each topic carries, from `first_kinds`; by default unknown.

    Returns:
        Names of the RGB and the thermal topic.

    Raises:
        BagError: the topics are ambiguous; lists the image topics.
    """
    images = [topic for topic in topics if topic.is_image and topic.count]
    names = {topic.name for topic in images}
    # A compressed copy next to its raw image is the same camera.
    names -= {f"{topic.name}/compressed" for topic in images if topic.type == IMAGE_TYPE}
    names = {name for name in names if not _words(name) & _DEPTH_WORDS}
    rgb, thermal = (_likeliest(names, camera, kinds or {}) for camera in _LIKELY_KINDS)
    if len(rgb) != 1 or len(thermal) != 1 or rgb == thermal:
        listing = "\n".join(f"  {topic.name} ({topic.type})" for topic in images) or "  none"
        raise BagError(
            "cannot tell which topics are the RGB and the thermal camera: name both. "
            f"Image topics:\n{listing}"
        )
    return rgb.pop(), thermal.pop()


def contradictions(rgb: str, thermal: str, kinds: Mapping[str, str]) -> list[str]:
    """Return a sentence for each camera whose topic carries or is called something else.

    Args:
        rgb: topic taken as the RGB camera.
        thermal: topic taken as the thermal camera.
        kinds: what each topic carries, from `first_kinds`.
    """
    found = []
    if kinds.get(rgb) == "measured":
        found.append(f"{rgb} is taken as RGB, but carries 16 bits or floats in one channel")
    elif _camera_kind(rgb) == "thermal":
        found.append(f"{rgb} is taken as RGB for what it carries, despite its name")
    if _words(thermal) & _DEPTH_WORDS:
        found.append(f"{thermal} is taken as thermal, but its name says depth")
    elif kinds.get(thermal) == "colour":
        found.append(
            f"{thermal} is taken as thermal, but has a colour encoding: false colours hide the heat"
        )
    elif _camera_kind(thermal) == "rgb":
        found.append(f"{thermal} is taken as thermal for what it carries, despite its name")
    return found


def _likeliest(names: set[str], camera: str, kinds: Mapping[str, str]) -> set[str]:
    """Return the topics that a camera may have: by content, then by name, then raw ones."""
    decisive = {likely[0][0] for likely in _LIKELY_KINDS.values()}
    for likely in _LIKELY_KINDS[camera]:
        found = {name for name in names if kinds.get(name, "") in likely}
        ranks = {name: _rank(name, camera) for name in found}
        found = {name for name in found if ranks[name] == min(ranks.values())}
        if found and min(ranks.values()) < 2:
            return _prefer_raw(found)
        # A name that says the other camera counts for less than what both topics carry.
        if len(found) == 1 and decisive & {kinds.get(name) for name in names}:
            return found
    return set()


def _rank(topic: str, camera: str) -> int:
    """Return 0 if a topic's name says this camera, 2 if it says the other, else 1."""
    kind = _camera_kind(topic)
    return 1 if kind is None else 0 if kind == camera else 2


def _camera_kind(topic: str) -> str | None:
    """Return "rgb" or "thermal" where the topic's name tells, else None."""
    words = _words(topic)
    thermal, rgb = bool(words & _THERMAL_WORDS), bool(words & _RGB_WORDS)
    if thermal != rgb:
        return "thermal" if thermal else "rgb"
    if not thermal and words & _THERMAL_MAKERS:
        return "thermal"
    return None


def _words(topic: str) -> set[str]:
    return set(re.findall("[a-z]+", topic.lower()))


def _prefer_raw(names: set[str]) -> set[str]:
    """Return the names with an `image_raw` part, or all where there is none."""
    raw = {name for name in names if "image_raw" in name.split("/")}
    return raw or set(names)
