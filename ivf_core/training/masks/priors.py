"""Semantic priors: make and cache the masks of both modalities for SAGE's teacher.

SAGE takes its patches P_vis and P_ir (section 3.1) from the largest automatic masks of SAM.
Without SAM's weights, the priors of the paper's ablation or superpixels replace them; the log,
the cache and all weights that are trained on them say so.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from ivf_core.class_sets import ClassSet
from ivf_core.data.datasets import open_dataset
from ivf_core.data.pairs import PairFiles
from ivf_core.system.results import check_folder
from ivf_core.training.masks.cache import MaskCache, MaskCacheError
from ivf_core.training.masks.sources import CropMasks, LabelMasks, MaskSource, SuperpixelMasks
from ivf_core.training.runs.recipe import Recipe, data_directory, option, provenance
from ivf_core.training.runs.weights_origin import file_digest

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

__all__ = [
    "PRIOR_SOURCES",
    "PriorRecipe",
    "PriorReport",
    "make_priors",
    "open_priors",
    "pair_masks",
    "prior_metadata",
]

PRIOR_SOURCES = {
    "sam": "SAM's automatic masks",
    "crops": "random crops, variant I-a of SAGE's ablation",
    "labels": "label masks, variant I-b of SAGE's ablation",
    "superpixels": "SLIC superpixels",
}

# The options that decide what a source's masks are, besides the images and SAM's weights, by
# their names in the cache's settings.
_AREA, _SAM_CROPS = "min_mask_region_area", "crop_n_points_downscale_factor"
_DECISIVE = {
    "sam": {"count": "count", "points_per_side": "points_per_side",
            "predicted_iou": "pred_iou_thresh", "stability": "stability_score_thresh",
            "crop_layers": "crop_n_layers", "crop_points_downscale": _SAM_CROPS,
            "minimum_area": _AREA, "bgr": "bgr"},
    "crops": {"count": "count", "crop_sides": "crop_sides", "seed": "seed"},
    "labels": {"count": "count", "minimum_area": _AREA, "ignored_labels": "ignored_labels"},
    "superpixels": {"count": "count", "segments": "n_segments", "compactness": "compactness"},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PriorRecipe(Recipe):
    """Masks for folders of pairs. The defaults of `sam` are those published with SAGE."""

    folders: tuple[str, ...] = option(nonempty=True)
    """Data sets in the layouts of `ivf_core.data.datasets`, relative to the data directory."""
    output: str = option(nonempty=True)
    """Directory of the caches; each source with its settings gets a folder of its own there."""
    source: str = option("sam", choices=PRIOR_SOURCES)
    """sam; or without its weights crops, labels or superpixels."""
    checkpoint: str = ""
    """sam only: file of SAM's weights, relative to the data directory."""
    model: str = option("vit_b", choices=("vit_b", "vit_l", "vit_h", "any"))
    """sam only: expected model of the checkpoint: vit_b, vit_l, vit_h, or any."""
    count: int = option(20, minimum=1)
    """Largest number of masks of an image; the largest masks are kept."""
    points_per_side: int = option(128, minimum=1)
    """sam only: prompts along a side of the image."""
    points_per_batch: int = option(64, minimum=1)
    """sam only: prompts at a time; more are faster and need more memory."""
    pred_iou_thresh: float = option(0.86, minimum=0, maximum=1, former="predicted_iou")
    """sam only: masks are dropped if SAM predicts a lower IoU for them."""
    stability_score_thresh: float = option(0.92, minimum=0, maximum=1, former="stability")
    """sam only: masks are dropped if they change more than this with the threshold on their
    logits."""
    crop_n_layers: int = option(1, minimum=0, former="crop_layers")
    """sam only: layer n prompts again in each of 4^n overlapping parts of the image."""
    crop_n_points_downscale_factor: int = option(2, minimum=1, former="crop_points_downscale")
    """sam only: prompts along a side are divided by this, layer by layer."""
    min_mask_region_area: int = option(100, minimum=0, former="minimum_area")
    """sam: smaller holes are filled and smaller islands removed; labels: smaller regions are
    left out; in pixels."""
    bgr: bool = False
    """sam only: swap red and blue before SAM sees the image. The published code does, though
    SAM was trained on RGB."""
    crop_sides: tuple[float, float] = option((0.25, 0.75), above=0, maximum=1, ascending=True)
    """crops only: range of the sides relative to the image's. The paper gives none."""
    labels: str = ""
    """labels only: name of the folder of class ids, if a plain folder has another."""
    ignored_labels: tuple[int, ...] = option((), minimum=0, maximum=255)
    """labels only: classes that give no masks, beside 255."""
    n_segments: int = option(100, minimum=1, former="segments")
    """superpixels only: approximate number of superpixels of an image."""
    compactness: float = option(10.0, above=0)
    """superpixels only: weight of distance against colour."""
    devices: tuple[str, ...] = ()
    """Devices with one worker each, such as cuda:0; if empty, sam takes all GPUs, or one cpu
    without GPUs and for other sources."""
    seed: int = option(0, minimum=0)
    """crops only: seed of the crops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "sam" and not self.checkpoint:
            raise ValueError(
                "source 'sam' needs a checkpoint, a file of SAM's weights; "
                "without one, set source to crops, labels or superpixels"
            )
        if self.points_per_side < self.crop_n_points_downscale_factor**self.crop_n_layers:
            raise ValueError(
                f"points_per_side {self.points_per_side}: none are left in crop layer "
                f"{self.crop_n_layers}"
            )


@dataclass
class PriorReport:
    """Result of `make_priors`.

    Attributes:
        directory: folder of the cache.
        made: number of images whose masks were made.
        kept: number of images whose masks were in the cache already.
        masks: number of masks of all these images.
        damaged: a line for each file that was damaged and has been made again.
        failed: a line for each pair that could not be read.
    """

    directory: Path
    made: int = 0
    kept: int = 0
    masks: int = 0
    damaged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, other: PriorReport) -> None:
        """Add the counts and lines of another report to this one."""
        self.made += other.made
        self.kept += other.kept
        self.masks += other.masks
        self.damaged += other.damaged
        self.failed += other.failed


class _Pair(NamedTuple):
    """Files of a pair, and the classes of its labels if they are known."""

    files: PairFiles
    class_set: ClassSet | None


def make_priors(recipe: PriorRecipe) -> PriorReport:
    """Make the masks of all pairs of `recipe` that are not in the cache yet.

    The masks of an image are written as soon as they are made. After an interruption of any
    kind, running the same recipe again makes only the missing ones.

    Raises:
        OutputError: the output is a file, or is or contains one of the folders.
        ValueError: a folder has no pairs or labels, a checkpoint does not fit, or a device does
            not exist.
        RuntimeError: a worker process died, or the memory of its device is too small.
    """
    origin = provenance("priors", recipe)
    check_folder(Path(recipe.output), [data_directory() / folder for folder in recipe.folders])
    pairs = _list_pairs(recipe)
    devices = _devices(recipe)
    cache = MaskCache.create(recipe.output, _settings(recipe), origin)
    _warn_unless_guided(cache)
    log = logging.getLogger(__name__)
    report = PriorReport(cache.directory)
    work = _work(recipe, cache, devices, pairs)
    for done in tqdm(work, total=len(pairs), desc="priors", unit="pair", mininterval=5):
        for line in done.damaged:
            log.warning("%s; made again", line)
        report.add(done)
    return report


def open_priors(directory: str | os.PathLike[str]) -> MaskCache:
    """Open a cache to train with, and log a warning if it is not SAM-guided.

    Args:
        directory: the folder that `make_priors` reported.

    Raises:
        MaskCacheError: the folder is not a cache.
    """
    cache = MaskCache(directory)
    _warn_unless_guided(cache)
    return cache


def pair_masks(
    cache: MaskCache,
    visible: np.ndarray,
    infrared: np.ndarray,
    labels: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read the masks of a pair from a cache, largest first.

    Args:
        cache: masks of images or of labels.
        visible: H x W x 3 uint8 RGB, the pixels that the masks were made of.
        infrared: H x W uint8, the pixels that the masks were made of.
        labels: H x W uint8; needed if the masks were made of labels.

    Returns:
        Masks of the visible and of the infrared image, each K x H x W bool with a K of its own.

    Raises:
        ValueError: there are no masks of this pair, or a file is damaged.
    """
    if cache.settings["source"] == "labels" and labels is None:
        raise ValueError(f"masks '{cache.directory}' were made of labels: give the pair's labels")
    found = []
    for content in _contents(cache.settings["source"], visible, infrared, labels):
        masks = cache.read(content)
        if masks is None:
            raise MaskCacheError(
                f"masks '{cache.directory}': none of this image (ivf train priors makes them)"
            )
        found.append(masks)
    return found[0], found[-1]


def prior_metadata(cache: MaskCache) -> dict[str, str]:
    """Return metadata for weights that were trained on the masks of a cache.

    Returns:
        `priors`, a description of the masks; `priors_sam_guided`, "true" or "false";
        `priors_settings`, JSON that includes the SHA-256 of SAM's weights if these were used;
        `priors_recipe` and `priors_revision`, the recipe and the git revision that made them.
    """
    source = cache.settings["source"]
    return {
        "priors": PRIOR_SOURCES[source] + ("" if source == "sam" else ": not SAM-guided"),
        "priors_sam_guided": json.dumps(source == "sam"),
        "priors_settings": json.dumps(cache.settings, sort_keys=True),
        **cache.notes,
    }


def _warn_unless_guided(cache: MaskCache) -> None:
    """Log a warning if the masks of a cache were made without SAM."""
    if (source := cache.settings["source"]) != "sam":
        logging.getLogger(__name__).warning(
            "priors are %s: networks trained on them are not SAM-guided", PRIOR_SOURCES[source]
        )


def _settings(recipe: PriorRecipe) -> dict[str, object]:
    """Return everything that determines the masks of a recipe apart from the images."""
    options = dataclasses.asdict(recipe)
    names = {"source": "source", **_DECISIVE[recipe.source]}
    chosen = {name: options[option] for name, option in names.items()}
    if recipe.source == "sam":
        path = data_directory() / recipe.checkpoint
        try:
            chosen["weights_sha256"] = file_digest(path)
        except OSError as error:
            raise ValueError(
                f"SAM checkpoint '{path}': {error.strerror}; "
                "without one, set source to crops, labels or superpixels"
            ) from error
    return chosen


def _list_pairs(recipe: PriorRecipe) -> list[_Pair]:
    """List the pairs of all folders of a recipe, or raise ValueError if labels are missing."""
    pairs = []
    for folder in recipe.folders:
        labels = recipe.labels if recipe.source == "labels" else ""
        dataset = open_dataset(data_directory() / folder, labels=labels or None)
        for line in dataset.left_out:
            logging.getLogger(__name__).warning("left out: %s", line)
        for files in dataset.files:
            if recipe.source == "labels" and files.labels is None:
                raise ValueError(f"'{files.visible}': has no labels to make masks from")
            pairs.append(_Pair(files, dataset.class_set))
    return pairs


def _devices(recipe: PriorRecipe) -> tuple[str, ...]:
    """Return the devices of the recipe, one for each worker, or raise if one does not exist."""
    if recipe.source != "sam":
        if other := [name for name in recipe.devices if name != "cpu"]:
            raise ValueError(f"devices: source '{recipe.source}' runs on cpu only, got {other[0]}")
        return recipe.devices or ("cpu",)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = tuple(f"cuda:{number}" for number in range(count))
    for name in recipe.devices:
        if name not in (known := ("cpu", *gpus)):
            raise ValueError(f"devices: '{name}' does not exist, expected {', '.join(known)}")
    return recipe.devices or gpus or ("cpu",)


def _contents(
    source: str, visible: np.ndarray, infrared: np.ndarray, labels: np.ndarray | None
) -> Iterator[np.ndarray]:
    """Yield the arrays that the masks of a pair are made of, images or labels.

    Raises:
        ValueError: the infrared image is not uint8, or the sizes differ.
    """
    for name, plane in (("infrared", infrared), ("labels", labels)):
        if plane is not None and plane.shape != visible.shape[:2]:
            raise ValueError(f"visible is {visible.shape[:2]}, but {name} {plane.shape}")
    if infrared.dtype != np.uint8:
        raise ValueError(f"infrared is {infrared.dtype}, expected uint8")
    if source == "labels":
        assert labels is not None
        yield labels
    else:
        yield visible
        yield np.repeat(infrared[..., None], 3, axis=-1)


class _Worker:
    """Maker of the masks of pairs on one device."""

    def __init__(self, recipe: PriorRecipe, cache: MaskCache, device: str) -> None:
        self.recipe = recipe
        self.cache = cache
        self.device = device

    @cached_property
    def source(self) -> MaskSource:
        """Source of masks, built at the first use so that a full cache does not load SAM."""
        recipe = self.recipe
        if recipe.source == "crops":
            return CropMasks(recipe.count, recipe.crop_sides, recipe.seed)
        if recipe.source == "labels":
            return LabelMasks(recipe.count, recipe.min_mask_region_area, recipe.ignored_labels)
        if recipe.source == "superpixels":
            return SuperpixelMasks(recipe.count, recipe.n_segments, recipe.compactness)
        from ivf_core.training.masks.sam import SamMasks, load_sam

        return SamMasks(
            load_sam(data_directory() / recipe.checkpoint, recipe.model).to(self.device),
            recipe.count,
            bgr=recipe.bgr,
            points_per_side=recipe.points_per_side,
            points_per_batch=recipe.points_per_batch,
            pred_iou_thresh=recipe.pred_iou_thresh,
            stability_score_thresh=recipe.stability_score_thresh,
            crop_n_layers=recipe.crop_n_layers,
            crop_n_points_downscale_factor=recipe.crop_n_points_downscale_factor,
            min_mask_region_area=recipe.min_mask_region_area,
        )

    def run(self, pair: _Pair) -> PriorReport:
        """Make the masks of a pair that are not in the cache."""
        report = PriorReport(self.cache.directory)
        labelled = self.recipe.source == "labels"
        try:
            contents = list(
                _contents(
                    self.recipe.source,
                    pair.files.read_visible(),
                    pair.files.read_infrared(),
                    pair.files.read_labels(pair.class_set) if labelled else None,
                )
            )
        except ValueError as error:
            report.failed.append(f"{pair.files.name}: {error}")
            return report
        for content in contents:
            try:
                masks = self.cache.read(content)
            except MaskCacheError as error:
                report.damaged.append(str(error))
                masks = None
            if masks is None:
                masks = self.source.masks(content)
                self.cache.write(content, masks)
                report.made += 1
            else:
                report.kept += 1
            report.masks += len(masks)
        return report


def _work(
    recipe: PriorRecipe, cache: MaskCache, devices: Sequence[str], pairs: Sequence[_Pair]
) -> Iterator[PriorReport]:
    """Make the masks of pairs, and yield a report for each pair as it is done.

    A single device is used by this process. Several devices get a new process each, which takes
    the next pair when it is done with one.
    """
    if len(devices) == 1:
        yield from map(_Worker(recipe, cache, devices[0]).run, pairs)
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    queue: Queue[str] = context.Queue()
    for device in devices:
        queue.put(device)
    executor = ProcessPoolExecutor(
        len(devices), context, initializer=_start, initargs=(recipe, cache.directory, queue)
    )
    try:
        for done in as_completed([executor.submit(_run, pair) for pair in pairs]):
            yield done.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process ended abruptly (is memory too small?); "
            "masks made so far are kept: run the command again to resume"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


_worker: _Worker | None = None


def _start(recipe: PriorRecipe, directory: Path, devices: Queue[str]) -> None:
    """Initialise a worker process on the next free device."""
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(recipe, MaskCache(directory), devices.get())


def _run(pair: _Pair) -> PriorReport:
    """Make the masks of a pair in a worker process."""
    assert _worker is not None
    return _worker.run(pair)


def _end_with_parent() -> None:
    """End this process when its parent has died; otherwise it would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
