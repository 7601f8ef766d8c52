"""Bi-level distillation of SAGE's teacher into a student (Wu et al., CVPR 2025, section 3.3).

Batches take turns, as in DARTS: even ones update the student against what the teacher makes of
them, odd ones the teacher against the student's. Offline, the teacher is frozen, and every
batch updates the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.data.pairs import Pair
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.student import STUDENTS, FastStudent, FusionStudent
from ivf_core.models.teacher import Teacher
from ivf_core.training.losses import StudentWeights, TeacherWeights
from ivf_core.training.masks.priors import prior_metadata
from ivf_core.training.runs.batch_norm import freeze_norm, kept_statistics, synchronize_norm
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.devices import start_fabric
from ivf_core.training.runs.loop import (
    Learner,
    StepGuard,
    open_record,
    open_state,
    open_stream,
    run_steps,
)
from ivf_core.training.runs.options import (
    NO_SEGMENTER,
    GuidedOptions,
    find_priors,
    find_sources,
)
from ivf_core.training.runs.recipe import provenance
from ivf_core.training.sage.contrast import MaskContrast
from ivf_core.training.sage.encoder import open_encoder
from ivf_core.training.sage.objectives import (
    Objectives,
    check_weights,
    open_frozen_segmenter,
    terms_off,
)
from ivf_core.training.sage.reports import fuse_with_teacher, picture_row, score_fusion
from ivf_core.training.sage.samples import Batch, MaskedPairs, Source
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
    """Weights of the teacher, as ivf train teacher wrote them."""
    encoder: str
    """What L_cs measures in: sam, a file that ivf train encoder wrote, or none; none needs
    contrast weights of zero."""
    sam_checkpoint: str = ""
    """encoder sam only: file of SAM's weights, relative to the data directory."""
    encoder_layers: tuple[int, ...] = (0, 1)
    """encoder sam only: which blocks."""
    encoder_published: bool = False
    """encoder sam only: pictures in [0, 1] as they are, as the published code feeds it."""
    structure: str = "sage"
    """The student's; fast has other features than the teacher: set both feature weights to 0."""
    student: str = ""
    """Weights to start the student from: shipped name or file; empty for random ones."""
    scheme: str = "bilevel"
    """bilevel; or offline: the teacher is frozen (Table 3 III d)."""
    second_order: bool = False
    """The student's gradient looks ahead of a step of the teacher, as DARTS's second order."""
    pool: int = 0
    """Draw so many crops once, and encode their sources for L_cs once; 0 draws new ones in
    every epoch. The features are kept in main memory: with SAM ViT-B 9 MB a crop."""
    student_learning_rate: float = 2e-3
    """Of Adam, falling to `final_learning_rate` along a cosine over the student's own steps."""
    teacher_learning_rate: float = 5e-4
    """So does this, over the teacher's."""
    final_learning_rate: float = 1e-5
    freeze_norm_at: float = 1.0
    """Share of the batches after which the student's BatchNorm keeps its running statistics."""
    student_loss: StudentWeights = field(default_factory=StudentWeights)
    """Weights of the student's terms; 0 leaves one out."""
    teacher_loss: TeacherWeights = field(default_factory=TeacherWeights)
    """Of the teacher's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.structure not in STUDENTS:
            raise ValueError(f"structure '{self.structure}', known: {', '.join(STUDENTS)}")
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme '{self.scheme}', known: {', '.join(SCHEMES)}")
        offline = self.scheme == "offline"
        if offline and self.second_order:
            raise ValueError("second_order: with scheme offline the teacher takes no step")
        if offline and self.segmenter != NO_SEGMENTER:
            raise ValueError(
                f"scheme offline: L_seg is the teacher's, set segmenter to {NO_SEGMENTER}"
            )
        check_weights("student_loss", self.student_loss)
        check_weights("teacher_loss", self.teacher_loss)
        student = self.student_loss
        if not (student.context or student.contrast or student.feature):
            raise ValueError("student_loss: all weights are 0")
        if not offline and (self.segmenter == NO_SEGMENTER) != (not self.teacher_loss.segmentation):
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
        if self.features and STUDENTS[self.structure].layout != Teacher.layout:
            raise ValueError(
                f"structure '{self.structure}': L_fea compares features that lie as the "
                "teacher's do; set student_loss.feature and teacher_loss.feature to 0"
            )
        if self.pool < 0:
            raise ValueError(f"pool must be at least 0, got {self.pool}")
        if not 0 <= self.freeze_norm_at <= 1:
            raise ValueError(f"freeze_norm_at must be in [0, 1], got {self.freeze_norm_at}")

    @property
    def contrast(self) -> bool:
        """Whether L_cs is part of any loss."""
        teacher = self.scheme == "bilevel" and self.teacher_loss.contrast
        return bool(self.student_loss.contrast or teacher)

    @property
    def features(self) -> bool:
        """Whether L_fea is."""
        teacher = self.scheme == "bilevel" and self.teacher_loss.feature
        return bool(self.student_loss.feature or teacher)


class BilevelSteps:
    """Updates by the number of their batch.

    Args:
        objectives: with student and teacher.
        student: learns in even batches, offline in all.
        teacher: learns in odd ones; None offline.
        second_order: unrolled steps of the student; the teacher's step that they look ahead
            to is that on the next batch.
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
            batches: `Batch` by number; asked for `step`, and for the next one in second order.

        Returns:
            The parts of its loss, "student/PART" or "teacher/PART".
        """
        batch: Batch = batches[step]
        guard = StepGuard(step, batch.names)
        if self._teacher is None or step % 2 == 0:
            if self._second_order and self._teacher is not None:
                return self._look_ahead(batch, batches[step + 1], guard)
            return self._student.descend(self._objectives.upper(batch, guard), guard)
        return self._teacher.descend(self._objectives.lower(batch, guard), guard)

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
            self._objectives.run_student(batch, guard)  # for the statistics
        return self._student.descend(total, guard, gradient)


def distill(recipe: DistillRecipe) -> dict[str, dict[str, float]]:
    """Run `recipe`, write the student, and score it and the teacher on pairs kept out.

    The teacher as it is at the end lies beside checkpoint and curves, as teacher.safetensors.

    Returns:
        Metrics by name, by the title of their table; nothing where no pair was kept out. In
        the first process; in others nothing.

    Raises:
        StepError: memory is too small, or a loss is no longer finite.
        ValueError: data, masks, weights, devices or a checkpoint are not as the recipe says.
    """
    fabric = start_fabric(recipe)
    device = fabric.device
    origin = provenance("distill", recipe)
    torch.manual_seed(recipe.seed)
    labelled = recipe.segmenter != NO_SEGMENTER
    sources = find_sources(
        recipe, labelled=labelled, labels=recipe.labels, class_set=recipe.class_set
    )
    total = recipe.batches(len(sources))
    teacher, teacher_notes = load_teacher(recipe.teacher)
    student = synchronize_norm(_start_student(recipe), device).to(device)
    student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    upper, lower = _learners(recipe, student, teacher.to(device), total)
    learners = {learner.name: learner for learner in (upper, lower) if learner is not None}
    state, first = open_state(recipe, sources, learners)
    with open_record(recipe, "distill", total, first, fabric) as run:
        pairs = MaskedPairs(
            sources,
            find_priors(recipe.priors),
            recipe.crops(masks=teacher.masks, labels=labelled),
            in_memory=recipe.in_memory,
        )
        assert pairs.cache is not None
        contrast, notes = _contrast(recipe, device)
        notes |= _terms(recipe) | prior_metadata(pairs.cache) | origin
        segmenter = None
        if recipe.scheme == "bilevel":
            segmenter = open_frozen_segmenter(recipe.segmenter, sources.class_set, device)
        objectives = Objectives(
            teacher,
            student,
            contrast,
            segmenter,
            recipe.teacher_loss,
            recipe.student_loss,
            fabric.autocast,
        )
        stream = open_stream(recipe, pairs, fabric, first, recipe.pool)
        steps = BilevelSteps(objectives, upper, lower, second_order=recipe.second_order)

        def update(step: int) -> dict[str, float]:
            student.train()
            if step >= recipe.freeze_norm_at * total:
                freeze_norm(student)
            return steps.take(step, stream)

        def draw(step: int) -> dict[str, np.ndarray]:
            student.eval()
            batch = stream[step]
            guard = StepGuard(step, batch.names)
            with torch.no_grad():
                fused = {
                    "teacher": objectives.run_teacher(batch, guard).fused,
                    "student": objectives.run_student(batch, guard).fused,
                }
            return picture_row(batch, fused)

        run_steps(recipe, state, run, range(first, total), update, draw)
        scores: dict[str, dict[str, float]] = {}
        if fabric.is_global_zero:
            model = FusionModel(_plain(student, recipe.structure))
            save_model(
                calibrate(model, _calibration_pairs(sources)),
                recipe.output,
                source=f"distilled from a SAGE teacher in {total} steps of {recipe.batch_size}",
                **notes,
                **_of_teacher(teacher_notes),
            )
            if lower is not None:
                save_teacher(
                    teacher,
                    run.directory / "teacher.safetensors",
                    source=f"distilled into {Path(recipe.output).name}, and from it",
                    **notes,
                    **_of_teacher(teacher_notes),
                )
            if sources.kept_out and recipe.score_pairs:
                kept_out = MaskedPairs(sources.kept_out, pairs.cache, pairs.options)
                scores = _scores(recipe, model, teacher, kept_out, device)
            run.summary(scores)
    if fabric.is_global_zero:
        state.remove()
    return scores


def _learners(
    recipe: DistillRecipe, student: nn.Module, teacher: nn.Module, total: int
) -> tuple[Learner, Learner | None]:
    """The student's, and the teacher's unless it is frozen: offline."""
    final = recipe.final_learning_rate
    if recipe.scheme == "offline":
        teacher.requires_grad_(False)
        return Learner("student", student, total, recipe.student_learning_rate, final), None
    teacher.train()
    return (
        Learner("student", student, (total + 1) // 2, recipe.student_learning_rate, final),
        Learner("teacher", teacher, total // 2, recipe.teacher_learning_rate, final),
    )


def _contrast(
    recipe: DistillRecipe, device: torch.device
) -> tuple[MaskContrast | None, dict[str, str]]:
    """L_cs, and what weights say of its encoder."""
    if not recipe.contrast:
        return None, {"encoder": "none: without L_cs"}
    encode, notes = open_encoder(
        recipe.encoder,
        sam_checkpoint=recipe.sam_checkpoint,
        layers=recipe.encoder_layers,
        published=recipe.encoder_published,
    )
    return MaskContrast(encode.to(device), remember=recipe.pool > 0), dict(notes)


def _terms(recipe: DistillRecipe) -> dict[str, str]:
    """What weights say of the losses."""
    off = terms_off("student_loss", recipe.student_loss)
    if recipe.scheme == "bilevel":
        off += terms_off("teacher_loss", recipe.teacher_loss)
    return {"segmenter": recipe.segmenter, "terms_off": ", ".join(off)}


def _start_student(recipe: DistillRecipe) -> FusionStudent | FastStudent:
    """Checks that features fit, too, where they are compared."""
    if recipe.student:
        model = load_model(recipe.student)
        if model.structure != recipe.structure:
            raise ValueError(
                f"student '{recipe.student}' is of structure '{model.structure}', "
                f"expected '{recipe.structure}'"
            )
        student = model.student.train().requires_grad_(True)
    else:
        student = STUDENTS[recipe.structure]()
    if recipe.features and student.feature_channels != Teacher.feature_channels:
        raise ValueError(
            f"student '{recipe.student}' has features of {student.feature_channels} channels, "
            f"the teacher of {Teacher.feature_channels}: L_fea cannot compare them"
        )
    return student


def _plain(trained: nn.Module, structure: str) -> FusionStudent | FastStudent:
    """A copy without what only training needs, on the processor, in evaluation mode."""
    student = STUDENTS[structure]()
    student.load_state_dict(trained.state_dict())
    return student.eval().requires_grad_(False)


def _calibration_pairs(sources: Sequence[Source]) -> list[Pair]:
    chosen = sources[:: -(-len(sources) // _CALIBRATION_PAIRS)]
    return [source.files.read() for source in chosen]


def _of_teacher(notes: dict[str, str]) -> dict[str, str]:
    """What a teacher's file says, as part of what its student's says."""
    return {k if k.startswith("teacher_") else f"teacher_{k}": v for k, v in notes.items()}


def _scores(
    recipe: DistillRecipe,
    model: FusionModel,
    teacher: nn.Module,
    pairs: MaskedPairs,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    network = model.student.to(device)

    def fuse(batch: Batch) -> Tensor:
        return network(batch.luma, batch.infrared).fused

    count = recipe.score_pairs
    tables = {
        "student": score_fusion(fuse, pairs, count, device),
        "teacher": score_fusion(fuse_with_teacher(teacher.eval()), pairs, count, device),
        "mean of both sources": score_fusion(
            lambda batch: (batch.luma + batch.infrared) / 2, pairs, count, device
        ),
    }
    name = Path(recipe.output).stem
    return {f"{name}, at most {count} pairs kept out: {k}": v for k, v in tables.items()}
