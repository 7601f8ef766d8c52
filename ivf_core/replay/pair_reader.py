"""Read the pairs of a bag in order, by the node's pairing policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from ivf_core.bags.info import BagError, BagMessage
from ivf_core.bags.salvage import Bag
from ivf_core.bags.stamps import read_stamp
from ivf_core.bags.typestore import decode
from ivf_core.camera_choice import Route
from ivf_core.images.messages import MessageError, to_infrared, to_visible
from ivf_core.inference.pipeline import absent_visible
from ivf_core.pairing import Pair
from ivf_core.replay.cameras_in_use import CamerasInUse
from ivf_core.replay.measure.pairing_log import PairingLog
from ivf_core.replay.topic_choice import ReplayTopics
from ivf_core.rigs.remap import AnyRegistration

__all__ = ["InputPair", "PairReader"]

_SHORT = "too_short"


@dataclass
class InputPair:
    """Pair of decoded images of a bag, or the image of one camera alone.

    Attributes:
        index: number of the pair in the bag, from 0.
        stamp_ns: stamp of the RGB image, as paired; of the thermal image where it is alone.
        thermal_stamp_ns: stamp of the thermal image, as paired.
        time_ns: time of recording of the image that has the stamp.
        thermal_time_ns: time of recording of the thermal image; as `time_ns` where one is alone.
        frame_id: frame id of that image.
        visible: H x W x 3 uint8 RGB; None where it failed; zeros for the thermal camera alone.
        infrared: h x w uint8, uint16 or float32; None where one of both failed, and for the
            RGB camera alone.
        failed: reason why the pair cannot be used, as the node counts it; "" if it can.
        detail: the reason in words.
        references: reference images of the same moment by role, "truth" (class ids) and
            "other" (another method's fused image), decoded.
        alone: camera whose image is fused alone, "rgb" or "thermal"; "" for a pair.
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
    alone: str = ""
    thermal_time_ns: int = 0


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
        cameras: chooses the cameras in use, and takes every image.
        registration: maps thermal images onto RGB; tells the size of an absent RGB image.
        with_messages: yield the messages of both cameras as well.
        with_images: decode the images; without, pairs have stamps alone, and the cameras'
            health is not known.

    Attributes:
        left_out: number of messages that could not be used, by topic and reason.
        unstamped: number of images with a zero stamp, by topic; these are paired by their
            time of recording.
    """

    def __init__(
        self,
        bag: Bag,
        topics: ReplayTopics,
        log: PairingLog,
        cameras: CamerasInUse,
        registration: AnyRegistration,
        *,
        with_messages: bool,
        with_images: bool = True,
    ) -> None:
        self._bag = bag
        self._topics = topics
        self._log = log
        self._cameras = cameras
        self._registration = registration
        self._rgb_size: tuple[int, ...] | None = None
        self._beside: _WaitingImage | None = None  # latest of a camera that is not in use
        self._with_messages = with_messages
        self._with_images = with_images
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
            yield from self._routed(camera, image)
        for pair in self._log.flush():
            yield self._decoded(pair)

    def _routed(self, camera: str, image: _WaitingImage) -> Iterator[InputPair]:
        """Pass an image to pairing, or on alone; yield what is to be fused now."""
        before = self._cameras.alone
        time_ns = image.message.time_ns
        route = self._cameras.take(camera, image.stamp, time_ns)
        if self._cameras.alone != before:
            self._log.reset("not_in_use")
            self._beside = None
        if route is Route.PAIR:
            for pair in self._log.add(camera, image.stamp, time_ns, image):
                yield self._decoded(pair)
            return
        self._log.note(camera, image.stamp, time_ns)
        if route is Route.BESIDE:
            self._beside = image
        else:
            if self._beside is not None and self._with_images:
                with suppress(MessageError):  # its health was noted
                    self._decode("thermal" if camera == "rgb" else "rgb", self._beside)
                self._beside = None
            yield self._decoded_alone(camera, image)

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
        rgb, thermal = pair.visible, pair.infrared
        decoded = InputPair(
            self._index,
            pair.visible_stamp,
            pair.infrared_stamp,
            rgb.message.time_ns,
            thermal_time_ns=thermal.message.time_ns,
        )
        self._index += 1
        for camera, image in (("rgb", rgb), ("thermal", thermal)):
            self._fill(decoded, camera, image)
        if not decoded.failed:
            self._check_order(decoded)
        return decoded

    def _decoded_alone(self, camera: str, image: _WaitingImage) -> InputPair:
        stamp, time_ns = image.stamp, image.message.time_ns
        decoded = InputPair(
            self._index, stamp, stamp, time_ns, alone=camera, thermal_time_ns=time_ns
        )
        self._index += 1
        self._fill(decoded, camera, image)
        if decoded.infrared is not None:
            decoded.visible = absent_visible(decoded.infrared, self._registration, self._rgb_size)
        if not decoded.failed:
            self._check_order(decoded)
        if not decoded.failed:
            self._cameras.fused[camera] += 1
        return decoded

    def _fill(self, pair: InputPair, camera: str, image: _WaitingImage) -> None:
        """Put a decoded image into a pair, or the reason why it fails."""
        if not self._with_images:
            return
        try:
            decoded, frame_id = self._decode(camera, image)
        except MessageError as error:
            if not pair.failed:
                pair.failed, pair.detail = f"{camera}_{error.reason}", f"{camera} image: {error}"
            return
        if camera == "rgb":
            pair.visible = decoded
        elif not pair.failed:
            pair.infrared = decoded
        if camera == (pair.alone or "rgb"):
            pair.frame_id = frame_id

    def _decode(self, camera: str, image: _WaitingImage) -> tuple[np.ndarray, str]:
        """Decode and examine an image; return it and its frame id, or raise `MessageError`."""
        try:
            message = decode(image.message.message, image.message.type)
            decoded = to_visible(message) if camera == "rgb" else to_infrared(message)
        except (BagError, MessageError) as error:
            self._cameras.unreadable(camera, str(error), image.stamp)
            if isinstance(error, MessageError):
                raise
            raise MessageError("undecodable", str(error)) from error
        self._cameras.examine(camera, decoded, image.stamp)
        if camera == "rgb":
            self._rgb_size = decoded.shape[:2]
        return decoded, message.header.frame_id

    def _check_order(self, pair: InputPair) -> None:
        """Leave out a pair that is earlier than what other cameras have shown."""
        if self._cameras.leads_back(pair.alone, pair.stamp_ns):
            pair.failed = "out_of_order"
            pair.detail = "where the cameras in use change, the stamp would lead back"
