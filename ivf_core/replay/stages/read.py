"""First stage: read pairs and the reference images of the same moments."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ivf_core.bags.info import BagError, BagInfo, BagMessage
from ivf_core.bags.salvage import Bag, open_bag
from ivf_core.bags.typestore import decode
from ivf_core.class_sets import ClassSet
from ivf_core.images.messages import MessageError, to_infrared, to_visible
from ivf_core.replay.announced_classes import announced_classes
from ivf_core.replay.cameras_in_use import CamerasInUse
from ivf_core.replay.measure.pairing_log import PairingLog
from ivf_core.replay.pair_reader import InputPair, PairReader
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.stages.failures import Failures
from ivf_core.replay.stamp_matcher import StampMatcher
from ivf_core.replay.topic_choice import ReplayTopics, choose_topics
from ivf_core.rigs.remap import read_registration

__all__ = ["ReadStage"]

_DEFAULT_RATE_HZ = 30.0


class ReadStage:
    """Stage that reads pairs and reference images of the same moments; runs in thread "read".

    Args:
        bag: open for reading.
        topics: topics of the bag.
        settings: settings of the replay.
        references: matcher of each reference topic, "truth" and "other".
        true_classes: class set that the bag announces for true class ids, or None.
        left_out: takes a line for each part of the bag that cannot be read.

    Attributes:
        info: summary of the bag.
        topics: topics of the bag.
        counts: images in the bag, by camera.
        registration: map of thermal images onto RGB images.
        offset_seconds: time added to thermal stamps: the settings', or else the rig's.
        log: all stamps, and the pairing.
        cameras: choice of the cameras in use.
        pairs: reader of the pairs, with its counters.
        references: matcher of each reference topic.
        true_classes: class set that the bag announces for true class ids, or None.
        failures: reference images that cannot be used.
        left_out: lines on parts of the bag that cannot be read.
        processor_seconds: processor time of the stage, once it has ended.
    """

    def __init__(
        self,
        bag: Bag,
        topics: ReplayTopics,
        settings: ReplaySettings,
        references: Mapping[str, StampMatcher],
        true_classes: ClassSet | None,
        left_out: list[str],
    ) -> None:
        self.info: BagInfo = bag.info
        self.topics = topics
        counts = {topic.name: topic.count for topic in bag.info.topics}
        self.counts = {"rgb": counts[topics.rgb], "thermal": counts[topics.thermal]}
        self.registration = read_registration(settings.registration)
        self.offset_seconds = settings.offset_seconds or self.registration.time_offset_seconds
        self.log = PairingLog(
            tolerance_seconds=settings.tolerance_seconds,
            offset_seconds=self.offset_seconds,
            minimum_interval_seconds=settings.minimum_interval_seconds,
            queue_size=settings.queue_size,
            start_ns=bag.info.start_ns,
        )
        # The node has chosen already what a recording holds.
        alone = settings.single_camera == "fuse" and settings.recorded is None
        self.cameras = CamerasInUse(enabled=alone, start_ns=bag.info.start_ns)
        self.pairs = PairReader(
            bag, topics, self.log, self.cameras, self.registration, with_messages=settings.inputs
        )
        self.references = references
        self.true_classes = true_classes
        self.failures = Failures()
        self.left_out = left_out
        self.processor_seconds = 0.0

    @classmethod
    @contextmanager
    def open(cls, path: Path, settings: ReplaySettings) -> Iterator[ReadStage]:
        """Open a bag for a replay.

        Args:
            path: rosbag2 folder or file, or rosbag1 file.
            settings: settings of the replay.

        Raises:
            BagError: nothing can be read, or a topic is missing; names the bag.
        """
        left_out: list[str] = []
        with ExitStack() as stack:
            bag = stack.enter_context(open_bag(path, left_out))
            topics = choose_topics(bag, settings)
            tolerance = round(settings.tolerance_seconds * 1e9)
            names = {"truth": topics.labels, "other": topics.other_fused}
            # Each matcher opens the bag for itself: it may be ahead of the cameras or behind.
            references = {
                role: StampMatcher(stack.enter_context(open_bag(path, [])), name, tolerance)
                for role, name in names.items()
                if name is not None
            }
            classes = announced_classes(bag, topics.labels)
            yield cls(bag, topics, settings, references, classes, left_out)

    @property
    def most_pairs(self) -> int:
        """Largest number of pairs there can be."""
        return min(self.counts.values())

    @property
    def rate_hz(self) -> float:
        """Largest number of pairs per second there can be, 30 where the bag has no duration."""
        seconds = self.info.duration_seconds
        return (seconds and self.most_pairs / seconds) or _DEFAULT_RATE_HZ

    def __iter__(self) -> Iterator[tuple[InputPair | BagMessage, float]]:
        """Yield pairs and messages to copy, and the milliseconds that each took."""
        started = time.thread_time()
        began = time.perf_counter()
        for item in self.pairs:
            if isinstance(item, InputPair):
                self._add_references(item)
            yield item, (time.perf_counter() - began) * 1e3
            began = time.perf_counter()
        self.processor_seconds = time.thread_time() - started

    def _add_references(self, pair: InputPair) -> None:
        for role, matcher in self.references.items():
            message = matcher.match(pair.stamp_ns)
            if message is None:
                continue
            read = to_infrared if role == "truth" else to_visible
            try:
                image = read(decode(message.message, message.type))
            except (BagError, MessageError) as error:
                self.failures.add(f"{role}_undecodable", f"{message.topic}: {error}")
                continue
            if role == "truth" and image.dtype != np.uint8:
                self.failures.add("truth_not_8_bit", f"{message.topic}: labels are {image.dtype}")
                continue
            straighten = (
                self.registration.undistort_labels
                if role == "truth"
                else self.registration.undistort
            )
            pair.references[role] = straighten(image)
