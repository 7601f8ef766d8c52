"""Distillation of a student from another student, its teacher.

A student of the teacher's architecture learns layer by layer at first: each convolution sees the
input of its counterpart in the teacher and regresses the counterpart's output, so that eighteen
small problems are solved in parallel and no error accumulates from layer to layer. Then the
student learns the fused luma and the five stage features end to end, so that heads trained on
either network read both.

A student of another architecture imitates the fused luma (`pool`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ivf_core.data.pairs import Pair
from ivf_core.models.architectures import STUDENTS
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.student import FusionStudent, commute_merges
from ivf_core.training.losses import Total, mean_psnr_loss, relative_feature_error
from ivf_core.training.runs.batch_norm import restore_norm, synchronize_norm, train_mode
from ivf_core.training.runs.batches import Batch, PairCrops
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.devices import mean_over_processes
from ivf_core.training.runs.loop import Scores, SingleTask, StepGuard, run_task
from ivf_core.training.runs.optimizers import (
    MuonAdamW,
    adam_with_cosine,
    muon_groups,
    one_cycle,
)
from ivf_core.training.runs.options import FORMER_PRECISIONS, PRECISIONS
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.students.pairs import FolderPairs, StudentOptions, fuse_pair, to_uint8
from ivf_core.training.students.pool import CropPool

__all__ = ["StudentRecipe", "layerwise_loss", "luma_psnr", "train_student"]

_PRECISIONS = {"sage": "fp32", "fast": "bf16", "street": "bf16"}


@dataclass(frozen=True, kw_only=True)
class StudentRecipe(StudentOptions):
    """Distillation of a student from another student."""

    teacher: str = option(nonempty=True, former="reference")
    """Weights to learn from: shipped name, or a file relative to the data directory."""
    architecture: str = option("sage", choices=STUDENTS, former="structure")
    """sage learns layer by layer and then end to end; fast has no layers in common with the
    teacher and imitates its fused luma."""
    steps: int = option(6000, minimum=0)
    """Optimizer steps of the run; give this or `epochs`, and 0 for the other."""
    crop: tuple[int, int] = option((160, 192), minimum=16)
    """Height and width of a crop in pixels."""
    learning_rate: float = option(2e-3, above=0)
    """sage: learning rate of Adam, which falls to `final_learning_rate` along a cosine; fast:
    highest learning rate of Muon, in one cycle."""
    final_learning_rate: float = option(1e-5, minimum=0)
    """sage only: learning rate at the end."""
    layerwise_ratio: float = option(0.75, minimum=0, maximum=1, former="alone_until")
    """sage only: share of the steps in which each convolution learns by itself."""
    freeze_norm_at: float = option(0.05, minimum=0, maximum=1)
    """Share of the steps after which BatchNorm keeps its running statistics."""
    feature_weight: float = option(1.0, minimum=0)
    """sage only: weight of the relative error of the five features, end to end."""
    output_weight: float = option(20.0, minimum=0)
    """sage only: weight of the absolute error of the fused luma, end to end."""
    video_stride: int = option(15, minimum=1, former="video_step")
    """Every n-th frame of the videos is taken."""
    pool_size: int = option(2000, minimum=1, former="pool")
    """fast only: number of crops that the teacher sees, once; the student sees each several
    times."""
    precision: str = option("auto", choices=("auto", *PRECISIONS), former_values=FORMER_PRECISIONS)
    """Arithmetic of the networks: fp32, bf16, or fp16 (GPU only); auto is fp32 for sage and bf16
    for fast. Weights and losses are always fp32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision == "auto":
            object.__setattr__(self, "precision", _PRECISIONS[self.architecture])


def train_student(recipe: StudentRecipe) -> Scores:
    """Distil a student, write its weights, and score them on held-out pairs; see `run_task`.

    Returns:
        PSNR of the fused luma against the teacher's in dB, the mean of the held-out pairs, by
        folder.
    """
    return run_task("student", recipe, TwinTask if recipe.architecture == "sage" else ImitationTask)


class _StudentTask(SingleTask[StudentRecipe]):
    """Student, teacher and pairs of a distillation."""

    def __init__(self, recipe: StudentRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        self.pairs = FolderPairs(recipe)
        self.names = self.pairs.names
        self.steps = recipe.count_steps(len(self.names))
        path = data_directory() / recipe.teacher
        teacher = load_model(path if path.is_file() else recipe.teacher).student
        self.teacher = teacher.to(self.device).to(memory_format=torch.channels_last)
        student = synchronize_norm(STUDENTS[recipe.architecture](), self.device)
        self.student = student.to(self.device).to(memory_format=torch.channels_last)

    def start(self, first: int) -> None:
        """Read the pairs."""
        self.training = self.pairs.read()
        self.shown = self.pairs.first_held_out() or self.training[0]

    def set_modes(self, step: int) -> None:
        """Set training mode, and freeze BatchNorm in later steps."""
        train_mode(self.student, step, self.recipe.freeze_norm_at * self.steps)

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return both sources, and the fused luma of teacher and student."""
        pair = self.shown
        networks = {"teacher": self.teacher, "student": self.student.eval()}
        fused = {name: to_uint8(fuse_pair(n, pair, self.device)) for name, n in networks.items()}
        return {"visible": pair.luma, "infrared": pair.infrared, **fused}

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the student and score it."""
        recipe = self.recipe
        student = restore_norm(self.student).eval()
        scores = {
            folder: luma_psnr(student, self.teacher, pairs, self.device)
            for folder, pairs in self.pairs.held_out.items()
        }
        save_model(
            calibrate(FusionModel(student.to("cpu")), self.training).model,
            recipe.output,
            source=f"distilled from {Path(recipe.teacher).name} in {self.steps} steps",
            **origin,
        )
        return {"PSNR against the teacher on held-out pairs, in dB": scores}


class TwinTask(_StudentTask):
    """Distillation of a student of the teacher's architecture, layer by layer, then whole."""

    def __init__(self, recipe: StudentRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        if not isinstance(self.teacher, FusionStudent):
            raise ValueError(f"teacher '{recipe.teacher}' is not of the architecture sage")
        rates = (recipe.learning_rate, recipe.final_learning_rate)
        self.trained = self.learner(
            "student", self.student, *adam_with_cosine(self.student, self.steps, *rates)
        )

    def start(self, first: int) -> None:
        """Read the pairs and open their crops."""
        super().start(first)
        recipe = self.recipe
        crops = PairCrops(
            self.training,
            recipe.crop,
            scales=(0.8, 1.6),
            smoke=recipe.smoke_probability,
            seed=recipe.seed,
        )
        self.batches = self.open_batches(crops, recipe.batch_size, first)

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return the loss of all layers, or the loss end to end."""
        recipe, inputs = self.recipe, batch.tensors
        if step < recipe.layerwise_ratio * self.steps:
            with self.fabric.autocast():
                return layerwise_loss(self.student, self.teacher, *inputs)
        with self.fabric.autocast():
            with torch.no_grad():
                target = self.teacher(*inputs)
            out = self.student(*inputs)
        ours, theirs = ([feature.float() for feature in o.features] for o in (out, target))
        features = relative_feature_error(ours, theirs, mean=mean_over_processes)
        output = F.l1_loss(out.fused.float(), target.fused.float())
        return Total(
            recipe.feature_weight * features + recipe.output_weight * output,
            {"features": features, "output": output},
        )


class ImitationTask(_StudentTask):
    """Distillation of a student of another architecture from the teacher's fused luma."""

    def __init__(self, recipe: StudentRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        optimizer = MuonAdamW(muon_groups(self.student, recipe.learning_rate))
        schedule = one_cycle(optimizer, self.steps)
        self.trained = self.learner("student", self.student, optimizer, schedule, max_norm=5.0)

    def start(self, first: int) -> None:
        """Read the pairs, and run the teacher on crops of them."""
        super().start(first)
        recipe = self.recipe
        pool = CropPool(
            self.teacher,
            self.training,
            recipe.pool_size,
            recipe.crop,
            smoke=recipe.smoke_probability,
            seed=recipe.seed,
            device=self.device,
        )
        self.batches = self.open_batches(pool, recipe.batch_size, first)

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return minus the PSNR against the teacher's fused luma."""
        luma, infrared, target = (tensor.float() for tensor in batch.tensors)
        with self.fabric.autocast():
            fused = self.student(luma / 255, infrared / 255).fused
        loss = mean_psnr_loss(fused.float(), target)
        return Total(loss, {"psnr": -loss})


def layerwise_loss(student: nn.Module, teacher: nn.Module, luma: Tensor, infrared: Tensor) -> Total:
    """Return the losses of all convolutions, each on the input of its twin in the teacher.

    For a convolution with its BatchNorm the loss is the relative error
    ||BN(conv(x)) - t||^2 / ||t||^2, x and t being input and output of its twin. The sum of these
    losses gives each convolution the gradient of its own.

    Args:
        student: learns.
        teacher: of the same architecture, in evaluation mode.
        luma: batch of visible images, N x 1 x H x W in [0, 1].
        infrared: batch of infrared images, N x 1 x H x W in [0, 1].

    Returns:
        The sum of the losses, and their mean as the part "units".
    """
    losses: list[Tensor] = []
    hooks = []

    def remember(twin: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[twin] = arguments[0]

    def regress(unit: _Unit, target: Tensor) -> None:
        conv, norm, twin = unit
        with torch.enable_grad():
            out = conv(inputs.pop(twin))
            out = norm(out) if norm is not None else out
            error = relative_feature_error(
                [out.float()], [target.float().clone()], mean=mean_over_processes
            )
            losses.append(error)

    inputs: dict[nn.Module, Tensor] = {}
    for (twin, twin_norm), (conv, norm) in zip(_units(teacher), _units(student), strict=True):
        hooks.append(twin.register_forward_pre_hook(remember))
        last = twin_norm if twin_norm is not None else twin
        unit = (conv, norm, twin)
        hooks.append(last.register_forward_hook(lambda _m, _i, out, unit=unit: regress(unit, out)))
    try:
        commute_merges(teacher, False)  # so that their convolutions are called as one
        with torch.no_grad():
            teacher(luma, infrared)
    finally:
        commute_merges(teacher, True)
        for hook in hooks:
            hook.remove()
    total = torch.stack(losses).sum()
    return Total(total, {"units": total / len(losses)})


_Unit = tuple[nn.Module, nn.Module | None, nn.Module]


def _units(network: nn.Module) -> Iterator[tuple[nn.Conv2d, _BatchNorm | None]]:
    """Yield the convolutions in order, each with the BatchNorm that follows it."""
    modules = [m for m in network.modules() if isinstance(m, (nn.Conv2d, _BatchNorm))]
    for module, after in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(module, nn.Conv2d):
            yield module, after if isinstance(after, _BatchNorm) else None


def luma_psnr(
    student: nn.Module, teacher: nn.Module, pairs: Sequence[Pair], device: torch.device
) -> float:
    """Return the mean PSNR over `pairs` of one student's fused luma against another's, in dB."""
    values = [
        _psnr(*(fuse_pair(network, pair, device).clamp(0, 1) for network in (student, teacher)))
        for pair in pairs
    ]
    return sum(values) / len(values)


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max(F.mse_loss(a, b).item(), 1e-10))
