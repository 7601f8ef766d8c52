"""Read the pairs of a bag in order, by the node's pairing policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ivf_core.bags.info import BagError, BagMessage
from ivf_core.bags.salvage import Bag
from ivf_core.bags.stamps import read_stamp
from ivf_core.bags.typestore import decode
from ivf_core.images.messages import MessageError, to_infrared, to_visible
from ivf_core.pairing import Pair
from ivf_core.replay.measure.pairing_log import PairingLog
from ivf_core.replay.topic_choice import ReplayTopics

__all__ = ["InputPair", "PairReader"]

_SHORT = "too_short"


@dataclass
class InputPair:
    """Pair of decoded images of a bag.

    Attributes:
        index: number of the pair in the bag, from 0.
        stamp_ns: stamp of the RGB image, as paired.
        thermal_stamp_ns: stamp of the thermal image, as paired.
        time_ns: time of recording of the RGB image.
        frame_id: frame id of the RGB image.
        visible: H x W x 3 uint8 RGB; None where it failed.
        infrared: h x w uint8, uint16 or float32; None where one of both failed.
        failed: reason why the pair cannot be used, as the node counts it; "" if it can.
        detail: the reason in words.
        references: reference images of the same moment by role, "truth" (class ids) and
            "other" (another method's fused image), decoded.
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
    references: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _WaitingImage:
    """An image message that waits for its partner, undecoded."""

    message: BagMessage
    stamp: int


class PairReader:
    """Reader of the pairs of a bag in order, by the node's pairing policy.

    Args:
        bag: open for reading.
        topics: topics of the bag.
        log: takes every stamp, and makes the pairs.
        with_messages: yield the messages of both cameras as well.

    Attributes:
        left_out: number of messages that could not be used, by topic and reason.
        unstamped: number of images with a zero stamp, by topic; these are paired by their
            time of recording.
    """

    def __init__(
        self, bag: Bag, topics: ReplayTopics, log: PairingLog, *, with_messages: bool
    ) -> None:
        self._bag = bag
        self._topics = topics
        self._log = log
        self._with_messages = with_messages
        self._index = 0
        self.left_out: Counter[tuple[str, str]] = Counter()
        self.unstamped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[InputPair | BagMessage]:
        """Yield pairs and, where asked for, the cameras' messages, each before its pair."""
        names = [self._topics.rgb, self._topics.thermal]
        for message in self._bag.raw(names):
            image = self._stamped(message)
            if image is None:
                continue
            if self._with_messages:
                yield message
            camera = "rgb" if message.topic == self._topics.rgb else "thermal"
            for pair in self._log.add(camera, image.stamp, message.time_ns, image):
                yield self._decoded(pair)
        for pair in self._log.flush():
            yield self._decoded(pair)

    def _stamped(self, message: BagMessage) -> _WaitingImage | None:
        try:
            stamp = read_stamp(message.message)
        except ValueError:
            self.left_out[message.topic, _SHORT] += 1
            return None
        if stamp == 0:
            self.unstamped[message.topic] += 1
            stamp = message.time_ns
        return _WaitingImage(message, stamp)

    def _decoded(self, pair: Pair) -> InputPair:
        rgb, thermal = pair.visible.message, pair.infrared.message
        decoded = InputPair(self._index, pair.visible_stamp, pair.infrared_stamp, rgb.time_ns)
        self._index += 1
        camera = "rgb"
        try:
            message = decode(rgb.message, rgb.type)
            decoded.frame_id = message.header.frame_id
            decoded.visible = to_visible(message)
            camera = "thermal"
            decoded.infrared = to_infrared(decode(thermal.message, thermal.type))
        except MessageError as error:
            decoded.failed, decoded.detail = f"{camera}_{error.reason}", f"{camera} image: {error}"
        except BagError as error:
            decoded.failed, decoded.detail = f"{camera}_undecodable", f"{camera} image: {error}"
        return decoded
