"""Last stage: measure frames, and write tables and images."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ivf_core.class_sets import CLASS_SETS, ClassSet, mapping_between
from ivf_core.replay.frames import FusedFrame
from ivf_core.replay.measure.notable import NotableFrames
from ivf_core.replay.measure.scorer import Scorer, one_thread
from ivf_core.replay.output_files import ImageOutput, TableOutput
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.stages.read import ReadStage

__all__ = ["TIMINGS", "Sampling", "ScoreStage"]

TIMINGS = ("read_ms", "prepare_ms", "model_ms", "write_ms", "score_ms")
"""Columns of timings.csv after `index`: the duration of each stage in ms."""

_MOST_IMAGES = 120  # pairs whose images are written
_LEAST_IMAGES = 30  # as far as there are so many pairs
_IMAGE_EVERY = 4  # one pair in so many has images, between these two numbers
_MOST_SCORED = 120
_LEAST_SCORED = 5
_SCORED_EVERY = 50  # one pair in so many is scored, between these two numbers
_SCORED_APART = 10  # least distance of scored pairs


@dataclass(frozen=True)
class Sampling:
    """Choice of the pairs whose images are written, and of those that are scored.

    Attributes:
        image_every: images of every Nth pair are written.
        score_every: every Nth pair gets the costly metrics.
    """

    image_every: int
    score_every: int

    @classmethod
    def of(cls, most_pairs: int, score_every: int) -> Sampling:
        """Choose pairs by the length of a bag.

        The metrics of a pair cost as much processor time as two or three pairs through the
        model, and neighbours are almost the same: one pair in 50 is scored, but five of a
        short bag, as far as they are ten apart, and 120 of a long one. Scored pairs are among
        those with images.

        Args:
            most_pairs: largest number of pairs there can be.
            score_every: from the settings; 0 chooses.
        """
        image_every = max(
            1,
            math.ceil(most_pairs / _MOST_IMAGES),
            min(_IMAGE_EVERY, most_pairs // _LEAST_IMAGES),
        )
        if score_every:
            return cls(image_every, score_every)
        wanted = min(max(most_pairs / _SCORED_EVERY, _LEAST_SCORED), _MOST_SCORED)
        apart = max(_SCORED_APART, most_pairs / wanted)
        return cls(image_every, image_every * math.ceil(apart / image_every))


class ScoreStage:
    """Stage that measures frames and writes tables and images; entered by thread "score".

    OpenCV computes with one thread meanwhile, see `one_thread`.

    Args:
        folder: folder of the outputs.
        settings: settings of the replay.
        class_set: class set of the labels, or None.
        read: first stage; tells the number of pairs and the reference topics.

    Attributes:
        folder: folder of the outputs.
        sampling: choice of the pairs that are scored, and of those with images.
        scorer: measures, with the sums over all pairs.
        not_compared: why true class ids are not compared with the masks, or "".
        notable: frames to look at.
        processor_seconds: processor time of the stage, once it has ended.
    """

    def __init__(
        self,
        folder: Path,
        settings: ReplaySettings,
        class_set: ClassSet | None,
        read: ReadStage,
    ) -> None:
        self.folder = folder
        self._most_pairs = read.most_pairs
        self.sampling = Sampling.of(read.most_pairs, settings.score_every)
        given = _class_set(settings.labels_classes)
        self.not_compared = ""
        if class_set is not None and given is None and read.true_classes is not None:
            try:
                mapping_between(read.true_classes, class_set)
            except ValueError as error:
                self.not_compared = str(error)
        self.scorer = Scorer(
            class_set,
            score_every=self.sampling.score_every,
            with_other="other" in read.references,
            with_truth="truth" in read.references and not self.not_compared,
            truth_classes=given or read.true_classes,
        )
        self.notable = NotableFrames()
        self._images = ImageOutput(folder / "images", class_set, settings.opacity, settings.palette)
        columns = ["index", "stamp_ns", "seconds", "offset_ms", *self.scorer.columns]
        self._frames = TableOutput(folder / "frames.csv", columns)
        self._timings = TableOutput(folder / "timings.csv", ["index", *TIMINGS])
        self._open = ExitStack()
        self.processor_seconds = 0.0

    def __enter__(self) -> ScoreStage:
        self.processor_seconds = -time.thread_time()
        for context in (one_thread(), self._frames, self._timings):
            self._open.enter_context(context)
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_error: object) -> None:
        with self._open:
            if exc_type is None:
                self._images.write_kept()
        self.processor_seconds += time.thread_time()

    def score(self, frame: FusedFrame) -> None:
        """Measure a frame and write its rows; keep its images if it is notable.

        Args:
            frame: frames must come in their order.
        """
        began = time.perf_counter()
        values = self.scorer.measure(frame)
        # With one camera alone there may be more frames than were foreseen.
        rarely = 1 + frame.index // max(1, self._most_pairs)
        if frame.index % (self.sampling.image_every * rarely) == 0:
            self._images.write(frame)
        if self.notable.consider(frame.index, frame.seconds, values):
            self._images.keep(frame)
            self._images.keep_only(set(self.notable.frames()))
        row = {
            "index": frame.index,
            "stamp_ns": frame.stamp_ns,
            "seconds": f"{frame.seconds:.6f}",
            "offset_ms": "" if frame.alone else f"{frame.offset_ms:.6f}",
        }
        self._frames.write(row | values)
        frame.stage_ms["score_ms"] = (time.perf_counter() - began) * 1e3
        self._timings.write({"index": frame.index} | frame.stage_ms)


def _class_set(name: str) -> ClassSet | None:
    """Return a class set by name, None for an empty name."""
    if name and name not in CLASS_SETS:
        raise ValueError(f"labels_classes is {name!r}, expected one of {', '.join(CLASS_SETS)}")
    return CLASS_SETS.get(name)
