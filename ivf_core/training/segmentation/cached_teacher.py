"""Answers of a pair teacher, read from its cache for the pairs of a run, and crops of them.

An answer is C x ceil(H / 4) x ceil(W / 4) uint8: -16 ln of the teacher's probability of each class
of the network that learns, 255 for next to none. The probabilities of a cell sum to less than one
where the teacher gives some to a class that the network does not have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import cv2
import numpy as np
from tqdm import tqdm

from ivf_core.class_sets import STREET_MAPPINGS, UNLABELED, ClassSet, mapping_between
from ivf_core.data.pairs import CropWindow, PairFiles
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.training.segmentation.logit_cache import (
    LOGIT_STRIDE,
    LogitCache,
    LogitCacheError,
    resize_shares,
)

__all__ = ["CachedTeacher", "agreement", "answer_labels", "cut_shares"]

_STEPS = 16  # of one nat
_NONE = 255
_SHARES = np.where(np.arange(256) < _NONE, np.exp(np.arange(256) / -_STEPS), 0).astype(np.float32)
_log = logging.getLogger(__name__)


class CachedTeacher:
    """Pair teacher whose answers `ivf train logits` has written.

    Classes that have another name in the class set of the network are mapped as labels are;
    probability of a class that has none there is left out.

    Args:
        pattern: folder of the cache, see `LogitCache.find`.
        class_set: classes of the network that learns.
        confidence_threshold: answers of cells whose largest probability is smaller are left out.

    Raises:
        LogitCacheError: there is no such cache, or its classes cannot be mapped.
    """

    def __init__(
        self, pattern: str, class_set: ClassSet, confidence_threshold: float = 0.0
    ) -> None:
        self.cache = LogitCache.find(pattern)
        self.classes = len(class_set)
        self.threshold = confidence_threshold
        own = self.cache.class_set
        try:
            mapping = mapping_between(own, class_set)
        except ValueError as error:
            names = dict.fromkeys((own.name, *STREET_MAPPINGS))
            raise LogitCacheError(
                f"logits '{self.cache.directory}': the teacher's classes are those of "
                f"'{own.name}', which cannot be mapped onto '{class_set.name}'; expected a "
                f"teacher of '{class_set.name}', or for 'street' one of {', '.join(names)}"
            ) from error
        table = np.arange(len(own)) if mapping is None else mapping.table[: len(own)]
        self._targets = np.asarray(table)
        for part, origin in self.cache.notes.items():
            _log.warning("logits '%s': %s of the teacher: %s", pattern, part, origin)

    @property
    def origin(self) -> str:
        """Kind and SHA-256 of the teacher, and what else is known of it, for metadata."""
        about = self.cache.teacher
        notes = "".join(f"; {part}: {text}" for part, text in self.cache.notes.items())
        return f"{about['kind']} (SHA-256 {about['sha256']}){notes}"

    def agreement_title(self, pairs: str) -> str:
        """Return the title of a table of `agreement`.

        Args:
            pairs: number and kind of the pairs.
        """
        return f"agreement with the teacher ({self.cache.title}), not accuracy, {pairs}"

    def read_all(self, files: Iterable[PairFiles]) -> dict[str, np.ndarray]:
        """Return the answers of pairs by name.

        Raises:
            LogitCacheError: one is missing, or its file is damaged; names the file and the remedy.
            ValueError: an image is broken.
        """
        return {
            pair.name: self.answer(pair.read_visible(), pair.read_infrared(), str(pair.visible))
            for pair in tqdm(files, desc="teacher's answers", mininterval=5)
        }

    def find_all(self, files: Iterable[PairFiles]) -> dict[str, np.ndarray]:
        """Return the answers of those pairs that have one, by name; see `read_all`."""
        found = {pair.name: self.find(pair.read_visible(), pair.read_infrared()) for pair in files}
        return {name: answer for name, answer in found.items() if answer is not None}

    def answer(self, visible: np.ndarray, infrared: np.ndarray, name: str) -> np.ndarray:
        """Return the answer of a pair in memory.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.
            name: name of the pair, for errors.
        """
        found = self.find(visible, infrared)
        if found is None:
            raise LogitCacheError(
                f"logits '{self.cache.path(visible, infrared)}': no such file for '{name}', or "
                "its images are no longer those that the teacher saw; run ivf train logits on "
                "its folder"
            )
        return found

    def find(self, visible: np.ndarray, infrared: np.ndarray, name: str = "") -> np.ndarray | None:
        """Return the answer of a pair in memory, or None without one; see `answer`."""
        try:
            values = self.cache.read(visible, infrared)
        except LogitCacheError as error:
            raise LogitCacheError(
                f"{error}; run ivf train logits again, which replaces it"
            ) from error
        if values is None:
            return None
        shares = np.zeros((self.classes, *values.shape[1:]), np.float32)
        for plane, target in zip(np.exp(values), self._targets, strict=True):
            if target != UNLABELED:
                shares[target] += plane
        shares[:, shares.max(0) < self.threshold] = 0
        with np.errstate(divide="ignore"):
            return (-_STEPS * np.log(shares)).round().clip(0, _NONE).astype(np.uint8)


def cut_shares(answer: np.ndarray, window: CropWindow, size: tuple[int, int]) -> np.ndarray:
    """Return the probabilities of a crop, those of the pixel at the centre of each of its cells.

    Args:
        answer: C x h x w uint8, see the module.
        window: part of the pair that the crop shows.
        size: height and width of the crop, multiples of 4.

    Returns:
        C x H / 4 x W / 4 float32 in [0, 1], interpolated bilinearly.
    """
    rows, columns = (side // LOGIT_STRIDE for side in size)
    down, across = window.height / size[0], window.width / size[1]
    # Distances from the window's corner, in cells; the first centre is half a cell from it.
    place = np.array(
        [
            [across, 0, (window.left + LOGIT_STRIDE / 2 * across) / LOGIT_STRIDE - 0.5],
            [0, down, (window.top + LOGIT_STRIDE / 2 * down) / LOGIT_STRIDE - 0.5],
        ]
    )
    planes = [
        cv2.warpAffine(
            _SHARES[plane], place, (columns, rows),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT,
        )
        for plane in answer
    ]  # fmt: skip
    cut = np.stack(planes)
    return np.ascontiguousarray(cut[:, :, ::-1] if window.mirrored else cut)


def answer_labels(answer: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return the most probable class of each pixel, H x W uint8.

    Pixels are 255 where the teacher gives half of the probability or more to classes that the
    network does not have.

    Args:
        answer: C x h x w uint8, see the module.
        size: height and width of the pair.
    """
    shares = resize_shares(_SHARES[answer], size)
    ids = shares.argmax(0).astype(np.uint8)
    ids[shares.sum(0) < 0.5] = UNLABELED
    return ids


def agreement(
    answers: Iterable[tuple[np.ndarray, np.ndarray]], class_set: ClassSet
) -> dict[str, float]:
    """Compare predictions with a teacher's classes; neither of them is the truth.

    Args:
        answers: class ids that the network predicts, and the teacher's answer, of each pair.
        class_set: classes of both.

    Returns:
        Intersection over union of the classes that occur by name, their mean by the name
        "mean", and the share of equal pixels by the name "equal pixels".
    """
    matrix = ConfusionMatrix(len(class_set))
    for predicted, answer in answers:
        matrix.update(predicted, answer_labels(answer, predicted.shape))
    found = zip(class_set.names, matrix.iou().tolist(), strict=True)
    return {
        **{name: value for name, value in found if not np.isnan(value)},
        "mean": matrix.mean_iou(),
        "equal pixels": matrix.pixel_accuracy(),
    }
