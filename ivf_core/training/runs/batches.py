"""Batches by their number, and random crops that depend on seed and number alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ivf_core.data.pairs import Crop, CropSampler, Pair

__all__ = ["Batch", "BatchStream", "ItemNumbers", "PairCrops", "Sample", "join", "open_batches"]

B = TypeVar("B", bound="_Movable")


class _Movable(Protocol):
    def to(self, device: torch.device) -> Any: ...


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


class BatchStream(Generic[B]):
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
        join: Callable[[list[Any]], B],
    ) -> None:
        self._device = device
        self._next = first
        self._ahead: dict[int, B] = {}
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

    def __getitem__(self, number: int) -> B:
        while self._next <= number:
            self._ahead[self._next] = next(self._batches).to(self._device)
            self._next += 1
        for passed in [kept for kept in self._ahead if kept < number]:
            del self._ahead[passed]
        return self._ahead[number]


class ItemNumbers:
    """Numbers of the samples of batch after batch, without end, for one of several processes.

    Args:
        batch_size: samples of a batch, of all processes together.
        first: number of the first batch.
        rank: number of this process.
        processes: number of processes, a divisor of the batch size.
    """

    def __init__(
        self, batch_size: int, *, first: int = 0, rank: int = 0, processes: int = 1
    ) -> None:
        if batch_size % processes:
            raise ValueError(f"batch size {batch_size} is no multiple of {processes} processes")
        self._first = first
        self._batch_size = batch_size
        self._share = range(rank, batch_size, processes)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in count(self._first):
            yield [batch * self._batch_size + item for item in self._share]


def open_batches(
    samples: Dataset[Sample], batch_size: int, fabric: Any, *, first: int, workers: int
) -> BatchStream[Batch]:
    """Open the batches of this process, samples by number, from batch `first` on.

    Args:
        samples: data set that numbers index.
        batch_size: samples of a batch, of all processes together.
        fabric: device and number of this process.
        first: number of the first batch.
        workers: see `BatchStream`.
    """
    rank, processes = fabric.global_rank, fabric.world_size
    order = ItemNumbers(batch_size, first=first, rank=rank, processes=processes)
    return BatchStream(samples, order, fabric.device, first=first, workers=workers, join=join)


class PairCrops(Dataset[Sample]):
    """Random crops of pairs in memory, each with a number.

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
    columns = zip(*(sample.arrays for sample in samples), strict=True)
    tensors = tuple(torch.from_numpy(np.stack(column)) for column in columns)
    return Batch(tuple(sample.name for sample in samples), tensors)


def _start_worker(_number: int) -> None:
    cv2.setNumThreads(0)
