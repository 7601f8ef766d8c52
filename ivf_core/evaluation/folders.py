"""Evaluation of folders: read pairs, read or make their fused images, and score them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from ivf_core.class_sets import ClassSet, unknown_ids
from ivf_core.data.pairs import PairFiles, VisibleFile
from ivf_core.evaluation.class_matching import comparable_ids, true_ids, void_ids
from ivf_core.evaluation.grid import Grid
from ivf_core.evaluation.methods import Method
from ivf_core.evaluation.pair_lists import CAMERAS, VideoFrame
from ivf_core.evaluation.scores import Metric, Scores, common_pairs
from ivf_core.images.files import ImageFileError, read_infrared, read_labels, read_visible
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.inference import ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.metrics.segmentation import ConfusionMatrix

__all__ = [
    "FROZEN_FRAMES",
    "GREYS",
    "EvaluationResult",
    "PairImages",
    "PairScorer",
    "evaluate",
    "read_images",
    "run_weights",
    "to_grey",
]

FROZEN_FRAMES = 15
"""Number of frames by which the thermal image of a frozen camera is older."""

GREYS = ("pil", "opencv")
"""Conversions of colours to grey: PIL's mode "L", which IVIF_ZOO scores, or OpenCV's."""

# Weights of R, G and B in PIL's convert("L"), in units of 2^-16.
_PIL_WEIGHTS = np.array((19595, 38470, 7471), np.int32)


@dataclass
class PairImages:
    """Images of one pair, and the methods' fused images and masks.

    Attributes:
        visible: H x W x 3 uint8 RGB.
        infrared: H x W uint8; files of more than 8 bits went through gain control.
        labels: H x W uint8 class ids, or None.
        fused: H x W x 3 uint8 RGB by method.
        masks: H x W uint8 class ids by method.
        broken: images that could not be read or fused, one line each.
        earlier: H x W uint8, the thermal frame `FROZEN_FRAMES` before, in videos that have it.
    """

    visible: np.ndarray
    infrared: np.ndarray
    labels: np.ndarray | None = None
    fused: dict[str, np.ndarray] = field(default_factory=dict)
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    earlier: np.ndarray | None = None


class PairScorer(Protocol):
    """Protocol of scorers beside the metrics, which see each pair once.

    Attributes:
        needs_masks: whether it looks at masks; without such scorers, and without labels,
            weights compute none.
    """

    needs_masks: bool

    def add(self, files: PairFiles, images: PairImages, masks: Mapping[str, np.ndarray]) -> None:
        """Score a pair.

        Args:
            files: files of the pair.
            images: images of the pair, with the methods' fused images.
            masks: H x W uint8 class ids of `STREET` by method, `UNLABELED` for none of them.
        """
        ...

    def grids(self) -> list[Grid]:
        """Return the tables over all pairs so far."""
        ...


@dataclass(frozen=True)
class EvaluationResult:
    """Result of `evaluate`.

    Attributes:
        scores: scores of the fused images.
        confusions: M x P x C x C int64, pixels by true class (rows) and predicted class
            (columns) of each method and pair, or None without labels.
        masked: M x P bool, whether the method has a mask of the pair and the pair has labels.
        class_set: class set of labels and masks.
        broken: images that could not be read or fused, one line each.
        notes: metrics that have no value for some images, one line each.
        grids: tables of the scorers.
    """

    scores: Scores
    confusions: np.ndarray | None
    masked: np.ndarray
    class_set: ClassSet | None
    broken: list[str]
    notes: list[str]
    grids: list[Grid] = field(default_factory=list)

    def confusion(self, method: int, pairs: np.ndarray | int) -> ConfusionMatrix:
        """Return the confusion matrix of a method over some pairs.

        Args:
            method: index of the method.
            pairs: index of one pair, or P bool.

        Raises:
            ValueError: there were no labels.
        """
        if self.confusions is None or self.class_set is None:
            raise ValueError("there were no labels")
        matrix = ConfusionMatrix(len(self.class_set), void=void_ids(self.class_set))
        counts = self.confusions[method, pairs]
        matrix.counts += counts.reshape(-1, *matrix.counts.shape).sum(axis=0)
        return matrix

    @property
    def commonly_masked(self) -> np.ndarray:
        """Pairs of which every method with masks has one, P bool: see `common_pairs`."""
        return common_pairs(self.masked)


def read_images(
    files: PairFiles,
    methods: Sequence[Method],
    class_set: ClassSet | None = None,
    *,
    cameras: str = "both",
    masks: bool = False,
) -> PairImages | str:
    """Read a pair, its labels, and the methods' fused images and masks; weights are not run.

    Args:
        files: files of the pair.
        methods: methods whose folders are read.
        class_set: class set of the labels; without one, their ids are not checked.
        cameras: one of `CAMERAS`.
        masks: read the methods' masks even if the pair has no labels.

    Returns:
        The images, or the reason why the pair cannot be read.

    Raises:
        ValueError: sizes differ, or ids are not in the class set; names the files.
    """
    try:
        visible = files.read_visible()
        if cameras == "visible" or isinstance(files, VisibleFile):
            infrared = np.zeros(visible.shape[:2], np.uint8)
        elif isinstance(files, VideoFrame):
            infrared = files.read_infrared()
        else:
            infrared = ThermalNormalizer()(read_infrared(files.infrared))
        labels = files.read_labels(class_set)
    except ImageFileError as error:
        return str(error)
    files.check_sizes(visible, infrared, labels)
    if cameras == "infrared":
        visible = np.zeros_like(visible)
    images = PairImages(visible, infrared, labels)
    if isinstance(files, VideoFrame) and files.index >= FROZEN_FRAMES:
        # Read here, close to its neighbours: further on the video would start again.
        images.earlier = files.read_infrared(before=FROZEN_FRAMES)
    for method in methods:
        for paths, found in ((method.fused, images.fused), (method.masks, images.masks)):
            path = paths.get(files.name)
            if path is None or (found is images.masks and labels is None and not masks):
                continue
            try:
                image = read_visible(path) if found is images.fused else read_labels(path)
            except ImageFileError as error:
                images.broken.append(str(error))
                continue
            if image.shape[:2] != visible.shape[:2]:
                raise ValueError(
                    f"'{path}' is {image.shape[1]} x {image.shape[0]}, but "
                    f"'{files.visible}' is {visible.shape[1]} x {visible.shape[0]}"
                )
            if found is images.masks and method.class_set is not None:
                _check_ids(path, image, method.class_set)
            found[method.name] = image
    return images


def _check_ids(path: Path, mask: np.ndarray, class_set: ClassSet) -> None:
    counts = np.bincount(mask.ravel(), minlength=256)
    if unknown := unknown_ids(counts, len(class_set)):
        raise ValueError(
            f"mask '{path}': ids {', '.join(map(str, unknown))} are not of '{class_set.name}', "
            f"expected 0 to {len(class_set) - 1}"
        )


def run_weights(
    name: str, images: PairImages, methods: Sequence[Method], *, masks: bool = True
) -> None:
    """Fuse a pair with the methods' pipelines and add their fused images and masks.

    Args:
        name: name of the pair, for messages.
        images: images of the pair; gets the results, and the errors in `broken`.
        methods: methods; those without a pipeline are skipped.
        masks: whether masks are wanted.
    """
    for method in methods:
        if method.pipeline is None:
            continue
        try:
            result = method.pipeline(
                ImagePair(images.visible, images.infrared),
                labels=masks and method.class_set is not None,
            )
        except ValueError as error:
            images.broken.append(f"{name}, {method.name}: {error}")
            continue
        if result.fused is not None:
            images.fused[method.name] = result.fused
        if result.labels is not None:
            size = images.visible.shape[:2]
            images.masks[method.name] = resize_labels(result.labels, size)


def evaluate(
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    metrics: Iterable[Metric],
    *,
    class_set: ClassSet | None = None,
    scorers: Sequence[PairScorer] = (),
    cameras: str = "both",
    grey: str = "pil",
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Score the methods' fused images and masks of all pairs.

    Args:
        pairs: pairs of `match_sources`.
        methods: methods with folders, weights, or both.
        metrics: metrics of `find_metrics`.
        class_set: class set of the labels; without one, labels are ignored.
        scorers: further scorers.
        cameras: one of `CAMERAS`.
        grey: one of `GREYS`.
        workers: number of threads that read images.
        progress: called with the number of pairs done.

    Raises:
        ValueError: sizes differ, ids are not in the class set, or there is no pair of
            which every method has an image.
    """
    for option, value, known in (("grey", grey, GREYS), ("cameras", cameras, CAMERAS)):
        if value not in known:
            raise ValueError(f"{option} is '{value}', expected {' or '.join(known)}")
    names = [method.name for method in methods]
    scores = Scores.empty([pair.name for pair in pairs], names, metrics)
    masked = np.zeros((len(names), len(pairs)), bool)
    confusions = None
    if class_set is not None:
        confusions = np.zeros((*masked.shape, len(class_set), len(class_set)), np.int64)
    broken = []
    masks = any(scorer.needs_masks for scorer in scorers)
    read = partial(read_images, methods=methods, class_set=class_set, cameras=cameras, masks=masks)
    for index, images in enumerate(_read_ahead(pairs, read, workers)):
        if isinstance(images, str):
            broken.append(images)
        else:
            wanted = masks or images.labels is not None
            run_weights(pairs[index].name, images, methods, masks=wanted)
            broken += images.broken
            _score(scores, index, images, grey)
            if confusions is not None and class_set is not None and images.labels is not None:
                for place, method in enumerate(methods):
                    if method.name in images.masks:
                        ids = images.masks[method.name]
                        matrix = _confusion(method, ids, images.labels, class_set)
                        confusions[place, index], masked[place, index] = matrix, True
            if scorers:
                _add_to_scorers(scorers, pairs[index], images, methods)
        if progress is not None:
            progress(index + 1)
    grids = [grid for scorer in scorers for grid in scorer.grids() if grid.rows]
    masks_alone = not scores.present.any() and bool(grids or masked.any())
    if not scores.common.any() and not masks_alone:
        counts = ", ".join(
            f"{name} {count}" for name, count in zip(names, scores.present.sum(1), strict=True)
        )
        raise ValueError(f"no pair of {len(pairs)} has an image of every method: {counts}")
    return EvaluationResult(scores, confusions, masked, class_set, broken, scores.gaps(), grids)


def _confusion(
    method: Method, mask: np.ndarray, labels: np.ndarray, class_set: ClassSet
) -> np.ndarray:
    """Count a mask's pixels by true and predicted class."""
    truth = true_ids(labels, class_set)
    if method.class_set is not None and method.class_set.names != class_set.names:
        mask = comparable_ids(method.street_ids(mask), labels, class_set)
    matrix = ConfusionMatrix(len(class_set))
    matrix.update(mask, truth)
    return matrix.counts


def _add_to_scorers(
    scorers: Sequence[PairScorer],
    files: PairFiles,
    images: PairImages,
    methods: Sequence[Method],
) -> None:
    masks = {
        method.name: method.street_ids(images.masks[method.name])
        for method in methods
        if method.name in images.masks and method.class_set is not None
    }
    for scorer in scorers:
        scorer.add(files, images, masks)


def _score(scores: Scores, pair: int, images: PairImages, grey: str) -> None:
    """Score the fused images of a pair."""
    visible = to_grey(images.visible, grey)
    for method, fused in images.fused.items():
        index = scores.methods.index(method)
        scores.score(index, pair, visible, images.infrared, to_grey(fused, grey), fused)


def to_grey(image: np.ndarray, grey: str) -> np.ndarray:
    """Convert to luma in whole levels; images that are grey keep their levels.

    Args:
        image: H x W x 3 uint8 RGB.
        grey: one of `GREYS`.

    Returns:
        H x W uint8.
    """
    if grey == "opencv":
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    sums = image.astype(np.int32) @ _PIL_WEIGHTS
    return ((sums + 2**15) >> 16).astype(np.uint8)


def _read_ahead(
    pairs: Sequence[PairFiles], read: Callable[[PairFiles], PairImages | str], workers: int
) -> Iterator[PairImages | str]:
    """Yield the images of every pair in order; threads read a few of them in advance."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[PairImages | str]] = deque()
        try:
            for pair in pairs:
                waiting.append(pool.submit(read, pair))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
