"""Fusion of the evidence on an image into one label and one confidence per pixel.

Segmenters' votes are added up as log-odds of their measured reliability; naive Bayes, tempered
since teachers err together. Objects come from boxes alone: inside a box its seed has the box's
class, outside all boxes no pixel is person, bicycle, car or truck. Doubtful pixels are 255.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import cv2
import numpy as np

from ivf_core.class_sets import STREET, UNLABELED
from ivf_core.training.segmentation.fused_labels.evidence import Evidence, network_of
from ivf_core.training.segmentation.fused_labels.networks import Boxes
from ivf_core.training.segmentation.fused_labels.options import FusionOptions
from ivf_core.training.segmentation.fused_labels.reliability import BoxRates, VoteRates, overlaps
from ivf_core.training.segmentation.fused_labels.seeds import box_slices, grow_seed

__all__ = ["Fused", "agreed_boxes", "fuse", "label_truth"]

_OBJECTS = tuple(STREET.names.index(name) for name in ("person", "bicycle", "car", "truck"))
_PERSON, _BICYCLE, _CAR, _TRUCK = _OBJECTS
_RIDER = 0.55  # share of the height of a rider with a bicycle that is the rider's alone
_SURROUNDINGS = [index for index in range(len(STREET)) if index not in _OBJECTS]


class Fused(NamedTuple):
    """Fused labels.

    Attributes:
        labels: H x W uint8 ids of `STREET`, 255 for ignored.
        confidence: H x W uint8, 0..255 for 0..1.
        boxes: the boxes that were taken for objects.
    """

    labels: np.ndarray
    confidence: np.ndarray
    boxes: Boxes


def fuse(evidence: Evidence, votes: VoteRates, rates: BoxRates, options: FusionOptions) -> Fused:
    """Fuse the evidence on an image.

    Args:
        evidence: the image's.
        votes: reliability of segmenters.
        rates: reliability of detectors.
        options: thresholds.
    """
    if evidence.truth is not None:
        return label_truth(evidence)
    scores = _scores(evidence, votes, options)
    labels, confidence = _surroundings(scores, options)
    share = _object_share(evidence, votes)
    if evidence.published is not None:
        boxes, doubtful = evidence.published, Boxes.empty()
    else:
        boxes, doubtful = agreed_boxes(evidence, rates, options)
        boxes, doubtful = _check_support(boxes, doubtful, share, options)
    for corners in doubtful.corners:
        labels[box_slices(corners, evidence.size)] = UNLABELED
    _ignore_unboxed(labels, confidence, share, evidence.published is not None)
    _paint(labels, confidence, boxes, share, evidence)
    confidence[labels == UNLABELED] = 0
    return Fused(labels, np.rint(255 * confidence).astype(np.uint8), boxes)


def _scores(evidence: Evidence, votes: VoteRates, options: FusionOptions) -> np.ndarray:
    """Return summed log-odds of all classes, C x H x W float32, fitted to the image's edges."""
    scores = np.zeros((len(STREET), *evidence.size), np.float32)
    cameras = Counter(network_of(teacher) for teacher in evidence.votes)
    chance = len(STREET) - 1
    for teacher, shares in evidence.votes.items():
        rate = votes.of(teacher, evidence.night)
        weights = np.log(chance * rate / (1 - rate)).clip(0) / cameras[network_of(teacher)]
        for index in np.flatnonzero(shares.any((1, 2))):
            scores[index] += shares[index] * np.float32(options.temper * weights[index] / 255)
    scores[list(evidence.absent)] = 0
    if options.edge_radius:
        guide = cv2.cvtColor(evidence.visible, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        for index in np.flatnonzero(scores.any((1, 2))):
            scores[index] = _guided(guide, scores[index], options.edge_radius)
    return scores


def _guided(guide: np.ndarray, values: np.ndarray, radius: int) -> np.ndarray:
    """Return values smoothed along the edges of a grey guide (He et al., ECCV 2010)."""
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(plane: np.ndarray) -> np.ndarray:
        return cv2.blur(plane, side)

    of_guide, of_values = mean(guide), mean(values)
    variance = mean(guide * guide) - of_guide * of_guide
    slope = (mean(guide * values) - of_guide * of_values) / (variance + np.float32(1e-3))
    return mean(slope) * guide + mean(of_values - slope * of_guide)


def _surroundings(scores: np.ndarray, options: FusionOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return labels without objects, H x W uint8, and their confidence, H x W float32."""
    odds = np.exp(scores[_SURROUNDINGS])
    # Objects keep their share of the probability: where they are voted for, doubt remains.
    total = odds.sum(0) + np.exp(scores[list(_OBJECTS)]).max(0)
    best = odds.argmax(0)
    confidence = np.take_along_axis(odds, best[None], 0)[0] / total
    labels = np.array(_SURROUNDINGS, np.uint8)[best]
    labels[confidence < options.minimum] = UNLABELED
    return labels, confidence


def _object_share(evidence: Evidence, votes: VoteRates) -> dict[int, np.ndarray]:
    """Return the probability of each object class by segmenters, H x W float32, as a noisy or."""
    share = {index: np.ones(evidence.size, np.float32) for index in _OBJECTS}
    for teacher, shares in evidence.votes.items():
        rate = votes.of(teacher, evidence.night)
        for index in _OBJECTS:
            share[index] *= 1 - shares[index] * np.float32(rate[index] / 255)
    vehicle = 1 - share[_CAR] * share[_TRUCK]
    return {
        index: vehicle if index in (_CAR, _TRUCK) else 1 - left for index, left in share.items()
    }


def agreed_boxes(
    evidence: Evidence, rates: BoxRates, options: FusionOptions
) -> tuple[Boxes, Boxes]:
    """Join the boxes of several detectors on which they agree.

    A group of boxes that overlap is an object if it is probable by the reliability of those
    that found it, and two networks did; one is enough for people and bicycles if it is sure.

    Args:
        evidence: the image's.
        rates: reliability of detectors.
        options: thresholds.

    Returns:
        Boxes of objects, with their probability as score, and boxes to ignore.
    """
    parts = [
        (name, boxes.select(~np.isin(boxes.classes, evidence.absent)))
        for name, boxes in evidence.boxes.items()
    ]
    parts = [(name, boxes) for name, boxes in parts if len(boxes.scores)]
    if not parts:
        return Boxes.empty(), Boxes.empty()
    every = Boxes.join([boxes for _, boxes in parts])
    rate = np.concatenate([rates.of(name, evidence.night, boxes) for name, boxes in parts])
    networks = np.repeat([network_of(n) for n, _ in parts], [len(b.scores) for _, b in parts])
    shared = overlaps(every, every, any_class=True)
    left = np.ones(len(rate), bool)
    groups = []
    for index in np.argsort(-rate, kind="stable"):
        if not left[index]:
            continue
        near = left & (shared[index] >= 0.45)
        same = near & _related(every.classes, every.classes[index])
        left &= ~same
        best = {name: rate[same & (networks == name)].max() for name in set(networks[same])}
        errors = float(np.prod([1 - value for value in best.values()]))
        probability = 1 - errors**options.dependence
        weights = rate[same, None]
        corners = (every.corners[same] * weights).sum(0) / weights.sum()
        counts = np.bincount(every.classes[same], rate[same])
        alone = max(best.values()) >= 0.9 and every.classes[index] not in (_CAR, _TRUCK)
        sure = probability >= options.accepted_box and (len(best) > 1 or alone)
        groups.append((corners, probability, int(counts.argmax()), sure))
    joined = Boxes(
        np.array([g[0] for g in groups], np.float32),
        np.array([g[1] for g in groups], np.float32),
        np.array([g[2] for g in groups], np.uint8),
    )
    sure = np.array([g[3] for g in groups])
    return joined.select(sure), joined.select(~sure & (joined.scores >= options.doubtful_box))


def _check_support(
    boxes: Boxes, doubtful: Boxes, share: dict[int, np.ndarray], options: FusionOptions
) -> tuple[Boxes, Boxes]:
    """Doubt boxes of vehicles in which segmenters see none; drop doubtful ones without votes."""

    def support(found: Boxes) -> np.ndarray:
        return np.array([
            float(share[int(index)][box_slices(corners, share[_CAR].shape)].mean())
            for corners, index in zip(found.corners, found.classes, strict=True)
        ])  # fmt: skip

    def areas(found: Boxes) -> np.ndarray:
        return (found.corners[:, 2:] - found.corners[:, :2]).prod(1) / share[_CAR].size

    alone = (support(boxes) < options.support) | (areas(boxes) > options.largest_vehicle)
    alone &= np.isin(boxes.classes, (_CAR, _TRUCK))
    kept = (support(doubtful) >= options.support) | (areas(doubtful) < 0.02)
    return boxes.select(~alone), Boxes.join([doubtful.select(kept), boxes.select(alone)])


def _related(classes: np.ndarray, index: int) -> np.ndarray:
    """Return which classes may be the same object: car and truck are often confused."""
    if index in (_CAR, _TRUCK):
        return (classes == _CAR) | (classes == _TRUCK)
    return classes == index


def _ignore_unboxed(
    labels: np.ndarray, confidence: np.ndarray, share: dict[int, np.ndarray], published: bool
) -> None:
    """Ignore pixels outside of boxes that segmenters take for objects and nothing else is sure."""
    limit = 0.9 if published else 0.7
    for index in _OBJECTS:
        labels[(share[index] >= limit) & (confidence < 0.9)] = UNLABELED


def _paint(
    labels: np.ndarray,
    confidence: np.ndarray,
    boxes: Boxes,
    share: dict[int, np.ndarray],
    evidence: Evidence,
) -> None:
    """Paint the seeds of boxes: vehicles first, then bicycles, then people; large ones first."""
    order = {_TRUCK: 0, _CAR: 0, _BICYCLE: 1, _PERSON: 2}
    areas = (boxes.corners[:, 2:] - boxes.corners[:, :2]).prod(1)
    indices = sorted(range(len(areas)), key=lambda n: (order[int(boxes.classes[n])], -areas[n]))
    seeds = [
        grow_seed(
            boxes.corners[n], int(boxes.classes[n]), share[int(boxes.classes[n])],
            evidence.visible, evidence.infrared,
        )
        for n in indices
    ]  # fmt: skip
    for seed in seeds:
        labels[seed.doubt] = UNLABELED
    for n, seed in zip(indices, seeds, strict=True):
        labels[seed.mask] = boxes.classes[n]
        confidence[seed.mask] = seed.confidence * float(boxes.scores[n])


def label_truth(evidence: Evidence) -> Fused:
    """Return dense labels by hand; only riders and their bicycles are told apart.

    CamVid's bicyclist is rider and bicycle in one region, which its mapping calls person.
    Where the segmenter sees a bicycle it is one; the lower part of the region is ignored.

    Args:
        evidence: with `truth`.
    """
    assert evidence.truth is not None
    labels = evidence.truth.copy()
    confidence = np.where(labels == UNLABELED, 0, 255).astype(np.uint8)
    if evidence.riders is not None and evidence.riders.any():
        bicycle, person = (
            sum((votes[c].astype(int) for votes in evidence.votes.values()), np.zeros(labels.shape))
            for c in (_BICYCLE, _PERSON)
        )
        number, regions, stats, _ = cv2.connectedComponentsWithStats(
            evidence.riders.astype(np.uint8), connectivity=8
        )
        for region in range(1, number):
            top, height = stats[region, cv2.CC_STAT_TOP], stats[region, cv2.CC_STAT_HEIGHT]
            lower = regions == region
            lower[: top + round(height * _RIDER)] = False
            labels[lower] = UNLABELED
        labels[evidence.riders & (bicycle > person)] = _BICYCLE
        confidence[evidence.riders] = np.where(labels[evidence.riders] == UNLABELED, 0, 180)
    return Fused(labels, confidence, Boxes.empty())
