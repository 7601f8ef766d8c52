"""Distil a student from a reference.

A student of the same structure learns convolution by convolution at first: each
sees the input of its twin in the reference and regresses the twin's output, so
that eighteen small problems are solved side by side and no error adds up on the
way. Then the student runs on its own and learns the fused luma and the five
stage features end to end, so that heads trained on either network read both.

One of another structure imitates the fused luma (`imitation`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.data.datasets import open_split
from ivf_core.data.pairs import CropSampler, Pair, read_pair_videos
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.student import STUDENTS, FusionStudent, commute_merges
from ivf_core.training.losses import relative_feature_error
from ivf_core.training.runs.batch_norm import freeze_norm
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.recipe import data_directory, provenance
from ivf_core.training.runs.record import RunRecord, run_directory
from ivf_core.training.students.imitation import draw_pool, imitate

__all__ = ["StudentRecipe", "learn_alone", "luma_psnr", "train_student"]


@dataclass(frozen=True)
class StudentRecipe:
    """Distillation of a student from a reference student."""

    reference: str
    """Weights to learn from: shipped name, or a file relative to the data directory."""
    folders: tuple[str, ...]
    """Data sets in the layouts of `ivf_core.data.datasets`, relative to the data directory;
    one named twice counts twice."""
    output: str
    """The weights file to write; the record of the run gets a folder beside it."""
    structure: str = "sage"
    """sage learns convolution by convolution and then end to end; fast has no twins in
    the reference and imitates its fused luma."""
    hold_out_every: int = 7
    """Each n-th pair of a folder without published splits is kept out of training and scored
    at the end; of others the test split (M3FD: val) is scored."""
    steps: int = 6000
    """Optimizer steps."""
    batch_size: int = 4
    crop: tuple[int, int] = (160, 192)
    """Height and width of a crop in pixels."""
    learning_rate: float = 2e-3
    """sage: of Adam, falling to `final_learning_rate` along a cosine; fast: the highest of
    Muon's, in one cycle."""
    final_learning_rate: float = 1e-5
    """sage only."""
    alone_until: float = 0.75
    """Share of the steps in which each convolution learns for itself; sage only."""
    freeze_norm_at: float = 0.05
    """Share of the steps after which BatchNorm keeps its running statistics."""
    feature_weight: float = 1.0
    """Weight of the relative error of the five features, end to end; sage only."""
    output_weight: float = 20.0
    """Weight of the absolute error of the fused luma, end to end; sage only."""
    videos: tuple[str, ...] = ()
    """fast only: pairs of videos, named NAME_visible.mp4 and NAME_infrared.mp4, by NAME."""
    video_step: int = 15
    """Each n-th frame of the videos is taken."""
    smoke: float = 0.0
    """fast only: share of crops with smoke before the visible camera."""
    pool: int = 2000
    """fast only: crops that the reference sees, once; the student sees each several times."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.structure not in STUDENTS:
            raise ValueError(f"structure '{self.structure}', known: {', '.join(STUDENTS)}")
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError("steps and batch_size must be at least 1")
        if min(self.crop) < 16:
            raise ValueError(f"crop must be at least 16 x 16 pixels, got {self.crop}")
        if self.pool < 1 or self.video_step < 1:
            raise ValueError("pool and video_step must be at least 1")
        for name in ("alone_until", "freeze_norm_at", "smoke"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


def train_student(recipe: StudentRecipe) -> dict[str, float]:
    """Run `recipe`, write its weights, and score them on the pairs kept out.

    The recipe and the code's revision go into the file's metadata; losses, pictures and
    scores into the record beside it.

    Returns:
        PSNR of the fused luma against the reference in dB, the mean of the
        pairs kept out, by folder.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    with RunRecord(
        run_directory(recipe.output), part="student", recipe=recipe, total_steps=recipe.steps
    ) as run:
        return _train_student(recipe, run)


def _train_student(recipe: StudentRecipe, run: RunRecord) -> dict[str, float]:
    origin = provenance("student", recipe)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    root = data_directory()
    path = root / recipe.reference
    teacher = load_model(path if path.is_file() else recipe.reference).student
    teacher = teacher.to(device).to(memory_format=torch.channels_last)
    training: list[Pair] = []
    kept_out: dict[str, list[Pair]] = {}
    for folder in recipe.folders:
        train, scored = open_split(root / folder, recipe.hold_out_every)
        training += train
        kept_out[folder] = list(scored)
    shown = next((pairs[0] for pairs in kept_out.values() if pairs), training[0])

    def after_step(step: int, losses: Mapping[str, float]) -> None:
        run.losses(step, losses)
        if run.wants_pictures(step):
            student.eval()
            run.pictures(step, _pictures(student, teacher, shown, device))

    student = STUDENTS[recipe.structure]().to(device).to(memory_format=torch.channels_last)
    if isinstance(student, FusionStudent):
        if not isinstance(teacher, FusionStudent):
            raise ValueError(f"reference '{recipe.reference}': not of the structure sage")
        _learn_from_twin(student, teacher, training, recipe, device, after_step)
    else:
        for name in recipe.videos:
            training += read_pair_videos(
                f"{root / name}_visible.mp4", f"{root / name}_infrared.mp4", recipe.video_step
            )
        pool = draw_pool(
            teacher,
            training,
            recipe.pool,
            recipe.crop,
            smoke=recipe.smoke,
            seed=recipe.seed,
            device=device,
        )
        imitate(
            student,
            pool,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            freeze_norm_at=recipe.freeze_norm_at,
            after_step=after_step,
            seed=recipe.seed,
            device=device,
        )

    student.eval()
    scores = {
        folder: luma_psnr(student, teacher, pairs, device) for folder, pairs in kept_out.items()
    }
    run.summary({"PSNR against the reference on pairs kept out, in dB": scores})
    save_model(
        calibrate(FusionModel(student.to("cpu")), training),
        recipe.output,
        source=f"distilled from {Path(recipe.reference).name} in {recipe.steps} steps",
        **origin,
    )
    return scores


def _learn_from_twin(
    student: FusionStudent,
    teacher: nn.Module,
    training: Sequence[Pair],
    recipe: StudentRecipe,
    device: torch.device,
    after_step: Callable[[int, Mapping[str, float]], None],
) -> None:
    """Each convolution alone first, then all together."""
    optimizer = torch.optim.Adam(student.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, recipe.steps, eta_min=recipe.final_learning_rate
    )
    batches = CropSampler(training, recipe.crop, scales=(0.8, 1.6), seed=recipe.seed).batches(
        recipe.batch_size
    )
    for step in range(recipe.steps):
        student.train()
        if step >= recipe.freeze_norm_at * recipe.steps:
            freeze_norm(student)
        luma, infrared, _ = (torch.from_numpy(part).to(device) for part in next(batches))
        optimizer.zero_grad()
        if step < recipe.alone_until * recipe.steps:
            losses = {"units": learn_alone(student, teacher, luma, infrared)}
        else:
            losses = _learn_together(student, teacher, luma, infrared, recipe)
        if not all(math.isfinite(value) for value in losses.values()):
            raise FloatingPointError(f"step {step}: a loss is not finite: {losses}")
        optimizer.step()
        schedule.step()
        after_step(step, losses)


def learn_alone(student: nn.Module, teacher: nn.Module, luma: Tensor, infrared: Tensor) -> float:
    """Gradients of every convolution's own problem, as the teacher's pass goes by.

    For each convolution with its BatchNorm the loss is the relative error
    ||BN(conv(x)) - t||^2 / ||t||^2, x and t the input and output of its twin.

    Args:
        student, teacher: of one structure; the teacher in evaluation mode.
        luma, infrared: a batch, N x 1 x H x W in [0, 1].

    Returns:
        The mean of the losses.
    """
    losses: list[float] = []
    inputs: dict[nn.Module, Tensor] = {}
    hooks = []

    def remember(conv: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[conv] = arguments[0]

    def regress(twin: nn.Module, conv: nn.Module, norm: nn.Module | None, target: Tensor) -> None:
        # Backward here, before the activation overwrites the target in place.
        with torch.enable_grad():
            out = conv(inputs.pop(twin))
            out = norm(out) if norm is not None else out
            loss = F.mse_loss(out, target) / target.square().mean().clamp_min(1e-12)
            loss.backward()
        losses.append(loss.item())

    for (twin, twin_norm), (conv, norm) in zip(_units(teacher), _units(student), strict=True):
        hooks.append(twin.register_forward_pre_hook(remember))
        last = twin_norm if twin_norm is not None else twin

        def regress_here(
            _module: nn.Module,
            _inputs: object,
            target: Tensor,
            twin: nn.Module = twin,
            conv: nn.Module = conv,
            norm: nn.Module | None = norm,
        ) -> None:
            regress(twin, conv, norm, target)

        hooks.append(last.register_forward_hook(regress_here))
    try:
        commute_merges(teacher, False)  # so that their convolutions are called as one
        with torch.no_grad():
            teacher(luma, infrared)
    finally:
        commute_merges(teacher, True)
        for hook in hooks:
            hook.remove()
    return sum(losses) / len(losses)


def _learn_together(
    student: nn.Module, teacher: nn.Module, luma: Tensor, infrared: Tensor, recipe: StudentRecipe
) -> dict[str, float]:
    """Gradients of the loss end to end; returns its parts."""
    with torch.no_grad():
        target = teacher(luma, infrared)
    out = student(luma, infrared)
    features = relative_feature_error(out.features, target.features)
    output = F.l1_loss(out.fused, target.fused)
    (recipe.feature_weight * features + recipe.output_weight * output).backward()
    return {"features": features.item(), "output": output.item()}


def _units(network: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """The convolutions in order, each with the BatchNorm that follows it."""
    modules = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    for module, after in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(module, nn.Conv2d):
            yield module, after if isinstance(after, nn.BatchNorm2d) else None


@torch.inference_mode()
def luma_psnr(
    student: nn.Module, reference: nn.Module, pairs: Sequence[Pair], device: torch.device
) -> float:
    """Mean over `pairs` of the PSNR of one student's fused luma against another's, in dB."""
    values = []
    for pair in pairs:
        ours, theirs = (_fused_luma(network, pair, device) for network in (student, reference))
        values.append(_psnr(ours, theirs))
    return sum(values) / len(values)


@torch.inference_mode()
def _pictures(
    student: nn.Module, reference: nn.Module, pair: Pair, device: torch.device
) -> dict[str, np.ndarray]:
    """Both luma planes and what the networks, in evaluation mode, make of them."""
    fused = {
        name: (_fused_luma(network, pair, device)[0, 0] * 255).round().byte().cpu().numpy()
        for name, network in (("reference", reference), ("student", student))
    }
    return {"visible": pair.luma, "infrared": pair.infrared, **fused}


def _fused_luma(network: nn.Module, pair: Pair, device: torch.device) -> Tensor:
    """1 x 1 x H x W in [0, 1]."""
    luma, infrared = (
        torch.from_numpy(plane).to(device)[None, None].float() / 255
        for plane in (pair.luma, pair.infrared)
    )
    return network(luma, infrared).fused.clamp(0, 1)


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max(F.mse_loss(a, b).item(), 1e-10))
