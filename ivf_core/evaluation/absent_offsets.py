"""Offsets of a head's logits for pairs that lack a camera, chosen on pairs with boxes.

The offset of a class is the largest one with which the precision of its pixels, inside boxes of
what both cameras show, does not fall below a target. Classes are only raised: one that is below
the target without an offset stays as it is, so that no object is lost that was found before.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ivf_core.data.boxes import STREET_OBJECTS
from ivf_core.data.pairs import PairFiles
from ivf_core.evaluation.box_scores import BoxFiles, box_array
from ivf_core.evaluation.grid import Share
from ivf_core.evaluation.operating_points import MarginCounts, logit_function
from ivf_core.evaluation.stress import CameraBoxes

if TYPE_CHECKING:
    from ivf_core.models.checkpoints import FusionModel

__all__ = ["AbsentOffset", "choose_absent_offsets"]


@dataclass
class AbsentOffset:
    """Offset of one class while a camera is absent, and what it does to the pairs it is from.

    Attributes:
        absence: which of `ABSENCES`.
        name: class.
        pairs: number of pairs.
        value: the offset; 0 where nothing is to be gained.
    """

    absence: str
    name: str
    pairs: int = 0
    value: float = 0.0
    # Boxes of what the camera that is left shows, and of what both show.
    _shown: MarginCounts = field(default_factory=MarginCounts)
    _real: MarginCounts = field(default_factory=MarginCounts)

    def recall(self, offset: float) -> Share:
        """Return the share of boxes found, of what the camera that is left shows."""
        return self._shown.recall(offset)

    def precision(self, offset: float) -> float:
        """Return the share of the class's pixels that are inside boxes of what both show."""
        return self._real.precision(offset)

    def add(self, margins: np.ndarray, shown: np.ndarray, real: np.ndarray) -> None:
        """Add a pair: its margins, and both kinds of boxes; see `MarginCounts.add`."""
        self.pairs += 1
        self._shown.add(margins, shown)
        self._real.add(margins, real)

    def choose(self, precision: float, largest: float) -> None:
        """Choose the offset, from 0 to `largest`, by the least precision."""
        reached = self._real.offset(precision)
        self.value = 0.0 if math.isnan(reached) else round(min(max(reached, 0.0), largest), 2)

    def __str__(self) -> str:
        before, after = (
            f"recall {recall.hits} of {recall.total}, precision {precision:.2f}"
            for recall, precision in (
                (self.recall(offset), self.precision(offset)) for offset in (0.0, self.value)
            )
        )
        return (
            f"{self.absence}, {self.name}, {self.pairs} pairs: {self.value:+.2f}; {before} before"
            f"; {after} with it"
        )


def choose_absent_offsets(
    model: FusionModel,
    pairs: Iterable[PairFiles],
    boxes: CameraBoxes,
    classes: Sequence[str],
    precision: float,
    largest: float = 3.0,
) -> tuple[FusionModel, list[AbsentOffset]]:
    """Choose the offsets of classes for each of `ABSENCES`.

    Each pair is run twice, without the thermal and without the visible image.

    Args:
        model: networks of the architecture `street` with a head; offsets that it has are not used.
        pairs: pairs that the networks were trained on, so that others remain to test on.
        boxes: boxes of the pairs; those of single cameras, if there are any, give the recall.
        classes: names of classes that have boxes.
        precision: least precision of pixels, 0..1.
        largest: largest offset.

    Returns:
        The model with the offsets, and these one by one.

    Raises:
        ValueError: another architecture, a class that the model or the boxes do not have, or no
            pair with boxes.
    """
    import torch

    from ivf_core.models.absent_cameras import ABSENCES
    from ivf_core.models.street import StreetHead

    if not isinstance(model.head, StreetHead) or model.class_set is None:
        raise ValueError(
            f"weights '{model.name}': architecture '{model.architecture}'"
            f"{'' if model.head else ' without a head'}, expected 'street' with a head: only its "
            "head knows which camera is absent"
        )
    names = model.class_set.names
    known = [name for name in STREET_OBJECTS if name in names]
    if unknown := [name for name in classes if name not in known]:
        raise ValueError(f"classes {', '.join(unknown)}: expected some of {', '.join(known)}")
    head = copy.deepcopy(model.head)
    head.absent_offsets = None
    model = replace(model, head=head)
    chosen = _measure(model, pairs, boxes, classes)
    offsets = torch.zeros(len(ABSENCES), len(names))
    for one in chosen:
        one.choose(precision, largest)
        offsets[ABSENCES.index(one.absence), names.index(one.name)] = one.value
    head.absent_offsets = offsets
    return model, chosen


def _measure(
    model: FusionModel, pairs: Iterable[PairFiles], boxes: CameraBoxes, classes: Sequence[str]
) -> list[AbsentOffset]:
    """Count the margins of the classes in each of `ABSENCES`."""
    from ivf_core.models.absent_cameras import ABSENCES

    assert boxes.fusion is not None
    assert model.class_set is not None
    every = {(row, name): AbsentOffset(row, name) for row in ABSENCES for name in classes}
    logits_of = logit_function(model)
    for files in pairs:
        if files.name not in boxes.fusion:
            continue
        visible, infrared = files.read_visible(), files.read_infrared()
        for left, images in (
            (boxes.visible, (visible, np.zeros_like(infrared))),
            (boxes.infrared, (np.zeros_like(visible), infrared)),
        ):
            absence = _absence(*images)
            if absence is None:
                continue
            logits = logits_of(*images)
            for name in classes:
                own = np.arange(len(logits)) == model.class_set.names.index(name)
                margins = logits[own][0] - logits[~own].max(axis=0)
                margins = cv2.resize(margins, infrared.shape[::-1], interpolation=cv2.INTER_NEAREST)
                real = _boxes(boxes.fusion, files, name, infrared.shape)
                shown = _boxes(left, files, name, infrared.shape) if left is not None else real
                every[absence, name].add(margins, shown, real)
    if not any(one.pairs for one in every.values()):
        raise ValueError("none of the pairs has boxes; expected files named as the images")
    return list(every.values())


def _boxes(files: BoxFiles, pair: PairFiles, kind: str, size: tuple[int, ...]) -> np.ndarray:
    """Return the boxes of a class in a pair, N x 4; none where the pair has no file."""
    read = files.read(pair.name, size) if pair.name in files else []
    return box_array(read, lambda box: box.name == kind)


def _absence(visible: np.ndarray, infrared: np.ndarray) -> str | None:
    """Return the one of `ABSENCES` that applies most to a pair, or None."""
    import torch

    from ivf_core.models.absent_cameras import ABSENCES, absent_cameras
    from ivf_core.models.color import luma_chroma

    rgb = torch.from_numpy(visible).permute(2, 0, 1)[None].float()
    thermal = torch.from_numpy(infrared)[None, None].float()
    weights = absent_cameras(luma_chroma(rgb)[0] / 255, thermal / 255)[0]
    return ABSENCES[int(weights.argmax())] if weights.any() else None
