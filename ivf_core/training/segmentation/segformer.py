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

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ivf_core.class_sets import CLASS_SETS, ClassSet
from ivf_core.data.pairs import PairFiles, hold_out
from ivf_core.images.overlay import color_labels
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.models.checkpoints import load_model
from ivf_core.models.graph import FusionGraph
from ivf_core.system.atomic import write_json
from ivf_core.training.losses import segmentation_loss
from ivf_core.training.runs.batch_norm import synchronize_norm
from ivf_core.training.runs.checkpoint import RunState, Trained
from ivf_core.training.runs.devices import average_over_processes, start_fabric
from ivf_core.training.runs.recipe import data_directory, provenance
from ivf_core.training.runs.record import RunRecord, run_directory
from ivf_core.training.segmentation.labelled import (
    ColorCrops,
    FusedPictures,
    open_labelled_split,
    read_fused_folders,
    replace_by_fused,
)
from ivf_core.training.segmentation.pretrained import load_pretrained, package
from ivf_core.training.segmentation.segmenters import SegformerSegmenter, normalize, score_segmenter

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
    """The directory to write: config.json, model.safetensors and scores.json. Checkpoint, curves
    and pictures lie in another beside it (`run.run_directory`)."""
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
    """Crops of a batch, those of all processes together."""
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
    threads: int = 4
    """Threads that draw crops, in each process."""
    devices: int = 1
    """Processes of each node, one for each GPU where there are any."""
    nodes: int = 1
    """Machines; torchrun starts them."""
    accelerator: str = "auto"
    """auto takes GPUs where there are any; cpu or cuda."""
    precision: str = "32-true"
    """32-true, or bf16-mixed: the network trains in bfloat16. Tests are in float32."""
    checkpoint_every: int = 1000
    """Steps from one checkpoint to the next."""
    resume: bool = False
    """Go on with the checkpoint of a run that was interrupted, or start where there is none."""
    seed: int = 0

    # What may differ when a run is gone on with.
    FREE: ClassVar[tuple[str, ...]] = ("threads", "checkpoint_every", "resume")

    def __post_init__(self) -> None:
        if self.model not in SEGFORMERS:
            raise ValueError(f"model '{self.model}', known: {', '.join(SEGFORMERS)}")
        if not self.dataset and not (self.fused and self.labels and self.class_set):
            raise ValueError("expected dataset, or fused with labels and class_set")
        if self.class_set and self.class_set not in CLASS_SETS:
            raise ValueError(f"class_set '{self.class_set}', known: {', '.join(CLASS_SETS)}")
        for name in ("epochs", "batch_size", "threads", "devices", "nodes", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % (self.devices * self.nodes):
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of {self.devices} devices on "
                f"{self.nodes} nodes"
            )
        if self.accelerator not in ("auto", "cpu", "cuda"):
            raise ValueError(f"accelerator '{self.accelerator}', known: auto, cpu, cuda")
        if self.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(f"precision '{self.precision}', known: 32-true, bf16-mixed")
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


def train_segformer(recipe: SegformerRecipe) -> dict[str, dict[str, float]]:
    """Run `recipe`, write its weights, and test them.

    Into the directory goes scores.json, too: IoU and accuracy by class, the recipe and the
    code's revision. Each process keeps the fused training pictures in memory: 1.8 GB for FMB.

    Returns:
        IoU and accuracy of the classes that occur in the test split, by name, and "mean"; in
        the first process, in others nothing.

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: data, weights, devices or a checkpoint are not as the recipe says.
    """
    fabric = start_fabric(recipe)
    origin = provenance("segformer", recipe)
    torch.manual_seed(recipe.seed)
    training, test = _read_data(recipe, fabric.device)
    start = data_directory() / recipe.start if recipe.start else ""
    network = build_segformer(recipe.model, training.class_set, start).to(fabric.device)
    steps = math.ceil(recipe.epochs * len(training) / recipe.batch_size)
    learner = _Learner(network, recipe, steps)
    directory = run_directory(recipe.output)
    names = [files.name for files in training.files]
    state = RunState(
        directory / "checkpoint.pt",
        {**dataclasses.asdict(recipe), "pictures": names},
        {"segformer": learner},
        recipe.FREE,
    )
    if not recipe.resume:
        state.refuse_leftover()
    first = state.restore() if recipe.resume else 0
    with RunRecord(
        directory,
        part="segformer",
        recipe=recipe,
        total_steps=steps,
        first_step=first,
        enabled=fabric.is_global_zero,
    ) as run:
        pictures = list(tqdm(training, desc="read pictures", mininterval=5))
        crops = ColorCrops(pictures, recipe.crop, scales=recipe.scales, seed=recipe.seed)
        batches = crops.batches(
            recipe.batch_size,
            first,
            steps,
            rank=fabric.global_rank,
            processes=fabric.world_size,
            threads=recipe.threads,
        )
        for step, batch in enumerate(batches, first):
            images, labels = (part.to(fabric.device) for part in batch)
            with fabric.autocast():
                logits = learner.network(normalize(images)).logits.float()
            loss = learner.descend(segmentation_loss(logits, labels), step)
            run.losses(step, {"cross-entropy": loss})
            if run.wants_pictures(step):
                run.pictures(step, _pictures(images, labels, logits, training.class_set))
            if run.enabled and ((step + 1) % recipe.checkpoint_every == 0 or step + 1 == steps):
                state.save(step + 1)
        if not fabric.is_global_zero:
            return {}
        segmenter = SegformerSegmenter(learner.network, test.class_set)
        matrix = score_segmenter(segmenter, test, fabric.device)
        scores = _scores(matrix, test.class_set)
        _save(learner.network, Path(recipe.output), {"test split": scores, **origin})
        run.summary(scores)
    state.remove()
    return scores


class _Learner(Trained):
    """A SegFormer with its AdamW, and the rate's way up and down.

    The decoder learns faster, and normalisation does not decay. BatchNorm, which the decoder
    has one of, and gradients are those of all processes together.
    """

    def __init__(self, network: nn.Module, recipe: SegformerRecipe, steps: int) -> None:
        device = next(network.parameters()).device
        if recipe.devices * recipe.nodes > 1:
            network = synchronize_norm(network, device)
        self.network: Any = network.train()
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            rate = recipe.learning_rate * (recipe.decoder_rate if "decode_head" in name else 1)
            decay = 0.0 if "norm" in name else recipe.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "lr": rate, "weight_decay": decay}
                for (rate, decay), parameters in groups.items()
            ]
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _rate(step, steps, recipe.warmup)
        )

    def descend(self, loss: Tensor, step: int) -> float:
        """Take a step; returns the loss, the mean of all processes.

        Raises:
            FloatingPointError: it is not finite; the weights are those of the step before.
        """
        self.optimizer.zero_grad()
        loss.backward()
        value = loss.detach().clone()
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        average_over_processes([*gradients, value])
        if not torch.isfinite(value):
            raise FloatingPointError(f"step {step}: the loss is {value.item()}")
        self.optimizer.step()
        self.schedule.step()
        return value.item()


def _pictures(
    images: Tensor, labels: Tensor, logits: Tensor, class_set: ClassSet
) -> dict[str, np.ndarray]:
    """The first crop of a batch, its labels, and what the network took it for."""
    predicted = logits[0].detach().argmax(dim=0).byte().cpu().numpy()
    size = labels.shape[:0:-1]
    predicted = cv2.resize(predicted, size, interpolation=cv2.INTER_NEAREST)
    return {
        "fused": (images[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy(),
        "labels": color_labels(labels[0].byte().cpu().numpy(), class_set),
        "segformer": color_labels(predicted, class_set),
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


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the highest rate: linear up, and linear to zero at the end."""
    rising = max(1.0, warmup * steps)
    return min(1.0, (step + 1) / rising) * (1 - step / steps)


def _scores(matrix: ConfusionMatrix, class_set: ClassSet) -> dict[str, dict[str, float]]:
    """By title and class; without classes that do not occur."""

    def named(values: np.ndarray, mean: float) -> dict[str, float]:
        found = zip(class_set.names, values.tolist(), strict=True)
        return {**{name: value for name, value in found if not math.isnan(value)}, "mean": mean}

    return {
        "IoU on the test split": named(matrix.iou(), matrix.mean_iou()),
        "accuracy on the test split": {
            **named(matrix.accuracy(), matrix.mean_accuracy()),
            "of all pixels": matrix.pixel_accuracy(),
        },
    }


def _save(network: Any, output: Path, notes: dict[str, object]) -> None:
    """Write beside the directory first, then move file by file."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".") as temporary:
        network.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir()):
            path.replace(output / path.name)
    write_json(output / "scores.json", notes)
