"""Train a student on the pictures themselves, with no reference to imitate.

What the fused picture shall keep is measured as the field measures it: the sources' edges (as
Qabf), their information (VIF), what each adds to the other (SCD), and the brighter of the two
pixels. Part of what the student sees is worse than what its pictures are measured against:
smoke before the visible camera, noise in both. So it learns to rely on the camera that sees.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.data.datasets import open_split
from ivf_core.data.pairs import CropSampler, Pair, add_smoke, read_pair_videos
from ivf_core.metrics.fusion import fusion_metrics, scd, vif
from ivf_core.models.checkpoints import load_model, save_model
from ivf_core.training.runs.batch_norm import freeze_norm
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.optimizers import OneCycleMuon
from ivf_core.training.runs.recipe import data_directory, provenance
from ivf_core.training.runs.record import RunRecord, run_directory
from ivf_core.training.students.source_losses import darkening, edge_preservation

__all__ = ["SCORES", "UnsupervisedRecipe", "score_student", "train_unsupervised"]

SCORES = ("EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf", "Nabf")
"""Metrics of the pairs kept out."""

# Beyond the range of grey levels the measures still have this share of their gradient.
_LEAK = 0.05
# A crop in which a camera sees nothing has no information to keep.
_LEAST_DEVIATION = 1.0


@dataclass(frozen=True)
class UnsupervisedRecipe:
    """Training of a student on pairs alone."""

    start: str
    """Weights to start from: shipped name or file. A head stays as it is, and reads features
    that have changed: train it again."""
    folders: tuple[str, ...]
    """Data sets as published or folders of pairs, relative to the data directory; one named
    twice counts twice."""
    output: str
    """The weights file to write."""
    videos: tuple[str, ...] = ()
    """Pairs of videos, named NAME_visible.mp4 and NAME_infrared.mp4, by NAME."""
    video_step: int = 30
    """Each n-th frame of the videos is taken."""
    hold_out_every: int = 7
    """Each n-th pair of every folder is kept out of training and scored at the end."""
    steps: int = 4000
    """Optimizer steps."""
    batch_size: int = 4
    crop: tuple[int, int] = (192, 256)
    """Height and width of a crop in pixels."""
    scales: tuple[float, float] = (0.7, 1.6)
    """Crops cover this range of sizes before they are resized."""
    learning_rate: float = 1.5e-2
    """The highest of Muon's, in one cycle."""
    freeze_norm_at: float = 0.3
    """Share of the steps after which BatchNorm keeps its running statistics."""
    edges: float = 2.5
    """Weight of the edges kept, `edge_preservation`."""
    information: float = 1.5
    """Weight of VIF, the mean of both sources."""
    differences: float = 1.0
    """Weight of SCD."""
    brighter: float = 4.0
    """Weight of the mean distance to the brighter of the two pixels."""
    darkening: float = 0.0
    """Weight of `darkening`, what is lost of the visible picture's brightness."""
    smoke: float = 0.15
    """Share of crops with smoke before the visible camera."""
    noise: float = 0.3
    """Share of crops with noise of up to 8 grey levels."""
    bfloat16: bool = True
    """Run the student in bfloat16; the losses are in float32."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "video_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.crop) < 48:
            raise ValueError(f"crop must be at least 48 x 48 pixels for VIF, got {self.crop}")
        for name in ("freeze_norm_at", "smoke", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("edges", "information", "differences", "brighter", "darkening"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


class _Batch(NamedTuple):
    """N x 1 x H x W float32 in 0..255: what is measured against, and what the student sees."""

    visible: Tensor
    infrared: Tensor
    seen_visible: Tensor
    seen_infrared: Tensor


def train_unsupervised(recipe: UnsupervisedRecipe) -> dict[str, dict[str, float]]:
    """Run `recipe`, write its weights, and score them on the pairs kept out.

    The recipe and the code's revision go into the file's metadata; losses, pictures and
    scores into the record beside it.

    Returns:
        Means of `SCORES` over the pairs kept out, by folder.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    with RunRecord(
        run_directory(recipe.output), part="student", recipe=recipe, total_steps=recipe.steps
    ) as run:
        return _train(recipe, run)


def _train(recipe: UnsupervisedRecipe, run: RunRecord) -> dict[str, dict[str, float]]:
    origin = provenance("student", recipe)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    root = data_directory()
    training: list[Pair] = []
    kept_out: dict[str, list[Pair]] = {}
    for folder in recipe.folders:
        train, scored = open_split(root / folder, recipe.hold_out_every)
        training += train
        kept_out[folder] = list(scored)
    for name in recipe.videos:
        training += read_pair_videos(
            f"{root / name}_visible.mp4", f"{root / name}_infrared.mp4", recipe.video_step
        )
    shown = next((pairs[0] for pairs in kept_out.values() if pairs), training[0])
    model = load_model(recipe.start)
    student = copy.deepcopy(model.student).requires_grad_(True)
    student = student.to(device).to(memory_format=torch.channels_last)
    optimizer = OneCycleMuon(student, recipe.steps, learning_rate=recipe.learning_rate)
    batches = _batches(training, recipe, device)
    for step in range(recipe.steps):
        student.train()
        if step >= recipe.freeze_norm_at * recipe.steps:
            freeze_norm(student)
        batch = next(batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            fused = student(batch.seen_visible / 255, batch.seen_infrared / 255).fused
        losses = _losses(batch, 255 * fused.float(), recipe)
        loss = torch.stack([*losses.values()]).sum()
        values = {name: value.item() for name, value in losses.items()}
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {step}: a loss is not finite: {values}")
        optimizer.step(loss)
        run.losses(step, values)
        if run.wants_pictures(step):
            run.pictures(step, _pictures(student.eval(), shown, device))

    student = student.eval().requires_grad_(False)
    scores = {folder: score_student(student, pairs, device) for folder, pairs in kept_out.items()}
    run.summary({f"{folder}, pairs kept out": values for folder, values in scores.items()})
    student = student.to("cpu").to(memory_format=torch.contiguous_format)
    save_model(
        calibrate(replace(model, student=student, ranges={}), training),
        recipe.output,
        source=f"trained on pairs alone in {recipe.steps} steps, from {model.name}",
        **origin,
    )
    return scores


@torch.inference_mode()
def _pictures(student: nn.Module, pair: Pair, device: torch.device) -> dict[str, np.ndarray]:
    fused = _fuse(student, pair, device)[2][0, 0].byte().cpu().numpy()
    return {"visible": pair.luma, "infrared": pair.infrared, "student": fused}


@torch.inference_mode()
def score_student(
    student: nn.Module, pairs: Sequence[Pair], device: torch.device
) -> dict[str, float]:
    """Means over `pairs` of `SCORES` of the fused luma, in whole grey levels."""
    values: dict[str, list[float]] = {name: [] for name in SCORES}
    for pair in pairs:
        for name, value in fusion_metrics(*_fuse(student, pair, device), SCORES).items():
            values[name].append(value.item())
    return {name: sum(column) / len(column) for name, column in values.items() if column}


def _fuse(student: nn.Module, pair: Pair, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Visible luma, infrared and fused, 1 x 1 x H x W float32 in whole grey levels."""
    visible, infrared = (
        torch.from_numpy(plane).to(device)[None, None].float()
        for plane in (pair.luma, pair.infrared)
    )
    fused = 255 * student(visible / 255, infrared / 255).fused.float()
    return visible, infrared, fused.round().clamp(0, 255)


def _losses(batch: _Batch, fused: Tensor, recipe: UnsupervisedRecipe) -> dict[str, Tensor]:
    """The weighted terms, the lower the better; those of weight 0 are left out."""
    visible, infrared = batch.visible, batch.infrared
    inside = fused.clamp(0, 255)
    excess = fused - inside
    shown = inside + _LEAK * (excess - excess.detach())
    terms: dict[str, Callable[[], Tensor]] = {
        "edges": lambda: -edge_preservation(visible, infrared, shown),
        "information": lambda: -vif(visible, infrared, shown).mean(),
        "differences": lambda: -scd(visible, infrared, shown).mean(),
        "brighter": lambda: (shown - torch.maximum(visible, infrared)).abs().mean() / 255,
        "darkening": lambda: darkening(shown, visible) / 255,
    }
    losses = {
        name: getattr(recipe, name) * term()
        for name, term in terms.items()
        if getattr(recipe, name)
    }
    losses["excess"] = 4 * excess.abs().mean() / 255
    return losses


def _batches(
    pairs: Sequence[Pair], recipe: UnsupervisedRecipe, device: torch.device
) -> Iterator[_Batch]:
    """Endless batches; crops in which a camera sees nothing are drawn again."""
    random = np.random.default_rng((recipe.seed, 1))
    sampler = CropSampler(pairs, recipe.crop, scales=recipe.scales, noise=0, seed=recipe.seed)

    def crops() -> Iterator[tuple[np.ndarray, ...]]:
        while True:
            visible, infrared, *_ = sampler.crop()
            if min(visible.std(), infrared.std()) * 255 < _LEAST_DEVIATION:
                continue
            seen = [visible, infrared]
            if random.random() < recipe.smoke:
                seen[0] = add_smoke(visible, random)
            if random.random() < recipe.noise:
                sigmas = random.uniform(0, 8, 2) / 255
                seen = [
                    (plane + sigma * random.standard_normal(plane.shape)).clip(0, 1)
                    for plane, sigma in zip(seen, sigmas, strict=True)
                ]
            yield visible, infrared, *seen

    source = crops()
    while True:
        planes = zip(*(next(source) for _ in range(recipe.batch_size)), strict=True)
        yield _Batch(
            *(
                255 * torch.from_numpy(np.stack(plane)[:, None].astype(np.float32)).to(device)
                for plane in planes
            )
        )
