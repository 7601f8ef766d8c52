"""Log-probabilities of a pair teacher for pairs without labels, made once, and labels of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ivf_core.data.datasets import open_dataset
from ivf_core.data.pairs import PairFiles
from ivf_core.images.files import write_image
from ivf_core.models.pair_segmenter import PairSegmenter
from ivf_core.system.atomic import remove_leftovers_of
from ivf_core.system.results import check_folder
from ivf_core.training.fusionsam.weights import load_fusionsam
from ivf_core.training.runs.recipe import Recipe, data_directory, option
from ivf_core.training.runs.record import run_directory
from ivf_core.training.runs.weights_origin import file_digest
from ivf_core.training.sartm.weights import load_sartm
from ivf_core.training.segmentation.asked_teacher import AskedTeacher
from ivf_core.training.segmentation.head import HeadRecipe
from ivf_core.training.segmentation.logit_cache import LogitCache, resize_shares

__all__ = [
    "PAIR_TEACHERS",
    "LogitRecipe",
    "LogitReport",
    "ask_for_head",
    "make_logits",
    "open_asked_teacher",
    "open_pair_teacher",
]

PAIR_TEACHERS: dict[str, Callable[[Path], tuple[PairSegmenter, dict[str, str]]]] = {
    "sartm": load_sartm,
    "fusionsam": load_fusionsam,
}
"""Functions that open weights of networks that segment pairs, by the kind in `KIND:FILE`."""

_RANDOM = "random weights"  # how the metadata of weights begin that say so
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LogitRecipe(Recipe):
    """Log-probabilities of a teacher for folders of pairs, and labels of them."""

    teacher: str = option(nonempty=True)
    """Weights of a network that segments pairs: sartm:FILE or fusionsam:FILE."""
    folders: tuple[str, ...] = option(nonempty=True)
    """Data sets in the layouts of `ivf_core.data.datasets`, relative to the data directory."""
    split: str = ""
    """Split to take of data sets that have splits; all by default."""
    output: str = option(nonempty=True)
    """Directory; each teacher gets a folder of its own there, named by its weights."""
    labels: bool = True
    """Write labels/FOLDER/NAME.png and confidence/FOLDER/NAME.png, too: class ids, and the
    probability of the class as 0 to 255. `ivf train labels` takes them as `given` labels."""
    accelerator: str = option("auto", choices=("auto", "cpu", "cuda"))
    """auto takes a GPU if there is one; cpu or cuda."""


@dataclass
class LogitReport:
    """Outcome of a run.

    Attributes:
        directory: folder of the teacher's log-probabilities.
        made, kept: pairs that the teacher was asked about, and that were found.
        failed: pairs that were left out, one line each.
    """

    directory: Path
    made: int = 0
    kept: int = 0
    failed: list[str] = field(default_factory=list)


def open_pair_teacher(spec: str) -> tuple[PairSegmenter, dict[str, str], Path]:
    """Open a frozen network that segments pairs.

    Args:
        spec: KIND:FILE, with a kind of `PAIR_TEACHERS`.

    Returns:
        The network in evaluation mode, the metadata of its file, and the file.

    Raises:
        ValueError: the kind is unknown, or the file is not of this kind; the message names both.
    """
    kind, _, place = spec.partition(":")
    if kind not in PAIR_TEACHERS or not place:
        known = ", ".join(f"{name}:FILE" for name in PAIR_TEACHERS)
        raise ValueError(f"teacher '{spec}': expected {known}")
    network, metadata = PAIR_TEACHERS[kind](Path(place))
    return network, metadata, Path(place)


def open_asked_teacher(
    spec: str, root: str | os.PathLike[str], device: torch.device | None = None
) -> AskedTeacher:
    """Open a network that segments pairs, whose answers are kept below `root`.

    Args:
        spec: see `open_pair_teacher`.
        root: folder of caches.
        device: device of the network; a GPU by default, if there is one.

    Raises:
        ValueError: the teacher cannot be opened.
    """
    network, metadata, path = open_pair_teacher(spec)
    # The order of a file's metadata differs each time.
    known = sorted(metadata.items())
    random = {part: text for part, text in known if text.startswith(_RANDOM)}
    for part, origin in random.items():
        _log.warning("teacher '%s': %s has %s", spec, part, origin)
    about = {
        "kind": spec.partition(":")[0],
        "sha256": file_digest(path),
    }
    cache = LogitCache.create(root, about, network.class_set, random)
    return AskedTeacher(network.to(device or _device("auto")), cache)


def make_logits(recipe: LogitRecipe, fabric: Any = None) -> LogitReport:
    """Ask a teacher about each pair, once; a killed run continues where it was.

    Broken pairs are left out. Damaged files are made again. Of several processes each asks about
    its share first, and then about what the others have not written yet, so that none waits.

    Args:
        recipe: teacher, folders and options.
        fabric: processes that call this with the same recipe, and the device of each, in place of
            the recipe's accelerator; by default there is this process only.

    Raises:
        OutputError: the output is a file, or is or contains one of the folders.
        ValueError: the teacher or a data set cannot be opened, the device is missing, or the
            teacher's folder in the output holds something else.
    """
    check_folder(Path(recipe.output), [data_directory() / folder for folder in recipe.folders])
    rank, processes = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    device = fabric.device if fabric else _device(recipe.accelerator)
    teacher = open_asked_teacher(recipe.teacher, recipe.output, device)
    report = LogitReport(teacher.cache.directory)
    for folder in recipe.folders:
        dataset = open_dataset(data_directory() / folder, split=recipe.split or None)
        if recipe.labels:
            names = [f"{Path(folder).name}/{files.name}.png" for files in dataset.files]
            for kind in ("labels", "confidence"):
                remove_leftovers_of(report.directory / kind / name for name in names)
        order = _order_of_process(dataset.files, rank, processes)
        for files in tqdm(order, desc=folder, mininterval=5, disable=rank > 0):
            try:
                visible, infrared = _read(files)
            except ValueError as error:
                report.failed.append(f"{files.name}: {error}")
                continue
            values = teacher.ask(visible, infrared)
            if recipe.labels:
                name = f"{Path(folder).name}/{files.name}.png"
                _write_labels(report.directory, name, values, infrared.shape)
    report.made, report.kept = teacher.made, teacher.kept
    return report


def ask_for_head(recipe: HeadRecipe, fabric: Any) -> HeadRecipe:
    """Ask the teacher of a head about all of its pairs, if it is given as KIND:FILE.

    The answers are in the folder logits of the run's record.

    Args:
        recipe: recipe of the head; `teacher_logits` is KIND:FILE, or a folder, or empty.
        fabric: processes of the run, which share the work.

    Returns:
        The recipe, with the folder of the answers.

    Raises:
        ValueError: see `make_logits`.
    """
    if recipe.teacher_logits.partition(":")[0] not in PAIR_TEACHERS:
        return recipe
    labelled = recipe.dataset or recipe.folder
    report = make_logits(
        LogitRecipe(
            teacher=recipe.teacher_logits,
            folders=(*([labelled] if labelled else []), *recipe.unlabelled),
            output=str(run_directory(recipe.output) / "logits"),
            labels=False,
        ),
        fabric,
    )
    for line in report.failed if fabric.is_global_zero else ():
        _log.warning("teacher '%s': left out: %s", recipe.teacher_logits, line)
    return replace(recipe, teacher_logits=str(report.directory))


def _order_of_process(pairs: Sequence[PairFiles], rank: int, processes: int) -> list[PairFiles]:
    """Return all pairs, those of the process first, then those of the next ones from their ends.

    A process that takes over what another has not done meets it in the middle of its share.
    """
    own = list(pairs[rank::processes])
    others = [pairs[(rank + k) % processes :: processes] for k in range(1, processes)]
    return own + [pair for share in others for pair in reversed(share)]


def _read(files: PairFiles) -> tuple[np.ndarray, np.ndarray]:
    """Read a pair, or raise ValueError naming a file that is broken or of another size."""
    visible, infrared = files.read_visible(), files.read_infrared()
    files.check_sizes(visible, infrared, None)
    return visible, infrared


def _write_labels(directory: Path, name: str, values: np.ndarray, size: tuple[int, ...]) -> None:
    """Write class ids and confidence at the size of the images."""
    probabilities = resize_shares(np.exp(values), size)
    ids = probabilities.argmax(0).astype(np.uint8)
    confidence = (255 * probabilities.max(0)).round().clip(0, 255).astype(np.uint8)
    write_image(directory / "labels" / name, ids)
    write_image(directory / "confidence" / name, confidence)


def _device(accelerator: str) -> torch.device:
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator 'cuda': there is no GPU that torch can use; expected cpu")
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")
