"""Train a segmentation head on the features of a student.

Each batch mixes crops of real pairs with labels (pseudo-labels where nothing
better is at hand: then the scores against them measure agreement, not truth)
and of synthetic scenes with exact labels. The student stays as it is, or learns
with the head and is held to what it fused before. The head can learn from a
larger segmenter, too, which sees the fused picture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ivf_core.class_sets import CLASS_SETS, ClassSet
from ivf_core.data.pairs import CropSampler, Pair, chroma_of, hold_out, luma_of, read_pair_folder
from ivf_core.images.overlay import color_labels
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.graph import fold_batch_norm, recolor_unrounded
from ivf_core.models.segmentation import LABEL_STRIDE, SegmentationHead
from ivf_core.models.student import FastStudent, FusionStudent
from ivf_core.scenes import random_scene
from ivf_core.training.losses import dice_loss, logit_distillation_loss, ohem_cross_entropy
from ivf_core.training.runs.batch_norm import freeze_norm
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.optimizers import OneCycleMuon
from ivf_core.training.runs.recipe import data_directory, provenance
from ivf_core.training.runs.record import RunRecord, run_directory
from ivf_core.training.segmentation.head_scores import (
    background_offset,
    class_weights,
    predict_labels,
    score_head,
)
from ivf_core.training.segmentation.labelled import open_labelled_split
from ivf_core.training.segmentation.segmenters import Segmenter, open_segmenter

__all__ = ["HeadRecipe", "train_head"]


@dataclass(frozen=True)
class HeadRecipe:
    """Training of a head on a student's features."""

    student: str
    """Weights whose student the head reads: shipped name or file."""
    output: str
    """The weights file to write: that student with the new head; the record of the run gets a
    folder beside it."""
    class_set: str = "mfnet"
    """Classes: mfnet, fmb or pst900. Synthetic scenes know mfnet only."""
    widths: tuple[int, int, int] = (56, 80, 96)
    """The head's channels at 1/4, 1/8 and 1/16; one to go on with keeps its own."""
    dataset: str = ""
    """Data set that has the class set, in a layout of `ivf_core.data.datasets`, relative to the
    data directory; in place of `folder`. Its split train is learned from, test is scored."""
    folder: str = "msrs"
    """Folder of labelled pairs, relative to the data directory; empty for none."""
    labels: str = "pseudo_labels"
    """Its folder of class ids."""
    confidence: str = "pseudo_confidence"
    """Its folder of confidences; empty where labels are certain."""
    minimum_confidence: float = 0.6
    """Labels below it are ignored in training."""
    hold_out_every: int = 7
    """Each n-th pair of a folder is kept out of training and scored at the end."""
    scenes: int = 300
    """Synthetic scenes, drawn once before training."""
    held_out_scenes: int = 60
    """Further ones, for the score."""
    steps: int = 12000
    """Optimizer steps."""
    real_per_batch: int = 3
    """Crops of real pairs in a batch."""
    synthetic_per_batch: int = 1
    """Crops of synthetic scenes in a batch."""
    crop: tuple[int, int] = (240, 320)
    """Height and width of a crop in pixels."""
    scales: tuple[float, float] = (0.75, 1.6)
    """Crops cover this range of sizes before they are resized."""
    focus: float = 0.5
    """Share of crops that are placed on a labelled object."""
    start_from_head: bool = False
    """Go on with the head that the student's weights file has."""
    freeze_norm_at: float = 0.3
    """Share of the steps after which BatchNorm keeps its running statistics: those of a few
    crops by day and night differ far more than what the head meets later."""
    hard_below: float = 1.0
    """Pixels count whose class has less than this probability. 1 counts all: where labels are
    another network's guesses, the hard pixels are often the wrong ones."""
    dice: float = 1.0
    """Weight of the Dice loss beside the cross-entropy: it keeps rare classes alive."""
    balance: float = 0.25
    """Exponent on the class weights of the cross-entropy: 0 counts all pixels the same,
    1 is ENet's weighting, which with so much background paints objects too large."""
    learning_rate: float = 2e-2
    """The highest of Muon's, in one cycle."""
    weight_decay: float = 1e-2
    """Of Muon and AdamW."""
    train_student: bool = False
    """Let the student learn with the head; its BatchNorm keeps its statistics."""
    student_learning_rate: float = 1e-4
    """train_student only: the highest of AdamW's, in one cycle."""
    keep_fused: float = 20.0
    """train_student only: weight of the absolute error of the fused luma against what the
    student fused before."""
    teacher_segmenter: str = ""
    """Segmenter of the same classes to learn from, as `segmenters.open_segmenter` takes it, such
    as segformer:runs/segformer_msrs. It sees what the student fused before, in colour."""
    distill: float = 1.0
    """teacher_segmenter only: weight of the divergence from its probabilities."""
    temperature: float = 2.0
    """teacher_segmenter only: the logits of both are divided by it."""
    average_decay: float = 0.999
    """Of the moving average of the weights, which is what ships."""
    bfloat16: bool = True
    """Run the networks in bfloat16; quicker where the hardware has it."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.class_set not in CLASS_SETS:
            raise ValueError(f"class_set '{self.class_set}', known: {', '.join(CLASS_SETS)}")
        if (self.scenes or self.held_out_scenes) and self.class_set != "mfnet":
            raise ValueError("scenes and held_out_scenes: these have mfnet's classes only")
        for name in ("scenes", "held_out_scenes", "real_per_batch", "synthetic_per_batch"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        real = (self.dataset or self.folder) and self.real_per_batch
        if not real and not (self.scenes and self.synthetic_per_batch):
            raise ValueError(
                "there is nothing to train on: give folder or dataset and real_per_batch, "
                "or scenes and synthetic_per_batch, or all"
            )
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if min(self.crop) < 32 or any(side % LABEL_STRIDE for side in self.crop):
            raise ValueError(f"crop must be even and at least 32 x 32 pixels, got {self.crop}")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError(f"scales must be a range of positive sizes, got {self.scales}")
        for name in ("temperature", "student_learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def train_head(recipe: HeadRecipe) -> dict[str, dict[str, float]]:
    """Run `recipe`, write its weights, and score them on what was kept out.

    The recipe and the code's revision go into the file's metadata, beside what
    the student's file says of the student; losses, pictures and scores into the record
    beside it.

    Returns:
        By set: IoU of each class that occurs, by name, and "mean".

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: no pairs are left to train on, or a label is not of the class set.
    """
    with RunRecord(
        run_directory(recipe.output), part="head", recipe=recipe, total_steps=recipe.steps
    ) as run:
        return _train_head(recipe, run)


def _train_head(recipe: HeadRecipe, run: RunRecord) -> dict[str, dict[str, float]]:
    origin = provenance("head", recipe)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    class_set = CLASS_SETS[recipe.class_set]
    model = load_model(recipe.student)
    networks = _build(model, class_set, recipe, device)
    real, kept_out = _real_pairs(recipe, class_set)
    scenes = [_scene(recipe, n) for n in tqdm(range(recipe.scenes), desc="draw scenes")]
    sources = [
        (_crops(pairs, recipe), count)
        for pairs, count in ((real, recipe.real_per_batch), (scenes, recipe.synthetic_per_batch))
        if pairs and count
    ]
    if not sources:
        raise ValueError(f"folder '{recipe.folder}': all of its pairs are kept out of training")
    weights = class_weights(real or scenes, len(class_set)).pow(recipe.balance).to(device)

    shown = next(pairs[0] for pairs in (kept_out, real, scenes) if pairs)

    def after_step(step: int, losses: Mapping[str, float]) -> None:
        run.losses(step, losses)
        if run.wants_pictures(step):
            run.pictures(step, _pictures(networks, shown, class_set, device))

    head, *learner = _learn(networks, sources, weights, recipe, device, after_step)
    head = cast(SegmentationHead, head.eval().requires_grad_(False))
    student = networks.before
    if learner:
        changed = cast(FusionStudent | FastStudent, learner[0].eval().requires_grad_(False))
        student = fold_batch_norm(changed)
        model = replace(model, student=changed.to("cpu"))
    head.raise_class(0, background_offset(student, head, [*real[::12], *scenes[:8]], device))
    scores = {}
    learned_from = recipe.dataset or f"{recipe.folder} {recipe.labels}"
    if kept_out:
        title = (
            f"{recipe.dataset}, {len(kept_out)} pairs of its test split"
            if recipe.dataset
            else f"{recipe.folder}, {len(kept_out)} pairs kept out, against {recipe.labels}"
        )
        scores[title] = score_head(student, head, kept_out, class_set.names, device)
    held_out = [_scene(recipe, -1 - n) for n in range(recipe.held_out_scenes)]
    if held_out:
        scores[f"{len(held_out)} synthetic scenes kept out"] = score_head(
            student, head, held_out, class_set.names, device
        )
    run.summary({f"IoU on {title}": table for title, table in scores.items()})
    save_model(
        calibrate(replace(model, head=head.to("cpu"), class_set=class_set), [*real, *scenes]),
        recipe.output,
        head_source=f"{recipe.steps} steps on {learned_from} and {recipe.scenes} synthetic scenes",
        **origin,
    )
    return scores


@dataclass
class _Networks:
    """Who takes part.

    Attributes:
        before: the student as it was, its BatchNorm folded; frozen.
        head: learns.
        learner: the student that learns, or None.
        teacher: a segmenter to learn from, or None.
    """

    before: nn.Module
    head: SegmentationHead
    learner: nn.Module | None = None
    teacher: Segmenter | None = None


def _build(
    model: FusionModel, class_set: ClassSet, recipe: HeadRecipe, device: torch.device
) -> _Networks:
    student = model.student
    if recipe.start_from_head:
        if model.head is None or model.class_set != class_set:
            raise ValueError(f"student '{recipe.student}': has no head for '{recipe.class_set}'")
        head = copy.deepcopy(model.head).requires_grad_(True)
    else:
        head = SegmentationHead(
            len(class_set), student.feature_channels, recipe.widths, student.layout
        )
    networks = _Networks(fold_batch_norm(student), head)
    if recipe.train_student:
        networks.learner = copy.deepcopy(student).requires_grad_(True)
    for network in (networks.before, networks.head, networks.learner):
        if network is not None:
            network.to(device).to(memory_format=torch.channels_last)
    if recipe.teacher_segmenter:
        networks.teacher = open_segmenter(recipe.teacher_segmenter, class_set).to(device)
    return networks


def _learn(
    networks: _Networks,
    sources: Sequence[tuple[CropSampler, int]],
    weights: Tensor,
    recipe: HeadRecipe,
    device: torch.device,
    after_step: Callable[[int, Mapping[str, float]], None],
) -> nn.ModuleList:
    """Take the steps; returns the moving averages of the head and of the student that learns."""
    head, learner = networks.head, networks.learner
    learning = nn.ModuleList([head] if learner is None else [head, learner])
    average = torch.optim.swa_utils.AveragedModel(
        learning,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average_decay),
        use_buffers=True,
    )
    optimizer = OneCycleMuon(
        head, recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    students = None if learner is None else _StudentSteps(learner, recipe)
    for step in range(recipe.steps):
        head.train()
        if step >= recipe.freeze_norm_at * recipe.steps:
            freeze_norm(head)
        batch = _Batch(*(part.to(device) for part in _draw(sources)))
        losses = _losses(networks, batch, weights, recipe)
        loss = torch.stack([*losses.values()]).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is {loss.item()}")
        optimizer.step(loss)
        if students is not None:
            students.step()
        average.update_parameters(learning)
        after_step(step, {name: part.item() for name, part in losses.items()})
    return cast(nn.ModuleList, average.module)


class _StudentSteps:
    """AdamW in one cycle, down the gradients that the head's step has left."""

    def __init__(self, student: nn.Module, recipe: HeadRecipe) -> None:
        highest = recipe.student_learning_rate
        self._optimizer = torch.optim.AdamW(student.parameters(), highest)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, highest, total_steps=max(recipe.steps, 20), cycle_momentum=False
        )

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()


class _Batch(NamedTuple):
    """Crops.

    Attributes:
        luma, infrared: N x 1 x H x W float32 in [0, 1].
        labels: N x H x W int64.
        chroma: Cr and Cb, N x 2 x H x W float32 in 0..255; N x 0 x H x W of pairs without.
    """

    luma: Tensor
    infrared: Tensor
    labels: Tensor
    chroma: Tensor


def _draw(sources: Sequence[tuple[CropSampler, int]]) -> _Batch:
    crops = [sampler.crop() for sampler, count in sources for _ in range(count)]
    luma, infrared, labels, _, chroma = (
        torch.from_numpy(np.stack(planes)) for planes in zip(*crops, strict=True)
    )
    return _Batch(luma[:, None], infrared[:, None], labels.long(), chroma.float())


def _losses(
    networks: _Networks, batch: _Batch, weights: Tensor, recipe: HeadRecipe
) -> dict[str, Tensor]:
    """The parts of the loss, weighted."""
    luma, infrared, labels, chroma = batch
    losses = {}
    with torch.autocast(luma.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        with torch.no_grad():
            before = networks.before(luma, infrared)
        features = before.features
        if networks.learner is not None:
            out = networks.learner(luma, infrared)
            features = out.features
            error = F.l1_loss(out.fused.float(), before.fused.float())
            losses["fused"] = recipe.keep_fused * error
        logits = networks.head(features).float()
        if networks.teacher is not None:
            with torch.no_grad():
                picture = recolor_unrounded(before.fused.float(), *chroma.split(1, dim=1))
                wanted = networks.teacher(picture.clamp(0, 1)).float()
    targets = labels[:, ::LABEL_STRIDE, ::LABEL_STRIDE]
    losses["cross-entropy"] = ohem_cross_entropy(
        logits, targets, class_weights=weights, keep_probability=recipe.hard_below
    )
    if recipe.dice:
        losses["dice"] = recipe.dice * dice_loss(logits, targets)
    if networks.teacher is not None:
        divergence = logit_distillation_loss(logits, wanted, temperature=recipe.temperature)
        losses["distillation"] = recipe.distill * divergence
    return losses


def _pictures(
    networks: _Networks, pair: Pair, class_set: ClassSet, device: torch.device
) -> dict[str, np.ndarray]:
    """Both planes of a whole pair, its labels, and what the head makes of it."""
    assert pair.labels is not None
    networks.head.eval()
    found = predict_labels(networks.learner or networks.before, networks.head, pair, device)
    return {
        "visible": pair.luma,
        "infrared": pair.infrared,
        "labels": color_labels(pair.labels, class_set),
        "head": color_labels(found, class_set),
    }


def _crops(pairs: Sequence[Pair], recipe: HeadRecipe) -> CropSampler:
    return CropSampler(
        pairs, recipe.crop, scales=recipe.scales, focus=recipe.focus, seed=recipe.seed
    )


def _real_pairs(recipe: HeadRecipe, class_set: ClassSet) -> tuple[Sequence[Pair], Sequence[Pair]]:
    color = bool(recipe.teacher_segmenter)
    if recipe.dataset:
        root = data_directory() / recipe.dataset
        published, scored = open_labelled_split(root, recipe.hold_out_every)
        if published.class_set != class_set:
            raise ValueError(
                f"dataset '{recipe.dataset}': has the classes of "
                f"'{published.class_set.name if published.class_set else None}', "
                f"but class_set is '{recipe.class_set}'"
            )
        return [files.read(class_set, color=color) for files in published.files], scored
    if not recipe.folder:
        return [], []
    root = data_directory() / recipe.folder
    train, _ = hold_out(
        read_pair_folder(
            root,
            labels=recipe.labels,
            confidence=recipe.confidence or None,
            minimum_confidence=recipe.minimum_confidence,
            color=color,
        ),
        recipe.hold_out_every,
    )
    # Scored on every pixel, the doubtful ones too.
    _, kept_out = hold_out(read_pair_folder(root, labels=recipe.labels), recipe.hold_out_every)
    return train, kept_out


def _scene(recipe: HeadRecipe, number: int) -> Pair:
    scene = random_scene(np.random.default_rng((recipe.seed, number & 0xFFFFFFFF)))
    chroma = chroma_of(scene.visible) if recipe.teacher_segmenter else None
    return Pair(
        f"scene {number}", luma_of(scene.visible), scene.infrared, scene.labels, chroma=chroma
    )
