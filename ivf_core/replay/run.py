"""One bag from end to end: read, pair, fuse, write, score.

Four things run side by side, with short queues between them: reading and decoding; the
pipeline, in the caller's thread; writing the output bag; measuring frames and writing
their rows and pictures.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ivf_core.bags.open import Bag, open_bag
from ivf_core.bags.rosbag import BagError, BagMessage, decode
from ivf_core.class_sets import ClassSet
from ivf_core.images.messages import MessageError, to_infrared, to_visible
from ivf_core.images.overlay import draw_overlay
from ivf_core.inference import FusionResult
from ivf_core.inference.pipeline import resize_labels
from ivf_core.replay import summary as summaries
from ivf_core.replay.directory import finished_directory
from ivf_core.replay.input_pairs import (
    Companion,
    InputPair,
    PairReader,
    Topics,
    choose_topics,
)
from ivf_core.replay.live import LiveGraph, live_warnings, read_live
from ivf_core.replay.measure.notable import NotableFrames
from ivf_core.replay.measure.pairing_log import PairingLog
from ivf_core.replay.measure.scorer import OTHER, Scene, Scorer, one_thread
from ivf_core.replay.output_files import Album, Film, OutputBag, Table
from ivf_core.replay.report.page import write_report
from ivf_core.replay.results import NoResultError, Results, open_results
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.threads import Sink, prefetched
from ivf_core.system.atomic import write_json

__all__ = ["replay_bag"]

_AHEAD = 6
_PICTURES = 120
_SCORED_APART = 10
_STAGES = ("prepare_ms", "model_ms", "write_ms", "score_ms")

Progress = Callable[[int, int], None]
"""Called with the pairs done, and how many there can be at most."""


def replay_bag(
    path: Path,
    output: Path,
    settings: ReplaySettings,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Replay one bag.

    Args:
        path: rosbag2 folder or file, or rosbag1 file.
        output: directory for `OUTPUTS`; those of an earlier replay are replaced, at the end.

    Returns:
        What summary.json holds.

    Raises:
        BagError: nothing can be read, or a topic is missing; names the bag.
        OSError: a file cannot be written.
    """
    live, recording = None, None
    if settings.recorded is not None:
        recording = Path(settings.recorded or path)
        with open_bag(recording, []) as recorded:
            live = read_live(recorded)
    used = live.settings(settings) if live is not None else settings
    with open_results(used, path) as results, finished_directory(output, recording) as folder:
        replay = _Replay(path, folder, used, results, progress, asked=settings, live=live)
        summary = replay.run()
        write_report(folder)
        return summary


@dataclass
class _Done:
    """A pair that went through the pipeline, on its way to be written and scored."""

    pair: InputPair
    scene: Scene
    times: dict[str, float]


class _Replay:
    def __init__(
        self,
        path: Path,
        folder: Path,
        settings: ReplaySettings,
        results: Results,
        progress: Progress | None,
        *,
        asked: ReplaySettings,
        live: LiveGraph | None,
    ) -> None:
        self._path = path
        self._folder = folder
        self._settings = settings
        self._asked = asked
        self._live = live
        self._results = results
        self._progress = progress or (lambda done, total: None)
        self._left_out: list[str] = []
        self._failed: Counter[str] = Counter()
        self._details: dict[str, str] = {}
        self._files = {"files": summaries.input_fingerprints(asked)}
        self._class_set: ClassSet | None = results.class_set
        self._notable = NotableFrames()

    def run(self) -> dict[str, Any]:
        settings = self._settings
        with ExitStack() as stack:
            bag = stack.enter_context(open_bag(self._path, self._left_out))
            topics = choose_topics(bag.info, settings)
            self._results.reset()
            self._log = PairingLog(
                tolerance_seconds=settings.tolerance_seconds,
                offset_seconds=settings.offset_seconds,
                minimum_interval_seconds=settings.minimum_interval_seconds,
                queue_size=settings.queue_size,
                start_ns=bag.info.start_ns,
            )
            counts = {topic.name: topic.count for topic in bag.info.topics}
            self._counts = {"rgb": counts[topics.rgb], "thermal": counts[topics.thermal]}
            self._most = min(self._counts.values())
            self._picture_every = max(1, math.ceil(self._most / _PICTURES))
            score_every = settings.score_every or self._sparse()
            self._start = bag.info.start_ns
            self._reader = PairReader(bag, topics, self._log, pass_on=settings.inputs)
            self._companions = self._open_companions(stack, topics)
            self._scorer = Scorer(
                self._class_set,
                score_every=score_every,
                with_other=topics.other_fused is not None,
                with_truth=topics.labels is not None,
            )
            began = time.perf_counter()
            self._flow(bag)
            seconds = time.perf_counter() - began
            return self._summarize(bag, topics, score_every, seconds)

    def _sparse(self) -> int:
        """Every which pair is scored, a multiple of those with pictures.

        Metrics cost as much as ten pairs: of a long bag one in 300 and of a minute one in
        30 get them, of a short one more, for 30 are needed to tell anything.
        """
        wanted = min(max(self._most / 30, 30), _PICTURES)
        apart = max(_SCORED_APART, self._most / wanted)
        return self._picture_every * math.ceil(apart / self._picture_every)

    def _open_companions(self, stack: ExitStack, topics: Topics) -> dict[str, Companion]:
        """Each reads the bag by itself: it may be ahead of the cameras or behind."""
        tolerance = round(self._settings.tolerance_seconds * 1e9)
        names = {"truth": topics.labels, "other": topics.other_fused}
        return {
            role: Companion(stack.enter_context(open_bag(self._path, [])), name, tolerance)
            for role, name in names.items()
            if name is not None
        }

    def _flow(self, bag: Bag) -> None:
        settings = self._settings
        rate = bag.info.duration_seconds and self._most / bag.info.duration_seconds
        with ExitStack() as stack:
            frames = stack.enter_context(
                (self._folder / "frames.csv").open("w", newline="", encoding="utf-8")
            )
            timings = stack.enter_context(
                (self._folder / "timings.csv").open("w", newline="", encoding="utf-8")
            )
            self._frames = Table(
                frames, ["index", "stamp_ns", "seconds", "offset_ms", *self._scorer.columns]
            )
            self._timings = Table(timings, ["index", "read_ms", *_STAGES])
            self._album = Album(
                self._folder / "pictures", self._class_set, settings.opacity, settings.palette
            )
            film = None
            if settings.video:
                film = stack.enter_context(Film(self._folder / "side_by_side.mp4", rate or 30.0))
            output = stack.enter_context(
                OutputBag(self._folder / "bag", settings.storage, self._class_set)
            )
            # Sinks end before what they write to is closed.
            score = stack.enter_context(Sink(self._score, _AHEAD, "score", within=one_thread))

            def write(item: _Done | BagMessage) -> None:
                if isinstance(item, BagMessage):
                    output.copy(item)
                else:
                    self._write(item, output, film)
                    score.put(item)

            sink = stack.enter_context(Sink(write, _AHEAD, "write"))
            items = stack.enter_context(prefetched(self._read(), _AHEAD))
            done = 0
            for item, read_ms in items:
                if isinstance(item, BagMessage):
                    sink.put(item)
                    continue
                done += 1
                finished = self._fuse(item, read_ms)
                if finished is not None:
                    sink.put(finished)
                self._progress(done, self._most)

    def _read(self) -> Iterator[tuple[InputPair | BagMessage, float]]:
        """Pairs with their companions, and the milliseconds that each took."""
        began = time.perf_counter()
        for item in self._reader:
            if isinstance(item, InputPair):
                self._accompany(item)
            yield item, (time.perf_counter() - began) * 1e3
            began = time.perf_counter()

    def _accompany(self, pair: InputPair) -> None:
        for role, companion in self._companions.items():
            message = companion.take(pair.stamp_ns)
            if message is None:
                continue
            try:
                image = decode(message.message, message.type)
                read = to_infrared if role == "truth" else to_visible
                picture = read(image)
            except (BagError, MessageError) as error:
                self._fail(f"{role}_undecodable", f"{message.topic}: {error}")
                continue
            if role == "truth" and picture.dtype != np.uint8:
                self._fail("truth_not_8_bit", f"{message.topic}: labels are {picture.dtype}")
                continue
            pair.companions[role] = picture

    def _fuse(self, pair: InputPair, read_ms: float) -> _Done | None:
        if pair.failed:
            self._fail(pair.failed, pair.detail)
            return None
        try:
            result = self._results(pair)
        except NoResultError as error:
            self._fail(error.reason, str(error))
            return None
        times = {
            "read_ms": read_ms,
            "prepare_ms": result.prepare_ms,
            "model_ms": result.model_ms,
        }
        return _Done(pair, self._scene(pair, result), times)

    def _scene(self, pair: InputPair, result: FusionResult) -> Scene:
        assert pair.visible is not None
        assert pair.infrared is not None
        return Scene(
            index=pair.index,
            stamp_ns=pair.stamp_ns,
            seconds=(pair.time_ns - self._start) / 1e9,
            offset_ms=(pair.thermal_stamp_ns - pair.stamp_ns) / 1e6,
            visible=pair.visible,
            infrared=pair.infrared,
            registered=result.infrared,
            fused=result.fused,
            labels=result.labels,
            truth=pair.companions.get("truth"),
            other=pair.companions.get("other"),
        )

    def _write(self, done: _Done, output: OutputBag, film: Film | None) -> None:
        began = time.perf_counter()
        scene, settings = done.scene, self._settings
        mask = overlay = None
        shown = film is not None or not self._results.recorded
        if shown and scene.labels is not None and self._class_set and scene.fused is not None:
            mask = resize_labels(scene.labels, scene.registered.shape)
            overlay = draw_overlay(
                scene.fused, mask, self._class_set, settings.opacity, settings.palette
            )
        if not self._results.recorded:
            pair = done.pair
            output.write(pair.time_ns, pair.stamp_ns, pair.frame_id, scene.fused, mask, overlay)
        if film is not None:
            film.write(scene, overlay)
        done.times["write_ms"] = (time.perf_counter() - began) * 1e3

    def _score(self, done: _Done) -> None:
        began = time.perf_counter()
        scene = done.scene
        values = self._scorer.measure(scene)
        if scene.index % self._picture_every == 0:
            self._album.write(scene)
        if self._notable.consider(scene.index, scene.seconds, values):
            self._album.keep(scene)
            self._album.keep_only(set(self._notable.frames()))
        row = {
            "index": scene.index,
            "stamp_ns": scene.stamp_ns,
            "seconds": f"{scene.seconds:.6f}",
            "offset_ms": f"{scene.offset_ms:.6f}",
        }
        self._frames.write(row | values)
        done.times["score_ms"] = (time.perf_counter() - began) * 1e3
        self._timings.write({"index": scene.index} | done.times)

    def _fail(self, reason: str, detail: str) -> None:
        self._failed[reason] += 1
        self._details.setdefault(reason, detail)

    def _summarize(
        self, bag: Bag, topics: Topics, score_every: int, seconds: float
    ) -> dict[str, Any]:
        self._album.write_kept()
        columns = summaries.read_columns(
            self._folder / "frames.csv", ["index", *self._scorer.columns]
        )
        self._log.motion_lag = self._scorer.motion_lag.result()
        times = summaries.read_columns(self._folder / "timings.csv", ["read_ms", *_STAGES])
        pairing = self._log.to_json()
        alignment = self._scorer.alignment.result()
        class_set = self._class_set
        pairs = len(times["model_ms"])
        summary = {
            "format": summaries.FORMAT,
            "versions": summaries.versions(),
            "bag": summaries.bag_entry(bag.info),
            "topics": topics.to_json(),
            "settings": {
                **self._settings.to_json(),
                "weights": (self._live and self._live.weights) or self._results.weights,
                "engine": (self._live and self._live.engine) or self._results.engine,
                "score_every": score_every,
            },
            "asked": {**self._asked.to_json(), **self._files},
            "pairing": pairing,
            "failed": dict(sorted(self._failed.items())),
            "left_out": self._left_out_lines(),
            "classes": {
                "names": list(class_set.names) if class_set else [],
                "colors": [list(color) for color in class_set.colors] if class_set else [],
            },
            "segmentation": self._scorer.segmentation(),
            "metrics": summaries.metric_entry(columns),
            "other": summaries.metric_entry(columns, OTHER) or None,
            "timings": {
                name.removesuffix("_ms"): summaries.spread(values, low=False)
                for name, values in times.items()
            },
            "throughput": {
                "pairs_per_second": round(pairs / seconds, 2),
                "seconds": round(seconds, 3),
                "pipeline_pairs_per_second": _rate(times["prepare_ms"] + times["model_ms"]),
            },
            "live": self._live.summary if self._live else None,
            "registration": alignment.to_json() if alignment else None,
            "notable": [
                {"frame": index, "reasons": reasons}
                for index, reasons in self._notable.frames().items()
            ],
            "warnings": [
                *self._input_warnings(),
                *summaries.pairing_warnings(pairing, self._settings.offset_seconds),
                *summaries.frame_warnings(columns, alignment),
                *(live_warnings(self._live.summary, self._counts) if self._live else []),
            ],
        }
        write_json(self._folder / "summary.json", summary)
        return summary

    def _left_out_lines(self) -> list[str]:
        lines = list(self._left_out)
        for (topic, reason), count in sorted(self._reader.left_out.items()):
            lines.append(f"{topic}: {count} messages are {reason.replace('_', ' ')}")
        for reason, count in sorted(self._failed.items()):
            lines.append(f"{count} pairs or pictures, {reason}: {self._details[reason]}")
        for reason, count in sorted(self._scorer.skipped.items()):
            lines.append(f"{count} times not measured: {reason}")
        for number, pixels in sorted(self._scorer.unknown_ids.items()):
            lines.append(f"labels: id {number} is in no class set, {pixels} pixels not counted")
        for role, companion in self._companions.items():
            unused = companion.received - companion.taken
            if unused > 0:
                lines.append(f"{role}: {unused} images belong to no pair")
        return lines

    def _input_warnings(self) -> list[dict[str, Any]]:
        found = []
        if self._left_out:
            found.append(summaries.warning("damaged", "; ".join(self._left_out)))
        for topic, count in sorted(self._reader.unstamped.items()):
            found.append(
                summaries.warning(
                    "zero_stamps",
                    f"{topic}: {count} images have no stamp and went by their time of recording; "
                    "the node pairs stamps only",
                )
            )
        failed = sum(self._failed.values())
        if failed:
            recorded = self._results.recorded
            without = "have no recorded result" if recorded else "could not be fused"
            found.append(summaries.warning("failed", f"{failed} pairs {without}, see `failed`"))
        if self._class_set is None:
            found.append(
                summaries.warning("no_head", "The weights have no segmentation head: no masks")
            )
        return found


def _rate(milliseconds: np.ndarray) -> float | None:
    """How many a second, by the mean of what is known."""
    known = milliseconds[np.isfinite(milliseconds)]
    return round(1e3 / float(known.mean()), 2) if len(known) else None
