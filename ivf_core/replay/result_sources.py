"""Sources of the results that a replay scores: the pipeline, or a recording of the node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from ivf_core.bags.info import BagError, BagMessage
from ivf_core.bags.salvage import Bag, open_bag
from ivf_core.bags.typestore import decode
from ivf_core.class_sets import ClassSet
from ivf_core.images.messages import MessageError, to_infrared, to_visible
from ivf_core.images.thermal import GainControl, ThermalNormalizer
from ivf_core.inference import FusionPipeline, FusionResult, ImagePair
from ivf_core.inference.concurrent import ConcurrentPipeline
from ivf_core.inference.engine import describe
from ivf_core.inference.pipeline import prepare
from ivf_core.replay.announced_classes import read_class_set
from ivf_core.replay.live import RecordedStamps
from ivf_core.replay.pair_reader import InputPair
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.stamp_matcher import StampMatcher
from ivf_core.rigs.remap import AnyRegistration, read_registration

__all__ = ["NoResultError", "ResultSource", "build_pipeline", "open_result_source"]


class NoResultError(ValueError):
    """A pair without a result.

    Attributes:
        reason: short key for counters, the node's where it has one.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ResultSource(Protocol):
    """Source of the result of each pair, in the order of the pairs.

    Attributes:
        class_set: class set of the labels, or None.
        weights: weights that the results come from, in words.
        recorded: true if results are read from a recording, false if they are computed.
        at_once: number of pairs that are computed at the same time.
        most_started: largest number of pairs to start before the first result is taken.
    """

    class_set: ClassSet | None
    weights: str
    recorded: bool
    at_once: int
    most_started: int

    @property
    def engine(self) -> str:
        """Engine that the results come from, in words."""

    def reset(self) -> None:
        """Start a bag: forget the gain of the images before."""

    def start(self, pair: InputPair) -> Callable[[], FusionResult]:
        """Start the next pair, whose images are decoded.

        Returns:
            Function that waits for the result and returns it, or raises NoResultError if
            there is none.
        """
        ...


@contextmanager
def open_result_source(settings: ReplaySettings, bag: Path) -> Iterator[ResultSource]:
    """Open the pipeline of these settings, warmed up, or the recording that they name.

    Args:
        settings: settings of the replay.
        bag: the bag replayed, which is the recording where `settings.recorded` is empty.

    Raises:
        ValueError: weights, engine, registration or recording cannot be used; names it.
    """
    if settings.recorded is not None:
        normalizer, registration = _preparation(settings)
        with (
            open_bag(Path(settings.recorded or bag), []) as first,
            open_bag(Path(settings.recorded or bag), []) as second,
        ):
            fused, masks = RecordedStamps(first), RecordedStamps(second)
            yield _RecordedResults(fused, masks, normalizer, registration)
        return
    pipeline = build_pipeline(settings)
    with ConcurrentPipeline(pipeline, settings.threads) as concurrent:
        concurrent.warm_up()
        yield _PipelineResults(concurrent)


def build_pipeline(settings: ReplaySettings) -> FusionPipeline:
    """Build the pipeline of these settings.

    Args:
        settings: settings of a replay.

    Raises:
        ValueError: weights, engine or registration cannot be used; names it.
    """
    normalizer, registration = _preparation(settings)
    return FusionPipeline(
        settings.weights,
        engine=settings.engine,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        normalizer=normalizer,
        registration=registration,
    )


def _preparation(settings: ReplaySettings) -> tuple[ThermalNormalizer, AnyRegistration]:
    """Return what prepares thermal images."""
    gain = GainControl(
        settings.low_percentile, settings.high_percentile, settings.gain_smoothing_seconds
    )
    registration = read_registration(settings.registration)
    return ThermalNormalizer(settings.thermal_mode, gain), registration


class _PipelineResults:
    """Results that the pipeline computes."""

    recorded = False

    def __init__(self, concurrent: ConcurrentPipeline) -> None:
        self._concurrent = concurrent
        self._pipeline = concurrent.pipeline
        self.class_set = self._pipeline.class_set
        self.weights = self._pipeline.weights
        self.at_once = concurrent.lanes
        self.most_started = concurrent.most_started

    @property
    def engine(self) -> str:
        """Engine in use, which may depend on the size of the images."""
        return describe(self._pipeline.engine)

    def reset(self) -> None:
        """Start a bag: forget the gain of the images before."""
        self._pipeline.normalizer.reset()

    def start(self, pair: InputPair) -> Callable[[], FusionResult]:
        started = self._concurrent.start(_image_pair(pair))

        def result() -> FusionResult:
            try:
                return started.result()
            except ValueError as error:
                raise NoResultError("unusable_pair", str(error)) from error
            except RuntimeError as error:  # the engine's: out of memory, a lost device
                raise NoResultError("model_error", str(error)) from error

        return result


class _RecordedResults:
    """Fused images and masks that the node has published, found by their stamps."""

    recorded = True
    weights = "recorded"
    engine = "recorded"
    at_once = most_started = 1

    def __init__(
        self, fused: Bag, masks: Bag, normalizer: ThermalNormalizer, registration: AnyRegistration
    ) -> None:
        topics = {topic.name: topic for topic in fused.info.topics if topic.count}
        name = _ending(topics, "/fused/image")
        if name is None:
            raise BagError(f"bag '{fused.info.path}': no topic ends in /fused/image")
        self._fused = StampMatcher(fused, name)
        mask = _ending(topics, "/mask/image")
        self.class_set = read_class_set(fused, _ending(topics, "/labels"))
        self._mask = StampMatcher(masks, mask) if mask and self.class_set is not None else None
        self._normalizer = normalizer
        self._registration = registration

    def reset(self) -> None:
        """Start a bag: forget the gain of the images before."""
        self._normalizer.reset()

    def start(self, pair: InputPair) -> Callable[[], FusionResult]:
        return partial(self._read, pair)

    def _read(self, pair: InputPair) -> FusionResult:
        start = time.perf_counter()
        message = self._fused.match(pair.stamp_ns)
        mask = self._mask.match(pair.stamp_ns) if self._mask is not None else None
        if message is None:
            raise NoResultError("not_recorded", "the recording has no result for the pair")
        try:
            aligned = prepare(_image_pair(pair), self._normalizer, self._registration)
            labels = None if mask is None else _labels(mask)
            fused = to_visible(decode(message.message, message.type))
        except MessageError as error:
            raise NoResultError(f"recorded_{error.reason}", str(error)) from error
        except ValueError as error:
            raise NoResultError("unusable_pair", str(error)) from error
        if fused.shape[:2] != aligned.infrared.shape:
            raise NoResultError(
                "recorded_size", f"fused image is {fused.shape}, RGB image {aligned.infrared.shape}"
            )
        return FusionResult(
            fused,
            labels,
            aligned.infrared,
            prepare_ms=(time.perf_counter() - start) * 1e3,
            model_ms=float("nan"),
            repaired_pixels=self._normalizer.repaired_pixels,
            visible=aligned.visible,
            registration_ms=aligned.registration_ms,
            coverage=aligned.coverage,
        )


def _labels(message: BagMessage) -> np.ndarray:
    labels = to_infrared(decode(message.message, message.type))
    if labels.dtype != np.uint8:
        raise ValueError(f"mask is {labels.dtype}, expected uint8")
    return labels


def _image_pair(pair: InputPair) -> ImagePair:
    assert pair.visible is not None
    # As in the node, the gain control uses the thermal image's stamp.
    return ImagePair(pair.visible, pair.infrared, pair.thermal_stamp_ns / 1e9)


def _ending(topics: Iterable[str], ending: str) -> str | None:
    """Return the first topic by name with this ending, or None."""
    return next((name for name in sorted(topics) if name.endswith(ending)), None)
