"""Training of a segmentation head on the features of a student.

Each batch mixes crops of real pairs with labels (pseudo-labels if there are no better ones: then
the scores against them measure agreement, not accuracy) and of synthetic scenes with exact
labels. The student is frozen, or learns with the head and is held to its fused luma before
training. The head can also learn from a larger segmenter, which sees the fused image, or from the
cached answers of a network that sees both cameras; then pairs without labels help, too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ivf_core.class_sets import CLASS_SETS, ClassSet
from ivf_core.data.datasets import open_unlabelled
from ivf_core.data.pairs import (
    Pair,
    PairFiles,
    chroma_of,
    hold_out,
    list_pair_files,
    luma_of,
    read_pair_folder,
)
from ivf_core.images.overlay import color_labels
from ivf_core.models.checkpoints import load_model, save_model
from ivf_core.models.color import recolor_unrounded
from ivf_core.models.graph import fold_batch_norm
from ivf_core.models.interface import LABEL_STRIDE
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.street import StreetStudent
from ivf_core.scenes import random_scene
from ivf_core.training.losses import (
    Total,
    dice_loss,
    logit_distillation_loss,
    ohem_cross_entropy,
    soft_label_loss,
)
from ivf_core.training.runs.batch_norm import restore_norm, synchronize_norm, train_mode
from ivf_core.training.runs.batches import Batch, PairCrops
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.devices import gather_over_processes
from ivf_core.training.runs.loop import Scores, SingleTask, StepGuard, run_task
from ivf_core.training.runs.optimizers import MuonAdamW, muon_groups, one_cycle
from ivf_core.training.runs.options import FORMER_PRECISIONS, PRECISIONS, RunOptions
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.segmentation.cached_teacher import (
    CachedTeacher,
    agreement,
    answer_labels,
)
from ivf_core.training.segmentation.head_crops import Slot, SlotCrops
from ivf_core.training.segmentation.head_scores import (
    background_offset,
    class_weights,
    predict_labels,
    score_head,
)
from ivf_core.training.segmentation.labelled import check_disjoint, open_labelled_split
from ivf_core.training.segmentation.logit_cache import LOGIT_STRIDE
from ivf_core.training.segmentation.segmenters import Segmenter, open_segmenter

__all__ = ["HeadRecipe", "train_head"]


@dataclass(frozen=True, kw_only=True)
class HeadRecipe(RunOptions):
    """Training of a head on a student's features."""

    student: str = option(nonempty=True)
    """Weights whose student the head reads: shipped name or file."""
    class_set: str = option("mfnet", choices=CLASS_SETS)
    """Classes: mfnet, fmb or pst900. Synthetic scenes have those of mfnet only."""
    widths: tuple[int, int, int] = option((56, 80, 96), minimum=1)
    """Channels of the head at 1/4, 1/8 and 1/16 of the size; an existing head keeps its own."""
    dataset: str = ""
    """Data set that has the class set, in a layout of `ivf_core.data.datasets`, relative to the
    data directory; instead of `folder`. The head learns from its split train, test is scored."""
    folder: str = "msrs"
    """Folder of labelled pairs, relative to the data directory; empty for none."""
    labels: str = "pseudo_labels"
    """Name of the folder of class ids in `folder`."""
    confidence: str = "pseudo_confidence"
    """Name of the folder of confidences in `folder`; empty if labels are certain."""
    confidence_threshold: float = option(0.6, minimum=0, maximum=1, former="minimum_confidence")
    """Labels of less confidence are ignored in training."""
    hold_out_every: int = option(7, minimum=2)
    """Every n-th pair of a folder is held out and scored at the end."""
    scenes: int = option(300, minimum=0)
    """Number of synthetic scenes, drawn once before training."""
    held_out_scenes: int = option(60, minimum=0)
    """Number of further synthetic scenes that are scored."""
    steps: int = option(12000, minimum=0)
    """Optimizer steps of the run; give this or `epochs`, and 0 for the other."""
    real_per_batch: int = option(3, minimum=0)
    """Crops of real pairs in a batch, of all processes together."""
    synthetic_per_batch: int = option(1, minimum=0)
    """Crops of synthetic scenes in a batch, of all processes together."""
    crop: tuple[int, int] = option((240, 320), minimum=32, multiple_of=LABEL_STRIDE)
    """Height and width of a crop in pixels."""
    scales: tuple[float, float] = option((0.75, 1.6), above=0, ascending=True)
    """Range of the size of a crop, relative to `crop`, before it is resized."""
    foreground_probability: float = option(0.5, minimum=0, maximum=1, former="focus")
    """Share of crops that are placed on a labelled object."""
    finetune_head: bool = option(False, former="start_from_head")
    """Start from the head in the student's weights file."""
    freeze_norm_at: float = option(0.3, minimum=0, maximum=1)
    """Share of the steps after which BatchNorm keeps its running statistics: those of a few
    crops by day and night differ far more than what the head meets later."""
    ohem_threshold: float = option(1.0, minimum=0, maximum=1, former="hard_below")
    """Pixels count if the probability of their class is at most this. 1 counts all: if labels
    are predictions of another network, the hard pixels are often the wrong ones."""
    dice_weight: float = option(1.0, minimum=0, former="dice")
    """Weight of the Dice loss beside the cross-entropy: it keeps rare classes alive."""
    class_weight_exponent: float = option(0.25, minimum=0, former="balance")
    """Exponent on the class weights of the cross-entropy: 0 counts all pixels the same, 1 is
    ENet's weighting, which with so much background paints objects too large."""
    learning_rate: float = option(2e-2, above=0)
    """Highest learning rate of Muon, in one cycle."""
    weight_decay: float = option(1e-2, minimum=0)
    """Weight decay of Muon and AdamW."""
    train_student: bool = False
    """Train the student with the head; its BatchNorm keeps its statistics."""
    student_learning_rate: float = option(1e-4, above=0)
    """train_student only: highest learning rate of the student's AdamW, in one cycle."""
    fused_weight: float = option(20.0, minimum=0, former="keep_fused")
    """train_student only: weight of the absolute error of the fused luma against that of the
    student before training."""
    teacher_segmenter: str = ""
    """Segmenter of the same classes to learn from, as `segmenters.open_segmenter` takes it, such
    as segformer:runs/segformer_msrs. It sees the fused image of the student before training."""
    teacher_logits: str = ""
    """Network that segments pairs, which sees both cameras, instead of `teacher_segmenter`:
    KIND:FILE, such as sartm:runs/sartm.safetensors, which `ivf train head` then asks about all
    pairs first; or the folder of the answers that `ivf train logits` reported, or a pattern such
    as runs/logits/sartm-*. Its classes are mapped onto `class_set` if they are others."""
    teacher_confidence_threshold: float = option(0.0, minimum=0, maximum=1)
    """teacher_logits only: answers whose largest probability is smaller are ignored."""
    distillation_weight: float = option(1.0, minimum=0, former="distill")
    """With a teacher: weight of the divergence from its probabilities."""
    temperature: float = option(2.0, above=0)
    """With a teacher: divisor of both networks' logits."""
    unlabelled: tuple[str, ...] = ()
    """With a teacher: data sets relative to the data directory whose pairs join the training
    without their labels, if they have any; of those with splits, the split train."""
    unlabelled_per_batch: int = option(2, minimum=0)
    """Crops of pairs of `unlabelled` in a batch, of all processes together."""
    ema_decay: float = option(0.999, minimum=0, maximum=1, former="average_decay")
    """Decay of the exponential moving average of the weights, which is what is written."""
    precision: str = option(
        "bf16", choices=PRECISIONS, former="bfloat16", former_values=FORMER_PRECISIONS
    )
    """Arithmetic of the networks: fp32, bf16, or fp16 (GPU only). Weights and losses are always
    fp32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_size:
            raise ValueError(
                "there is nothing to train on: give folder or dataset and real_per_batch, "
                "or scenes and synthetic_per_batch, or all"
            )
        if self.teacher_logits and self.teacher_segmenter:
            raise ValueError("teacher_logits and teacher_segmenter exclude each other")
        if self.unlabelled and not (self.teacher_logits or self.teacher_segmenter):
            raise ValueError("unlabelled needs teacher_logits or teacher_segmenter to learn from")
        if self.teacher_logits and any(side % LOGIT_STRIDE for side in self.crop):
            raise ValueError(f"crop is {self.crop}, expected multiples of {LOGIT_STRIDE}")
        if (self.scenes or self.held_out_scenes) and self.class_set != "mfnet":
            raise ValueError("scenes and held_out_scenes: these have mfnet's classes only")

    @property
    def batch_size(self) -> int:
        """Crops of a batch, of all processes together."""
        real = self.real_per_batch if self.dataset or self.folder else 0
        unlabelled = self.unlabelled_per_batch if self.unlabelled else 0
        return real + unlabelled + (self.synthetic_per_batch if self.scenes else 0)


def train_head(
    recipe: HeadRecipe, prepare: Callable[[HeadRecipe, Any], HeadRecipe] | None = None
) -> Scores:
    """Train a head, write it with its student, and score it on held-out pairs; see `run_task`.

    Metadata of the student's file are kept.

    Args:
        recipe: options.
        prepare: see `run_task`; `ivf_core.training.teacher_logits.ask_for_head` asks a teacher
            that is given as KIND:FILE.

    Returns:
        IoU of each class that occurs, by name, and "mean", by the title of their table. Agreement
        with a teacher has a table of its own.
    """
    return run_task("head", recipe, HeadTask, prepare)


class HeadTask(SingleTask[HeadRecipe]):
    """Training of a head, alone or with its student.

    Attributes:
        before: student before training, its BatchNorm folded; frozen.
        head: learns.
        student: learns with the head, or None.
        teacher: segmenter to learn from, or None.
        cached: pair teacher whose answers the head learns from, or None.
        average: moving average of the head and, if it learns, of the student.
    """

    def __init__(self, recipe: HeadRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        self.class_set = CLASS_SETS[recipe.class_set]
        self.model = load_model(recipe.student)
        self.before = self._place(fold_batch_norm(self.model.student))
        self.head = self._place(synchronize_norm(self._new_head(), self.device))
        self.student: nn.Module | None = None
        if recipe.train_student:
            self.student = self._place(copy.deepcopy(self.model.student).requires_grad_(True))
        self.data = _read_pairs(recipe, self.class_set)
        self.real, self.held_out = self.data.real, self.data.held_out
        self.names = [pair.name for pair in (*self.real, *self.data.unlabelled)]
        drawn = len(self.real) * (recipe.real_per_batch > 0)
        drawn += recipe.scenes * (recipe.synthetic_per_batch > 0)
        drawn += len(self.data.unlabelled) * (recipe.unlabelled_per_batch > 0)
        self.steps = recipe.count_steps(drawn)
        self._learn()

    def _new_head(self) -> SegmentationHead:
        recipe, student = self.recipe, self.model.student
        if isinstance(student, StreetStudent):
            raise ValueError(
                f"student '{recipe.student}': its head shares its layers: use ivf train joint"
            )
        if not recipe.finetune_head:
            channels, layout = student.feature_channels, student.layout
            return SegmentationHead(len(self.class_set), channels, recipe.widths, layout)
        if self.model.head is None or self.model.class_set != self.class_set:
            raise ValueError(f"student '{recipe.student}': has no head for '{recipe.class_set}'")
        assert isinstance(self.model.head, SegmentationHead)
        return copy.deepcopy(self.model.head).requires_grad_(True)

    def _place(self, network: Any) -> Any:
        return network.to(self.device).to(memory_format=torch.channels_last)

    def _learn(self) -> None:
        """Build the learner of the head and, if it learns, of the student."""
        recipe = self.recipe
        self.learning = nn.ModuleList([self.head])
        groups = muon_groups(self.head, recipe.learning_rate, weight_decay=recipe.weight_decay)
        rises = [0.1] * len(groups)
        if self.student is not None:
            self.learning.append(self.student)
            parameters = list(self.student.parameters())
            groups.append({"params": parameters, "lr": recipe.student_learning_rate})
            rises.append(0.3)
        optimizer = MuonAdamW(groups)
        schedule = one_cycle(optimizer, self.steps, rises)
        self.trained = self.learner("head", self.learning, optimizer, schedule, max_norm=5.0)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.learning,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay),
            use_buffers=True,
        )
        self.parts["average"] = self.average

    def start(self, first: int) -> None:
        """Draw synthetic scenes, open the teacher and the crops."""
        recipe, data = self.recipe, self.data
        numbers = tqdm(range(recipe.scenes), desc="draw scenes")
        self.scenes = [_scene(recipe, number) for number in numbers]
        self._open_teacher()
        slots = []
        for pairs, files, count in (
            (self.real, data.files, recipe.real_per_batch),
            (self.scenes, (), recipe.synthetic_per_batch),
            (data.unlabelled, data.unlabelled_files, recipe.unlabelled_per_batch),
        ):
            if pairs and count:
                slots += [self._slot(pairs, files)] * count
        if not slots:
            raise ValueError(f"folder '{recipe.folder}': all of its pairs are held out")
        labelled = self.real or self.scenes
        weights = class_weights(labelled, len(self.class_set)).pow(recipe.class_weight_exponent)
        self.class_weights = weights.to(self.device)
        known = (self.held_out, labelled, data.unlabelled)
        self.shown = next(pairs[0] for pairs in known if pairs)
        classes = len(self.class_set) if self.cached else 0
        self.batches = self.open_batches(SlotCrops(slots, classes), len(slots), first)

    def _open_teacher(self) -> None:
        """Open the segmenter, or the cache of a pair teacher's answers to held-out pairs."""
        recipe = self.recipe
        self.teacher: Segmenter | None = None
        self.cached: CachedTeacher | None = None
        self.held_out_answers: dict[str, np.ndarray] = {}
        if recipe.teacher_segmenter:
            teacher = open_segmenter(recipe.teacher_segmenter, self.class_set)
            self.teacher = teacher.to(self.device)
        if recipe.teacher_logits:
            threshold = recipe.teacher_confidence_threshold
            self.cached = CachedTeacher(recipe.teacher_logits, self.class_set, threshold)
            self.held_out_answers = self.cached.find_all(self.data.held_out_files)

    def _slot(self, pairs: Sequence[Pair], files: Sequence[PairFiles]) -> Slot:
        """Return crops of pairs, with the teacher's answers to those that have files."""
        recipe = self.recipe
        crops = PairCrops(
            pairs,
            recipe.crop,
            seed=recipe.seed,
            scales=recipe.scales,
            focus=recipe.foreground_probability,
            stuff=self.class_set.stuff,
        )
        return Slot(crops, self.cached.read_all(files) if self.cached else {})

    def set_modes(self, step: int) -> None:
        """Set training mode, and freeze BatchNorm of the head in later steps."""
        train_mode(self.head, step, self.recipe.freeze_norm_at * self.steps)

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return the weighted parts of the loss; those of labels are of the whole batch."""
        recipe = self.recipe
        luma, infrared, labels, chroma, shares = batch.tensors
        losses = {}
        with self.fabric.autocast():
            with torch.no_grad():
                before = self.before(luma, infrared)
            features = before.features
            if self.student is not None:
                out = self.student(luma, infrared)
                features = out.features
                error = F.l1_loss(out.fused.float(), before.fused.float())
                losses["fused"] = recipe.fused_weight * error
            logits = gather_over_processes(self.head(features).float())
        targets = gather_over_processes(labels[:, ::LABEL_STRIDE, ::LABEL_STRIDE])
        losses["cross-entropy"] = ohem_cross_entropy(
            logits,
            targets,
            class_weights=self.class_weights,
            keep_probability=recipe.ohem_threshold,
        )
        if recipe.dice_weight:
            losses["dice"] = recipe.dice_weight * dice_loss(logits, targets)
        if self.teacher is not None:
            wanted = gather_over_processes(self._teach(before.fused, chroma))
            divergence = logit_distillation_loss(logits, wanted, temperature=recipe.temperature)
            losses["distillation"] = recipe.distillation_weight * divergence
        if self.cached is not None:
            divergence = soft_label_loss(
                logits, gather_over_processes(shares), temperature=recipe.temperature
            )
            losses["distillation"] = recipe.distillation_weight * divergence
        return Total(torch.stack([*losses.values()]).sum(), losses)

    @torch.no_grad()
    def _teach(self, fused: Tensor, chroma: Tensor) -> Tensor:
        """Return the segmenter's logits of fused luma in its colours."""
        assert self.teacher is not None
        with self.fabric.autocast():
            image = recolor_unrounded(fused.float(), *chroma.split(1, dim=1))
            return self.teacher(image.clamp(0, 1)).float()

    def update(self, step: int) -> dict[str, float]:
        """Take a step and update the moving average."""
        losses = super().update(step)
        self.average.update_parameters(self.learning)
        return losses

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return both sources of a whole pair, labels, the teacher's classes and the head's."""
        pair = self.shown
        student = self.before if self.student is None else self.student
        masks = {"head": predict_labels(student, self.head.eval(), pair, self.device)}
        if (answer := self.held_out_answers.get(pair.name)) is not None:
            masks = {"teacher": answer_labels(answer, pair.luma.shape), **masks}
        if pair.labels is not None:
            masks = {"labels": pair.labels, **masks}
        colored = {name: color_labels(ids, self.class_set) for name, ids in masks.items()}
        return {"visible": pair.luma, "infrared": pair.infrared, **colored}

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the average of the head, with its student, and score both."""
        recipe = self.recipe
        average: Any = restore_norm(self.average.module).eval().requires_grad_(False)
        head, *changed = average
        student = fold_batch_norm(changed[0]) if changed else self.before
        model = replace(self.model, student=changed[0].to("cpu")) if changed else self.model
        shown = [*self.real[::12], *self.scenes[:8]]
        background = self.class_set.background
        if background is not None and shown:
            offset = background_offset(student, head, shown, background, self.device)
            head.raise_class(background, offset)
        scores = self._scores(student, head)
        data = recipe.dataset or f"{recipe.folder} {recipe.labels}"
        source = f"{self.steps} steps on {data} and {recipe.scenes} synthetic scenes"
        if recipe.unlabelled:
            source += f", and on {', '.join(recipe.unlabelled)} without labels"
        if self.cached is not None:
            origin = {**origin, "head_teacher": self.cached.origin}
        model = replace(model, head=head.to("cpu"), class_set=self.class_set)
        pairs = [*self.real, *self.scenes] or self.data.unlabelled
        save_model(
            calibrate(model, pairs).model,
            recipe.output,
            head_source=source,
            **origin,
        )
        return scores

    def _scores(self, student: nn.Module, head: nn.Module) -> Scores:
        recipe = self.recipe
        count = len(self.held_out)
        title = f"{recipe.folder}, {count} held-out pairs, against {recipe.labels}"
        if recipe.dataset:
            title = f"{recipe.dataset}, {count} pairs of its test split"
        scenes = [_scene(recipe, -1 - number) for number in range(recipe.held_out_scenes)]
        names = self.class_set.names
        sets = {title: self.held_out, f"{len(scenes)} held-out synthetic scenes": scenes}
        scores = {
            f"IoU on {name}": score_head(student, head, pairs, names, self.device)
            for name, pairs in sets.items()
            if pairs
        }
        if self.cached is not None and self.held_out_answers:
            title = self.cached.agreement_title(f"{len(self.held_out_answers)} held-out pairs")
            scores[title] = agreement(self._compared(student, head), self.class_set)
        return scores

    def _compared(
        self, student: nn.Module, head: nn.Module
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the head's classes of held-out pairs, and the teacher's answers."""
        for pair in self.held_out:
            if (answer := self.held_out_answers.get(pair.name)) is not None:
                yield predict_labels(student, head, pair, self.device), answer


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a run, and the paths of their images.

    Attributes:
        real, files: to train on, with labels.
        held_out, held_out_files: to score.
        unlabelled, unlabelled_files: to train on without labels.
    """

    real: Sequence[Pair] = ()
    held_out: Sequence[Pair] = ()
    files: Sequence[PairFiles] = ()
    held_out_files: Sequence[PairFiles] = ()
    unlabelled: Sequence[Pair] = ()
    unlabelled_files: Sequence[PairFiles] = ()


def _read_pairs(recipe: HeadRecipe, class_set: ClassSet) -> _Pairs:
    """Read the pairs to train on, and open those that are held out."""
    pairs = _real_pairs(recipe, class_set)
    files = [
        replace(entry, name=f"{folder}/{entry.name}", labels=None)
        for folder in recipe.unlabelled
        for entry in open_unlabelled(data_directory() / folder).files
    ]
    check_disjoint(files, pairs.held_out_files)
    color = bool(recipe.teacher_segmenter)
    unlabelled = [entry.read(color=color) for entry in files]
    return replace(pairs, unlabelled=unlabelled, unlabelled_files=files)


def _real_pairs(recipe: HeadRecipe, class_set: ClassSet) -> _Pairs:
    """Read the pairs with labels."""
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
        train = [files.read(class_set, color=color) for files in published.files]
        return _Pairs(train, scored, published.files, scored.files)
    if not recipe.folder:
        return _Pairs()
    root = data_directory() / recipe.folder
    train, _ = hold_out(
        read_pair_folder(
            root,
            labels=recipe.labels,
            confidence=recipe.confidence or None,
            minimum_confidence=recipe.confidence_threshold,
            color=color,
        ),
        recipe.hold_out_every,
    )
    # Scored on every pixel, also those of low confidence.
    _, held_out = hold_out(read_pair_folder(root, labels=recipe.labels), recipe.hold_out_every)
    return _Pairs(train, held_out, *hold_out(list_pair_files(root), recipe.hold_out_every))


def _scene(recipe: HeadRecipe, number: int) -> Pair:
    scene = random_scene(np.random.default_rng((recipe.seed, number & 0xFFFFFFFF)))
    chroma = chroma_of(scene.visible) if recipe.teacher_segmenter else None
    return Pair(
        f"scene {number}", luma_of(scene.visible), scene.infrared, scene.labels, chroma=chroma
    )
