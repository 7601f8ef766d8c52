"""Losses of both levels of SAGE's distillation on a batch, with and without gradients."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass

import torch
from torch import Tensor, nn

from ivf_core.class_sets import UNLABELED, ClassSet
from ivf_core.models.color import recolor_unrounded
from ivf_core.models.student import StudentOutput
from ivf_core.training.losses import Total, at_least_float32, segmentation_loss
from ivf_core.training.runs.devices import gather_over_processes
from ivf_core.training.runs.loop import StepGuard
from ivf_core.training.sage.contrast import MaskContrast
from ivf_core.training.sage.losses import StudentWeights, TeacherWeights, student_loss, teacher_loss
from ivf_core.training.sage.options import NO_SEGMENTER
from ivf_core.training.sage.samples import Batch
from ivf_core.training.segmentation.segmenters import open_segmenter

__all__ = [
    "Objectives",
    "open_frozen_segmenter",
    "segmentation_term",
    "terms_off",
]

_log = logging.getLogger(__name__)


@dataclass
class Objectives:
    """Losses of SAGE's teacher and student on a batch: L_m^d and L_s^d of equation (1).

    Attributes:
        teacher: SAGE's main network.
        student: SAGE's sub-network. None is for pre-training the teacher.
        contrast: computes L_cs. None leaves it out.
        segmenter: frozen network from RGB images to logits for L_seg. None leaves it out.
        teacher_weights: weights of the teacher's loss. A term of weight zero is not computed.
        student_weights: weights of the student's loss. A term of weight zero is not computed.
        autocast: returns the context in which networks run. Losses are at least in float32.
    """

    teacher: nn.Module
    student: nn.Module | None = None
    contrast: MaskContrast | None = None
    segmenter: nn.Module | None = None
    teacher_weights: TeacherWeights = field(default_factory=TeacherWeights)
    student_weights: StudentWeights = field(default_factory=StudentWeights)
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext

    def pretraining(self, batch: Batch, guard: StepGuard) -> Total:
        """Compute the teacher's loss without a student.

        Args:
            batch: crops with sources, masks and labels.
            guard: names the step and the term if one fails.
        """
        out = self.run_teacher(batch, guard)
        return teacher_loss(
            out,
            batch.luma,
            batch.infrared,
            segmentation=self._segmentation(out, batch, guard),
            weights=self.teacher_weights,
        )

    def lower(self, batch: Batch, guard: StepGuard, *, detach: bool = True) -> Total:
        """Compute L_m^d, the teacher's loss against the student's output for the batch.

        Args:
            batch: crops with sources, masks and labels.
            guard: names the step and the term if one fails.
            detach: run the student without a gradient.
        """
        out = self.run_teacher(batch, guard)
        with torch.set_grad_enabled(not detach):
            other = self.run_student(batch, guard)
        weights = self.teacher_weights
        contrast = self._contrast(out, other, batch, guard) if weights.contrast else None
        return teacher_loss(
            out,
            batch.luma,
            batch.infrared,
            segmentation=self._segmentation(out, batch, guard),
            student=other,
            contrast=contrast,
            weights=weights,
            detach=detach,
        )

    def upper(self, batch: Batch, guard: StepGuard, *, detach: bool = True) -> Total:
        """Compute L_s^d, the student's loss against the teacher's output for the batch.

        Args:
            batch: crops with sources, masks and labels.
            guard: names the step and the term if one fails.
            detach: run the teacher without a gradient.
        """
        with torch.set_grad_enabled(not detach):
            other = self.run_teacher(batch, guard)
        out = self.run_student(batch, guard)
        weights = self.student_weights
        contrast = self._contrast(out, other, batch, guard) if weights.contrast else None
        return student_loss(
            out, other, batch.luma, batch.infrared, contrast, weights, detach=detach
        )

    def run_teacher(self, batch: Batch, guard: StepGuard) -> StudentOutput:
        """Return the teacher's fused luma and features, at least float32."""
        inputs = (batch.luma, batch.infrared, batch.visible_masks, batch.infrared_masks)
        with guard.term("the teacher's pass"), self.autocast():
            return _in_full_precision(self.teacher(*inputs))

    def run_student(self, batch: Batch, guard: StepGuard) -> StudentOutput:
        """Return the student's fused luma and features, at least float32."""
        assert self.student is not None
        with guard.term("the student's pass"), self.autocast():
            return _in_full_precision(self.student(batch.luma, batch.infrared))

    def _contrast(
        self, out: StudentOutput, other: StudentOutput, batch: Batch, guard: StepGuard
    ) -> Tensor | None:
        """Return L_cs with `out` as fused and `other` as reference, or None if it is left out."""
        if self.contrast is None:
            return None
        with guard.term("contrast (L_cs)"), self.autocast():
            return self.contrast(out.fused, other.fused, batch)

    def _segmentation(self, out: StudentOutput, batch: Batch, guard: StepGuard) -> Tensor | None:
        """Return L_seg of the teacher's output, or None if it is left out."""
        if self.segmenter is None or not self.teacher_weights.segmentation:
            return None
        with guard.term("segmentation (L_seg)"), self.autocast():
            return segmentation_term(self.segmenter, out.fused, batch)


def segmentation_term(segmenter: nn.Module, fused: Tensor, batch: Batch) -> Tensor:
    """Return L_seg of the fused luma in the colours of the visible image, clamped to [0, 1].

    It is the mean over the labelled pixels of all processes.
    """
    rgb = recolor_unrounded(fused, *batch.chroma.split(1, dim=1)).clamp(0, 1)
    logits = gather_over_processes(at_least_float32(segmenter(rgb)))
    return segmentation_loss(logits, gather_over_processes(batch.labels), ignore=UNLABELED)


def open_frozen_segmenter(
    spec: str, class_set: ClassSet | None, device: torch.device
) -> nn.Module | None:
    """Open a recipe's segmenter, frozen, or log a warning and return None for none.

    Args:
        spec: a segmenter as for `open_segmenter`, or "none".
        class_set: classes of the labels. It may be None if no segmenter is wanted.
        device: device to run on.

    Raises:
        SegmenterError: the segmenter cannot be opened or has other classes.
    """
    if spec == NO_SEGMENTER:
        _log.warning("segmenter: %s: L_seg is off, the teacher learns no semantics", spec)
        return None
    assert class_set is not None
    return open_segmenter(spec, class_set).to(device).requires_grad_(False)


def terms_off(option: str, weights: object) -> list[str]:
    """Return the names of the terms whose weight is zero, and log a warning for each.

    The weights of references in `fusion` are not reported: that loss has no reference.

    Args:
        option: name of the option that holds the weights.
        weights: dataclass of weights, which can contain further ones.
    """
    names = []
    for name in (entry.name for entry in fields(weights)):  # type: ignore[arg-type]
        full, value = f"{option}.{name}", getattr(weights, name)
        if is_dataclass(value):
            names += terms_off(full, value)
        elif value == 0 and not ("fusion" in option and name.startswith("reference")):
            _log.warning("%s is 0: the term is left out", full)
            names.append(full)
    return names


def _in_full_precision(out: StudentOutput) -> StudentOutput:
    """Convert the fused luma and the features of an output to at least float32."""
    first, second, third, fourth, fifth = map(at_least_float32, out.features)
    return StudentOutput(at_least_float32(out.fused), (first, second, third, fourth, fifth))
