"""Training of SegFormer on fused images, by which SAGE (CVPR 2025, section 4.1) scores fusion.

The paper states: SegFormer-B3, 100 epochs, the official splits, IoU by class and its mean. The mean
of its Table 2 (MFNet) is over all nine classes: its seven columns leave 97 to 98 % for unlabelled
and guardrail together. It does not state the optimizer, the size of crops and batches, the
initial weights, or whether FMB's pixels without a label count. These follow the paper of SegFormer
(Xie et al., NeurIPS 2021) and its code: AdamW at 6e-5, ten times that for the decoder, weight decay
0.01 but none for normalisation, a linear rise over the first tenth and a linear decline to zero;
batches of 8, crops of 512 x 512 from images at 0.5 to 2 times their size, mirrored, with varied
light. The weights of the last step are tested, once, on whole images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ivf_core.class_sets import CLASS_SETS, ClassSet
from ivf_core.data.pairs import PairFiles, hold_out
from ivf_core.images.overlay import color_labels
from ivf_core.models.checkpoints import load_model
from ivf_core.models.graph import FusionGraph
from ivf_core.system.atomic import write_json
from ivf_core.training.losses import Total, segmentation_loss
from ivf_core.training.runs.batch_norm import restore_norm, synchronize_norm
from ivf_core.training.runs.batches import Batch, Sample
from ivf_core.training.runs.devices import gather_over_processes
from ivf_core.training.runs.loop import Scores, SingleTask, StepGuard, run_task
from ivf_core.training.runs.options import RunOptions
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.segmentation.labelled import (
    ColorCrops,
    FusedImages,
    open_labelled_split,
    read_fused_folders,
    replace_by_fused,
)
from ivf_core.training.segmentation.pretrained import load_pretrained, package
from ivf_core.training.segmentation.segmenters import (
    SegformerSegmenter,
    normalize,
    score_segmenter,
    scores_by_class,
)

__all__ = ["SEGFORMERS", "SegformerRecipe", "build_segformer", "train_segformer"]

_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
SEGFORMERS = {
    "b0": (_NARROW, (2, 2, 2, 2), 256),
    "b1": (_WIDE, (2, 2, 2, 2), 256),
    "b2": (_WIDE, (3, 4, 6, 3), 768),
    "b3": (_WIDE, (3, 4, 18, 3), 768),
    "b4": (_WIDE, (3, 8, 27, 3), 768),
    "b5": (_WIDE, (3, 6, 40, 3), 768),
}
"""Channels and blocks of the encoder's four stages, and channels of the decoder."""


@dataclass(frozen=True, kw_only=True)
class SegformerRecipe(RunOptions):
    """Training of a SegFormer on fused images, and its score on the test split."""

    output: str = option(nonempty=True)
    """Directory to write: config.json, model.safetensors and scores.json. Checkpoint, losses and
    images go to a folder beside it, with `.run` at its end."""
    dataset: str = ""
    """Data set with labels, in a layout of `ivf_core.data.datasets`, relative to the data
    directory; its splits train and test are used."""
    weights: str = "sage"
    """Weights that fuse its pairs: shipped name, or a file."""
    fused: str = ""
    """Folder of fused images, relative to the data directory, instead of `weights`; named as the
    pairs or, without `dataset`, as their labels. "{split}" in it stands for train and test."""
    labels: str = ""
    """Folder of class ids. In a plain folder: its name there; without `dataset`: relative to
    the data directory, "{split}" as in `fused`."""
    class_set: str = option("", choices=("", *CLASS_SETS))
    """Classes of a plain folder, or without `dataset`: mfnet, fmb or pst900."""
    hold_out_every: int = option(7, minimum=2)
    """Without splits, every n-th pair is held out of training and tested on."""
    ignored_labels: tuple[int, ...] = option((), minimum=0, maximum=255)
    """Classes that neither train nor count, beside 255."""
    model: str = option("b3", choices=SEGFORMERS)
    """Size of the SegFormer, b0 to b5."""
    init_from: str = option("", former="start")
    """Directory, relative to the data directory, of weights of the same model to start from, in
    safetensors as `save_pretrained` writes it: such as nvidia/mit-b3 (ImageNet), or
    nvidia/segformer-b3-finetuned-ade-512-512, whose classes are dropped. Empty for random ones."""
    epochs: int = option(100, minimum=0)
    """Passes over the training split; give this or `steps`, and 0 for the other."""
    batch_size: int = option(8, minimum=1)  # type: ignore[assignment]
    """Crops of a batch, of all processes together."""
    crop: tuple[int, int] = option((512, 512), minimum=32)
    """Height and width of a crop in pixels."""
    scales: tuple[float, float] = option((0.5, 2.0), above=0, ascending=True)
    """Range of the factor by which images are resized before they are cut."""
    learning_rate: float = option(6e-5, above=0)
    """Highest learning rate of AdamW, for the encoder."""
    decoder_lr_mult: float = option(10.0, above=0, former="decoder_rate")
    """Learning rate of the decoder, as a multiple of the encoder's."""
    weight_decay: float = option(0.01, minimum=0)
    """Weight decay of all parameters but those of normalisation."""
    warmup_ratio: float = option(0.1, minimum=0, maximum=1, former="warmup")
    """Share of the steps in which the learning rate rises."""
    workers: int = option(4, minimum=0, changeable=True, former="threads")
    """Processes that draw crops, for each device; 0 draws them in the training process."""
    checkpoint_every: int = option(1000, minimum=1, changeable=True)
    """Steps from one checkpoint to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset and not (self.fused and self.labels and self.class_set):
            raise ValueError("expected dataset, or fused with labels and class_set")


def build_segformer(model: str, class_set: ClassSet, start: str | Path = "") -> Any:
    """Build a `transformers.SegformerForSemanticSegmentation` with a logit for each class.

    Args:
        model: one of `SEGFORMERS`.
        class_set: classes of the logits.
        start: directory of weights to start from, of a classifier or of a network with other
            classes; layers that these do not have stay random. Without it all are random.

    Raises:
        PretrainedError: the package or the weights are missing.
        ValueError: the weights are of another model.
    """
    channels, blocks, decoder = SEGFORMERS[model]
    names = dict(enumerate(class_set.names))
    options: dict[str, Any] = {
        "id2label": names,
        "label2id": {name: n for n, name in names.items()},
    }
    if not start:
        config = package().SegformerConfig(
            hidden_sizes=list(channels),
            depths=list(blocks),
            decoder_hidden_size=decoder,
            **options,
        )
        return package().SegformerForSemanticSegmentation(config)
    network = load_pretrained(
        "SegformerForSemanticSegmentation",
        "segformer",
        start,
        renewed=("decode_head.", "classifier."),
        decoder_hidden_size=decoder,
        **options,
    )
    found = (tuple(network.config.hidden_sizes), tuple(network.config.depths))
    if found != (channels, blocks):
        raise ValueError(
            f"init_from '{start}': channels {found[0]} and blocks {found[1]}, "
            f"but {model} has {channels} and {blocks}"
        )
    return network


def train_segformer(recipe: SegformerRecipe) -> Scores:
    """Train a SegFormer, write its weights, and test them; see `run_task`.

    The directory also gets scores.json: IoU and accuracy by class, the recipe and the code's
    revision. Each process keeps the fused training images in memory: 1.8 GB for FMB.

    Returns:
        IoU and accuracy of the classes that occur in the test split, by name, and their means.
    """
    return run_task("segformer", recipe, SegformerTask)


class SegformerTask(SingleTask[SegformerRecipe]):
    """Training of a SegFormer on labelled fused images."""

    def __init__(self, recipe: SegformerRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        self.training, self.test = _read_data(recipe, self.device)
        self.names = [files.name for files in self.training.files]
        self.steps = recipe.count_steps(len(self.training))
        start = data_directory() / recipe.init_from if recipe.init_from else ""
        network = build_segformer(recipe.model, self.training.class_set, start).to(self.device)
        self.network: Any = synchronize_norm(network, self.device)
        optimizer = _optimizer(self.network, recipe)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _rate(step, self.steps, recipe.warmup_ratio)
        )
        self.trained = self.learner("segformer", self.network, optimizer, schedule)

    def start(self, first: int) -> None:
        """Fuse or read the images and open their crops."""
        recipe = self.recipe
        images = list(tqdm(self.training, desc="read images", mininterval=5))
        crops = ColorCrops(images, recipe.crop, scales=recipe.scales, seed=recipe.seed)
        self.batches = self.open_batches(_NamedCrops(crops, self.names), recipe.batch_size, first)

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return the cross-entropy of the labelled pixels of the whole batch."""
        images, labels = batch.tensors
        with self.fabric.autocast():
            self.logits = self.network(normalize(images)).logits.float()
        loss = segmentation_loss(gather_over_processes(self.logits), gather_over_processes(labels))
        return Total(loss, {"cross-entropy": loss})

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return the first crop of a batch, its labels, and the network's classes."""
        images, labels = self.batches[step].tensors
        predicted = self.logits[0].detach().argmax(dim=0).byte().cpu().numpy()
        size = labels.shape[:0:-1]
        predicted = cv2.resize(predicted, size, interpolation=cv2.INTER_NEAREST)
        return {
            "fused": (images[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy(),
            "labels": color_labels(labels[0].byte().cpu().numpy(), self.training.class_set),
            "segformer": color_labels(predicted, self.training.class_set),
        }

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the network and test it."""
        network = restore_norm(self.network)
        segmenter = SegformerSegmenter(network, self.test.class_set)
        matrix = score_segmenter(segmenter, self.test, self.device)
        scores = scores_by_class(matrix, self.test.class_set)
        _save(network, Path(self.recipe.output), {"test split": scores, **origin})
        return scores


class _NamedCrops(Dataset[Sample]):
    """Crops with the names of their images."""

    def __init__(self, crops: ColorCrops, names: Sequence[str]) -> None:
        self.crops = crops
        self.names = names

    def __getitem__(self, number: int) -> Sample:
        """Draw 3 x h x w float32 RGB in [0, 1] and h x w int64 ids."""
        return Sample(self.names[self.crops.index(number)], self.crops.sample(number))


def _optimizer(network: nn.Module, recipe: SegformerRecipe) -> torch.optim.AdamW:
    """Return AdamW; the decoder learns faster, and normalisation does not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        rate = recipe.learning_rate * (recipe.decoder_lr_mult if "decode_head" in name else 1)
        decay = 0.0 if "norm" in name else recipe.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]
    )


def _read_data(recipe: SegformerRecipe, device: torch.device) -> tuple[FusedImages, FusedImages]:
    root = data_directory()
    class_set = CLASS_SETS[recipe.class_set] if recipe.class_set else None
    parts: tuple[Sequence[PairFiles], Sequence[PairFiles]]

    def folder(option: str, split: str) -> Path:
        return root / option.replace("{split}", split)

    if recipe.dataset:
        both = open_labelled_split(
            root / recipe.dataset,
            recipe.hold_out_every,
            labels=recipe.labels or None,
            class_set=class_set,
        )
        parts, class_set = (both[0].files, both[1].files), both[0].class_set
        if recipe.fused:
            parts = (
                replace_by_fused(parts[0], folder(recipe.fused, "train")),
                replace_by_fused(parts[1], folder(recipe.fused, "test")),
            )
    elif "{split}" in recipe.fused:
        parts = tuple(  # type: ignore[assignment]
            read_fused_folders(folder(recipe.fused, split), folder(recipe.labels, split))
            for split in ("train", "test")
        )
    else:
        images = read_fused_folders(root / recipe.fused, root / recipe.labels)
        parts = hold_out(images, recipe.hold_out_every)
    graph = None if recipe.fused else FusionGraph(load_model(recipe.weights)).to(device)
    assert class_set is not None
    train, test = (
        FusedImages(tuple(files), class_set, graph, recipe.ignored_labels) for files in parts
    )
    return train, test


def _rate(step: int, steps: int, warmup: float) -> float:
    """Return the share of the highest rate: rising linearly, then falling linearly to zero."""
    rising = max(1.0, warmup * steps)
    return min(1.0, (step + 1) / rising) * (1 - step / steps)


def _save(network: Any, output: Path, notes: dict[str, object]) -> None:
    """Write into a temporary directory first, then move file by file."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".") as temporary:
        network.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir()):
            path.replace(output / path.name)
    write_json(output / "scores.json", notes)
