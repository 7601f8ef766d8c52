"""Batches of crops of image pairs with the masks of both modalities.

The content of a crop depends only on the seed, the epoch and the pair. The crops of a batch
depend only on the seed and the number of the batch. Neither depends on the number of workers or
processes, or on the step at which a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ivf_core.class_sets import ClassSet
from ivf_core.data.pairs import Crop, CropSampler, Pair, PairFiles
from ivf_core.training.masks.cache import MaskCache
from ivf_core.training.masks.priors import pair_masks
from ivf_core.training.runs.batches import BatchStream
from ivf_core.training.runs.options import RunOptions

__all__ = [
    "Batch",
    "CropOptions",
    "CropOrder",
    "MaskedPairs",
    "Place",
    "Source",
    "join",
    "open_stream",
]

_CROP, _ORDER, _POOL = range(3)  # parts of seeds, so that these three draw different numbers


class Source(NamedTuple):
    """Files of a pair, and the classes of its labels if they are known."""

    files: PairFiles
    class_set: ClassSet | None


class Place(NamedTuple):
    """Identity of a crop: the epoch and the index of the pair.

    Each epoch has another crop of the same pair.
    """

    epoch: int
    pair: int


@dataclass(frozen=True)
class CropOptions:
    """Options for drawing crops; see `ivf_core.data.pairs.CropSampler`.

    Attributes:
        size: height and width of a crop in pixels.
        scales: range of the factor by which a pair is resized.
        light: share of images whose contrast, gamma and noise are varied.
        masks: number of mask planes of each modality. Planes that a pair lacks are zeros.
        labels: read the labels. Otherwise all pixels are `UNLABELED`.
        seed: seed of the random numbers.
    """

    size: tuple[int, int]
    scales: tuple[float, float] = (1.0, 1.0)
    light: float = 0.0
    masks: int = 4
    labels: bool = False
    seed: int = 0


class Batch(NamedTuple):
    """Batch of crops of image pairs.

    Attributes:
        luma: Y of the visible images, N x 1 x H x W float32 in [0, 1].
        infrared: infrared images, N x 1 x H x W float32 in [0, 1].
        visible_masks: masks of the visible images, N x M x H x W float32, 0 or 1.
        infrared_masks: masks of the infrared images, N x M x H x W float32, 0 or 1.
        labels: class ids, N x H x W int64; `UNLABELED` for pixels without a label.
        chroma: Cr and Cb of the visible images, N x 2 x H x W float32 in 0..255.
        names: file names of the visible images.
        places: identities of the crops.
    """

    luma: Tensor
    infrared: Tensor
    visible_masks: Tensor
    infrared_masks: Tensor
    labels: Tensor
    chroma: Tensor
    names: tuple[str, ...]
    places: tuple[Place, ...]

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all tensors on a device."""
        tensors = (part.to(device, non_blocking=True) for part in self.tensors())
        luma, infrared, visible_masks, infrared_masks, labels, chroma = tensors
        return Batch(luma, infrared, visible_masks, infrared_masks, labels, chroma, *self[6:])

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors in the order of the attributes."""
        return self[:6]


class MaskedPairs(Dataset[Batch]):
    """Dataset of crops of pairs on disk, indexed by `Place`, each a batch of one.

    Args:
        sources: the pairs.
        cache: masks of the pairs. None gives planes of zeros.
        options: options for drawing crops.
        in_memory: keep each pair in memory after it was read, in each worker.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cache: MaskCache | None,
        options: CropOptions,
        *,
        in_memory: bool = False,
    ) -> None:
        self.sources = tuple(sources)
        self.cache = cache
        self.options = options
        self._kept: dict[int, tuple[Pair, int]] | None = {} if in_memory else None

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, place: Place) -> Batch:
        """Read a pair and cut the crop of a place.

        Raises:
            ValueError: a file is broken, or there are no masks of the pair. The message names
                it.
        """
        options = self.options
        pair, visible_masks = self._read(place.pair)
        seed = (_CROP, options.seed, *place)
        crop = CropSampler(
            [pair], options.size, scales=options.scales, light=options.light, seed=seed
        ).crop()
        return self._to_batch(crop, visible_masks, place)

    def read(self, index: int) -> Batch:
        """Read a whole pair as a batch of one, with errors as for a crop."""
        pair, visible_masks = self._read(index)
        assert pair.masks is not None
        assert pair.chroma is not None
        luma, infrared = (p.astype(np.float32) / 255 for p in (pair.luma, pair.infrared))
        labels = pair.labels if pair.labels is not None else np.full_like(pair.luma, 255)
        crop = Crop(luma, infrared, labels, pair.masks, pair.chroma)
        return self._to_batch(crop, visible_masks, Place(0, index))

    def _to_batch(self, crop: Crop, visible_masks: int, place: Place) -> Batch:
        """Convert a crop, whose first `visible_masks` masks are the visible image's, to a batch."""
        planes = torch.from_numpy(crop.masks).float()
        return Batch(
            torch.from_numpy(crop.luma)[None, None],
            torch.from_numpy(crop.infrared)[None, None],
            _fill(planes[:visible_masks], self.options.masks)[None],
            _fill(planes[visible_masks:], self.options.masks)[None],
            torch.from_numpy(crop.labels.astype(np.int64))[None],
            torch.from_numpy(crop.chroma)[None].float(),
            (str(self.sources[place.pair].files.visible),),
            (place,),
        )

    def _read(self, index: int) -> tuple[Pair, int]:
        """Read a pair with its masks, and count those of the visible image, which come first."""
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        files, class_set = self.sources[index]
        visible, infrared = files.read_visible(), files.read_infrared()
        of_labels = self.cache is not None and self.cache.settings["source"] == "labels"
        labels = None
        if self.options.labels or of_labels:
            labels = files.read_labels(class_set)
        files.check_sizes(visible, infrared, labels)
        masks: list[np.ndarray] = []
        if self.cache is not None:
            try:
                masks = [
                    found[: self.options.masks]
                    for found in pair_masks(self.cache, visible, infrared, labels)
                ]
            except ValueError as error:
                raise ValueError(f"'{files.visible}': {error}") from error
        luma, *chroma = cv2.split(cv2.cvtColor(visible, cv2.COLOR_RGB2YCrCb))
        pair = Pair(
            files.name,
            luma,
            infrared,
            labels if self.options.labels else None,
            np.concatenate(masks) if masks else np.zeros((0, *luma.shape), bool),
            np.stack(chroma),
        )
        read = pair, len(masks[0]) if masks else 0
        if self._kept is not None:
            self._kept[index] = read
        return read


class CropOrder(Sampler[list[Place]]):
    """Endless sequence of batches of places, in which each epoch has every pair once.

    Args:
        pairs: number of pairs.
        batch_size: number of crops of a batch, over all processes.
        seed: seed of the order.
        first: number of the first batch.
        pool: number of crops that are drawn once and then form each epoch, in a new order each
            time. 0 draws new crops in every epoch.
        rank: index of this process, which gets its share of each batch.
        processes: number of processes.
    """

    def __init__(
        self,
        pairs: int,
        batch_size: int,
        seed: int,
        *,
        first: int = 0,
        pool: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._pairs = pairs
        self._batch_size = batch_size
        self._seed = seed
        self._first = first
        self._pool = pool
        self._share = range(rank, batch_size, processes)

    def __iter__(self) -> Iterator[list[Place]]:
        for batch in count(self._first):
            start = batch * self._batch_size
            yield [self._place(start + item) for item in self._share]

    def _place(self, item: int) -> Place:
        """Return the place of the crop with number `item` of the whole run."""
        if self._pool:
            epoch, position = divmod(item, self._pool)
            item = int(_permutation(_POOL, self._seed, epoch, self._pool)[position])
        epoch, position = divmod(item, self._pairs)
        return Place(epoch, int(_permutation(_ORDER, self._seed, epoch, self._pairs)[position]))


@lru_cache(maxsize=64)
def _permutation(kind: int, seed: int, epoch: int, length: int) -> np.ndarray:
    """Return the order of an epoch, a permutation of the numbers below `length`."""
    return np.random.default_rng((kind, seed, epoch)).permutation(length)


def open_stream(
    options: RunOptions, pairs: MaskedPairs, fabric: Any, first: int, pool: int = 0
) -> BatchStream:
    """Open the batches of this process, from number `first` on.

    Args:
        options: batch size, seed and workers.
        pairs: pairs to draw from.
        fabric: device and number of this process.
        first: number of the first batch.
        pool: see `CropOrder`.
    """
    order = CropOrder(
        len(pairs),
        options.batch_size,
        options.seed,
        first=first,
        pool=pool,
        rank=fabric.global_rank,
        processes=fabric.world_size,
    )
    workers = options.workers
    return BatchStream(pairs, order, fabric.device, first=first, workers=workers, join=join)


def join(crops: list[Batch]) -> Batch:
    """Join batches of one crop."""
    columns = zip(*(crop.tensors() for crop in crops), strict=True)
    luma, infrared, visible_masks, infrared_masks, labels, chroma = map(torch.cat, columns)
    names = tuple(name for crop in crops for name in crop.names)
    places = tuple(place for crop in crops for place in crop.places)
    return Batch(luma, infrared, visible_masks, infrared_masks, labels, chroma, names, places)


def _fill(planes: Tensor, count: int) -> Tensor:
    """Return the first `count` of K planes, K x H x W, padded with planes of zeros."""
    filled = planes.new_zeros(count, *planes.shape[1:])
    filled[: len(planes)] = planes[:count]
    return filled
