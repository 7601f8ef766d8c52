"""Bi-level distillation of SAGE's teacher into a student (Wu et al., CVPR 2025, section 3.3).

Batches alternate, as in DARTS: even ones update the student against the teacher's output, odd
ones the teacher against the student's output. Offline, the teacher is frozen, and every batch
updates the student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ivf_core.data.pairs import Pair
from ivf_core.models.architectures import STUDENTS, Student
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.teacher import Teacher
from ivf_core.training.masks.priors import prior_metadata
from ivf_core.training.runs.batch_norm import (
    kept_statistics,
    restore_norm,
    synchronize_norm,
    train_mode,
)
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.loop import Learner, Scores, StepGuard, Task, run_task
from ivf_core.training.runs.optimizers import adam_with_cosine
from ivf_core.training.runs.recipe import option
from ivf_core.training.runs.record import run_directory
from ivf_core.training.sage.contrast import MaskContrast
from ivf_core.training.sage.encoder import open_encoder
from ivf_core.training.sage.losses import StudentWeights, TeacherWeights
from ivf_core.training.sage.objectives import Objectives, open_frozen_segmenter, terms_off
from ivf_core.training.sage.options import (
    NO_SEGMENTER,
    GuidedOptions,
    find_priors,
    find_sources,
)
from ivf_core.training.sage.reports import fuse_with_teacher, image_row, score_held_out
from ivf_core.training.sage.samples import Batch, MaskedPairs, Source, open_stream
from ivf_core.training.sage.teacher_weights import load_teacher, save_teacher
from ivf_core.training.sage.unrolled import unrolled_gradient

__all__ = ["SCHEMES", "BilevelSteps", "DistillRecipe", "distill"]

SCHEMES = ("bilevel", "offline")
_NO_ENCODER = "none"
_CALIBRATION_PAIRS = 64


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(GuidedOptions):
    """Distillation of a teacher into a student. The defaults are those published with SAGE."""

    teacher: str
    """Weights of the teacher, a file that ivf train teacher wrote."""
    encoder: str
    """Encoder whose features L_cs compares: sam, a file that ivf train encoder wrote, or none,
    which needs contrast weights of 0."""
    sam_checkpoint: str = ""
    """encoder sam only: file of SAM's weights, relative to the data directory."""
    encoder_layers: tuple[int, ...] = option((0, 1), minimum=0, nonempty=True)
    """encoder sam only: blocks whose features are compared."""
    encoder_published: bool = False
    """encoder sam only: images in [0, 1] without normalisation, as in the published code."""
    contrast_per_layer: bool = False
    """Sum the quotients of the layers in L_cs, as equations (4) and (5); the published code divides
    the sums of the layers."""
    architecture: str = option("sage", choices=STUDENTS, former="structure")
    """Student: sage; or fast, which has other features than the teacher: set both feature
    weights to 0."""
    init_from: str = option("", former="student")
    """Weights to start the student from: shipped name or file; empty for random ones."""
    scheme: str = option("bilevel", choices=SCHEMES)
    """bilevel; or offline: the teacher is frozen (Table 3 III d)."""
    second_order: bool = False
    """Compute the student's gradient after a step of the teacher, as DARTS's second order."""
    pool_size: int = option(0, minimum=0, former="pool")
    """Number of crops that are drawn once, and whose sources are encoded once for L_cs; 0 draws
    new ones in every epoch. The features are kept in main memory: with SAM ViT-B 9 MB a crop."""
    student_learning_rate: float = option(2e-3, above=0)
    """Learning rate of the student's Adam, which falls to `final_learning_rate` along a cosine
    over the student's own steps."""
    teacher_learning_rate: float = option(5e-4, above=0)
    """Learning rate of the teacher's Adam, likewise over the teacher's own steps."""
    final_learning_rate: float = option(1e-5, minimum=0)
    """Learning rate of both at the end."""
    freeze_norm_at: float = option(1.0, minimum=0, maximum=1)
    """Share of the batches after which the student's BatchNorm keeps its running statistics."""
    student_loss: StudentWeights = option(factory=StudentWeights, minimum=0)  # noqa: RUF009
    """Weights of the student's losses; 0 leaves one out."""
    teacher_loss: TeacherWeights = option(factory=TeacherWeights, minimum=0)  # noqa: RUF009
    """Weights of the teacher's losses; 0 leaves one out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        offline = self.scheme == "offline"
        if offline and self.second_order:
            raise ValueError("second_order: with scheme offline the teacher takes no step")
        if self.second_order and self.precision == "fp16":
            raise ValueError("second_order: its gradients need precision fp32 or bf16")
        if offline and self.labelled:
            raise ValueError(
                f"scheme offline: L_seg is the teacher's, set segmenter to {NO_SEGMENTER}"
            )
        student = self.student_loss
        if not (student.context or student.contrast or student.feature):
            raise ValueError("student_loss: all weights are 0")
        if not offline and self.labelled != bool(self.teacher_loss.segmentation):
            raise ValueError(
                f"segmenter {self.segmenter} with teacher_loss.segmentation "
                f"{self.teacher_loss.segmentation}: set both or neither "
                f"(segmenter: {NO_SEGMENTER}, segmentation: 0)"
            )
        if self.contrast and self.encoder in ("", _NO_ENCODER):
            raise ValueError(
                "encoder: L_cs needs one, sam or a file of ivf train encoder; "
                "to leave L_cs out, set student_loss.contrast and teacher_loss.contrast to 0"
            )
        if not self.contrast and self.encoder != _NO_ENCODER:
            raise ValueError(f"both contrast weights are 0: set encoder to {_NO_ENCODER}")
        if (self.encoder == "sam") != bool(self.sam_checkpoint):
            raise ValueError("encoder sam and sam_checkpoint go together: give both or neither")
        if self.features and STUDENTS[self.architecture].layout != Teacher.layout:
            raise ValueError(
                f"architecture '{self.architecture}': L_fea compares features of the same scales "
                "as the teacher's; set student_loss.feature and teacher_loss.feature to 0"
            )

    @property
    def contrast(self) -> bool:
        """Return whether L_cs is part of any loss."""
        teacher = self.scheme == "bilevel" and self.teacher_loss.contrast
        return bool(self.student_loss.contrast or teacher)

    @property
    def features(self) -> bool:
        """Return whether L_fea is part of any loss."""
        teacher = self.scheme == "bilevel" and self.teacher_loss.feature
        return bool(self.student_loss.feature or teacher)


class BilevelSteps:
    """Steps of student and teacher in turns.

    Args:
        objectives: losses of student and teacher.
        student: learns in even batches, offline in all.
        teacher: learns in odd batches; None offline.
        second_order: unroll a step of the teacher in the student's gradient; it is the step on
            the next batch.
    """

    def __init__(
        self,
        objectives: Objectives,
        student: Learner,
        teacher: Learner | None,
        *,
        second_order: bool = False,
    ) -> None:
        self._objectives = objectives
        self._student = student
        self._teacher = teacher
        self._second_order = second_order

    def take(self, step: int, batches: Any) -> dict[str, float]:
        """Update one network.

        Args:
            step: number of the batch.
            batches: `Batch` by number; also the next one is read in second order.

        Returns:
            Parts of the loss, "student/PART" or "teacher/PART".
        """
        batch: Batch = batches[step]
        guard = StepGuard(step, batch.names)
        if self._teacher is None or step % 2 == 0:
            if self._second_order and self._teacher is not None:
                return self._look_ahead(batch, batches[step + 1], guard)
            return self._student.step(self._objectives.upper(batch, guard), guard)
        return self._teacher.step(self._objectives.lower(batch, guard), guard)

    def _look_ahead(self, batch: Batch, following: Batch, guard: StepGuard) -> dict[str, float]:
        assert self._teacher is not None
        student = self._student.network
        with guard.term("the unrolled step"), kept_statistics(student):
            total, gradient = unrolled_gradient(
                lambda: self._objectives.upper(batch, guard, detach=False),
                lambda: self._objectives.lower(following, guard, detach=False),
                list(student.parameters()),
                list(self._teacher.network.parameters()),
                self._teacher.learning_rate,
            )
        with torch.no_grad():
            self._objectives.run_student(batch, guard)  # updates the statistics
        return self._student.step(total, guard, gradient)


def distill(recipe: DistillRecipe) -> Scores:
    """Distil a teacher, write the student, and score both on held-out pairs; see `run_task`.

    The teacher of the last step is written into the run's record, as teacher.safetensors.
    """
    return run_task("distill", recipe, DistillTask)


class DistillTask(Task[DistillRecipe]):
    """Distillation of a teacher into a student."""

    def __init__(self, recipe: DistillRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        self.sources = find_sources(
            recipe, labelled=recipe.labelled, labels=recipe.labels, class_set=recipe.class_set
        )
        self.names = self.sources.names
        self.steps = recipe.count_steps(len(self.sources))
        self.teacher, notes = load_teacher(recipe.teacher)
        self.teacher = self.teacher.to(self.device)
        self.teacher_notes = {
            k if k.startswith("teacher_") else f"teacher_{k}": v for k, v in notes.items()
        }
        student = synchronize_norm(_start_student(recipe), self.device).to(self.device)
        self.student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.upper, self.lower = self._learners()

    def _learners(self) -> tuple[Learner, Learner | None]:
        """Return the learners of the student and, unless it is frozen, of the teacher."""
        recipe, steps = self.recipe, self.steps
        final, rate = recipe.final_learning_rate, recipe.student_learning_rate
        offline = recipe.scheme == "offline"
        own_steps = steps if offline else (steps + 1) // 2
        optimizer = adam_with_cosine(self.student, own_steps, rate, final)
        student = self.learner("student", self.student, *optimizer, prefix="student/")
        if offline:
            self.teacher.requires_grad_(False)
            return student, None
        self.teacher.train()
        rate = recipe.teacher_learning_rate
        optimizer = adam_with_cosine(self.teacher, steps // 2, rate, final)
        return student, self.learner("teacher", self.teacher, *optimizer, prefix="teacher/")

    def start(self, first: int) -> None:
        """Open pairs, masks, the encoder and the segmenter."""
        recipe = self.recipe
        cache = find_priors(recipe.priors)
        crops = recipe.crops(masks=self.teacher.masks, labels=recipe.labelled)
        self.pairs = MaskedPairs(self.sources, cache, crops, in_memory=recipe.in_memory)
        contrast, notes = _contrast(recipe, self.device)
        self.notes = notes | _terms(recipe) | prior_metadata(cache) | self.teacher_notes
        segmenter = None
        if recipe.scheme == "bilevel":
            classes = self.sources.class_set
            segmenter = open_frozen_segmenter(recipe.segmenter, classes, self.device)
        self.objectives = Objectives(
            self.teacher,
            self.student,
            contrast,
            segmenter,
            recipe.teacher_loss,
            recipe.student_loss,
            self.fabric.autocast,
        )
        self.batches = open_stream(recipe, self.pairs, self.fabric, first, recipe.pool_size)
        self.turns = BilevelSteps(
            self.objectives, self.upper, self.lower, second_order=recipe.second_order
        )

    def update(self, step: int) -> dict[str, float]:
        """Update the student or the teacher."""
        train_mode(self.student, step, self.recipe.freeze_norm_at * self.steps)
        return self.turns.take(step, self.batches)

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return the sources, both fused images and the masks of a crop."""
        self.student.eval()
        batch = self.batches[step]
        guard = StepGuard(step, batch.names)
        with torch.no_grad():
            fused = {
                "teacher": self.objectives.run_teacher(batch, guard).fused,
                "student": self.objectives.run_student(batch, guard).fused,
            }
        return image_row(batch, fused)

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the student and the teacher, and score them and the mean of both sources."""
        recipe, output = self.recipe, Path(self.recipe.output)
        student = restore_norm(self.student).eval().requires_grad_(False)
        student = student.to("cpu").to(memory_format=torch.contiguous_format)
        notes = {**self.notes, **origin}
        save_model(
            calibrate(FusionModel(student), _calibration_pairs(self.sources)).model,
            output,
            source=f"distilled from a SAGE teacher in {self.steps} steps of {recipe.batch_size}",
            **notes,
        )
        if self.lower is not None:
            path = run_directory(output) / "teacher.safetensors"
            source = f"distilled into {output.name}, and from it"
            save_teacher(self.teacher, path, source=source, **notes)
        student = student.to(self.device)
        fuse: dict[str, Callable[[Batch], Tensor]] = {
            "student": lambda batch: student(batch.luma, batch.infrared).fused,
            "teacher": fuse_with_teacher(self.teacher.eval()),
            "mean of both sources": lambda batch: (batch.luma + batch.infrared) / 2,
        }
        fuse = {f"{output.stem}: {name}": function for name, function in fuse.items()}
        held_out = MaskedPairs(self.sources.held_out, self.pairs.cache, self.pairs.options)
        return score_held_out(fuse, held_out, recipe.score_pairs, self.device)


def _contrast(
    recipe: DistillRecipe, device: torch.device
) -> tuple[MaskContrast | None, dict[str, str]]:
    """Return L_cs, and the metadata of its encoder."""
    if not recipe.contrast:
        return None, {"encoder": "none: without L_cs"}
    encode, notes = open_encoder(
        recipe.encoder,
        sam_checkpoint=recipe.sam_checkpoint,
        layers=recipe.encoder_layers,
        published=recipe.encoder_published,
    )
    contrast = MaskContrast(
        encode.to(device), remember=recipe.pool_size > 0, per_layer=recipe.contrast_per_layer
    )
    return contrast, dict(notes)


def _terms(recipe: DistillRecipe) -> dict[str, str]:
    """Return the metadata of the losses."""
    off = terms_off("student_loss", recipe.student_loss)
    if recipe.scheme == "bilevel":
        off += terms_off("teacher_loss", recipe.teacher_loss)
    return {"segmenter": recipe.segmenter, "terms_off": ", ".join(off)}


def _start_student(recipe: DistillRecipe) -> Student:
    """Load or make the student; raise ValueError if its features do not fit where they must."""
    if recipe.init_from:
        model = load_model(recipe.init_from)
        if model.architecture != recipe.architecture:
            raise ValueError(
                f"init_from '{recipe.init_from}' has the architecture '{model.architecture}', "
                f"expected '{recipe.architecture}'"
            )
        student = model.student.train().requires_grad_(True)
    else:
        student = STUDENTS[recipe.architecture]()
    if recipe.features and student.feature_channels != Teacher.feature_channels:
        raise ValueError(
            f"init_from '{recipe.init_from}' has features of {student.feature_channels} channels, "
            f"the teacher of {Teacher.feature_channels}: L_fea cannot compare them"
        )
    return student


def _calibration_pairs(sources: Sequence[Source]) -> list[Pair]:
    chosen = sources[:: -(-len(sources) // _CALIBRATION_PAIRS)]
    return [source.files.read() for source in chosen]
