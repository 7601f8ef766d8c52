"""From a bag to pairs of frames, with what else the bag says of the same moments."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ivf_core.bags.info import BagError, BagInfo, BagMessage, TopicInfo
from ivf_core.bags.salvage import Bag
from ivf_core.bags.stamps import read_stamp
from ivf_core.bags.topics import guess_camera_topics
from ivf_core.bags.typestore import decode
from ivf_core.images.messages import MessageError, to_infrared, to_visible
from ivf_core.pairing import Pair
from ivf_core.replay.measure.pairing_log import PairingLog
from ivf_core.replay.settings import ReplaySettings

__all__ = ["Companion", "InputPair", "PairReader", "Topics", "choose_topics"]

_LABEL_WORDS = {"label", "labels", "gt", "truth", "annotation", "annotations"}
_FUSED_WORDS = {"fused", "fusion"}
_MADE_WORDS = {"mask", "overlay", "heatmap", "debug"}
_SHORT = "too_short"


@dataclass(frozen=True)
class Topics:
    """The topics of a bag that a replay uses.

    Attributes:
        rgb, thermal: of the cameras.
        guessed: whether one of these two was.
        candidates: all image topics of the bag.
        labels: true class ids, or None.
        other_fused: fused pictures of another method, or None.
    """

    rgb: str
    thermal: str
    guessed: bool
    candidates: tuple[TopicInfo, ...]
    labels: str | None
    other_fused: str | None

    def to_json(self) -> dict[str, Any]:
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


def choose_topics(info: BagInfo, settings: ReplaySettings) -> Topics:
    """The topics that are asked for, and guesses of the others by types and names.

    Raises:
        BagError: a topic that is not in the bag, holds no images or no messages, or
            cameras that cannot be told; lists the image topics.
    """
    images = tuple(topic for topic in info.topics if topic.is_image)
    by_name = {topic.name: topic for topic in info.topics}
    given = (settings.rgb_topic, settings.thermal_topic)
    for name in (*given, settings.labels_topic, settings.fused_topic):
        if name:
            _check_topic(info, by_name, name)
    spare = [topic for topic in images if topic.count and topic.name not in given]
    labels = _choose(settings.labels_topic, spare, _LABEL_WORDS, set())
    # In a recording of the node, its own pictures are no other method's.
    of_others = spare if settings.recorded is None else []
    other = _choose(settings.fused_topic, of_others, _FUSED_WORDS, _MADE_WORDS | _LABEL_WORDS)
    rgb, thermal = given
    if rgb is None or thermal is None:
        cameras = [t for t in images if not _words(t.name) & (_LABEL_WORDS | _MADE_WORDS)]
        cameras = [t for t in cameras if t.name not in (labels, other)]
        try:
            guess = _guess(cameras, rgb, thermal)
        except BagError as error:
            raise BagError(f"bag '{info.path}': {error}") from error
        rgb, thermal = rgb or guess[0], thermal or guess[1]
    if rgb == thermal:
        raise BagError(f"bag '{info.path}': {rgb} is asked for as both cameras")
    return Topics(rgb, thermal, None in given, images, labels, other)


def _guess(cameras: list[TopicInfo], rgb: str | None, thermal: str | None) -> tuple[str, str]:
    """`guess_camera_topics`, where one of both may be known."""
    known = rgb or thermal
    left = [topic for topic in cameras if topic.count and topic.name != known]
    if known and len(left) == 1:
        return rgb or left[0].name, thermal or left[0].name
    return guess_camera_topics(cameras)


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
    """The topic asked for, or the only one whose name says it; "" asks for none."""
    if asked is not None:
        return asked or None
    found = [t.name for t in topics if _words(t.name) & words and not _words(t.name) & without]
    return found[0] if len(found) == 1 else None


def _words(topic: str) -> set[str]:
    return set(re.findall("[a-z]+", topic.lower()))


@dataclass
class InputPair:
    """A pair as it comes out of a bag.

    Attributes:
        index: number of the pair in the bag, from 0.
        stamp_ns, thermal_stamp_ns: as paired.
        time_ns: when the RGB image was recorded.
        frame_id: of the RGB image.
        visible: H x W x 3 uint8 RGB; None where it failed.
        infrared: h x w uint8, uint16 or float32; likewise.
        failed: why it cannot be used, as the node counts it; "" where it can.
        detail: the same in words.
        companions: images of the same moment by role, decoded.
    """

    index: int
    stamp_ns: int
    thermal_stamp_ns: int
    time_ns: int
    frame_id: str = ""
    visible: np.ndarray | None = None
    infrared: np.ndarray | None = None
    failed: str = ""
    detail: str = ""
    companions: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _Image:
    """An image message that waits for its partner, undecoded."""

    message: BagMessage
    stamp: int


class PairReader:
    """Reads the pairs of a bag in order, by the node's pairing policy.

    Args:
        bag: open for reading.
        topics: of the bag.
        log: takes every stamp, and pairs.
        pass_on: whether messages of both cameras are to be given on as they come.

    Attributes:
        left_out: messages that could not be used by topic and reason.
        unstamped: images with a zero stamp by topic; they go by their time of recording.
    """

    def __init__(self, bag: Bag, topics: Topics, log: PairingLog, *, pass_on: bool) -> None:
        self._bag = bag
        self._topics = topics
        self._log = log
        self._pass_on = pass_on
        self._index = 0
        self.left_out: Counter[tuple[str, str]] = Counter()
        self.unstamped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[InputPair | BagMessage]:
        """Pairs, and with `pass_on` the cameras' messages, each before its pair."""
        names = [self._topics.rgb, self._topics.thermal]
        for message in self._bag.raw(names):
            image = self._stamped(message)
            if image is None:
                continue
            if self._pass_on:
                yield message
            camera = "rgb" if message.topic == self._topics.rgb else "thermal"
            for pair in self._log.add(camera, image.stamp, message.time_ns, image):
                yield self._decoded(pair)
        for pair in self._log.flush():
            yield self._decoded(pair)

    def _stamped(self, message: BagMessage) -> _Image | None:
        try:
            stamp = read_stamp(message.message)
        except ValueError:
            self.left_out[message.topic, _SHORT] += 1
            return None
        if stamp == 0:
            self.unstamped[message.topic] += 1
            stamp = message.time_ns
        return _Image(message, stamp)

    def _decoded(self, pair: Pair) -> InputPair:
        rgb, thermal = pair.visible.message, pair.infrared.message
        made = InputPair(self._index, pair.visible_stamp, pair.infrared_stamp, rgb.time_ns)
        self._index += 1
        camera = "rgb"
        try:
            message = decode(rgb.message, rgb.type)
            made.frame_id = message.header.frame_id
            made.visible = to_visible(message)
            camera = "thermal"
            made.infrared = to_infrared(decode(thermal.message, thermal.type))
        except MessageError as error:
            made.failed, made.detail = f"{camera}_{error.reason}", f"{camera} image: {error}"
        except BagError as error:
            made.failed, made.detail = f"{camera}_undecodable", f"{camera} image: {error}"
        return made


class Companion:
    """Images of one topic, each taken by the stamp of the pair that it belongs to.

    Stamps must match to the nanosecond or, where `tolerance_ns` allows, nearly.
    Reads on only as far as the pairs have come; a jump back of the stamps starts
    a new epoch, as it does in the pairing.

    Args:
        bag: open for reading, and read by nobody else meanwhile.
        topic: its name.

    Attributes:
        taken: images found.
        received: images read.
    """

    _KEPT = 8

    def __init__(self, bag: Bag, topic: str, tolerance_ns: int = 0) -> None:
        self._messages = bag.raw([topic])
        self._tolerance = tolerance_ns
        self._kept: deque[tuple[tuple[int, int], BagMessage]] = deque(maxlen=self._KEPT)
        self._epoch = self._wanted_epoch = 0
        self._last = self._last_wanted = -1
        self._ended = False
        self.taken = 0
        self.received = 0

    def take(self, stamp_ns: int) -> BagMessage | None:
        """The message of a pair; pairs must be asked for in their order."""
        if stamp_ns < self._last_wanted:
            self._wanted_epoch += 1
        self._last_wanted = stamp_ns
        wanted = (self._wanted_epoch, stamp_ns)
        # One past the wanted, for it may be the nearer one.
        while not self._ended and (not self._kept or self._kept[-1][0] <= wanted):
            self._read_one()
        found = min(
            (kept for kept in self._kept if kept[0][0] == wanted[0]),
            key=lambda kept: abs(kept[0][1] - stamp_ns),
            default=None,
        )
        if found is None or abs(found[0][1] - stamp_ns) > self._tolerance:
            return None
        self.taken += 1
        return found[1]

    def _read_one(self) -> None:
        for message in self._messages:
            try:
                stamp = read_stamp(message.message) or message.time_ns
            except ValueError:
                continue
            if stamp < self._last:
                self._epoch += 1
            self._last = stamp
            self.received += 1
            self._kept.append(((self._epoch, stamp), message))
            return
        self._ended = True
