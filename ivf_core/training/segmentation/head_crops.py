"""Crops for the training of a head: real pairs, scenes, and pairs without labels in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from ivf_core.training.runs.batches import PairCrops, Sample
from ivf_core.training.segmentation.cached_teacher import cut_shares
from ivf_core.training.segmentation.logit_cache import LOGIT_STRIDE

__all__ = ["Slot", "SlotCrops"]


class Slot(NamedTuple):
    """Crops of one entry of each batch.

    Attributes:
        crops: the crops.
        answers: a teacher's answers by the names of pairs; see `cached_teacher`.
    """

    crops: PairCrops
    answers: Mapping[str, np.ndarray]


class SlotCrops(Dataset[Sample]):
    """Crops of batches whose entries come from different pairs.

    Args:
        slots: crops of each entry of a batch.
        classes: number of classes of the teacher's answers; 0 without any.
    """

    def __init__(self, slots: Sequence[Slot], classes: int) -> None:
        self.slots = slots
        self.classes = classes

    def __getitem__(self, number: int) -> Sample:
        """Draw luma, infrared, labels, chroma and the teacher's probabilities.

        Returns:
            1 x H x W float32 in [0, 1] twice; H x W int64; Cr and Cb, 2 x H x W float32 in
            0..255, 0 x H x W of pairs without colour; and C x H / 4 x W / 4 float32, zero of
            pairs without an answer.
        """
        slot = self.slots[number % len(self.slots)]
        name, crop, _ = slot.crops.draw(number)
        size = slot.crops.size
        answer = slot.answers.get(name)
        if answer is None or crop.window is None:
            rows, columns = (side // LOGIT_STRIDE for side in size)
            shares = np.zeros((self.classes, rows, columns), np.float32)
        else:
            shares = cut_shares(answer, crop.window, size)
        planes = (crop.luma[None], crop.infrared[None], crop.labels.astype(np.int64))
        return Sample(name, (*planes, crop.chroma.astype(np.float32), shares))
