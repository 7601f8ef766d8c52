"""Labelled pairs in their splits, as fused images, and random crops of these."""

from __future__ import annotations

import hashlib
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
    "FusedImages",
    "check_disjoint",
    "open_labelled_split",
    "pair_digests",
    "read_fused_folders",
    "replace_by_fused",
]

_LARGEST_SHARE = 0.75  # of one class in a crop, as in SegFormer's training


def open_labelled_split(
    root: Path,
    hold_out_every: int,
    *,
    labels: str | None = None,
    class_set: ClassSet | None = None,
) -> tuple[PairDataset, PairDataset]:
    """Open the training and the test split of a data set in which every pair has labels.

    Args:
        root: folder of the data set, see `ivf_core.data.datasets.open_split`.
        hold_out_every: hold out every n-th pair if the data set has no splits.
        labels: folder of the labels in a plain folder, if it has another name.
        class_set: classes of the labels in a plain folder.

    Returns:
        The pairs to train on and the pairs to test on.

    Raises:
        ValueError: pairs have no labels, the data set has no classes, or a pair is in both
            splits. It is a `LayoutError` if files are missing.
    """
    both = open_split(root, hold_out_every, labels=labels, class_set=class_set)
    for dataset in both:
        if not dataset.files:
            raise ValueError(f"'{root}': too few pairs to hold out one of {hold_out_every}")
        if dataset.class_set is None:
            raise ValueError(f"'{root}': {dataset.name} has no classes of its own")
        if unlabelled := next((pair for pair in dataset.files if pair.labels is None), None):
            raise ValueError(f"'{root}': {dataset.name} has no labels for '{unlabelled.name}'")
    check_disjoint(both[0].files, both[1].files)
    return both


def check_disjoint(training: Sequence[PairFiles], test: Sequence[PairFiles]) -> None:
    """Raise ValueError if a pair to test on is also trained on, whatever its files are called.

    Args:
        training: pairs to train on.
        test: pairs to test on.
    """
    trained: dict[tuple[int, ...], list[PairFiles]] = {}
    for pair in training:
        trained.setdefault(_sizes(pair), []).append(pair)
    known: dict[tuple[int, ...], dict[bytes, PairFiles]] = {}
    for pair in test:
        sizes = _sizes(pair)
        if sizes not in trained:  # files of other sizes differ: few are read
            continue
        if sizes not in known:
            known[sizes] = {_content(other): other for other in trained[sizes]}
        if other := known[sizes].get(_content(pair)):
            raise ValueError(
                f"'{pair.visible}' is to be tested on, but has the same visible and thermal "
                f"image as '{other.visible}', which is trained on: expected splits without a "
                "common pair; take it out of one of them"
            )


def pair_digests(files: Sequence[PairFiles]) -> dict[str, PairFiles]:
    """Return pairs by digests of the content of both images, 16 hexadecimal digits each.

    Args:
        files: pairs, whatever their files are called.
    """
    return {hashlib.sha256(_content(pair)).hexdigest()[:16]: pair for pair in files}


def _sizes(pair: PairFiles) -> tuple[int, ...]:
    return tuple(path.stat().st_size for path in _paths(pair))


def _content(pair: PairFiles) -> bytes:
    return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in _paths(pair))


def _paths(pair: PairFiles) -> tuple[Path, Path]:
    return pair.visible, pair.infrared


def read_fused_folders(fused: Path, labels: Path) -> list[PairFiles]:
    """List images that are fused already with their labels, matched by file name.

    Args:
        fused: folder of fused images.
        labels: folder of class ids.

    Returns:
        Pairs whose visible and infrared images are the fused one.

    Raises:
        ValueError: an image has no labels, or there are no images.
    """
    images, ids = list_images(fused), list_images(labels)
    if missing := next((path for name, path in images.items() if name not in ids), None):
        raise ValueError(f"'{labels}': no labels for '{missing}'")
    return [PairFiles(name, path, path, ids[name]) for name, path in images.items()]


def replace_by_fused(files: Sequence[PairFiles], fused: Path) -> list[PairFiles]:
    """Replace the visible images of pairs by fused images of the same names.

    Args:
        files: the pairs.
        fused: folder of fused images.

    Raises:
        ValueError: a pair has no such image.
    """
    images = list_images(fused)
    if missing := next((pair.name for pair in files if pair.name not in images), None):
        raise ValueError(f"'{fused}': no image named '{missing}'")
    return [replace(pair, visible=images[pair.name]) for pair in files]


@dataclass(frozen=True)
class FusedImages(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Sequence of fused images with labels, which are fused or read at each access.

    An item is an image H x W x 3 uint8 RGB and class ids H x W uint8, 255 for no label.

    Attributes:
        files: pairs with labels. If `graph` is None, `visible` is the fused image.
        class_set: classes of the labels.
        graph: network that fuses pairs, on the device to run on.
        ignored: ids that are replaced by 255.
    """

    files: tuple[PairFiles, ...]
    class_set: ClassSet
    graph: FusionGraph | None = None
    ignored: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """Read or fuse an image, and read its labels.

        Raises:
            ValueError: a file is broken, or its size or its class ids do not fit. The message
                names the file.
        """
        files = self.files[index]
        labels = files.read_labels(self.class_set)
        assert labels is not None
        labels = np.where(np.isin(labels, self.ignored), np.uint8(UNLABELED), labels)
        if self.graph is None:
            image = read_visible(files.visible)
            files.check_sizes(image, image[..., 0], labels)
            return image, labels
        visible, infrared = files.read_visible(), files.read_infrared()
        files.check_sizes(visible, infrared, labels)
        return _fuse(self.graph, visible, infrared), labels


@torch.inference_mode()
def _fuse(graph: FusionGraph, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse a pair of H x W images on the graph's device: H x W x 3 uint8 RGB."""
    device = next(graph.parameters()).device
    pair = (torch.from_numpy(np.ascontiguousarray(p)).to(device)[None] for p in (visible, infrared))
    fused = graph(*pair, want_labels=False)[0]
    return fused[0].cpu().numpy()


class ColorCrops:
    """Sampler of random crops of images with labels for the training of SegFormer.

    Scale, position, mirroring and light are drawn for each crop. A crop in which one class has
    three quarters of the labelled pixels or more is drawn again, up to ten times in all. Sample
    n is the same whenever it is drawn, and each epoch has each image once.

    Args:
        images: H x W x 3 uint8 RGB images with H x W uint8 class ids; `draw` takes those with
            four channels, too. Images smaller than a crop get a grey border without labels.
        size: height and width of a crop in pixels.
        scales: range of the factor by which an image is resized.
        seed: seed of the random numbers.
        tries: number of crops that are drawn at most to avoid those of one class.
    """

    def __init__(
        self,
        images: Sequence[tuple[np.ndarray, np.ndarray]],
        size: tuple[int, int],
        *,
        scales: tuple[float, float] = (0.5, 2.0),
        seed: int = 0,
        tries: int = 10,
    ) -> None:
        self.images = images
        self.size = size
        self.scales = scales
        self.seed = seed
        self.tries = tries

    def index(self, number: int) -> int:
        """Return the index of the image that sample `number` shows."""
        epoch, position = divmod(number, len(self.images))
        order = np.random.default_rng((self.seed, epoch, 0)).permutation(len(self.images))
        return int(order[position])

    def sample(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """3 x h x w float32 RGB in [0, 1] and h x w int64 ids."""
        image, labels, random = self.draw(number)
        return _vary_light(image, random).transpose(2, 0, 1), labels

    def draw(self, number: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """Draw a crop without varied light.

        Returns:
            h x w x C uint8, h x w int64 ids, and a generator for whatever else is drawn.
        """
        random = np.random.default_rng((self.seed, number, 1))
        image, labels = self.images[self.index(number)]
        scale = random.uniform(*self.scales)
        cut = (max(1, round(self.size[0] / scale)), max(1, round(self.size[1] / scale)))
        image, labels = _pad(image, cut, 127), _pad(labels, cut, UNLABELED)
        image, labels = self._cut(image, labels, cut, random)
        if random.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        height, width = self.size
        image, labels = (
            cv2.resize(np.ascontiguousarray(plane), (width, height), interpolation=method)
            for plane, method in (
                (image, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR),
                (labels, cv2.INTER_NEAREST),  # others would invent classes
            )
        )
        return image, labels.astype(np.int64), random

    def _cut(
        self,
        image: np.ndarray,
        labels: np.ndarray,
        cut: tuple[int, int],
        random: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut the same random window of size `cut` from an image and its labels."""
        for _ in range(self.tries):
            top, left = (int(random.integers(labels.shape[n] - cut[n] + 1)) for n in (0, 1))
            place = np.s_[top : top + cut[0], left : left + cut[1]]
            counts = np.bincount(labels[place].ravel(), minlength=256)[:UNLABELED]
            if counts.max() < _LARGEST_SHARE * counts.sum():
                break
        return image[place], labels[place]


def _pad(plane: np.ndarray, size: tuple[int, int], value: int) -> np.ndarray:
    """Pad an image or labels at the bottom and the right to at least `size`."""
    below, right = max(0, size[0] - plane.shape[0]), max(0, size[1] - plane.shape[1])
    if below or right:
        border = (value,) * 4
        return cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_CONSTANT, value=border)
    return plane


def _vary_light(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Vary brightness, contrast, saturation and hue, each with a probability of one half.

    Args:
        image: H x W x 3 uint8 RGB.
        random: generator of random numbers.

    Returns:
        H x W x 3 float32 RGB in [0, 1].
    """
    values = image.astype(np.float32) / 255
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
