"""Options of runs that train a network which segments pairs, on a labelled data set."""

from __future__ import annotations

from dataclasses import dataclass

from ivf_core.class_sets import CLASS_SETS
from ivf_core.data.datasets import PairDataset
from ivf_core.training.runs.options import RunOptions
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.segmentation.labelled import open_labelled_split

__all__ = ["PairSegmenterOptions"]


@dataclass(frozen=True, kw_only=True)
class PairSegmenterOptions(RunOptions):
    """Options of the data of a network that segments pairs, and of crops of them."""

    dataset: str = option(nonempty=True)
    """Data set with labels, in a layout of `ivf_core.data.datasets`, relative to the data
    directory; its splits train and test are used."""
    labels: str = ""
    """Folder of class ids in a plain folder, if it has another name than labels."""
    class_set: str = option("", choices=("", *CLASS_SETS))
    """Classes of a plain folder: mfnet, fmb or pst900."""
    hold_out_every: int = option(7, minimum=2)
    """Without splits, every n-th pair is held out of training and tested on."""
    crop: tuple[int, int] = option(minimum=32, multiple_of=32)
    """Height and width of a crop in pixels."""
    scales: tuple[float, float] = option((0.5, 2.0), above=0, ascending=True)
    """Range of the factor by which pairs are resized before they are cut."""
    workers: int = option(4, minimum=0, changeable=True)
    """Processes that draw crops, for each device; 0 draws them in the training process."""
    checkpoint_every: int = option(1000, minimum=1, changeable=True)
    """Steps from one checkpoint to the next."""

    def open_split(self) -> tuple[PairDataset, PairDataset]:
        """Open the pairs of training and test; see `open_labelled_split`."""
        return open_labelled_split(
            data_directory() / self.dataset,
            self.hold_out_every,
            labels=self.labels or None,
            class_set=CLASS_SETS[self.class_set] if self.class_set else None,
        )
