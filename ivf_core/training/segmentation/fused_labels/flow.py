"""Labels of a video carried along optical flow: each frame's neighbours vote for its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ivf_core.class_sets import STREET, UNLABELED

__all__ = ["flow_guide", "vote_along_flow"]

_WEIGHTS = {1: 0.6, 2: 0.3}  # of a neighbour by its distance in labelled frames; its own is 1
_WINNING = 0.6
_ENOUGH = 0.4
_CONSISTENT = 1.5  # pixels between a point and its way to the neighbour and back


def flow_guide(visible: np.ndarray, infrared: np.ndarray | None) -> np.ndarray:
    """Return a grey image that shows what either camera sees, to compute flow on.

    Args:
        visible: H x W x 3 uint8 RGB.
        infrared: H x W uint8, or None.

    Returns:
        H x W uint8.
    """
    luma = cv2.cvtColor(visible, cv2.COLOR_RGB2GRAY)
    if infrared is None:
        return luma
    stretched = cv2.normalize(infrared, np.empty_like(infrared), 0, 255, cv2.NORM_MINMAX)
    return cv2.addWeighted(luma, 0.5, stretched, 0.5, 0)


def vote_along_flow(
    guides: Sequence[np.ndarray], labels: Sequence[np.ndarray], confidence: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Let the labels of two frames before and after vote for those of each frame.

    Labels are carried along dense flow (DIS, Kroeger et al., ECCV 2016), where the way there
    and back ends where it began.

    Args:
        guides: H x W uint8, one grey image for each labelled frame of one video, in order.
        labels: H x W uint8 ids of `STREET`.
        confidence: H x W uint8.

    Returns:
        Labels, H x W uint8, and confidence, H x W uint8, of each frame.
    """
    return [_vote(number, guides, labels, confidence) for number in range(len(guides))]


def _vote(
    number: int,
    guides: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    confidence: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    size = labels[number].shape
    votes = np.zeros((len(STREET), *size), np.float32)
    weights = np.ones(size, np.float32)
    _add(votes, labels[number], confidence[number] / np.float32(255))
    for distance, weight in _WEIGHTS.items():
        for other in (number - distance, number + distance):
            if not 0 <= other < len(guides):
                continue
            x, y, consistent = _way(guides[number], guides[other])
            carried = cv2.remap(labels[other], x, y, cv2.INTER_NEAREST, borderValue=(UNLABELED,))
            sure = cv2.remap(confidence[other], x, y, cv2.INTER_NEAREST, borderValue=(0,))
            _add(votes, carried, sure * (np.float32(weight / 255) * consistent))
            weights += np.float32(weight) * consistent
    best = votes.argmax(0).astype(np.uint8)
    most, total = votes.max(0), votes.sum(0)
    won = (most >= _WINNING * total) & (most >= _ENOUGH)
    sure = np.rint(255 * (most / weights).clip(0, 1)).astype(np.uint8)
    return np.where(won, best, np.uint8(UNLABELED)), np.where(won, sure, np.uint8(0))


def _add(votes: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> None:
    for index in np.unique(labels[labels != UNLABELED]):
        votes[index] += np.where(labels == index, weight, np.float32(0))


def _way(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each pixel of `first` is in `second`, and 1 where the way back agrees."""
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there = dis.calc(first, second, None)
    back = dis.calc(second, first, None)
    rows, columns = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
    x, y = columns + there[..., 0], rows + there[..., 1]
    returned = cv2.remap(back, x, y, cv2.INTER_LINEAR) + there
    error = np.hypot(returned[..., 0], returned[..., 1])
    return x, y, (error < _CONSISTENT).astype(np.float32)
