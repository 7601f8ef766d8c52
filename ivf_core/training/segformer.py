"""Train SegFormer on fused pictures, as SAGE (CVPR 2025, section 4.1) scores fusion by it.

The paper says: SegFormer-B3, 100 epochs, the official splits, IoU by class and in the mean.
The mean of its Table 2 (MFNet) is over all nine classes: its seven columns leave 97 to 98 % for
the unlabelled one and guardrail together. It does not say how the network is optimised, on crops
of what size, in which batches, from which weights, or whether FMB's pixels without a label count.
Here this is as in the paper of SegFormer (Xie et al., NeurIPS 2021) and its code: AdamW at 6e-5,
ten times that for the decoder, weight decay 0.01 but none for normalisation, a linear rise over
the first tenth and a linear decline to zero; batches of 8, crops of 512 x 512 from pictures at 0.5
to 2 times their size, mirrored, with varied light. The last weights are tested, once, on whole
pictures.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ivf_core.class_sets import CLASS_SETS, ClassSet
from ivf_core.data.pairs import PairFiles, hold_out
from ivf_core.images.files import write_json
from ivf_core.images.overlay import color_labels
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.models.checkpoints import load_model
from ivf_core.models.graph import FusionGraph
from ivf_core.training.labelled import (
    ColorCrops,
    FusedPictures,
    open_labelled_split,
    read_fused_folders,
    replace_by_fused,
)
from ivf_core.training.losses import segmentation_loss
from ivf_core.training.pretrained import load_pretrained, package
from ivf_core.training.recipes import data_directory, provenance
from ivf_core.training.run import RunRecord, run_directory
from ivf_core.training.segmenters import SegformerSegmenter, normalize, score_segmenter

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


@dataclass(frozen=True)
class SegformerRecipe:
    """Training of a SegFormer on fused pictures, and its score on the test split."""

    output: str
    """The directory to write: config.json, model.safetensors and scores.json."""
    dataset: str = ""
    """Data set with labels, in a layout of `ivf_core.data.datasets`, relative to the data
    directory; its splits train and test are used."""
    weights: str = "sage"
    """What fuses its pairs: shipped name, or a file."""
    fused: str = ""
    """Folder of pictures that are fused already, relative to the data directory, instead of
    `weights`; named as the pairs, or, without `dataset`, as their labels. "{split}" in it
    stands for train and test."""
    labels: str = ""
    """Folder of class ids. In a plain folder: its name there; without `dataset`: relative to
    the data directory, "{split}" as in `fused`."""
    class_set: str = ""
    """Classes of a plain folder, or without `dataset`: mfnet, fmb or pst900."""
    hold_out_every: int = 7
    """Where there are no splits, each n-th pair is kept out of training and tested on."""
    ignored_labels: tuple[int, ...] = ()
    """Classes that neither train nor count, beside 255."""
    model: str = "b3"
    """b0 to b5."""
    start: str = ""
    """Directory, relative to the data directory, of weights of the same model to start from, in
    safetensors as `save_pretrained` writes it: such as nvidia/mit-b3 (ImageNet), or
    nvidia/segformer-b3-finetuned-ade-512-512, whose classes are dropped. Random ones without."""
    epochs: int = 100
    """Passes over the training split."""
    batch_size: int = 8
    crop: tuple[int, int] = (512, 512)
    """Height and width of a crop in pixels."""
    scales: tuple[float, float] = (0.5, 2.0)
    """Pictures are resized by a factor in this range before they are cut."""
    learning_rate: float = 6e-5
    """The highest of AdamW's, for the encoder."""
    decoder_rate: float = 10.0
    """That of the decoder, as a multiple."""
    weight_decay: float = 0.01
    """Of all but normalisation."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises."""
    bfloat16: bool = True
    """Train in bfloat16; tests are in float32."""
    threads: int = 4
    """Draw crops."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in SEGFORMERS:
            raise ValueError(f"model '{self.model}', known: {', '.join(SEGFORMERS)}")
        if not self.dataset and not (self.fused and self.labels and self.class_set):
            raise ValueError("expected dataset, or fused with labels and class_set")
        if self.class_set and self.class_set not in CLASS_SETS:
            raise ValueError(f"class_set '{self.class_set}', known: {', '.join(CLASS_SETS)}")
        for name in ("epochs", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hold_out_every < 2:
            raise ValueError(f"hold_out_every must be at least 2, got {self.hold_out_every}")
        if min(self.crop) < 32:
            raise ValueError(f"crop must be at least 32 x 32 pixels, got {self.crop}")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError(f"scales must be a range of positive sizes, got {self.scales}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be in [0, 1], got {self.warmup}")


def build_segformer(model: str, class_set: ClassSet, start: str | Path = "") -> Any:
    """`transformers.SegformerForSemanticSegmentation` with a logit for each class.

    Args:
        model: one of `SEGFORMERS`.
        start: directory of weights to start from, of a classifier or of a network with other
            classes; the layers that these do not have stay random. Random ones without.

    Raises:
        PretrainedError: no such package or weights.
        ValueError: the weights are of another model.
    """
    channels, blocks, decoder = SEGFORMERS[model]
    names = dict(enumerate(class_set.names))
    options = {"id2label": names, "label2id": {name: n for n, name in names.items()}}
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
            f"start '{start}': channels {found[0]} and blocks {found[1]}, "
            f"but {model} has {channels} and {blocks}"
        )
    return network


def train_segformer(recipe: SegformerRecipe) -> tuple[ClassSet, ConfusionMatrix]:
    """Run `recipe`, write its weights, and test them.

    Into the directory goes scores.json, too: IoU and accuracy by class, the recipe and the
    code's revision; losses and pictures go into the record beside it. The fused training
    pictures are kept in memory: 1.8 GB for FMB.

    Returns:
        The classes, and the counts of the test split.

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: data or weights that are missing or do not fit.
    """
    origin = provenance("segformer", recipe)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, test = _read_data(recipe, device)
    start = data_directory() / recipe.start if recipe.start else ""
    network = build_segformer(recipe.model, training.class_set, start).to(device)
    pictures = list(tqdm(training, desc="read pictures", mininterval=5))
    steps = math.ceil(recipe.epochs * len(pictures) / recipe.batch_size)
    optimizer = _optimizer(network, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step, steps, recipe.warmup)
    )
    crops = ColorCrops(pictures, recipe.crop, scales=recipe.scales, seed=recipe.seed)
    network.train()
    batches = crops.batches(recipe.batch_size, 0, steps, recipe.threads)
    with RunRecord(
        run_directory(recipe.output), part="segformer", recipe=recipe, total_steps=steps
    ) as run:
        for step, batch in enumerate(batches):
            images, labels = (part.to(device) for part in batch)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
                logits = network(normalize(images)).logits
            loss = segmentation_loss(logits.float(), labels)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"step {step}: the loss is {loss.item()}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            run.losses(step, {"cross-entropy": loss.item()})
            if run.wants_pictures(step):
                run.pictures(step, _pictures(images[0], labels[0], logits[0], training.class_set))
        matrix = score_segmenter(SegformerSegmenter(network, test.class_set), test, device)
        _save(network, Path(recipe.output), {**_scores(matrix, test.class_set), **origin})
        classes = zip(test.class_set.names, matrix.iou().tolist(), strict=True)
        iou = {name: value for name, value in classes if not math.isnan(value)}
        run.summary({"IoU on the test split": {**iou, "mean": matrix.mean_iou()}})
    return test.class_set, matrix


def _pictures(
    image: Tensor, labels: Tensor, logits: Tensor, class_set: ClassSet
) -> dict[str, np.ndarray]:
    """A crop, its labels, and what the network makes of it, at a quarter of the size."""
    planes = (image * 255).round(), labels[None], logits.argmax(dim=0)[None]
    fused, truth, found = (x.permute(1, 2, 0).to(torch.uint8).cpu().numpy() for x in planes)
    return {
        "fused": fused,
        "labels": color_labels(truth[..., 0], class_set),
        "segformer": color_labels(found[..., 0], class_set),
    }


def _read_data(
    recipe: SegformerRecipe, device: torch.device
) -> tuple[FusedPictures, FusedPictures]:
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
        pictures = read_fused_folders(root / recipe.fused, root / recipe.labels)
        parts = hold_out(pictures, recipe.hold_out_every)
    graph = None if recipe.fused else FusionGraph(load_model(recipe.weights)).to(device)
    assert class_set is not None
    train, test = (
        FusedPictures(tuple(files), class_set, graph, recipe.ignored_labels) for files in parts
    )
    return train, test


def _optimizer(network: nn.Module, recipe: SegformerRecipe) -> torch.optim.Optimizer:
    """AdamW; the decoder learns faster, and normalisation does not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        rate = recipe.learning_rate * (recipe.decoder_rate if "decode_head" in name else 1)
        decay = 0.0 if "norm" in name else recipe.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]
    )


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the highest rate: linear up, and linear to zero at the end."""
    rising = max(1.0, warmup * steps)
    return min(1.0, (step + 1) / rising) * (1 - step / steps)


def _scores(matrix: ConfusionMatrix, class_set: ClassSet) -> dict[str, object]:
    """For JSON; None where a class is absent."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    rows = zip(class_set.names, matrix.iou(), matrix.accuracy(), strict=True)
    return {
        "classes": {
            name: {"iou": number(iou), "accuracy": number(accuracy)} for name, iou, accuracy in rows
        },
        "mean_iou": number(matrix.mean_iou()),
        "mean_accuracy": number(matrix.mean_accuracy()),
        "pixel_accuracy": number(matrix.pixel_accuracy()),
    }


def _save(network: Any, output: Path, scores: dict[str, object]) -> None:
    """Write beside the directory first, then move file by file."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".") as temporary:
        network.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir()):
            path.replace(output / path.name)
    write_json(output / "scores.json", scores)
