"""Batches by their number, and random crops that depend on seed and number alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ivf_core.data.pairs import Crop, CropSampler, Pair
from ivf_core.models.color import small_chroma

__all__ = ["Batch", "BatchStream", "PairCrops", "Sample", "item_numbers", "join", "open_batches"]


class Sample(NamedTuple):
    """One entry of a batch.

    Attributes:
        name: name of the pair.
        arrays: arrays of the same shapes in all samples.
    """

    name: str
    arrays: tuple[np.ndarray, ...]


class Batch(NamedTuple):
    """Samples, stacked.

    Attributes:
        names: names of the pairs.
        tensors: the arrays, each N x ...
    """

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(self.names, tuple(t.to(device, non_blocking=True) for t in self.tensors))


class BatchStream:
    """Batches by their number, in ascending order, on a device; a look ahead is allowed.

    Args:
        samples: data set that the items of `order` index.
        order: lists of items, batch after batch, without end.
        device: device of the batches.
        first: number of the first batch.
        workers: processes that prepare batches, at most one for each core; 0 prepares them in
            this process.
        join: function that makes a batch of samples.
    """

    def __init__(
        self,
        samples: Dataset[Any],
        order: Iterable[list[Any]],
        device: torch.device,
        *,
        first: int = 0,
        workers: int = 0,
        join: Callable[[list[Any]], Any],
    ) -> None:
        self._device = device
        self._next = first
        self._ahead: dict[int, Any] = {}
        self._batches = iter(
            DataLoader(
                samples,
                batch_sampler=order,  # type: ignore[arg-type]
                num_workers=min(workers, len(os.sched_getaffinity(0))),
                collate_fn=join,
                worker_init_fn=_start_worker,
                generator=torch.Generator(),  # the global one belongs to the run
            )
        )

    def __getitem__(self, number: int) -> Any:
        while self._next <= number:
            self._ahead[self._next] = next(self._batches).to(self._device)
            self._next += 1
        for passed in [kept for kept in self._ahead if kept < number]:
            del self._ahead[passed]
        return self._ahead[number]


def item_numbers(
    batch_size: int, *, first: int = 0, rank: int = 0, processes: int = 1
) -> Iterator[list[int]]:
    """Yield the numbers of the samples of batch after batch, without end, for one process.

    Args:
        batch_size: samples of a batch, of all processes together.
        first: number of the first batch.
        rank: number of the process.
        processes: number of processes, a divisor of the batch size.
    """
    if batch_size % processes:
        raise ValueError(f"batch size {batch_size} is no multiple of {processes} processes")
    for batch in count(first):
        yield [batch * batch_size + item for item in range(rank, batch_size, processes)]


def pair_tensors(pair: Pair, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return visible luma and infrared of a whole pair, each 1 x 1 x H x W float32 in [0, 1]."""
    planes = (pair.luma, pair.infrared)
    luma, infrared = (torch.from_numpy(p).to(device)[None, None].float() / 255 for p in planes)
    return luma, infrared


def pair_chroma(pair: Pair, device: torch.device) -> Tensor | None:
    """Return small chroma of a whole pair, 1 x 2 x H/4 x W/4 float32, or None without colour."""
    if pair.chroma is None:
        return None
    cr, cb = torch.from_numpy(pair.chroma).to(device)[None].float().split(1, dim=1)
    return small_chroma(cr, cb)


def open_batches(
    samples: Dataset[Sample], batch_size: int, fabric: Any, *, first: int, workers: int
) -> BatchStream:
    """Open the batches of this process, samples by number, from batch `first` on.

    Args:
        samples: data set that numbers index.
        batch_size: samples of a batch, of all processes together.
        fabric: device and number of this process.
        first: number of the first batch.
        workers: see `BatchStream`.
    """
    rank, processes = fabric.global_rank, fabric.world_size
    order = item_numbers(batch_size, first=first, rank=rank, processes=processes)
    return BatchStream(samples, order, fabric.device, first=first, workers=workers, join=join)


class PairCrops(Dataset[Sample]):
    """Random crops of pairs in memory, by number.

    Which pair a crop shows, and all that is drawn with it, depends on seed and number alone:
    neither on workers or processes, nor on where a run was interrupted.

    Args:
        pairs: pairs to draw from, each with the same probability.
        size: height and width of a crop.
        seed: seed of everything drawn.
        options: options of `CropSampler`.
    """

    def __init__(
        self, pairs: Sequence[Pair], size: tuple[int, int], *, seed: int, **options: Any
    ) -> None:
        self.pairs = pairs
        self.size = size
        self.seed = seed
        self.options = options

    def __getitem__(self, number: int) -> Sample:
        """Draw luma and infrared, each 1 x H x W float32 in [0, 1]."""
        name, crop, _ = self.draw(number)
        return Sample(name, (crop.luma[None], crop.infrared[None]))

    def draw(self, number: int, attempt: int = 0) -> tuple[str, Crop, np.random.Generator]:
        """Draw a crop: its pair's name, the crop, and a generator for whatever else is drawn."""
        random = np.random.default_rng((self.seed, number, attempt, 0))
        pair = self.pairs[int(random.integers(len(self.pairs)))]
        seed = (self.seed, number, attempt, 1)
        crop = CropSampler([pair], self.size, seed=seed, **self.options).crop()
        return pair.name, crop, random


def join(samples: list[Sample]) -> Batch:
    """Stack samples to a batch."""
    columns = zip(*(sample.arrays for sample in samples), strict=True)
    tensors = tuple(torch.from_numpy(np.stack(column)) for column in columns)
    return Batch(tuple(sample.name for sample in samples), tensors)


def _start_worker(_number: int) -> None:
    cv2.setNumThreads(0)
