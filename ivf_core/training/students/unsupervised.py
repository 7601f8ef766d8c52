"""Training of a student on images alone, without a teacher.

The fused image is measured as the field measures it: by the sources' edges (as Qabf), their
information (VIF), their differences (SCD), and the brighter of the two pixels. Part of the
student's inputs is worse than the sources that it is measured against: with smoke in front of
the visible camera, with noise in both. So it learns to rely on the camera that sees.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.data.pairs import Pair, add_smoke
from ivf_core.metrics.fusion import fusion_metrics, scd, vif
from ivf_core.models.checkpoints import load_model, save_model
from ivf_core.training.losses import Total
from ivf_core.training.runs.batch_norm import restore_norm, synchronize_norm, train_mode
from ivf_core.training.runs.batches import Batch, PairCrops, Sample
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.loop import Scores, SingleTask, StepGuard, run_task
from ivf_core.training.runs.optimizers import MuonAdamW, muon_groups, one_cycle
from ivf_core.training.runs.options import FORMER_PRECISIONS, PRECISIONS
from ivf_core.training.runs.recipe import option
from ivf_core.training.students.pairs import FolderPairs, StudentOptions, fuse_pair, to_uint8
from ivf_core.training.students.source_losses import darkening, edge_preservation

__all__ = ["SCORES", "UnsupervisedRecipe", "score_student", "train_unsupervised"]

SCORES = ("EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf", "Nabf")
"""Metrics of the held-out pairs."""

# Beyond the range of grey levels the metrics keep this share of their gradient.
_LEAK = 0.05
# A crop in which a camera sees nothing has no information to preserve.
_LEAST_DEVIATION = 1.0


@dataclass(frozen=True, kw_only=True)
class UnsupervisedRecipe(StudentOptions):
    """Training of a student on pairs alone."""

    init_from: str = option(nonempty=True, former="start")
    """Weights to start from: shipped name or file. A head stays unchanged, although the features
    that it reads change: train it again."""
    steps: int = option(4000, minimum=0)
    """Optimizer steps of the run; give this or `epochs`, and 0 for the other."""
    crop: tuple[int, int] = option((192, 256), minimum=48)
    """Height and width of a crop in pixels; VIF needs 48."""
    scales: tuple[float, float] = option((0.7, 1.6), above=0, ascending=True)
    """Range of the size of a crop, relative to `crop`, before it is resized."""
    learning_rate: float = option(1.5e-2, above=0)
    """Highest learning rate of Muon, in one cycle."""
    qabf_weight: float = option(2.5, minimum=0, former="edges")
    """Weight of the preserved edges, `edge_preservation` (Qabf with a gradient)."""
    vif_weight: float = option(1.5, minimum=0, former="information")
    """Weight of VIF, the mean of both sources."""
    scd_weight: float = option(1.0, minimum=0, former="differences")
    """Weight of SCD."""
    max_intensity_weight: float = option(4.0, minimum=0, former="brighter")
    """Weight of the mean distance to the brighter of the two pixels."""
    darkening_weight: float = option(0.0, minimum=0, former="darkening")
    """Weight of `darkening`, the loss of the visible image's brightness."""
    smoke_probability: float = option(0.15, minimum=0, maximum=1, former="smoke")
    """Share of crops with smoke in front of the visible camera."""
    noise_probability: float = option(0.3, minimum=0, maximum=1, former="noise")
    """Share of crops with noise of up to 8 grey levels."""
    precision: str = option(
        "bf16", choices=PRECISIONS, former="bfloat16", former_values=FORMER_PRECISIONS
    )
    """Arithmetic of the student: fp32, bf16, or fp16 (GPU only). Weights and losses are always
    fp32."""


def train_unsupervised(recipe: UnsupervisedRecipe) -> Scores:
    """Train a student on pairs alone, write it, and score it on held-out pairs; see `run_task`.

    Returns:
        Means of `SCORES` over the held-out pairs, by folder.
    """
    return run_task("student", recipe, UnsupervisedTask)


class UnsupervisedTask(SingleTask[UnsupervisedRecipe]):
    """Training of a student by metrics of its sources."""

    def __init__(self, recipe: UnsupervisedRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        self.pairs = FolderPairs(recipe)
        self.names = self.pairs.names
        self.steps = recipe.count_steps(len(self.names))
        self.model = load_model(recipe.init_from)
        student = copy.deepcopy(self.model.student).requires_grad_(True)
        student = synchronize_norm(student, self.device).to(self.device)
        self.student = student.to(memory_format=torch.channels_last)
        optimizer = MuonAdamW(muon_groups(self.student, recipe.learning_rate))
        schedule = one_cycle(optimizer, self.steps)
        self.trained = self.learner("student", self.student, optimizer, schedule, max_norm=5.0)

    def start(self, first: int) -> None:
        """Read the pairs and open their crops."""
        self.training = self.pairs.read()
        self.shown = self.pairs.first_held_out() or self.training[0]
        crops = _DegradedCrops(self.training, self.recipe)
        self.batches = self.open_batches(crops, self.recipe.batch_size, first)

    def set_modes(self, step: int) -> None:
        """Set training mode, and freeze BatchNorm in later steps."""
        train_mode(self.student, step, self.recipe.freeze_norm_at * self.steps)

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return the loss against the sources, of which the student saw a degraded copy."""
        visible, infrared, seen_visible, seen_infrared = (255 * plane for plane in batch.tensors)
        with self.fabric.autocast():
            fused = self.student(seen_visible / 255, seen_infrared / 255).fused
        losses = _losses(visible, infrared, 255 * fused.float(), self.recipe)
        return Total(torch.stack([*losses.values()]).sum(), losses)

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return both sources and the fused luma of a held-out pair."""
        fused = to_uint8(fuse_pair(self.student.eval(), self.shown, self.device))
        return {"visible": self.shown.luma, "infrared": self.shown.infrared, "student": fused}

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the student and score it."""
        student = restore_norm(self.student).eval().requires_grad_(False)
        student = student.to(memory_format=torch.contiguous_format)  # as the file has it
        held_out = self.pairs.held_out.items()
        scores = {folder: score_student(student, pairs, self.device) for folder, pairs in held_out}
        model = replace(self.model, student=student.to("cpu"), ranges={})
        save_model(
            calibrate(model, self.training).model,
            self.recipe.output,
            source=f"trained on pairs alone in {self.steps} steps, from {self.model.name}",
            **origin,
        )
        return scores


@torch.inference_mode()
def score_student(
    student: nn.Module, pairs: Sequence[Pair], device: torch.device
) -> dict[str, float]:
    """Return means over `pairs` of `SCORES` of the fused luma, in whole grey levels."""
    values: dict[str, list[float]] = {name: [] for name in SCORES}
    for pair in pairs:
        visible, infrared = (
            torch.from_numpy(plane).to(device)[None, None].float()
            for plane in (pair.luma, pair.infrared)
        )
        fused = (255 * fuse_pair(student, pair, device)).round().clamp(0, 255)
        for name, value in fusion_metrics(visible, infrared, fused, SCORES).items():
            values[name].append(value.item())
    return {name: sum(column) / len(column) for name, column in values.items() if column}


def _losses(
    visible: Tensor, infrared: Tensor, fused: Tensor, recipe: UnsupervisedRecipe
) -> dict[str, Tensor]:
    """Return the weighted terms, the lower the better; those of weight 0 are left out.

    Args:
        visible: visible luma, N x 1 x H x W float32 in grey levels, as the other images.
        infrared: infrared images.
        fused: fused luma, which may leave the range of grey levels.
        recipe: the weights.
    """
    inside = fused.clamp(0, 255)
    excess = fused - inside
    shown = inside + _LEAK * (excess - excess.detach())
    terms: dict[str, tuple[float, Callable[[], Tensor]]] = {
        "qabf": (recipe.qabf_weight, lambda: -edge_preservation(visible, infrared, shown)),
        "vif": (recipe.vif_weight, lambda: -vif(visible, infrared, shown).mean()),
        "scd": (recipe.scd_weight, lambda: -scd(visible, infrared, shown).mean()),
        "max_intensity": (
            recipe.max_intensity_weight,
            lambda: (shown - torch.maximum(visible, infrared)).abs().mean() / 255,
        ),
        "darkening": (recipe.darkening_weight, lambda: darkening(shown, visible) / 255),
    }
    losses = {name: weight * term() for name, (weight, term) in terms.items() if weight}
    losses["excess"] = 4 * excess.abs().mean() / 255
    return losses


class _DegradedCrops(PairCrops):
    """Crops with copies that have smoke or noise; those without contrast are drawn again."""

    def __init__(self, pairs: Sequence[Pair], recipe: UnsupervisedRecipe) -> None:
        super().__init__(pairs, recipe.crop, seed=recipe.seed, scales=recipe.scales, noise=0)
        self.recipe = recipe

    def __getitem__(self, number: int) -> Sample:
        """Draw visible luma, infrared, and what the student sees of them, in [0, 1]."""
        for attempt in count():
            name, (visible, infrared, *_), random = self.draw(number, attempt)
            if min(visible.std(), infrared.std()) * 255 >= _LEAST_DEVIATION:
                break
        seen = [visible, infrared]
        if random.random() < self.recipe.smoke_probability:
            seen[0] = add_smoke(visible, random)
        if random.random() < self.recipe.noise_probability:
            sigmas = random.uniform(0, 8, 2) / 255
            seen = [
                (plane + sigma * random.standard_normal(plane.shape)).clip(0, 1)
                for plane, sigma in zip(seen, sigmas, strict=True)
            ]
        planes = (visible, infrared, *seen)
        return Sample(name, tuple(plane[None].astype(np.float32) for plane in planes))
