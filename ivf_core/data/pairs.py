"""Folders of aligned pairs, with labels where there are any, and random crops of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ivf_core.class_sets import UNLABELED
from ivf_core.data.scenes.textures import smoke
from ivf_core.images.files import list_images, open_pairs, read_infrared, read_visible

__all__ = ["CropSampler", "Pair", "hold_out", "read_pair_folder", "read_pair_videos"]


@dataclass(frozen=True)
class Pair:
    """One aligned pair in memory, as the student sees it.

    Attributes:
        name: the file's stem.
        luma: H x W uint8, Y of the visible image.
        infrared: H x W uint8.
        labels: H x W uint8 class ids, 255 where there is none; or None.
    """

    name: str
    luma: np.ndarray
    infrared: np.ndarray
    labels: np.ndarray | None = None


def read_pair_folder(
    root: str | Path,
    *,
    labels: str | None = None,
    confidence: str | None = None,
    minimum_confidence: float = 0.0,
) -> list[Pair]:
    """Read `root/visible` and `root/infrared`, matched by file name.

    Args:
        labels: name of a folder of class ids beside them; they are never scaled.
        confidence: name of a folder of confidences, 0..255 for 0..1.
        minimum_confidence: labels below it become `UNLABELED`.

    Raises:
        ValueError: a file without its partner, or sizes that differ; names it.
    """
    root = Path(root)
    visible = list_images(root / "visible")
    others = {
        name: list_images(root / name)
        for name in ("infrared", *(n for n in (labels, confidence) if n is not None))
    }
    pairs = []
    for stem, path in visible.items():
        for folder, files in others.items():
            if stem not in files:
                raise ValueError(f"{root / folder}: no partner for {path}")
        luma = _luma(read_visible(path))
        infrared = read_infrared(others["infrared"][stem])
        ids = _read_ids(others[labels][stem]) if labels is not None else None
        if ids is not None and confidence is not None:
            sure = _read_ids(others[confidence][stem])
            ids = np.where(sure >= minimum_confidence * 255, ids, np.uint8(UNLABELED))
        for picture in (infrared, ids):
            if picture is not None and picture.shape != luma.shape:
                raise ValueError(
                    f"{root}: '{stem}' is {luma.shape} in visible, but {picture.shape} elsewhere"
                )
        pairs.append(Pair(stem, luma, infrared, ids))
    return pairs


def read_pair_videos(visible: str | Path, infrared: str | Path, every: int) -> list[Pair]:
    """Each `every`-th frame of two videos, named by its number.

    Raises:
        ImageFileError: a video cannot be read, or their frame rates differ.
    """
    frames = islice(iter(open_pairs(visible, infrared)), 0, None, every)
    return [Pair(frame.name, _luma(frame.visible), frame.infrared) for frame in frames]


def _luma(visible: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(visible, cv2.COLOR_RGB2YCrCb)[..., 0].copy()


def _read_ids(path: Path) -> np.ndarray:
    ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if ids is None or ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(f"{path}: expected a single-channel 8-bit picture of ids")
    return ids


def hold_out(pairs: Sequence[Pair], every: int) -> tuple[list[Pair], list[Pair]]:
    """Split by position in the sorted list: each `every`-th pair is kept out of training."""
    if every < 2:
        raise ValueError(f"every must be at least 2, got {every}")
    kept_out = [pair for index, pair in enumerate(pairs) if index % every == 0]
    return [pair for index, pair in enumerate(pairs) if index % every], kept_out


class CropSampler:
    """Random crops, both images and the labels cut and flipped by the same numbers.

    Contrast, gamma and noise vary for each image on its own: cameras do too.

    Args:
        pairs: what to draw from, each with the same probability.
        size: height and width of a crop; smaller pairs are mirrored at their edge.
        scales: a crop covers this range of sizes relative to `size` before it is resized.
        focus: share of crops that are centred on a pixel of an object (a class
            other than 0), where the pair has one.
        smoke: share of crops with smoke before the visible camera.
        seed: of everything drawn.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: tuple[int, int],
        *,
        scales: tuple[float, float] = (1.0, 1.0),
        focus: float = 0.0,
        smoke: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not pairs:
            raise ValueError("CropSampler needs at least one pair")
        self.pairs = pairs
        self.size = size
        self.scales = scales
        self.focus = focus
        self.smoke = smoke
        self._random = np.random.default_rng(seed)

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Endless batches.

        Yields:
            luma and infrared, each N x 1 x H x W float32 in [0, 1], and labels,
            N x H x W int64, `UNLABELED` where there is none.
        """
        while True:
            crops = [self._crop() for _ in range(batch_size)]
            luma, infrared, labels = (np.stack(parts) for parts in zip(*crops, strict=True))
            yield luma[:, None], infrared[:, None], labels.astype(np.int64)

    def _crop(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        random = self._random
        pair = self.pairs[int(random.integers(len(self.pairs)))]
        height, width = self.size
        scale = random.uniform(*self.scales)
        cut = (round(height * scale), round(width * scale))
        labels = pair.labels if pair.labels is not None else np.full_like(pair.luma, UNLABELED)
        planes = [_grow(plane, cut) for plane in (pair.luma, pair.infrared, labels)]
        top, left = self._corner(planes[2], cut)
        step = -1 if random.random() < 0.5 else 1
        planes = [plane[top : top + cut[0], left : left + cut[1]][:, ::step] for plane in planes]
        if cut != (height, width):
            # Labels by nearest neighbour: interpolation would invent classes.
            modes = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_NEAREST)
            planes = [
                cv2.resize(np.ascontiguousarray(plane), (width, height), interpolation=mode)
                for plane, mode in zip(planes, modes, strict=True)
            ]
        luma, infrared = self._light(planes[0]), self._light(planes[1])
        if self.smoke and self._random.random() < self.smoke:
            luma = self._veil(luma)
        return luma, infrared, planes[2]

    def _veil(self, luma: np.ndarray) -> np.ndarray:
        """Thin to dense smoke of one grey, in billows."""
        random = self._random
        down, across = random.integers(0, 512, 2)
        billows = np.roll(smoke(), (-down, -across), axis=(0, 1))
        billows = cv2.resize(billows, luma.shape[::-1], interpolation=cv2.INTER_LINEAR)
        density = random.uniform(0.1, 0.9) + random.uniform(0.05, 0.2) * billows
        density = density.clip(0, 1).astype(np.float32)
        return luma + density * (np.float32(random.uniform(0.3, 0.95)) - luma)

    def _corner(self, labels: np.ndarray, cut: tuple[int, int]) -> tuple[int, int]:
        """Top and left of a crop of size `cut`."""
        free = (labels.shape[0] - cut[0], labels.shape[1] - cut[1])
        if self._random.random() < self.focus:
            objects = np.flatnonzero((labels != 0) & (labels != UNLABELED))
            if objects.size:
                row, column = np.unravel_index(
                    objects[self._random.integers(objects.size)], labels.shape
                )
                top = min(max(int(row) - cut[0] // 2, 0), free[0])
                left = min(max(int(column) - cut[1] // 2, 0), free[1])
                return top, left
        return int(self._random.integers(free[0] + 1)), int(self._random.integers(free[1] + 1))

    def _light(self, plane: np.ndarray) -> np.ndarray:
        """Vary contrast, brightness, gamma and noise; half of the crops stay as they are."""
        random = self._random
        values = plane.astype(np.float32) / 255
        if random.random() < 0.5:
            return values
        values = values ** np.float32(np.exp(random.uniform(-0.5, 0.5)))
        values = (values - 0.5) * np.float32(random.uniform(0.6, 1.3)) + np.float32(
            0.5 + random.uniform(-0.15, 0.15)
        )
        if random.random() < 0.5:
            sigma = np.float32(random.uniform(0, 0.03))
            values = values + sigma * random.standard_normal(plane.shape, dtype=np.float32)
        return values.clip(0, 1).astype(np.float32)


def _grow(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    below, right = max(0, size[0] - plane.shape[0]), max(0, size[1] - plane.shape[1])
    if below or right:
        return cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_REFLECT)
    return plane
