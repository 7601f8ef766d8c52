"""Labels of several teachers: ask the teachers, measure them, fuse them, measure the result.

The teachers' predictions and the fused labels are kept on disk, so that an interrupted run
continues where it was, and a run with other options of the fusion asks no network again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from ivf_core.class_sets import STREET, UNLABELED
from ivf_core.images.files import read_labels
from ivf_core.system.atomic import write_json
from ivf_core.system.results import OutputError, check_folder
from ivf_core.training.masks.cache import settings_digest
from ivf_core.training.runs.recipe import data_directory, provenance
from ivf_core.training.segmentation.fused_labels.evidence import (
    Evidence,
    collect_evidence,
    prepare_evidence,
)
from ivf_core.training.segmentation.fused_labels.flow import flow_guide, vote_along_flow
from ivf_core.training.segmentation.fused_labels.fusion import fuse
from ivf_core.training.segmentation.fused_labels.options import LabelRecipe
from ivf_core.training.segmentation.fused_labels.page import write_label_page
from ivf_core.training.segmentation.fused_labels.pair_votes import (
    OpenTeacher,
    PairVoter,
    is_pair_teacher,
)
from ivf_core.training.segmentation.fused_labels.predictions import CachedNetwork
from ivf_core.training.segmentation.fused_labels.reliability import (
    Counts,
    Point,
    count,
    read_points,
)
from ivf_core.training.segmentation.fused_labels.scores import FUSED, LabelReport
from ivf_core.training.segmentation.fused_labels.sources import LabelSource, list_sources
from ivf_core.training.segmentation.fused_labels.store import LabelStore, digest_files

__all__ = ["make_labels"]

_LISTING = "labels.json"

_REVISION = 4
"""Number to raise when the code of the fusion changes the labels."""


def make_labels(recipe: LabelRecipe, open_teacher: OpenTeacher | None = None) -> LabelReport:
    """Label all images of `recipe` whose labels are not there yet, and measure the labels.

    Args:
        recipe: sets of images, teachers and options.
        open_teacher: function that opens those teachers that segment pairs.

    Raises:
        ValueError: a folder, a network or a file is missing; the message names it.
    """
    threads, of_torch = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(recipe.threads)
    torch.set_num_threads(recipe.threads)
    try:
        return _Campaign(recipe, open_teacher).run()
    finally:
        cv2.setNumThreads(threads)
        torch.set_num_threads(of_torch)


class _Campaign:
    """Campaign of labelling by a recipe: state that its steps share."""

    def __init__(self, recipe: LabelRecipe, open_teacher: OpenTeacher | None) -> None:
        self.recipe = recipe
        self.origin = provenance("labels", recipe)
        data, self.output = data_directory(), Path(recipe.output)
        _check_output(self.output, recipe, data)
        self.report = LabelReport(self.output)
        self.pair_voters = self._open_pair_voters(open_teacher)
        self.networks = {
            name: CachedNetwork(
                name, data / recipe.networks, self.output / "predictions", recipe.threads
            )
            for name in recipe.teachers
            if not is_pair_teacher(name)
        }
        self.points = read_points(data / recipe.points) if recipe.points else {}
        self.sources = [
            source
            for entry in recipe.sets
            for source in list_sources(
                entry, data, self.output / entry.name,
                {stem for name, stem in self.points if name == entry.name},
            )
        ]  # fmt: skip
        self.counts = Counts()
        self.own: dict[tuple[str, str], Counts] = {}
        if not (self.output / _LISTING).exists():
            write_json(self.output / _LISTING, self._about({}))  # marks the folder as ours
        for name, group in groupby(self.sources, key=lambda source: source.set_name):
            LabelStore(self.output / name).remove_leftovers(source.stem for source in group)

    def _open_pair_voters(self, open_teacher: OpenTeacher | None) -> list[PairVoter]:
        """Open the teachers that segment pairs, and note which of their parts are random."""
        voters = []
        for teacher in filter(is_pair_teacher, self.recipe.teachers):
            if open_teacher is None:
                raise ValueError(f"teachers: '{teacher}' needs a function that opens it")
            voters.append(PairVoter(teacher, self.output / "predictions", open_teacher))
            for part, origin in voters[-1].origin.items():
                if part not in ("kind", "sha256"):
                    self.report.warnings.append(f"teacher {voters[-1].name}: {part} has {origin}")
        return voters

    def run(self) -> LabelReport:
        """Ask and measure the teachers, fuse, and write everything."""
        self._ask()
        labelled: dict[str, list[float]] = defaultdict(list)
        work = tqdm(total=len(self.sources), desc="labels", unit="image", mininterval=5)
        for sources in _units(self.sources):
            try:
                for source, labels in self._label(sources):
                    labelled[source.set_name].append(float((labels != UNLABELED).mean()))
                    self._score(source, labels)
            except ValueError as error:
                self._leave_out(sources[0], error)
            work.update(len(sources))
        work.close()
        self.report.coverage = {name: float(np.mean(values)) for name, values in labelled.items()}
        images = {name: len(values) for name, values in labelled.items()}
        write_json(self.output / _LISTING, self._about(images))
        write_label_page(self.output / "index.html", self.report, self._sample())
        return self.report

    def _about(self, images: Mapping[str, int]) -> dict[str, Any]:
        """Return the content of labels.json."""
        return {
            **self.origin, "class_set": json.loads(STREET.to_json()), "images": images,
            "coverage": self.report.coverage, "failed": self.report.failed,
            "pair_teachers": {voter.name: voter.origin for voter in self.pair_voters},
        }  # fmt: skip

    def _ask(self) -> None:
        """Ask the teachers for each image, and count where they are right."""
        readable = []
        for source in tqdm(self.sources, desc="teachers", unit="image", mininterval=5):
            points = self.points.get((source.set_name, source.stem), [])
            try:
                if not points and source.boxes is None:
                    prepare_evidence(source, self.networks, self.pair_voters)
                    readable.append(source)
                    continue
                evidence = collect_evidence(source, self.networks, self.pair_voters)
            except ValueError as error:
                self._leave_out(source, error)
                continue
            readable.append(source)
            counts = count(evidence, points)
            self.counts.add(counts)
            if points:
                self.own[source.set_name, source.stem] = counts
            self._score_teachers(evidence, points)
        self.sources = readable

    def _leave_out(self, source: LabelSource, error: ValueError) -> None:
        self.report.failed.append(f"{source.set_name} {source.stem}: {error}")
        logging.getLogger(__name__).warning("left out: %s", self.report.failed[-1])

    def _score_teachers(self, evidence: Evidence, points: Sequence[Point]) -> None:
        for name, votes in evidence.votes.items():
            labels = np.where(votes.max(0) >= 128, votes.argmax(0), UNLABELED).astype(np.uint8)
            scores = self.report.scores[name]
            scores.add_labels(labels, points, evidence.published, evidence.night)
        for name, boxes in evidence.boxes.items():
            self.report.scores[name].add_boxes(boxes, evidence.published, evidence.night)

    def _label(self, sources: Sequence[LabelSource]) -> Iterator[tuple[LabelSource, np.ndarray]]:
        """Read or make the labels of an image, or of all frames of a video."""
        # Points that measure an image's labels have no part in making them.
        counts = Counts()
        counts.add(self.counts)
        for source in sources:
            if (own := self.own.get((source.set_name, source.stem))) is not None:
                counts.add(own, -1.0)
        key = self._key(counts, sources)
        store = LabelStore(self.output / sources[0].set_name)
        found = [store.read(source.stem, key) for source in sources]
        kept = [pair for pair in found if pair is not None]
        if len(kept) == len(sources):
            self.report.kept += len(sources)
        else:
            kept, facts = self._fuse(sources, counts)
            for source, (labels, confidence), about in zip(sources, kept, facts, strict=True):
                store.write(source.stem, key, labels, confidence, about)
            self.report.made += len(sources)
        for source, (labels, _) in zip(sources, kept, strict=True):
            yield source, labels

    def _key(self, counts: Counts, sources: Sequence[LabelSource]) -> str:
        """Return a hash of everything that the labels of images depend on."""
        tables = {"votes": counts.votes, "boxes": counts.boxes}
        return settings_digest({
            "revision": _REVISION,
            "options": dataclasses.asdict(self.recipe.fusion),
            "networks": {
                **{name: network.digest for name, network in self.networks.items()},
                **{voter.name: voter.digest for voter in self.pair_voters},
            },
            "rates": {
                kind: {name: table.round(6).tolist() for name, table in sorted(counted.items())}
                for kind, counted in tables.items()
            },
            "files": digest_files(sources),
        }).hex()  # fmt: skip

    def _fuse(
        self, sources: Sequence[LabelSource], counts: Counts
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[Mapping[str, object]]]:
        """Return labels and confidence of an image or of the frames of a video, and facts."""
        votes, boxes = counts.vote_rates(), counts.box_rates()
        pairs, facts, guides = [], [], []
        for source in sources:
            evidence = collect_evidence(source, self.networks, self.pair_voters)
            fused = fuse(evidence, votes, boxes, self.recipe.fusion)
            pairs.append((fused.labels, fused.confidence))
            facts.append(_facts(source, evidence))
            if source.video:
                guides.append(flow_guide(evidence.visible, evidence.infrared))
        if guides:
            pairs = vote_along_flow(guides, *zip(*pairs, strict=True))
        return pairs, facts

    def _score(self, source: LabelSource, labels: np.ndarray) -> None:
        points = self.points.get((source.set_name, source.stem), [])
        if points or source.boxes is not None:
            evidence = collect_evidence(source, {})
            self.report.scores[FUSED].add_labels(labels, points, evidence.published, evidence.night)

    def _sample(self) -> Iterator[tuple[LabelSource, Evidence, np.ndarray]]:
        """Yield images of each set at even distances, with evidence and labels."""
        for name, group in groupby(self.sources, key=lambda source: source.set_name):
            sources = list(group)
            places = np.linspace(0, len(sources) - 1, min(self.recipe.sample, len(sources)))
            for source in (sources[place] for place in places.round().astype(int)):
                path = self.output / name / "labels" / f"{source.stem}.png"
                if not path.is_file():
                    continue
                yield (
                    source,
                    collect_evidence(source, self.networks, self.pair_voters),
                    read_labels(path),
                )


def _check_output(output: Path, recipe: LabelRecipe, data: Path) -> None:
    """Raise OutputError if labels would be written into a folder of something else."""
    folders = [f for one in recipe.sets for f in (*one.visible, one.infrared, one.videos) if f]
    check_folder(output, [data / folder for folder in folders])
    if _is_listing(output / _LISTING) or any(output.glob("predictions/*/settings.json")):
        return
    for name in (_LISTING, "index.html", "predictions", *(entry.name for entry in recipe.sets)):
        if os.path.lexists(output / name):
            raise OutputError(
                f"output '{output}': {name} is there already, and no {_LISTING} of an earlier "
                "run; choose another folder"
            )


def _is_listing(path: Path) -> bool:
    """Return whether a file is the labels.json of a campaign."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"class_set", "images"} <= content.keys()


def _units(sources: Sequence[LabelSource]) -> Iterator[list[LabelSource]]:
    """Yield images one by one, and the frames of a video together."""
    for (_, video), group in groupby(sources, key=lambda source: (source.set_name, source.video)):
        if video:
            yield list(group)
        else:
            yield from ([source] for source in group)


def _facts(source: LabelSource, evidence: Evidence) -> Mapping[str, object]:
    """Return what the labels of an image were made of, for JSON."""
    return {
        "visible": source.visible.name,
        "infrared": source.infrared.name if source.infrared else None,
        "night": evidence.night,
        "teachers": [*evidence.votes, *evidence.boxes],
        "published_boxes": None if evidence.published is None else len(evidence.published.scores),
        "labels_by_hand": evidence.truth is not None,
        "video": source.video,
        "frame": source.frame,
    }
