"""Pairs of a bag by their number: indexed by their stamps first, decoded when they are shown."""

from __future__ import annotations

import logging
import threading
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.bags.info import BagError, BagMessage
from ivf_core.bags.salvage import Bag, open_bag
from ivf_core.bags.stamps import read_stamp
from ivf_core.bags.typestore import decode
from ivf_core.camera_choice import CAMERAS
from ivf_core.html.filters import duration, utc
from ivf_core.images.messages import MessageError, to_infrared, to_visible
from ivf_core.images.symptoms import Severity
from ivf_core.replay.cameras_in_use import CamerasInUse
from ivf_core.replay.measure.pairing_log import PairingLog
from ivf_core.replay.pair_reader import InputPair, PairReader
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.topic_choice import choose_topics
from ivf_core.rigs.remap import read_registration
from ivf_core.view.sequences import BINS, SourceFrame, UnreadableFrameError
from ivf_core.view.timeline import Timeline

__all__ = ["BagPairs"]

_log = logging.getLogger(__name__)

_NAMES = {"rgb": "RGB", "thermal": "thermal"}
_NONE = -1  # stamp of a camera that has no image in a frame
_AHEAD_NS = 2_000_000_000  # read over rather than sought
_LATE_NS = 1_000_000_000  # an image may be stored so much later than its partner


class BagPairs:
    """Pairs of a bag, by the node's pairing policy, with the interface `Sequence`.

    A thread reads the stamps of the whole bag once, so that frames have numbers and the time
    line is known; frames can be read meanwhile. The index has 40 bytes a frame.

    Args:
        path: rosbag2 folder or file, or rosbag1 file.
        settings: topics, pairing and single-camera policy.

    Raises:
        BagError: nothing can be read, or a topic is missing; names the bag.
    """

    def __init__(self, path: Path, settings: ReplaySettings) -> None:
        self._path = path
        self._registration = read_registration(settings.registration)
        self._left_out: list[str] = []
        self._close = ExitStack()
        self._bag = self._close.enter_context(open_bag(path, self._left_out))
        try:
            topics = choose_topics(self._bag, settings)
        except BaseException:
            self._close.close()
            raise
        info = self._bag.info
        self._start, self._topics = info.start_ns, topics
        self._duration = info.duration_seconds
        self.title = path.name
        self.facts = [
            ("format", info.format),
            ("recorded", utc(info.start_ns)),
            ("length", duration(info.duration_seconds)),
            ("RGB", topics.rgb),
            ("thermal", topics.thermal),
        ]
        self.facts += [("note", doubt) for doubt in topics.doubts]
        counts = {topic.name: topic.count for topic in info.topics}
        fewest = min(counts[topics.rgb], counts[topics.thermal])
        self.rate_hz = fewest / self._duration if self._duration and fewest > 1 else 10.0
        self.timeline = Timeline(max(self._duration, 1.0) / BINS, BINS)
        self._messages = _Messages(self._bag, [topics.rgb, topics.thermal])
        self._stamps = {camera: array("q") for camera in CAMERAS}
        self._times = {camera: array("q") for camera in CAMERAS}
        self._seconds = array("d")
        self._log = PairingLog(
            tolerance_seconds=settings.tolerance_seconds,
            offset_seconds=settings.offset_seconds,
            minimum_interval_seconds=settings.minimum_interval_seconds,
            queue_size=settings.queue_size,
            start_ns=info.start_ns,
        )
        self._alone_allowed = settings.single_camera == "fuse"
        self._failed: dict[int, str] = {}
        self._fault = ""
        self._complete = False
        self._closing = threading.Event()
        self._indexing = threading.Thread(target=self._index, name="index", daemon=True)
        self._indexing.start()

    @property
    def duration_seconds(self) -> float:
        """Length of the bag."""
        return self._duration

    def seconds(self, since: int) -> list[float]:
        """Return the times of the frames that are indexed so far, from one on."""
        return [round(second, 4) for second in self._seconds[max(0, since) :]]

    def progress(self) -> dict[str, Any]:
        """Return `complete`, `note` and `counters` of the status."""
        counters: list[list[Any]] = []
        for camera, count in self._log.received.items():
            counters.append([f"{_NAMES[camera]} images", count])
        counters.append(["pairs", self._log.pairs])
        alone = len(self._seconds) - self._log.pairs
        if alone > 0:
            counters.append(["of one camera alone", alone])
        for camera, reasons in self._log.unmatched.items():
            for reason, count in reasons.items():
                counters.append([f"{_NAMES[camera]} {reason.replace('_', ' ')}", count])
        if self._failed:
            counters.append(["cannot be read", len(self._failed)])
        note = self._fault or ("" if self._complete else "reading the stamps")
        lines = [*self._left_out, *self._bag.info.differences]
        if lines and not note:
            note = lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")
        return {"complete": self._complete, "note": note, "counters": counters}

    def read(self, number: int) -> SourceFrame:
        """Read and decode a frame; see `Sequence`."""
        if not 0 <= number < len(self._seconds):
            raise LookupError(f"frame {number}: {len(self._seconds)} are indexed")
        topics = {"rgb": self._topics.rgb, "thermal": self._topics.thermal}
        wanted = {
            camera: (topics[camera], self._times[camera][number], self._stamps[camera][number])
            for camera in CAMERAS
            if self._times[camera][number] != _NONE
        }
        found = self._messages.find(list(wanted.values()))
        images: dict[str, np.ndarray] = {}
        for camera, key in wanted.items():
            if key not in found:
                self._fail(number, f"the {_NAMES[camera]} image cannot be read again")
            try:
                message = decode(found[key].message, found[key].type)
                images[camera] = (to_visible if camera == "rgb" else to_infrared)(message)
            except (BagError, MessageError) as error:
                self._fail(number, f"{_NAMES[camera]} image: {error}")
        stamp = self._stamps["thermal" if "thermal" in wanted else "rgb"][number]
        facts = [("stamp", f"{self._stamps[next(iter(wanted))][number] / 1e9:.3f} s")]
        if len(wanted) == 2:
            apart = (self._stamps["thermal"][number] - self._stamps["rgb"][number]) / 1e6
            facts.append(("thermal minus RGB", f"{apart:+.1f} ms"))
        return SourceFrame(
            f"{self._path.stem}_{number:06d}",
            self._seconds[number],
            stamp / 1e9,
            images.get("rgb"),
            images.get("thermal"),
            tuple(facts),
        )

    def close(self) -> None:
        """End the index and close the bag."""
        self._closing.set()
        self._indexing.join()
        self._messages.close()
        self._close.close()

    def _fail(self, number: int, text: str) -> None:
        if number not in self._failed:
            self._failed[number] = text
            self.timeline.lose(self._seconds[number], 1)
            self.timeline.add_event(self._seconds[number], number, Severity.FAULT, text)
        raise UnreadableFrameError(text)

    def _index(self) -> None:
        """Read the stamps of the whole bag."""
        try:
            with open_bag(self._path, []) as bag:
                self._index_pairs(bag)
        except Exception as error:  # the page shows it; what is indexed can be viewed
            _log.warning("index of '%s': %s", self._path, error)
            self._fault = str(error)
        finally:
            self._complete = True

    def _index_pairs(self, bag: Bag) -> None:
        cameras = CamerasInUse(enabled=self._alone_allowed, start_ns=self._start)
        reader = PairReader(
            bag, self._topics, self._log, cameras, self._registration,
            with_messages=True, with_images=False,
        )  # fmt: skip
        lost, alone = 0, ""
        for item in reader:
            if self._closing.is_set():
                return
            if isinstance(item, BagMessage):
                seconds = (item.time_ns - self._start) / 1e9
                now = sum(sum(one.values()) for one in self._log.unmatched.values())
                self.timeline.lose(seconds, now - lost)
                lost = now
                continue
            if item.failed:
                continue
            self._append(item)
            if item.alone:
                self.timeline.use_alone(self._seconds[-1])
            if item.alone != alone:
                alone = item.alone
                text = f"{_NAMES[alone]} camera alone" if alone else "both cameras again"
                severity = Severity.FAULT if alone else Severity.OK
                self.timeline.add_event(self._seconds[-1], len(self._seconds) - 1, severity, text)
        for gap in self._log.gaps()[:50]:
            text = f"no {_NAMES[gap['topic']]} image for {gap['seconds']:.2f} s"
            at = int(np.searchsorted(np.asarray(self._seconds), gap["start_seconds"]))
            frame = min(at, max(0, len(self._seconds) - 1))
            self.timeline.add_event(gap["start_seconds"], frame, Severity.NOTE, text)

    def _append(self, pair: InputPair) -> None:
        values = {
            "rgb": (pair.stamp_ns, pair.time_ns),
            "thermal": (pair.thermal_stamp_ns, pair.thermal_time_ns),
        }
        if pair.alone:
            values["thermal" if pair.alone == "rgb" else "rgb"] = (_NONE, _NONE)
        for camera, (stamp, time_ns) in values.items():
            self._stamps[camera].append(stamp)
            self._times[camera].append(time_ns)
        self._seconds.append((pair.time_ns - self._start) / 1e9)  # last: it makes the frame known


_Key = tuple[str, int, int]
"""Topic, time of recording and stamp of a message."""


class _Messages:
    """Messages of both cameras, read forwards from a position that moves."""

    def __init__(self, bag: Bag, topics: list[str]) -> None:
        self._bag = bag
        self._topics = topics
        self._held: dict[_Key, BagMessage] = {}
        self._messages: Any = None
        self._low = self._at = 0

    def find(self, wanted: list[_Key]) -> dict[_Key, BagMessage]:
        """Return those of the wanted messages that can be read."""
        times = [time_ns for _, time_ns, _ in wanted]
        low, high = min(times), max(times)
        if self._messages is None or not self._low <= low <= self._at + _AHEAD_NS:
            self.close()
            self._messages, self._at = self._bag.raw(self._topics, low), low
        self._low = low
        self._held = {key: message for key, message in self._held.items() if key[1] >= low}
        while not all(key in self._held for key in wanted):
            message = next(self._messages, None)
            if message is None:
                self._messages = None
                break
            self._at = message.time_ns
            try:
                stamp = read_stamp(message.message) or message.time_ns
            except ValueError:
                continue
            if message.time_ns >= low:
                self._held[message.topic, message.time_ns, stamp] = message
            if message.time_ns > high + _LATE_NS:
                break
        return {key: self._held[key] for key in wanted if key in self._held}

    def close(self) -> None:
        """Forget the position."""
        if self._messages is not None:
            self._messages.close()
        self._messages = None
        self._held.clear()
