"""Options that the recipes of students share, and their pairs, read into memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.data.datasets import PairDataset, open_split
from ivf_core.data.pairs import Pair, read_pair_videos
from ivf_core.training.runs.batches import pair_tensors
from ivf_core.training.runs.options import RunOptions
from ivf_core.training.runs.recipe import data_directory, option

__all__ = ["FolderPairs", "StudentOptions", "fuse_pair", "to_uint8"]


@dataclass(frozen=True, kw_only=True)
class StudentOptions(RunOptions):
    """Pairs and crops of the training of a student."""

    folders: tuple[str, ...] = option(nonempty=True)
    """Data sets in the layouts of `ivf_core.data.datasets`, relative to the data directory; one
    named twice counts twice."""
    videos: tuple[str, ...] = ()
    """Pairs of videos, by NAME: NAME_visible.mp4 and NAME_infrared.mp4, relative to the data
    directory."""
    video_stride: int = option(30, minimum=1, former="video_step")
    """Every n-th frame of the videos is taken."""
    hold_out_every: int = option(7, minimum=2)
    """Every n-th pair of a data set without published splits is held out and scored at the end;
    of others the split test is scored, or val if there is no test."""
    batch_size: int = option(4, minimum=1)  # type: ignore[assignment]
    """Crops of a batch, of all processes together."""
    freeze_norm_at: float = option(0.3, minimum=0, maximum=1)
    """Share of the steps after which BatchNorm keeps its running statistics."""
    smoke_probability: float = option(0.0, minimum=0, maximum=1, former="smoke")
    """Share of crops with smoke in front of the visible camera."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs and self.videos:
            raise ValueError("epochs and videos exclude each other: give steps instead of epochs")


class FolderPairs:
    """Pairs of a recipe. `read` reads those to train on.

    Attributes:
        names: names of the pairs to train on, without frames of videos.
        held_out: pairs to score, by folder.
    """

    def __init__(self, options: StudentOptions) -> None:
        self._options = options
        self._training: list[PairDataset] = []
        self.held_out: dict[str, PairDataset] = {}
        for folder in options.folders:
            train, held_out = open_split(data_directory() / folder, options.hold_out_every)
            self._training.append(train)
            self.held_out[folder] = held_out
        self.names = [files.name for dataset in self._training for files in dataset.files]

    def read(self) -> list[Pair]:
        """Read the pairs to train on into memory."""
        pairs = [pair for dataset in self._training for pair in dataset]
        root = data_directory()
        for name in self._options.videos:
            videos = (f"{root / name}_visible.mp4", f"{root / name}_infrared.mp4")
            pairs += read_pair_videos(*videos, self._options.video_stride)
        return pairs

    def first_held_out(self) -> Pair | None:
        """Return the first held-out pair, if there is one."""
        return next((dataset[0] for dataset in self.held_out.values() if len(dataset)), None)


@torch.inference_mode()
def fuse_pair(student: nn.Module, pair: Pair, device: torch.device) -> Tensor:
    """Return the fused luma of a whole pair, 1 x 1 x H x W float32, not clamped to [0, 1]."""
    return student(*pair_tensors(pair, device)).fused.float()


def to_uint8(luma: Tensor) -> np.ndarray:
    """Return 1 x 1 x H x W in [0, 1] as H x W uint8."""
    return (luma[0, 0].clamp(0, 1) * 255).round().byte().cpu().numpy()
