"""Scores of networks that segment pairs, on whole pairs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.class_sets import PST900
from ivf_core.models.pair_segmenter import PairLogits, PairSegmenter
from ivf_core.training.segmentation.pair_images import score_pairs


class Warm(PairSegmenter):
    """Class 4 in cells of 4 x 4 pixels that are warm, else class 0."""

    def segment(self, visible: Tensor, infrared: Tensor) -> PairLogits:
        warm = F.avg_pool2d(infrared, 4)[:, 0] > 0.5
        return PairLogits(F.one_hot(4 * warm.long(), 5).movedim(-1, 1).float())


def test_no_class_appears_between_two_others() -> None:
    """Logits are resized, not ids: between 0 and 4 nothing else is predicted."""
    labels = np.zeros((64, 96), np.uint8)
    labels[16:48, 29:71] = 4  # across the cells
    planes = np.dstack([*[np.zeros_like(labels)] * 3, 60 * labels])
    labels[0, :5] = 255
    counts = score_pairs(Warm(PST900).eval(), [(planes, labels)], torch.device("cpu")).counts
    assert counts.sum() == 64 * 96 - 5
    assert counts[:, [0, 4]].sum() == counts.sum()
    assert counts[4, 4] > 0.9 * 32 * 42
    assert counts[0, 0] > 0.9 * (64 * 96 - 32 * 42)
