"""Labelled pairs in their splits, as fused pictures, and random crops of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from ivf_core.class_sets import UNLABELED, ClassSet
from ivf_core.data.datasets import PairDataset, open_split
from ivf_core.data.pairs import PairFiles
from ivf_core.images.files import list_images, read_visible
from ivf_core.models.graph import FusionGraph

__all__ = [
    "ColorCrops",
    "FusedPictures",
    "open_labelled_split",
    "read_fused_folders",
    "replace_by_fused",
]

_LARGEST_SHARE = 0.75  # of one class in a crop, as in SegFormer's training
_TRIES = 10


def open_labelled_split(
    root: Path,
    hold_out_every: int,
    *,
    labels: str | None = None,
    class_set: ClassSet | None = None,
) -> tuple[PairDataset, PairDataset]:
    """As `ivf_core.data.datasets.open_split`, of a data set with labels.

    Raises:
        ValueError: pairs without labels or classes; a `LayoutError` where files are missing.
    """
    both = open_split(root, hold_out_every, labels=labels, class_set=class_set)
    for dataset in both:
        if not dataset.files:
            raise ValueError(f"'{root}': too few pairs to keep one out of {hold_out_every}")
        if dataset.class_set is None:
            raise ValueError(f"'{root}': {dataset.name} has no classes of its own")
        if unlabelled := next((pair for pair in dataset.files if pair.labels is None), None):
            raise ValueError(f"'{root}': {dataset.name} has no labels for '{unlabelled.name}'")
    return both


def read_fused_folders(fused: Path, labels: Path) -> list[PairFiles]:
    """Pictures that are fused already with their labels, matched by the names of the files.

    Raises:
        ValueError: a picture without labels, or no pictures.
    """
    pictures, ids = list_images(fused), list_images(labels)
    if missing := next((path for name, path in pictures.items() if name not in ids), None):
        raise ValueError(f"'{labels}': no labels for '{missing}'")
    return [PairFiles(name, path, path, ids[name]) for name, path in pictures.items()]


def replace_by_fused(files: Sequence[PairFiles], fused: Path) -> list[PairFiles]:
    """The pairs with fused pictures of the same names in place of their own.

    Raises:
        ValueError: a pair without such a picture.
    """
    pictures = list_images(fused)
    if missing := next((pair.name for pair in files if pair.name not in pictures), None):
        raise ValueError(f"'{fused}': no image named '{missing}'")
    return [replace(pair, visible=pictures[pair.name]) for pair in files]


@dataclass(frozen=True)
class FusedPictures(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Fused pictures with labels, made or read when they are asked for.

    An index gives H x W x 3 uint8 RGB and H x W uint8 ids, 255 where there is none.

    Attributes:
        files: pairs with labels; where `graph` is None, `visible` is the fused picture.
        class_set: of the labels.
        graph: fuses pairs, as the node does; on the device it runs on.
        ignored: ids that become 255.
    """

    files: tuple[PairFiles, ...]
    class_set: ClassSet
    graph: FusionGraph | None = None
    ignored: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """Raises ValueError naming a file that is broken or of another size or class set."""
        files = self.files[index]
        labels = files.read_labels(self.class_set)
        assert labels is not None
        labels = np.where(np.isin(labels, self.ignored), np.uint8(UNLABELED), labels)
        if self.graph is None:
            picture = read_visible(files.visible)
            files.check_sizes(picture, picture[..., 0], labels)
            return picture, labels
        visible, infrared = files.read_visible(), files.read_infrared()
        files.check_sizes(visible, infrared, labels)
        return _fuse(self.graph, visible, infrared), labels


@torch.inference_mode()
def _fuse(graph: FusionGraph, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    device = next(graph.parameters()).device
    pair = (torch.from_numpy(np.ascontiguousarray(p)).to(device)[None] for p in (visible, infrared))
    fused, _ = graph(*pair, want_labels=False)
    return fused[0].cpu().numpy()


class ColorCrops:
    """Random crops of pictures with labels, as SegFormer is trained on.

    Scale, place, mirroring and light are drawn anew for each; a crop in which one class has
    three quarters of the labelled pixels is drawn again, ten times at most. Sample n is the
    same whenever it is drawn, and each epoch has each picture once.

    Args:
        pictures: H x W x 3 uint8 RGB with H x W uint8 ids; smaller ones get a grey border
            without labels.
        size: height and width of a crop.
        scales: a picture is resized by a factor in this range.
        seed: of everything drawn.
    """

    def __init__(
        self,
        pictures: Sequence[tuple[np.ndarray, np.ndarray]],
        size: tuple[int, int],
        *,
        scales: tuple[float, float] = (0.5, 2.0),
        seed: int = 0,
    ) -> None:
        self.pictures = pictures
        self.size = size
        self.scales = scales
        self.seed = seed

    def index(self, number: int) -> int:
        """Return the index of the picture that sample `number` shows."""
        epoch, position = divmod(number, len(self.pictures))
        order = np.random.default_rng((self.seed, epoch, 0)).permutation(len(self.pictures))
        return int(order[position])

    def sample(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """3 x h x w float32 RGB in [0, 1] and h x w int64 ids."""
        random = np.random.default_rng((self.seed, number, 1))
        picture, labels = self.pictures[self.index(number)]
        scale = random.uniform(*self.scales)
        cut = (max(1, round(self.size[0] / scale)), max(1, round(self.size[1] / scale)))
        picture, labels = _pad(picture, cut, 127), _pad(labels, cut, UNLABELED)
        picture, labels = self._cut(picture, labels, cut, random)
        if random.random() < 0.5:
            picture, labels = picture[:, ::-1], labels[:, ::-1]
        height, width = self.size
        picture, labels = (
            cv2.resize(np.ascontiguousarray(plane), (width, height), interpolation=method)
            for plane, method in (
                (picture, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR),
                (labels, cv2.INTER_NEAREST),  # others would invent classes
            )
        )
        return _vary_light(picture, random).transpose(2, 0, 1), labels.astype(np.int64)

    def _cut(
        self,
        picture: np.ndarray,
        labels: np.ndarray,
        cut: tuple[int, int],
        random: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(_TRIES):
            top, left = (int(random.integers(labels.shape[n] - cut[n] + 1)) for n in (0, 1))
            place = np.s_[top : top + cut[0], left : left + cut[1]]
            counts = np.bincount(labels[place].ravel(), minlength=256)[:UNLABELED]
            if counts.max() < _LARGEST_SHARE * counts.sum():
                break
        return picture[place], labels[place]


def _pad(plane: np.ndarray, size: tuple[int, int], value: int) -> np.ndarray:
    below, right = max(0, size[0] - plane.shape[0]), max(0, size[1] - plane.shape[1])
    if below or right:
        border = (value,) * 3
        return cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_CONSTANT, value=border)
    return plane


def _vary_light(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each of them in half of all cases.

    Args:
        picture: uint8 RGB.

    Returns:
        float32 RGB in [0, 1].
    """
    values = picture.astype(np.float32) / 255
    if random.random() < 0.5:
        values += np.float32(random.uniform(-32, 32) / 255)
    if random.random() < 0.5:
        values *= np.float32(random.uniform(0.5, 1.5))
    hsv = cv2.cvtColor(values.clip(0, 1), cv2.COLOR_RGB2HSV)  # hue in degrees
    if random.random() < 0.5:
        hsv[..., 1] = (hsv[..., 1] * np.float32(random.uniform(0.5, 1.5))).clip(0, 1)
    if random.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0] + np.float32(random.uniform(-36, 36))) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32, copy=False)
