"""Options that the recipes of teacher, distillation and encoder share, and their pairs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ivf_core.class_sets import CLASS_SETS, ClassSet
from ivf_core.data.datasets import find_layout, open_dataset
from ivf_core.data.pairs import hold_out
from ivf_core.training.masks.cache import MaskCache, MaskCacheError
from ivf_core.training.masks.priors import open_priors
from ivf_core.training.runs.options import RunOptions
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.sage.samples import CropOptions, Source

__all__ = [
    "NO_SEGMENTER",
    "GuidedOptions",
    "PairOptions",
    "Sources",
    "find_priors",
    "find_sources",
]

NO_SEGMENTER = "none"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PairOptions(RunOptions):
    """Pairs on disk and their crops. The defaults of crops are those of SAGE."""

    folders: tuple[str, ...] = option(nonempty=True)
    """Data sets in the layouts of `ivf_core.data.datasets`, relative to the data directory."""
    split: str = "train"
    """Split to train on, of data sets that have it; of others the pairs below are held out."""
    hold_out_every: int = option(7, minimum=0)
    """Every n-th pair of a data set without the split is held out; 0 holds out none."""
    crop: tuple[int, int] = option((192, 256), minimum=16)
    """Height and width of a crop in pixels. Half of the crops are mirrored."""
    scales: tuple[float, float] = option((1.0, 1.0), above=0, ascending=True)
    """Range of the size of a crop, relative to `crop`, before it is resized: SAGE's code crops
    only, its paper crops and resizes, such as 0.75 to 2."""
    photometric_augmentation: float = option(0.0, minimum=0, maximum=1, former="light")
    """Share of images whose contrast, gamma and noise are varied."""
    batch_size: int = option(4, minimum=1)  # type: ignore[assignment]
    """Crops of a batch, of all processes together."""
    image_every: int = option(
        500,
        minimum=0,
        changeable=True,
        former="picture_every",  # plain: picture
    )
    """Steps from one row of images to the next; 0 shows about twenty rows in a run."""
    in_memory: bool = option(False, changeable=True)
    """Keep the pairs in memory after they are read (in each worker: best without workers)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hold_out_every == 1:
            raise ValueError("hold_out_every must be 0 or at least 2, got 1")

    def crops(self, *, masks: int, labels: bool) -> CropOptions:
        """Return how crops are drawn, with this many masks, and with labels or without."""
        light = self.photometric_augmentation
        return CropOptions(self.crop, self.scales, light, masks, labels, self.seed)


@dataclass(frozen=True, kw_only=True)
class GuidedOptions(PairOptions):
    """Options of runs in which the teacher sees masks, and may be told the classes in a scene."""

    priors: str = option(nonempty=True)
    """Masks: the folder that ivf train priors reported, or a pattern that only it matches."""
    segmenter: str = option(nonempty=True)
    """Segmenter for L_seg: head:WEIGHTS, segformer:DIRECTORY or clipseg:DIRECTORY; none without
    labels."""
    labels: str = ""
    """Name of the folder of class ids, in those plain folders that have one."""
    class_set: str = option("mfnet", choices=CLASS_SETS)
    """Classes of those folders: mfnet, fmb or pst900."""
    score_pairs: int = option(16, minimum=0)
    """Largest number of held-out pairs that are scored at the end, as whole images: on one CPU
    core the teacher needs 40 s for 640 x 480."""

    @property
    def labelled(self) -> bool:
        """Return whether labels are needed."""
        return self.segmenter != NO_SEGMENTER


class Sources(list[Source]):
    """Pairs to train on.

    Attributes:
        held_out: pairs to score.
        class_set: classes of the labels, if labels were asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held_out: list[Source] = []
        self.class_set: ClassSet | None = None

    @property
    def names(self) -> list[str]:
        """Names of the pairs to train on."""
        return [source.files.name for source in self]


def find_sources(
    options: PairOptions, *, labelled: bool, labels: str = "", class_set: str = ""
) -> Sources:
    """List the pairs of a recipe, without reading images.

    Args:
        options: the recipe.
        labelled: whether labels are needed.
        labels: name of the folder of labels in plain folders that have one.
        class_set: name of the classes of such labels.

    Raises:
        ValueError: a folder is no data set, none has labels although some are needed, or they
            have different classes.
    """
    found = Sources()
    class_sets: dict[ClassSet, str] = {}
    for folder in options.folders:
        root = data_directory() / folder
        given = {}
        if labels and (root / labels).is_dir():
            given = {"labels": labels, "class_set": CLASS_SETS[class_set]}
        split = find_layout(root, **given).splits(root)  # type: ignore[arg-type]
        dataset = open_dataset(
            root,
            split=options.split if options.split in split else None,
            **given,  # type: ignore[arg-type]
        )
        for line in dataset.left_out:
            _log.warning("left out: %s", line)
        sources = [Source(files, dataset.class_set) for files in dataset.files]
        held_out: list[Source] = []
        if options.split not in split and options.hold_out_every:
            sources, held_out = hold_out(sources, options.hold_out_every)
        _log.info("%s: %d pairs to train on, %d held out", folder, len(sources), len(held_out))
        with_labels = sum(source.files.labels is not None for source in sources)
        if labelled and with_labels < len(sources):
            _log.warning(
                "%s: %d pairs without labels have no part in L_seg",
                folder,
                len(sources) - with_labels,
            )
        if with_labels and dataset.class_set is not None:
            class_sets.setdefault(dataset.class_set, folder)
        found += sources
        found.held_out += held_out
    if not found:
        raise ValueError(f"folders {', '.join(options.folders)}: all pairs are held out")
    if labelled:
        if len(class_sets) != 1:
            known = ", ".join(f"{classes.name} in {at}" for classes, at in class_sets.items())
            raise ValueError(
                f"a segmenter needs labels of one class set, found {known or 'none'} "
                f"(without labels: segmenter: {NO_SEGMENTER})"
            )
        found.class_set = next(iter(class_sets))
    return found


def find_priors(pattern: str) -> MaskCache:
    """Open the mask cache of a recipe.

    Args:
        pattern: its folder, or a pattern that one cache matches, such as runs/priors/sam-*.

    Raises:
        ValueError: no cache or several match; names them.
    """
    path = Path(pattern)
    root = Path(path.anchor or ".")
    found = sorted(
        folder
        for folder in root.glob(str(path.relative_to(path.anchor)))
        if (folder / "settings.json").is_file()
    )
    if len(found) != 1:
        there = ", ".join(map(str, found)) or "none"
        raise MaskCacheError(
            f"priors '{pattern}': expected one folder that ivf train priors made, found {there}"
        )
    return open_priors(found[0])
