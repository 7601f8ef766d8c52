"""Read pairs from folders, fuse or find their fused pictures, and score them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from ivf_core.class_sets import ClassSet, unknown_ids
from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.methods import Method
from ivf_core.evaluation.scores import Metric, Scores, common_pairs
from ivf_core.images.files import (
    ImageFileError,
    list_images,
    read_infrared,
    read_labels,
    read_visible,
)
from ivf_core.images.thermal import ThermalNormalizer
from ivf_core.inference import ImagePair
from ivf_core.inference.pipeline import resize_labels
from ivf_core.metrics.segmentation import ConfusionMatrix

__all__ = ["GREYS", "Evaluation", "Pictures", "evaluate", "match_folders", "read_pictures"]

GREYS = ("pil", "opencv")
"""How colours become grey: as PIL's mode "L", which IVIF_ZOO scores, or as OpenCV."""

# Of R, G and B in convert("L"), in 2^-16.
_PIL_WEIGHTS = np.array((19595, 38470, 7471), np.int32)

# Pictures a batch, in pixels: on a CPU what its caches hold.
_BATCH_PIXELS = {"cpu": 640 * 480 * 2, "cuda": 640 * 480 * 64}


@dataclass(frozen=True)
class Pictures:
    """A pair and what the methods made of it.

    Attributes:
        visible: H x W x 3 uint8 RGB.
        infrared: H x W uint8; deeper files through gain control.
        labels: H x W uint8 class ids, or None.
        fused: H x W x 3 uint8 RGB by method.
        masks: H x W uint8 class ids by method.
        broken: what could not be read or fused, one line each.
    """

    visible: np.ndarray
    infrared: np.ndarray
    labels: np.ndarray | None = None
    fused: dict[str, np.ndarray] = field(default_factory=dict)
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        scores: of the fused pictures.
        confusions: M x P x C x C int64 pixels, rows true, or None without labels.
        masked: M x P bool, whether the method has a mask of the pair and the pair a label.
        class_set: of labels and masks.
        broken: pictures that could not be read or fused, one line each.
        notes: metrics that have no value for some pictures, one line each.
    """

    scores: Scores
    confusions: np.ndarray | None
    masked: np.ndarray
    class_set: ClassSet | None
    broken: list[str]
    notes: list[str]

    def confusion(self, method: int, pairs: np.ndarray | int) -> ConfusionMatrix:
        """Of some pairs of a method: a position, or P bool."""
        if self.confusions is None or self.class_set is None:
            raise ValueError("there were no labels")
        matrix = ConfusionMatrix(len(self.class_set))
        counts = self.confusions[method, pairs]
        matrix.counts += counts.reshape(-1, *matrix.counts.shape).sum(axis=0)
        return matrix

    @property
    def commonly_masked(self) -> np.ndarray:
        """P bool: see `common_pairs`."""
        return common_pairs(self.masked)


def match_folders(
    visible: Path, infrared: Path, labels: Path | None = None
) -> tuple[list[PairFiles], list[str]]:
    """Pairs by file name, and one line for each file without a partner.

    Raises:
        ImageFileError: no such folder, or no two pictures have the same name.
    """
    folders = {"visible": list_images(visible), "infrared": list_images(infrared)}
    stems = [stem for stem in folders["visible"] if stem in folders["infrared"]]
    if not stems:
        raise ImageFileError(
            f"'{visible}' ({len(folders['visible'])} pictures) and '{infrared}' "
            f"({len(folders['infrared'])} pictures): no two have the same name"
        )
    if labels is not None:
        folders["labels"] = list_images(labels)
        if not any(stem in folders["labels"] for stem in stems):
            raise ImageFileError(f"'{labels}': none is named as a pair, such as '{stems[0]}'")
    known = set(stems)
    lonely = [
        f"{path}: no pair of that name"
        for pictures in folders.values()
        for stem, path in pictures.items()
        if stem not in known
    ]
    with_labels = folders.get("labels", {})
    if labels is not None:
        lonely += [f"{folders['visible'][s]}: no labels" for s in stems if s not in with_labels]
    pairs = [
        PairFiles(s, folders["visible"][s], folders["infrared"][s], with_labels.get(s))
        for s in stems
    ]
    return pairs, lonely


def read_pictures(
    files: PairFiles, methods: Sequence[Method], class_set: ClassSet | None = None
) -> Pictures | str:
    """Read a pair, its labels, and the methods' pictures; weights are not run.

    Returns:
        The pictures, or why the pair cannot be read.

    Raises:
        ValueError: sizes that differ, or ids that are not of the class set; names the files.
    """
    try:
        visible = files.read_visible()
        infrared = ThermalNormalizer()(read_infrared(files.infrared))
        labels = files.read_labels(class_set)
    except ImageFileError as error:
        return str(error)
    files.check_sizes(visible, infrared, labels)
    pictures = Pictures(visible, infrared, labels)
    for method in methods:
        for paths, kept in ((method.fused, pictures.fused), (method.masks, pictures.masks)):
            path = paths.get(files.name)
            if path is None or (kept is pictures.masks and labels is None):
                continue
            try:
                picture = read_visible(path) if kept is pictures.fused else read_labels(path)
            except ImageFileError as error:
                pictures.broken.append(str(error))
                continue
            if picture.shape[:2] != visible.shape[:2]:
                raise ValueError(
                    f"'{path}' is {picture.shape[1]} x {picture.shape[0]}, but "
                    f"'{files.visible}' is {visible.shape[1]} x {visible.shape[0]}"
                )
            if kept is pictures.masks and class_set is not None:
                _check_ids(path, picture, class_set)
            kept[method.name] = picture
    return pictures


def _check_ids(path: Path, mask: np.ndarray, class_set: ClassSet) -> None:
    counts = np.bincount(mask.ravel(), minlength=256)
    if unknown := unknown_ids(counts, len(class_set)):
        raise ValueError(
            f"mask '{path}': ids {', '.join(map(str, unknown))} are not of '{class_set.name}', "
            f"expected 0 to {len(class_set) - 1}"
        )


def run_weights(name: str, pictures: Pictures, methods: Sequence[Method]) -> None:
    """Add what the methods' pipelines make of the pair."""
    for method in methods:
        if method.pipeline is None:
            continue
        try:
            result = method.pipeline(
                ImagePair(pictures.visible, pictures.infrared),
                labels=pictures.labels is not None and method.class_set is not None,
            )
        except ValueError as error:
            pictures.broken.append(f"{name}, {method.name}: {error}")
            continue
        if result.fused is not None:
            pictures.fused[method.name] = result.fused
        if result.labels is not None:
            size = pictures.visible.shape[:2]
            pictures.masks[method.name] = resize_labels(result.labels, size)


def evaluate(
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    metrics: Iterable[Metric],
    *,
    class_set: ClassSet | None = None,
    grey: str = "pil",
    device: torch.device | str = "cpu",
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score the methods' pictures of all pairs.

    Args:
        class_set: of labels and masks; without one, labels are not looked at.
        grey: one of `GREYS`.
        device: of the metrics.
        workers: threads that read pictures.
        progress: called with the number of pairs done.

    Raises:
        ValueError: sizes that differ, ids that are not of the class set, or no pair
            of which every method has a picture.
    """
    if grey not in GREYS:
        raise ValueError(f"grey is '{grey}', expected {' or '.join(GREYS)}")
    names = [method.name for method in methods]
    scores = Scores.empty([pair.name for pair in pairs], names, metrics)
    batch = _Batch(scores, torch.device(device), grey)
    masked = np.zeros((len(names), len(pairs)), bool)
    confusions = None
    if class_set is not None:
        confusions = np.zeros((*masked.shape, len(class_set), len(class_set)), np.int64)
    broken = []
    for index, pictures in enumerate(_read_ahead(pairs, methods, class_set, workers)):
        if isinstance(pictures, str):
            broken.append(pictures)
        else:
            run_weights(pairs[index].name, pictures, methods)
            broken += pictures.broken
            batch.add(index, pictures)
            if confusions is not None and class_set is not None and pictures.labels is not None:
                for method, mask in pictures.masks.items():
                    matrix = ConfusionMatrix(len(class_set))
                    matrix.update(mask, pictures.labels)
                    place = names.index(method), index
                    confusions[place], masked[place] = matrix.counts, True
        if progress is not None:
            progress(index + 1)
    batch.flush()
    if not scores.common.any():
        counts = ", ".join(
            f"{name} {count}" for name, count in zip(names, scores.present.sum(1), strict=True)
        )
        raise ValueError(f"no pair of {len(pairs)} has a picture of every method: {counts}")
    return Evaluation(scores, confusions, masked, class_set, broken, scores.gaps())


class _Batch:
    """Pictures of one size that wait for their scores."""

    def __init__(self, scores: Scores, device: torch.device, grey: str) -> None:
        self._scores, self._device, self._grey = scores, device, grey
        self._limit = _BATCH_PIXELS["cpu" if device.type == "cpu" else "cuda"]
        self._places: list[tuple[int, int]] = []
        self._planes: list[tuple[np.ndarray, ...]] = []

    def add(self, index: int, pictures: Pictures) -> None:
        infrared = pictures.infrared
        if self._planes and self._planes[0][1].shape != infrared.shape:
            self.flush()
        visible = to_grey(pictures.visible, self._grey)
        for method, fused in pictures.fused.items():
            self._places.append((self._scores.methods.index(method), index))
            self._planes.append((visible, infrared, to_grey(fused, self._grey), fused))
            if len(self._planes) * infrared.size >= self._limit:
                self.flush()

    def flush(self) -> None:
        if self._planes:
            visible, infrared, fused, colour = (
                torch.from_numpy(np.stack(planes)).to(self._device)
                for planes in zip(*self._planes, strict=True)
            )
            self._scores.score(
                self._places,
                visible.float().unsqueeze(1),
                infrared.float().unsqueeze(1),
                fused.float().unsqueeze(1),
                colour.permute(0, 3, 1, 2),
            )
        self._places, self._planes = [], []


def to_grey(picture: np.ndarray, grey: str) -> np.ndarray:
    """Luma in whole levels: H x W x 3 uint8 RGB to H x W uint8, the same of grey pictures."""
    if grey == "opencv":
        return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    sums = picture.astype(np.int32) @ _PIL_WEIGHTS
    return ((sums + 2**15) >> 16).astype(np.uint8)


def _read_ahead(
    pairs: Sequence[PairFiles],
    methods: Sequence[Method],
    class_set: ClassSet | None,
    workers: int,
) -> Iterator[Pictures | str]:
    """`read_pictures` of every pair in order, a few of them read in advance."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Pictures | str]] = deque()
        try:
            for pair in pairs:
                waiting.append(pool.submit(read_pictures, pair, methods, class_set))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
