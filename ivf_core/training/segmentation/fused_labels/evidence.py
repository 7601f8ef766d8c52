"""Evidence on one image: votes of segmenters, boxes of detectors, published boxes, truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ivf_core.class_sets import STREET, STREET_MAPPINGS, UNLABELED
from ivf_core.images.files import read_labels
from ivf_core.training.segmentation.fused_labels.cold_sky import find_cold_sky
from ivf_core.training.segmentation.fused_labels.networks import Boxes
from ivf_core.training.segmentation.fused_labels.pair_votes import CAMERAS, PairVoter
from ivf_core.training.segmentation.fused_labels.predictions import CachedNetwork
from ivf_core.training.segmentation.fused_labels.sources import (
    LabelSource,
    Truth,
    cameras,
    is_night,
    read_published_boxes,
)

__all__ = ["Evidence", "collect_evidence", "network_of", "prepare_evidence", "vote_labels"]

_OF_TRUTH = "cityscapes"
_SKY = STREET.names.index("sky")


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of one image before fusion.

    Attributes:
        visible: H x W x 3 uint8 RGB.
        infrared: H x W uint8, or None.
        night: whether it is of the night.
        votes: C x H x W uint8 by teacher: 0..255, shares of votes for classes of `STREET`.
        boxes: boxes by teacher.
        published: published boxes, or None.
        truth: dense labels by hand, or None.
        absent: ids of classes that the image does not show.
    """

    visible: np.ndarray
    infrared: np.ndarray | None
    night: bool
    votes: Mapping[str, np.ndarray] = field(default_factory=dict)
    boxes: Mapping[str, Boxes] = field(default_factory=dict)
    published: Boxes | None = None
    truth: Truth | None = None
    absent: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.visible.shape[0], self.visible.shape[1]


def network_of(teacher: str) -> str:
    """Return the network of a teacher, which is named NETWORK:CAMERA, or by its labels."""
    return teacher.partition(":")[0]


def vote_labels(labels: np.ndarray, confidence: np.ndarray | None = None) -> np.ndarray:
    """Return class ids as votes.

    Args:
        labels: H x W uint8 ids of `STREET`, 255 for none.
        confidence: H x W uint8, 0..255; full by default.

    Returns:
        C x H x W uint8.
    """
    full = np.full(labels.shape, 255, np.uint8) if confidence is None else confidence
    votes = np.zeros((len(STREET), *labels.shape), np.uint8)
    for index in np.unique(labels[labels != UNLABELED]):
        votes[index] = np.where(labels == index, full, 0)
    return votes


def collect_evidence(
    source: LabelSource,
    networks: Mapping[str, CachedNetwork],
    pair_voters: Sequence[PairVoter] = (),
) -> Evidence:
    """Read an image, and ask each network on each camera where it is of use.

    Segmenters see the visible image, the brightened one where it is dark, and the thermal one as
    black-hot; detectors see the thermal image as it is, too. Where dense labels by hand exist,
    only one network is asked, for riders and bicycles or cars and trucks that are one class there.
    Networks that segment pairs are asked where there is a thermal image and no such labels.

    Args:
        source: the image.
        networks: by name.
        pair_voters: networks that segment pairs.

    Raises:
        ValueError: a file is damaged or of another size; the message names it.
    """
    visible, infrared, truth = _read_images(source)
    votes, boxes = {}, {}
    for name, camera, image in _questions(source, visible, infrared, truth, networks):
        found = networks[name].predict(image)
        if isinstance(found, Boxes):
            boxes[f"{name}:{camera}"] = found
        else:
            votes[f"{name}:{camera}"] = found
    if infrared is not None and truth is None:
        for voter in pair_voters:
            votes[f"{voter.name}:{CAMERAS}"] = voter.votes(visible, infrared)
    for name, (class_set, path, confidence) in source.given.items():
        ids = STREET_MAPPINGS[class_set].apply(_read_ids(path, visible), f"labels '{path}'")
        sure = _read_ids(confidence, visible) if confidence else None
        votes[name] = vote_labels(ids, sure)
    if source.cold_sky and infrared is not None:
        sky = np.where(find_cold_sky(infrared), np.uint8(_SKY), np.uint8(UNLABELED))
        votes["cold_sky"] = vote_labels(sky)
    return Evidence(
        visible,
        infrared,
        is_night(visible, source.night_below),
        votes,
        boxes,
        read_published_boxes(source.boxes, visible.shape[:2]) if source.boxes else None,
        truth,
        source.absent,
    )


def prepare_evidence(
    source: LabelSource,
    networks: Mapping[str, CachedNetwork],
    pair_voters: Sequence[PairVoter] = (),
) -> None:
    """Ask networks like `collect_evidence`, so that their answers are on disk.

    Raises:
        ValueError: an image is damaged or of another size; the message names it.
    """
    visible, infrared, truth = _read_images(source)
    for name, _, image in _questions(source, visible, infrared, truth, networks):
        networks[name].prepare(image)
    if infrared is not None and truth is None:
        for voter in pair_voters:
            voter.prepare(visible, infrared)


def _read_images(source: LabelSource) -> tuple[np.ndarray, np.ndarray | None, Truth | None]:
    """Read the images and labels by hand of a source, or raise ValueError if sizes differ."""
    visible, infrared, truth = source.read_visible(), source.read_infrared(), source.read_truth()
    ids = truth.labels if truth is not None else None
    for path, plane in ((source.infrared, infrared), (source.truth and source.truth[1], ids)):
        if plane is not None and plane.shape != visible.shape[:2]:
            raise ValueError(
                f"'{path}' is {plane.shape[1]} x {plane.shape[0]}, but "
                f"'{source.visible}' is {visible.shape[1]} x {visible.shape[0]}"
            )
    return visible, infrared, truth


def _questions(
    source: LabelSource,
    visible: np.ndarray,
    infrared: np.ndarray | None,
    truth: Truth | None,
    networks: Mapping[str, CachedNetwork],
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield network, camera and image, H x W x 3 uint8 RGB, of what is asked of an image."""
    for camera, image in cameras(visible, infrared).items():
        for name, network in networks.items():
            if truth is not None and not (name == _OF_TRUTH and truth.ambiguous):
                continue
            if source.detect if network.detects else _is_of_use(name, camera):
                yield name, camera, image


def _is_of_use(name: str, camera: str) -> bool:
    """Tell whether a segmenter can read a camera's images, as measured."""
    return camera != "infrared" and not (name == "road" and camera == "inverted")


def _read_ids(path: Path, visible: np.ndarray) -> np.ndarray:
    ids = read_labels(path)
    if ids.shape != visible.shape[:2]:
        raise ValueError(f"'{path}' is {ids.shape}, expected {visible.shape[:2]}")
    return ids
