"""Train a segmentation head on the features of a frozen student.

Each batch mixes crops of real pairs with labels (pseudo-labels where nothing
better is at hand: then the scores against them measure agreement, not truth)
and of synthetic scenes with exact labels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ivf_core.class_sets import CLASS_SETS, UNLABELED, unknown_ids
from ivf_core.data.pairs import CropSampler, Pair, hold_out, luma_of, read_pair_folder
from ivf_core.data.scenes import random_scene
from ivf_core.metrics.segmentation import ConfusionMatrix
from ivf_core.models.checkpoints import load_model, save_model
from ivf_core.models.graph import fold_batch_norm
from ivf_core.models.segmentation import LABEL_STRIDE, SegmentationHead
from ivf_core.training.batch_norm import freeze_norm
from ivf_core.training.calibration import calibrate
from ivf_core.training.losses import dice_loss, ohem_cross_entropy
from ivf_core.training.muon import OneCycleMuon
from ivf_core.training.recipes import data_directory, provenance

__all__ = ["HeadRecipe", "background_offset", "class_weights", "score_head", "train_head"]


@dataclass(frozen=True)
class HeadRecipe:
    """Training of a head on a student's features."""

    student: str
    """Weights whose student the head reads: shipped name or file."""
    output: str
    """The weights file to write: that student with the new head."""
    class_set: str = "mfnet"
    """Classes: mfnet, fmb or pst900. Synthetic scenes know mfnet only."""
    widths: tuple[int, int, int] = (56, 80, 96)
    """The head's channels at 1/4, 1/8 and 1/16; one to go on with keeps its own."""
    folder: str = "msrs"
    """Folder of labelled pairs, relative to the data directory; empty for none."""
    labels: str = "pseudo_labels"
    """Its folder of class ids."""
    confidence: str = "pseudo_confidence"
    """Its folder of confidences; empty where labels are certain."""
    minimum_confidence: float = 0.6
    """Labels below it are ignored in training."""
    hold_out_every: int = 7
    """Each n-th pair is kept out of training and scored at the end."""
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
        real = self.folder and self.real_per_batch
        if not real and not (self.scenes and self.synthetic_per_batch):
            raise ValueError(
                "there is nothing to train on: give folder and real_per_batch, "
                "or scenes and synthetic_per_batch, or all"
            )
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if min(self.crop) < 32 or any(side % LABEL_STRIDE for side in self.crop):
            raise ValueError(f"crop must be even and at least 32 x 32 pixels, got {self.crop}")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError(f"scales must be a range of positive sizes, got {self.scales}")


def train_head(recipe: HeadRecipe) -> dict[str, dict[str, float]]:
    """Run `recipe`, write its weights, and score them on what was kept out.

    The recipe and the code's revision go into the file's metadata, beside what
    the student's file says of the student.

    Returns:
        By set: IoU of each class that occurs, by name, and "mean".

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: no pairs are left to train on, or a label is not of the class set.
    """
    origin = provenance("head", recipe)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    class_set = CLASS_SETS[recipe.class_set]
    model = load_model(recipe.student)
    student = fold_batch_norm(model.student).to(device).to(memory_format=torch.channels_last)
    head = SegmentationHead(
        len(class_set), model.student.feature_channels, recipe.widths, model.student.layout
    )
    if recipe.start_from_head:
        if model.head is None or model.class_set != class_set:
            raise ValueError(f"student '{recipe.student}': has no head for '{recipe.class_set}'")
        head = copy.deepcopy(model.head).requires_grad_(True)
    head = head.to(device).to(memory_format=torch.channels_last)

    real, kept_out = _real_pairs(recipe)
    scenes = [_scene(recipe.seed, n) for n in tqdm(range(recipe.scenes), desc="draw scenes")]
    sources = [
        _crops(pairs, recipe).batches(count)
        for pairs, count in ((real, recipe.real_per_batch), (scenes, recipe.synthetic_per_batch))
        if pairs and count
    ]
    if not sources:
        raise ValueError(f"folder '{recipe.folder}': all of its pairs are kept out of training")
    weights = class_weights(real or scenes, len(class_set)).pow(recipe.balance).to(device)
    average = torch.optim.swa_utils.AveragedModel(
        head,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average_decay),
        use_buffers=True,
    )
    optimizer = OneCycleMuon(
        head, recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    for step in (progress := tqdm(range(recipe.steps), desc="head", mininterval=5)):
        head.train()
        if step >= recipe.freeze_norm_at * recipe.steps:
            freeze_norm(head)
        luma, infrared, labels = (
            torch.from_numpy(np.concatenate(parts)).to(device)
            for parts in zip(*(next(source) for source in sources), strict=True)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            with torch.no_grad():
                features = student(luma, infrared).features
            logits = head(features)
        targets = labels[:, ::LABEL_STRIDE, ::LABEL_STRIDE]
        loss = ohem_cross_entropy(
            logits.float(),
            targets,
            class_weights=weights,
            keep_probability=recipe.hard_below,
        )
        if recipe.dice:
            loss = loss + recipe.dice * dice_loss(logits.float(), targets)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is {loss.item()}")
        optimizer.step(loss)
        average.update_parameters(head)
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")

    trained = cast(SegmentationHead, copy.deepcopy(average.module).eval().requires_grad_(False))
    offset = background_offset(student, trained, [*real[::12], *scenes[:8]], device)
    trained.raise_class(0, offset)
    scores = {}
    if kept_out:
        scores[f"{recipe.folder}, {len(kept_out)} pairs kept out, against {recipe.labels}"] = (
            score_head(student, trained, kept_out, class_set.names, device)
        )
    held_out = [_scene(recipe.seed, -1 - n) for n in range(recipe.held_out_scenes)]
    if held_out:
        scores[f"{len(held_out)} synthetic scenes kept out"] = score_head(
            student, trained, held_out, class_set.names, device
        )
    save_model(
        calibrate(replace(model, head=trained.to("cpu"), class_set=class_set), [*real, *scenes]),
        recipe.output,
        head_source=f"{recipe.steps} steps on {recipe.folder} {recipe.labels} "
        f"and {recipe.scenes} synthetic scenes",
        **origin,
    )
    return scores


def class_weights(pairs: Sequence[Pair], num_classes: int) -> Tensor:
    """Weights against imbalance, 1 / ln(1.1 + p) by class share p (as in ENet), mean 1.

    Raises:
        ValueError: a label is neither below `num_classes` nor 255.
    """
    counts = np.zeros(256)
    for pair in pairs:
        if pair.labels is not None:
            counts += np.bincount(pair.labels.ravel(), minlength=256)
    if unknown := unknown_ids(counts, num_classes):
        raise ValueError(
            f"labels have ids {', '.join(map(str, unknown))}, expected 0 to {num_classes - 1}, "
            f"or {UNLABELED} for none"
        )
    share = counts[:num_classes] / max(1.0, counts[:num_classes].sum())
    weights = torch.from_numpy(1 / np.log(1.1 + share)).float()
    return weights / weights.mean()


@torch.inference_mode()
def background_offset(
    student: nn.Module, head: SegmentationHead, pairs: Sequence[Pair], device: torch.device
) -> float:
    """What to add to the logit of class 0, the rest of the world.

    Crops are placed on objects and class weights favour them, so a head meets
    far fewer objects in whole pictures than in training. The offset is the one of
    0, 0.5, ... 4 with the best mean IoU on whole pictures of the training set.
    """
    candidates = [step / 2 for step in range(9)]
    matrices = [ConfusionMatrix(head.num_classes) for _ in candidates]
    for pair in pairs:
        assert pair.labels is not None
        logits = head(student(*_to_tensors(pair, device)).features)
        height, width = logits.shape[-2:]
        truth = pair.labels[::LABEL_STRIDE, ::LABEL_STRIDE][:height, :width]
        for candidate, matrix in zip(candidates, matrices, strict=True):
            shifted = logits.clone()
            shifted[:, 0] += candidate
            matrix.update(shifted.argmax(dim=1)[0].cpu().numpy(), truth)
    scores = [matrix.mean_iou() for matrix in matrices]
    return candidates[int(np.argmax(scores))]


@torch.inference_mode()
def score_head(
    student: nn.Module,
    head: nn.Module,
    pairs: Sequence[Pair],
    names: Sequence[str],
    device: torch.device,
) -> dict[str, float]:
    """IoU by class name at the pictures' full size, and "mean" of the classes that occur."""
    matrix = ConfusionMatrix(len(names))
    for pair in pairs:
        assert pair.labels is not None
        ids = head(student(*_to_tensors(pair, device)).features).argmax(dim=1)[0].to(torch.uint8)
        height, width = pair.labels.shape
        predicted = cv2.resize(ids.cpu().numpy(), (width, height), interpolation=cv2.INTER_NEAREST)
        matrix.update(predicted, pair.labels)
    scores = {
        name: float(value)
        for name, value in zip(names, matrix.iou(), strict=True)
        if not np.isnan(value)
    }
    return {**scores, "mean": matrix.mean_iou()}


def _to_tensors(pair: Pair, device: torch.device) -> tuple[Tensor, Tensor]:
    luma, infrared = (
        torch.from_numpy(plane).to(device)[None, None].float() / 255
        for plane in (pair.luma, pair.infrared)
    )
    return luma, infrared


def _crops(pairs: Sequence[Pair], recipe: HeadRecipe) -> CropSampler:
    return CropSampler(
        pairs, recipe.crop, scales=recipe.scales, focus=recipe.focus, seed=recipe.seed
    )


def _real_pairs(recipe: HeadRecipe) -> tuple[list[Pair], list[Pair]]:
    if not recipe.folder:
        return [], []
    root = data_directory() / recipe.folder
    train, _ = hold_out(
        read_pair_folder(
            root,
            labels=recipe.labels,
            confidence=recipe.confidence or None,
            minimum_confidence=recipe.minimum_confidence,
        ),
        recipe.hold_out_every,
    )
    # Scored on every pixel, the doubtful ones too.
    _, kept_out = hold_out(read_pair_folder(root, labels=recipe.labels), recipe.hold_out_every)
    return train, kept_out


def _scene(seed: int, number: int) -> Pair:
    scene = random_scene(np.random.default_rng((seed, number & 0xFFFFFFFF)))
    return Pair(f"scene {number}", luma_of(scene.visible), scene.infrared, scene.labels)
