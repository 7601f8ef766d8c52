"""Aligned pairs from folders and videos, optional labels, and random crops of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from ivf_core.class_sets import UNLABELED, ClassSet, unknown_ids
from ivf_core.images.files import (
    list_images,
    read_four_channels,
    read_infrared,
    read_labels,
    read_visible,
)
from ivf_core.images.noise import smoke
from ivf_core.images.pair_sources import open_pairs

__all__ = [
    "Crop",
    "CropSampler",
    "CropWindow",
    "Pair",
    "PairFiles",
    "VisibleFile",
    "add_smoke",
    "chroma_of",
    "hold_out",
    "list_pair_files",
    "luma_of",
    "read_pair_folder",
    "read_pair_videos",
    "smoke_density",
]

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Pair:
    """Aligned pair in memory, in the form that the student takes.

    Attributes:
        name: stem of the file.
        luma: H x W uint8, Y of the visible image.
        infrared: H x W uint8.
        labels: H x W uint8 class ids, 255 for pixels without a class; or None.
        masks: K x H x W bool, such as SAM's, which may overlap; or None.
        chroma: Cr and Cb of the visible image, 2 x H x W uint8; or None.
    """

    name: str
    luma: np.ndarray
    infrared: np.ndarray
    labels: np.ndarray | None = None
    masks: np.ndarray | None = None
    chroma: np.ndarray | None = None


@dataclass(frozen=True)
class PairFiles:
    """Paths of one pair; the methods raise ValueError naming the file and what is wrong.

    Attributes:
        name: unique name in its split.
        visible: path of the visible image.
        infrared: path of the thermal image; equal to `visible` if it is the fourth channel.
        labels: path of an image of class ids, or None.
        boxes: path of an XML file of objects (`ivf_core.data.boxes`), or None.
    """

    name: str
    visible: Path
    infrared: Path
    labels: Path | None = None
    boxes: Path | None = None

    @property
    def four_channels(self) -> bool:
        """Return whether one file has both images."""
        return self.visible == self.infrared

    def read_visible(self) -> np.ndarray:
        """Read the visible image, H x W x 3 uint8 RGB."""
        if self.four_channels:
            return read_four_channels(self.visible)[0]
        return read_visible(self.visible)

    def read_infrared(self) -> np.ndarray:
        """Read the thermal image, H x W uint8."""
        if self.four_channels:
            return read_four_channels(self.infrared)[1]
        infrared = read_infrared(self.infrared)
        if infrared.dtype != np.uint8:
            raise ValueError(f"'{self.infrared}': pixels are {infrared.dtype}, expected uint8")
        return infrared

    def read_labels(self, class_set: ClassSet | None = None) -> np.ndarray | None:
        """Read the class ids, H x W uint8, or return None if the pair has none.

        Args:
            class_set: ids that are neither of it nor `UNLABELED` are an error.
        """
        if self.labels is None:
            return None
        ids = read_labels(self.labels)
        if class_set is not None:
            counts = np.bincount(ids.ravel(), minlength=256)
            if unknown := unknown_ids(counts, len(class_set)):
                raise ValueError(
                    f"labels '{self.labels}': ids {', '.join(map(str, unknown))} are not of "
                    f"'{class_set.name}', expected 0 to {len(class_set) - 1}, "
                    f"or {UNLABELED} for none"
                )
        return ids

    def read(self, class_set: ClassSet | None = None, *, color: bool = False) -> Pair:
        """Read the pair; images of different sizes are an error.

        Args:
            class_set: see `read_labels`.
            color: read chroma, too.
        """
        if self.four_channels:
            visible, infrared = read_four_channels(self.visible)
        else:
            visible, infrared = self.read_visible(), self.read_infrared()
        labels = self.read_labels(class_set)
        self.check_sizes(visible, infrared, labels)
        chroma = chroma_of(visible) if color else None
        return Pair(self.name, luma_of(visible), infrared, labels, chroma=chroma)

    def check_sizes(
        self, visible: np.ndarray, infrared: np.ndarray, labels: np.ndarray | None
    ) -> None:
        """Raise ValueError unless all images have the height and width of `visible`."""
        for path, image in ((self.infrared, infrared), (self.labels, labels)):
            if image is not None and image.shape != visible.shape[:2]:
                raise ValueError(
                    f"'{path}' is {image.shape[1]} x {image.shape[0]}, but "
                    f"'{self.visible}' is {visible.shape[1]} x {visible.shape[0]}"
                )


@dataclass(frozen=True)
class VisibleFile(PairFiles):
    """Visible image without a thermal one, which is black; `infrared` repeats its path."""

    @property
    def four_channels(self) -> bool:
        """Return False: the file has the visible image only."""
        return False

    def read_infrared(self) -> np.ndarray:
        """Return zeros of the size of the visible image, H x W uint8."""
        return np.zeros(self.read_visible().shape[:2], np.uint8)


def read_pair_folder(
    root: str | Path,
    *,
    labels: str | None = None,
    confidence: str | None = None,
    minimum_confidence: float = 0.0,
    color: bool = False,
) -> list[Pair]:
    """Read the pairs in `root/visible` and `root/infrared`, matched by file name.

    Args:
        root: folder of the pairs.
        labels: name of a folder of class ids in `root`; ids are never scaled.
        confidence: name of a folder of confidences in `root`, 0..255 for 0..1.
        minimum_confidence: labels of a lower confidence, 0..1, become `UNLABELED`.
        color: read chroma, too.

    Returns:
        The pairs, sorted by name.

    Raises:
        ValueError: a file without its partner, or different sizes; the message names it.
    """
    root = Path(root)
    listed = list_pair_files(root, labels)
    sures = _partners(root, listed, confidence) if confidence is not None else {}
    pairs = []
    for files in listed:
        pair = files.read(color=color)
        if pair.labels is not None and confidence is not None:
            sure = read_labels(sures[files.name])
            if sure.shape != pair.labels.shape:
                raise ValueError(
                    f"{root}: '{files.name}' is {pair.labels.shape} in {labels}, "
                    f"but {sure.shape} in {confidence}"
                )
            doubtful = sure < minimum_confidence * 255
            pair = replace(pair, labels=np.where(doubtful, np.uint8(UNLABELED), pair.labels))
        pairs.append(pair)
    return pairs


def list_pair_files(root: str | Path, labels: str | None = None) -> list[PairFiles]:
    """List the pairs in `root/visible` and `root/infrared`, matched by file name, unread.

    Args:
        root: folder of the pairs.
        labels: name of a folder of class ids in `root`.

    Returns:
        The paths, sorted by name.

    Raises:
        ValueError: a file without its partner; the message names it.
    """
    root = Path(root)
    visible = [PairFiles(stem, path, path) for stem, path in list_images(root / "visible").items()]
    infrared = _partners(root, visible, "infrared")
    ids = _partners(root, visible, labels) if labels is not None else {}
    return [
        PairFiles(files.name, files.visible, infrared[files.name], ids.get(files.name))
        for files in visible
    ]


def _partners(root: Path, pairs: Sequence[PairFiles], folder: str) -> dict[str, Path]:
    """List the images of a folder, or raise ValueError if a pair has none there."""
    images = list_images(root / folder)
    for files in pairs:
        if files.name not in images:
            raise ValueError(f"{root / folder}: no partner for {files.visible}")
    return images


def read_pair_videos(visible: str | Path, infrared: str | Path, every: int) -> list[Pair]:
    """Read each `every`-th frame of two videos.

    Args:
        visible: path of the visible video.
        infrared: path of the thermal video.
        every: 1 reads all frames.

    Returns:
        The pairs, named by their frame number.

    Raises:
        ImageFileError: a video cannot be read, or their frame rates differ.
    """
    frames = islice(iter(open_pairs(visible, infrared)), 0, None, every)
    return [Pair(frame.name, luma_of(frame.visible), frame.infrared) for frame in frames]


def luma_of(visible: np.ndarray) -> np.ndarray:
    """Return Y of H x W x 3 uint8 RGB as OpenCV computes it, H x W uint8."""
    return cv2.cvtColor(visible, cv2.COLOR_RGB2YCrCb)[..., 0].copy()


def chroma_of(visible: np.ndarray) -> np.ndarray:
    """Return Cr and Cb of H x W x 3 uint8 RGB as OpenCV computes them, 2 x H x W uint8."""
    return np.stack(cv2.split(cv2.cvtColor(visible, cv2.COLOR_RGB2YCrCb))[1:])


def hold_out(pairs: Sequence[_Item], every: int) -> tuple[list[_Item], list[_Item]]:
    """Hold out each `every`-th pair of a sorted list from training.

    Args:
        pairs: pairs, or files of pairs, which are then not read.
        every: 2 or more; the first pair is held out.

    Returns:
        The training pairs and the held-out pairs.

    Raises:
        ValueError: `every` is below 2.
    """
    if every < 2:
        raise ValueError(f"every must be at least 2, got {every}")
    held_out = [pair for index, pair in enumerate(pairs) if index % every == 0]
    return [pair for index, pair in enumerate(pairs) if index % every], held_out


class CropWindow(NamedTuple):
    """Part of a pair that a crop shows, which is then mirrored and resized.

    Attributes:
        top, left: first row and column in pixels.
        height, width: size in pixels; it may reach beyond the pair, which is mirrored there.
        mirrored: whether left and right change places.
    """

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


class Crop(NamedTuple):
    """Random crop of one pair.

    Attributes:
        luma: H x W float32 in [0, 1].
        infrared: H x W float32 in [0, 1].
        labels: H x W uint8, `UNLABELED` for pixels without a class.
        masks: K x H x W bool; K is 0 for pairs without masks.
        chroma: Cr and Cb, 2 x H x W uint8; 0 x H x W for pairs without chroma.
        window: part of the pair; None if it is not a sampler's.
    """

    luma: np.ndarray
    infrared: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    chroma: np.ndarray
    window: CropWindow | None = None


class CropSampler:
    """Sampler of random crops, with both images, labels and masks cropped and flipped alike.

    Contrast, gamma and noise vary independently for each image, as they do between cameras.

    Args:
        pairs: pairs to draw from with equal probability.
        size: height and width of a crop; smaller pairs are mirrored at their borders.
        scales: range of the crop's size relative to `size` before it is resized.
        focus: share of crops that are centred on a pixel of an object, if the pair has one.
        stuff: ids of the classes that are no objects, see `ClassSet.stuff`.
        smoke: share of crops with smoke in front of the visible camera.
        light: share of images whose contrast, gamma and noise vary.
        noise: largest standard deviation of the noise.
        seed: seed of the random generator.

    Raises:
        ValueError: there are no pairs.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: tuple[int, int],
        *,
        scales: tuple[float, float] = (1.0, 1.0),
        focus: float = 0.0,
        stuff: Sequence[int] = (0,),
        smoke: float = 0.0,
        light: float = 0.5,
        noise: float = 0.03,
        seed: int | Sequence[int] = 0,
    ) -> None:
        if not pairs:
            raise ValueError("CropSampler needs at least one pair")
        self.pairs = pairs
        self.size = size
        self.scales = scales
        self.focus = focus
        self.stuff = (*stuff, UNLABELED)
        self.smoke = smoke
        self.light = light
        self.noise = noise
        self._random = np.random.default_rng(seed)

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Draw batches without end.

        Args:
            batch_size: number of crops N.

        Yields:
            Luma and infrared, each N x 1 x H x W float32 in [0, 1], and labels,
            N x H x W int64, `UNLABELED` for pixels without a class.
        """
        while True:
            luma, infrared, labels, *_ = zip(*(self.crop() for _ in range(batch_size)), strict=True)
            yield (
                np.stack(luma)[:, None],
                np.stack(infrared)[:, None],
                np.stack(labels).astype(np.int64),
            )

    def crop(self) -> Crop:
        """Draw the next crop, with masks and colour."""
        random = self._random
        pair = self.pairs[int(random.integers(len(self.pairs)))]
        height, width = self.size
        scale = random.uniform(*self.scales)
        cut = (round(height * scale), round(width * scale))
        labels = pair.labels if pair.labels is not None else np.full_like(pair.luma, UNLABELED)
        masks = pair.masks.view(np.uint8) if pair.masks is not None else ()
        chroma = pair.chroma if pair.chroma is not None else ()
        image_planes = 2 + len(chroma)
        planes = [
            _grow(plane, cut) for plane in (pair.luma, pair.infrared, *chroma, labels, *masks)
        ]
        top, left = self._corner(planes[image_planes], cut)
        step = -1 if random.random() < 0.5 else 1
        planes = [plane[top : top + cut[0], left : left + cut[1]][:, ::step] for plane in planes]
        if cut != (height, width):
            # Labels and masks take the nearest neighbour: interpolation would invent classes.
            planes = [
                cv2.resize(
                    np.ascontiguousarray(plane),
                    (width, height),
                    interpolation=cv2.INTER_AREA if index < image_planes else cv2.INTER_NEAREST,
                )
                for index, plane in enumerate(planes)
            ]
        luma, infrared = self._light(planes[0]), self._light(planes[1])
        if self.smoke and self._random.random() < self.smoke:
            luma = add_smoke(luma, self._random)
        return Crop(
            luma,
            infrared,
            planes[image_planes],
            np.array(planes[image_planes + 1 :], bool).reshape(-1, height, width),
            np.array(planes[2:image_planes], np.uint8).reshape(-1, height, width),
            CropWindow(top, left, *cut, step < 0),
        )

    def _corner(self, labels: np.ndarray, cut: tuple[int, int]) -> tuple[int, int]:
        """Draw the top and left of a crop of size `cut`."""
        free = (labels.shape[0] - cut[0], labels.shape[1] - cut[1])
        if self._random.random() < self.focus:
            objects = np.flatnonzero(~np.isin(labels, self.stuff))
            if objects.size:
                row, column = np.unravel_index(
                    objects[self._random.integers(objects.size)], labels.shape
                )
                top = min(max(int(row) - cut[0] // 2, 0), free[0])
                left = min(max(int(column) - cut[1] // 2, 0), free[1])
                return top, left
        return int(self._random.integers(free[0] + 1)), int(self._random.integers(free[1] + 1))

    def _light(self, plane: np.ndarray) -> np.ndarray:
        """Vary contrast, brightness, gamma and noise of a share of the images."""
        random = self._random
        values = plane.astype(np.float32) / 255
        if random.random() < 1 - self.light:
            return values
        values = values ** np.float32(np.exp(random.uniform(-0.5, 0.5)))
        values = (values - 0.5) * np.float32(random.uniform(0.6, 1.3)) + np.float32(
            0.5 + random.uniform(-0.15, 0.15)
        )
        if random.random() < 0.5:
            sigma = np.float32(random.uniform(0, self.noise))
            values = values + sigma * random.standard_normal(plane.shape, dtype=np.float32)
        return values.clip(0, 1).astype(np.float32)


def add_smoke(luma: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add thin to dense smoke of one grey level, in billows.

    Args:
        luma: H x W float32 in [0, 1].
        random: generator of density, grey level and position.

    Returns:
        H x W float32 in [0, 1].
    """
    density = smoke_density(luma.shape, random)
    return luma + density * (np.float32(random.uniform(0.3, 0.95)) - luma)


def smoke_density(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Draw the density of thin to dense smoke, in billows.

    Args:
        shape: height and width.
        random: generator of density and position.

    Returns:
        H x W float32 in [0, 1].
    """
    down, across = random.integers(0, 512, 2)
    billows = np.roll(smoke(), (-down, -across), axis=(0, 1))
    billows = cv2.resize(billows, shape[::-1], interpolation=cv2.INTER_LINEAR)
    density = random.uniform(0.1, 0.9) + random.uniform(0.05, 0.2) * billows
    return density.clip(0, 1).astype(np.float32)


def _grow(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    below, right = max(0, size[0] - plane.shape[0]), max(0, size[1] - plane.shape[1])
    if below or right:
        return cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_REFLECT)
    return plane
