"""Choose the topics of a bag that a replay uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ivf_core.bags.info import BagError, BagInfo, TopicInfo
from ivf_core.bags.salvage import Bag
from ivf_core.bags.topics import contradictions, first_kinds, guess_camera_topics
from ivf_core.replay.settings import ReplaySettings

__all__ = ["ReplayTopics", "choose_topics"]

_LABEL_WORDS = {"label", "labels", "gt", "truth", "annotation", "annotations"}
_FUSED_WORDS = {"fused", "fusion"}
_DERIVED_WORDS = {"mask", "overlay", "heatmap", "debug"}


@dataclass(frozen=True)
class ReplayTopics:
    """Topics of a bag that a replay uses.

    Attributes:
        rgb: topic of the RGB camera.
        thermal: topic of the thermal camera.
        guessed: true if one of these two was guessed.
        candidates: all image topics of the bag.
        labels: topic of true class ids, or None.
        other_fused: topic of another method's fused images, or None.
        doubts: a sentence for each camera that carries something else than it should.
    """

    rgb: str
    thermal: str
    guessed: bool
    candidates: tuple[TopicInfo, ...]
    labels: str | None
    other_fused: str | None
    doubts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return `topics` of summary.json."""
        return {
            "rgb": self.rgb,
            "thermal": self.thermal,
            "guessed": self.guessed,
            "candidates": [
                {"name": topic.name, "type": topic.type, "messages": topic.count}
                for topic in self.candidates
            ],
            "labels": self.labels,
            "other_fused": self.other_fused,
        }


def choose_topics(bag: Bag, settings: ReplaySettings) -> ReplayTopics:
    """Take the topics that the settings name, and guess the others from contents and names.

    Args:
        bag: open for reading.
        settings: settings of the replay.

    Raises:
        BagError: a topic is not in the bag, holds no images or no messages, or the cameras
            are ambiguous; lists the image topics.
    """
    info = bag.info
    images = tuple(topic for topic in info.topics if topic.is_image)
    by_name = {topic.name: topic for topic in info.topics}
    given = (settings.rgb_topic, settings.thermal_topic)
    for name in (*given, settings.labels_topic, settings.fused_topic):
        if name:
            _check_topic(info, by_name, name)
    spare = [topic for topic in images if topic.count and topic.name not in given]
    labels = _choose(settings.labels_topic, spare, _LABEL_WORDS, set())
    # In a recording of the node, the fused images are the node's, not another method's.
    of_others = spare if settings.recorded is None else []
    other = _choose(settings.fused_topic, of_others, _FUSED_WORDS, _DERIVED_WORDS | _LABEL_WORDS)
    kinds = first_kinds(bag, images)
    rgb, thermal = given
    if rgb is None or thermal is None:
        cameras = [t for t in images if not _words(t.name) & (_LABEL_WORDS | _DERIVED_WORDS)]
        cameras = [t for t in cameras if t.name not in (labels, other)]
        try:
            guess = _guess(cameras, rgb, thermal, kinds)
        except BagError as error:
            raise BagError(f"bag '{info.path}': {error}") from error
        rgb, thermal = rgb or guess[0], thermal or guess[1]
    if rgb == thermal:
        raise BagError(f"bag '{info.path}': {rgb} is asked for as both cameras")
    doubts = tuple(contradictions(rgb, thermal, kinds))
    return ReplayTopics(rgb, thermal, None in given, images, labels, other, doubts)


def _guess(
    cameras: list[TopicInfo], rgb: str | None, thermal: str | None, kinds: Mapping[str, str]
) -> tuple[str, str]:
    """Guess both camera topics; one of them may be known."""
    known = rgb or thermal
    left = [topic for topic in cameras if topic.count and topic.name != known]
    if known and len(left) == 1:
        return rgb or left[0].name, thermal or left[0].name
    return guess_camera_topics(cameras, kinds)


def _check_topic(info: BagInfo, by_name: dict[str, TopicInfo], name: str) -> None:
    images = ", ".join(topic.name for topic in info.topics if topic.is_image) or "none"
    if name not in by_name:
        raise BagError(f"bag '{info.path}': no topic {name}; its image topics: {images}")
    topic = by_name[name]
    if not topic.is_image:
        raise BagError(
            f"bag '{info.path}': {name} holds {topic.type}, expected images; "
            f"its image topics: {images}"
        )
    if not topic.count:
        raise BagError(f"bag '{info.path}': {name} has no messages")


def _choose(
    asked: str | None, topics: list[TopicInfo], words: set[str], without: set[str]
) -> str | None:
    """Return the topic asked for, or the only one whose name fits; "" asks for none."""
    if asked is not None:
        return asked or None
    found = [t.name for t in topics if _words(t.name) & words and not _words(t.name) & without]
    return found[0] if len(found) == 1 else None


def _words(topic: str) -> set[str]:
    return set(re.findall("[a-z]+", topic.lower()))
