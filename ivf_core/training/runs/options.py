"""What the recipes of the teacher, the distillation and the encoder have in common."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ivf_core.class_sets import CLASS_SETS, ClassSet
from ivf_core.data.datasets import find_layout, open_dataset
from ivf_core.data.pairs import hold_out
from ivf_core.training.masks.cache import MaskCache, MaskCacheError
from ivf_core.training.masks.priors import open_priors
from ivf_core.training.runs.recipe import data_directory
from ivf_core.training.sage.samples import CropOptions, Source

__all__ = ["NO_SEGMENTER", "GuidedOptions", "RunOptions", "Sources", "find_priors", "find_sources"]

NO_SEGMENTER = "none"
_PRECISIONS = ("32-true", "bf16-mixed")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Pairs, crops, devices and checkpoints of a run. The defaults of crops are SAGE's."""

    folders: tuple[str, ...]
    """Data sets in the layouts of `ivf_core.data.datasets`, relative to the data directory."""
    output: str
    """The weights file to write. Checkpoint, curves and pictures lie in a folder beside it
    (`run.run_directory`)."""
    split: str = "train"
    """Of data sets that have one of that name; of others the pairs below are kept out."""
    hold_out_every: int = 7
    """Each n-th pair of a data set without the split is kept out of training; 0 keeps none."""
    crop: tuple[int, int] = (192, 256)
    """Height and width of a crop in pixels. Half of the crops are mirrored."""
    scales: tuple[float, float] = (1.0, 1.0)
    """Crops cover this range of sizes before they are resized."""
    light: float = 0.0
    """Share of pictures whose contrast, gamma and noise are varied."""
    batch_size: int = 4
    """Crops of a batch, those of all processes together."""
    epochs: int = 0
    """Times that every pair is seen; give this or `steps`."""
    steps: int = 0
    """Batches; give this or `epochs`."""
    devices: int = 1
    """Processes of each node, one for each GPU where there are any. Under torchrun it must be
    as many as that starts."""
    nodes: int = 1
    """Machines; torchrun starts them."""
    accelerator: str = "auto"
    """auto takes GPUs where there are any; cpu or cuda."""
    precision: str = "32-true"
    """32-true, or bf16-mixed: the networks run in bfloat16, losses and weights in float32."""
    workers: int = 0
    """Processes that read and cut pairs, for each device; the crops are the same with any
    number."""
    in_memory: bool = False
    """Keep the pairs in memory once they are read (in each worker: best without)."""
    checkpoint_every: int = 200
    """Steps from one checkpoint to the next."""
    picture_every: int = 500
    """Steps from one row of pictures to the next."""
    resume: bool = False
    """Go on with the checkpoint of a run that was interrupted, or start where there is none."""
    seed: int = 0

    # What may differ when a run is gone on with: it does not change what comes out.
    FREE: ClassVar[tuple[str, ...]] = ("resume", "workers", "in_memory", "checkpoint_every",
                                       "picture_every")  # fmt: skip

    def __post_init__(self) -> None:
        if not self.folders:
            raise ValueError("folders: expected at least one")
        if self.epochs < 0 or self.steps < 0 or (self.epochs > 0) == (self.steps > 0):
            raise ValueError(
                f"expected either epochs or steps to be positive, got {self.epochs}, {self.steps}"
            )
        if self.hold_out_every < 0 or self.hold_out_every == 1:
            raise ValueError(f"hold_out_every must be 0 or at least 2, got {self.hold_out_every}")
        if min(self.crop) < 16:
            raise ValueError(f"crop must be at least 16 x 16 pixels, got {self.crop}")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError(f"scales must be a range of positive sizes, got {self.scales}")
        if not 0 <= self.light <= 1:
            raise ValueError(f"light must be in [0, 1], got {self.light}")
        for name in ("batch_size", "devices", "nodes", "checkpoint_every", "picture_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("workers", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.batch_size % (self.devices * self.nodes):
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of {self.devices} devices on "
                f"{self.nodes} nodes"
            )
        if self.accelerator not in ("auto", "cpu", "cuda"):
            raise ValueError(f"accelerator '{self.accelerator}', known: auto, cpu, cuda")
        if self.precision not in _PRECISIONS:
            raise ValueError(f"precision '{self.precision}', known: {', '.join(_PRECISIONS)}")

    def batches(self, pairs: int) -> int:
        """Batches of the whole run."""
        return self.steps or math.ceil(self.epochs * pairs / self.batch_size)

    def crops(self, *, masks: int, labels: bool) -> CropOptions:
        return CropOptions(self.crop, self.scales, self.light, masks, labels, self.seed)


@dataclass(frozen=True, kw_only=True)
class GuidedOptions(RunOptions):
    """Of runs in which the teacher sees masks, and may be told what is in the scene."""

    priors: str
    """Masks: the folder that ivf train priors reported, or a pattern that it alone matches."""
    segmenter: str
    """What L_seg asks: head:WEIGHTS, segformer:DIRECTORY or clipseg:DIRECTORY; none where
    there are no labels."""
    labels: str = ""
    """Name of the folder of class ids, in those plain folders that have one."""
    class_set: str = "mfnet"
    """Of these: mfnet, fmb or pst900."""
    score_pairs: int = 16
    """The most pairs kept out that are scored at the end, whole: on one CPU core the teacher needs
    40 s for 640 x 480."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.priors:
            raise ValueError("priors: expected a folder of masks (ivf train priors makes them)")
        if not self.segmenter:
            raise ValueError(f"segmenter: expected one, or {NO_SEGMENTER}")
        if self.class_set not in CLASS_SETS:
            raise ValueError(f"class_set '{self.class_set}', known: {', '.join(CLASS_SETS)}")
        if self.score_pairs < 0:
            raise ValueError(f"score_pairs must be at least 0, got {self.score_pairs}")


class Sources(list[Source]):
    """Pairs to train on.

    Attributes:
        kept_out: those that are not.
        class_set: of the labels, where they were asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept_out: list[Source] = []
        self.class_set: ClassSet | None = None


def find_sources(
    options: RunOptions, *, labelled: bool, labels: str = "", class_set: str = ""
) -> Sources:
    """List the pairs of a recipe; reads no picture.

    Args:
        labelled: labels are needed.
        labels: name of the folder of labels in plain folders that have one.
        class_set: of these.

    Raises:
        ValueError: a folder is no data set, none has labels where some are needed, or they
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
        kept_out: list[Source] = []
        if options.split not in split and options.hold_out_every:
            sources, kept_out = hold_out(sources, options.hold_out_every)
        of_labels = sum(source.files.labels is not None for source in sources)
        _log.info("%s: %d pairs to train on, %d kept out", folder, len(sources), len(kept_out))
        if labelled and of_labels < len(sources):
            _log.warning(
                "%s: %d pairs without labels have no part in L_seg", folder,
                len(sources) - of_labels,
            )  # fmt: skip
        if of_labels and dataset.class_set is not None:
            class_sets.setdefault(dataset.class_set, folder)
        found += sources
        found.kept_out += kept_out
    if not found:
        raise ValueError(f"folders {', '.join(options.folders)}: all pairs are kept out")
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
