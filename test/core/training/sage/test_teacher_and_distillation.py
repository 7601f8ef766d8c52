"""Pre-training and bi-level distillation: who learns when, runs that are killed, processes."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import smooth_adam
import torch
from safetensors.torch import load_file
from small_runs import (
    distill_recipe,
    random_batch,
    teacher_recipe,
    without_segmentation,
    write_networks,
    write_recipe,
)
from torch import Tensor, nn

from ivf_core.cli import main
from ivf_core.models.checkpoints import load_model
from ivf_core.models.conv_encoder import ConvEncoder
from ivf_core.models.student import FusionStudent
from ivf_core.models.teacher import Teacher
from ivf_core.training.runs.loop import Learner, StepGuard
from ivf_core.training.runs.network_files import save_network
from ivf_core.training.runs.optimizers import adam_with_cosine
from ivf_core.training.sage.contrast import MaskContrast
from ivf_core.training.sage.distill import BilevelSteps, DistillRecipe, distill
from ivf_core.training.sage.losses import ContextWeights, StudentWeights, TeacherWeights
from ivf_core.training.sage.objectives import Objectives
from ivf_core.training.sage.teacher import train_teacher
from ivf_core.training.sage.teacher_weights import load_teacher, save_teacher

ROOT = Path(__file__).parents[4]


@pytest.fixture
def root(root: Path) -> Path:
    write_networks(root)
    return root


# Steps


def learner(name: str, network: nn.Module, rate: float) -> Learner:
    optimizer = adam_with_cosine(network, 10, rate, 1e-5)
    return Learner(name, network, *optimizer, prefix=f"{name}/")


class Levels:
    """Both networks on random batches, and what changed in a step."""

    def __init__(self, *, offline: bool = False, second_order: bool = False, **weights: Any):
        torch.manual_seed(0)
        self.teacher, self.student = Teacher(2), FusionStudent(32)
        self.upper = learner("student", self.student, 2e-3)
        self.lower = None if offline else learner("teacher", self.teacher, 5e-4)
        encode = ConvEncoder((8, 8, 8)).requires_grad_(False)
        self.objectives = Objectives(
            self.teacher, self.student, MaskContrast(encode), **weights
        )  # fmt: skip
        self.steps = BilevelSteps(
            self.objectives, self.upper, self.lower, second_order=second_order
        )
        self.batches = {step: random_batch(step, count=1) for step in range(8)}

    def changes(self, step: int) -> tuple[bool, bool, dict[str, float]]:
        networks = (self.student, self.teacher)
        before = [[p.detach().clone() for p in network.parameters()] for network in networks]
        parts = self.steps.take(step, self.batches)
        student, teacher = (
            any(not torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True))
            for network, old in zip(networks, before, strict=True)
        )
        return student, teacher, parts


def test_even_batches_update_the_student_and_odd_ones_the_teacher() -> None:
    levels = Levels()
    for step in range(4):
        student, teacher, parts = levels.changes(step)
        assert (student, teacher) == (step % 2 == 0, step % 2 == 1)
        who = "teacher" if step % 2 else "student"
        terms = {"context", "feature", "contrast"} | ({"fusion"} if step % 2 else set())
        assert parts.keys() == {f"{who}/{term}" for term in terms}
    assert levels.lower is not None
    assert levels.upper.schedule.last_epoch == levels.lower.schedule.last_epoch == 2


def test_offline_every_batch_updates_the_student() -> None:
    levels = Levels(offline=True)
    assert [levels.changes(step)[:2] for step in range(2)] == [(True, False)] * 2


def test_each_level_sees_the_other_as_it_is() -> None:
    """A term of the student's loss is that against the teacher's image of the same batch."""
    levels = Levels()
    batch = levels.batches[0]
    guard = StepGuard(0, ())
    with torch.no_grad():
        fused = levels.teacher(
            batch.luma, batch.infrared, batch.visible_masks, batch.infrared_masks
        ).fused
        ours = levels.student(batch.luma, batch.infrared).fused
    weights = StudentWeights(
        contrast=0, feature=0, terms=ContextWeights(0, 0, 1, 0, 0)
    )  # fmt: skip
    levels.objectives.student_weights = weights
    total = levels.objectives.upper(batch, guard)
    assert total.loss.item() == pytest.approx((fused - ours).square().mean().item())
    assert total.parts.keys() == {"context"}


def test_second_order_looks_ahead_of_the_teachers_next_step() -> None:
    first, second = Levels(), Levels(second_order=True)
    statistics = second.student.stages[0][1].running_mean.clone()
    for levels in (first, second):
        assert levels.changes(0)[:2] == (True, False)
    moved = [(a - b).abs().max().item() for a, b in
             zip(first.student.parameters(), second.student.parameters(), strict=True)]  # fmt: skip
    assert 0 < max(moved) < 5e-3  # another direction of Adam's step, not another step
    for name, value in first.student.state_dict().items():
        if name.endswith("running_mean"):  # one batch's worth, of the weights before the step
            torch.testing.assert_close(second.student.state_dict()[name], value)
    assert not torch.equal(second.student.stages[0][1].running_mean, statistics)


class Reddish(nn.Module):
    """Two classes by how red a pixel is."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat((images[:, :1], 1 - images[:, :1]), dim=1)[..., ::2, ::2]


def test_segmentation_is_of_the_image_in_its_colours() -> None:
    levels = Levels()
    levels.objectives.segmenter = Reddish()
    batch = levels.batches[1]
    guard = StepGuard(1, ())
    gray = levels.objectives.lower(batch, guard).parts["segmentation"]
    red = batch._replace(chroma=batch.chroma + torch.tensor([60.0, 0]).view(2, 1, 1))
    reddened = levels.objectives.lower(red, guard)
    assert reddened.parts["segmentation"] < gray  # class 0 is red
    reddened.parts["segmentation"].backward()
    assert any(p.grad is not None and p.grad.any() for p in levels.teacher.parameters())
    levels.objectives.teacher_weights = TeacherWeights(segmentation=0)
    assert "segmentation" not in levels.objectives.lower(batch, guard).parts


def test_the_student_learns(root: Path) -> None:
    """On one pool of crops its loss goes down to a fraction."""
    recipe = distill_recipe(
        root, steps=24, pool_size=1, scheme="offline", batch_size=1,
        student_loss=StudentWeights(contrast=0), encoder="none",
    )  # fmt: skip
    distill(recipe)
    losses = read_losses(root / "runs/student")["student/context"]
    assert len(losses) == 24
    assert losses[-1] < losses[0] / 2


def read_losses(directory: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with (directory / "losses.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["loss"], []).append(float(row["value"]))
    return found


# Whole runs


def test_teacher_and_student_end_to_end(
    root: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command; weights say what they were made with, and the log warns."""
    teacher = write_recipe(root, teacher_recipe(root, score_pairs=1, image_every=2, steps=2))
    assert main(["train", "teacher", "--config", str(teacher)]) == 0
    out = capsys.readouterr().out
    assert "held-out pairs" in out
    assert "Qabf" in out
    trained, notes = load_teacher(root / "runs/teacher.safetensors")
    assert trained.patches
    assert trained.masks == 2
    assert notes["priors_sam_guided"] == "false"
    assert notes["segmenter"] == "none"
    assert "segmentation" in notes["terms_off"]
    assert json.loads(notes["teacher_recipe"])["learning_rate"] == 5e-4
    assert any("L_seg is off" in r.getMessage() for r in caplog.records)
    caplog.clear()

    recipe = distill_recipe(
        root, teacher=str(root / "runs/teacher.safetensors"), score_pairs=1, second_order=True,
        steps=3, image_every=2, student_loss=StudentWeights(context=0),
    )  # fmt: skip
    assert main(["train", "distill", "--config", str(write_recipe(root, recipe))]) == 0
    model = load_model(root / "runs/student.safetensors")
    assert model.architecture == "sage"
    assert model.ranges  # for 8-bit convolutions
    assert model.metadata["encoder_sam_guided"] == "false"
    assert "not SAM-guided" in model.metadata["encoder"]
    assert model.metadata["priors_sam_guided"] == "false"
    assert model.metadata["teacher_priors"].endswith("not SAM-guided")
    assert model.metadata["terms_off"] == "student_loss.context, teacher_loss.segmentation"
    assert json.loads(model.metadata["distill_recipe"])["second_order"] is True
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "a student distilled with it is not SAM-guided" in said
    assert "student_loss.context is 0: the term is left out" in said
    load_teacher(root / "runs/student/teacher.safetensors")
    assert (root / "runs/student/summary.html").is_file()
    assert list((root / "runs/student/images").iterdir())
    assert not (root / "runs/student/checkpoint.pt").exists()


@pytest.mark.parametrize("patches", [True, False, None])
def test_files_say_whether_the_teacher_saw_patches(tmp_path: Path, patches: bool | None) -> None:
    """Files from before the option hold teachers that saw bare masks."""
    path = tmp_path / "teacher.safetensors"
    if patches is None:
        save_network(Teacher(1), path, "teacher", {"masks": 1})
    else:
        save_teacher(Teacher(1, patches=patches), path)
    assert load_teacher(path)[0].patches is bool(patches)


def test_a_sam_takes_part(root: Path) -> None:
    """Masks by the package's generator, L_cs on its encoder; random weights."""
    pytest.importorskip("segment_anything")
    from ivf_core.training.sage.smoke import save_tiny_sam

    save_tiny_sam(root / "sam.pth")
    recipe = distill_recipe(root, encoder="sam", sam_checkpoint="sam.pth", steps=2, crop=(48, 48))
    distill(recipe)
    metadata = load_model(recipe.output).metadata
    assert metadata["encoder"] == "SAM's image encoder, blocks 0, 1"
    assert metadata["encoder_sam_guided"] == "true"
    assert len(metadata["encoder_sha256"]) == 64


def test_fast_students_learn_without_features(root: Path) -> None:
    weights = StudentWeights(feature=0)
    with pytest.raises(ValueError, match=r"architecture 'fast': L_fea .*feature to 0"):
        distill_recipe(root, architecture="fast", student_loss=weights)
    recipe = distill_recipe(
        root, architecture="fast", student_loss=weights, steps=2,
        teacher_loss=without_segmentation(feature=0.0),
    )  # fmt: skip
    distill(recipe)
    assert load_model(recipe.output).architecture == "fast"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "online"}, "scheme 'online', known: bilevel, offline"),
        ({"scheme": "offline", "second_order": True}, "second_order: with scheme offline"),
        ({"architecture": "slow"}, "architecture 'slow', known: sage, fast"),
        ({"encoder": "none"}, "encoder: L_cs needs one"),
        ({"encoder": "sam"}, "sam_checkpoint go together"),
        ({"sam_checkpoint": "x.pth"}, "sam_checkpoint go together"),
        ({"segmenter": "head:fast"}, "set both or neither"),
        ({"teacher_loss": TeacherWeights()}, "set both or neither"),
        ({"student_loss": StudentWeights(0, 0, 0)}, "student_loss: all weights are 0"),
        ({"student_loss": StudentWeights(contrast=-1)}, "student_loss.contrast must be at least 0"),
        (
            {"student_loss": StudentWeights(terms=ContextWeights(visible=-1.0))},
            "student_loss.terms.visible must be at least 0, got -1.0",
        ),
        ({"pool_size": -1}, "pool_size must be at least 0"),
        ({"freeze_norm_at": 2.0}, "freeze_norm_at"),
        ({"steps": 0}, "either epochs or steps must be positive"),
        ({"epochs": 3}, "either epochs or steps must be positive"),
        ({"devices": 3}, "batch_size 2 is no multiple of 3 devices"),
        ({"precision": "16"}, "precision '16', known: fp32, bf16, fp16"),
        ({"accelerator": "tpu"}, "accelerator 'tpu', known"),
        ({"hold_out_every": 1}, "hold_out_every must be 0 or at least 2"),
        ({"priors": ""}, "priors must not be empty"),
        ({"class_set": "coco"}, "class_set 'coco', known: mfnet"),
    ],
)
def test_impossible_distillations(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distill_recipe(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 0}, "masks must be at least 1"),
        ({"fusion_loss": ContextWeights()}, "reference and reference_gradient must be 0"),
        ({"segmenter": "head:fast", "segmentation_weight": 0.0}, "set segmenter to none"),
        ({"segmenter": ""}, "segmenter must not be empty"),
    ],
)
def test_impossible_teachers(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        teacher_recipe(tmp_path, **options)


def test_devices_that_are_not_there(root: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="accelerator 'cuda', devices 1: "):
        train_teacher(teacher_recipe(root, accelerator="cuda"))


# Killed runs


def resumable(root: Path) -> DistillRecipe:
    """Four batches of a pool, both schedules under way, a checkpoint after each second one."""
    return distill_recipe(root, steps=4, batch_size=1, checkpoint_every=2, pool_size=3)


def weights_of(root: Path) -> dict[str, Tensor]:
    found = {}
    for name in ("student", "student/teacher"):
        tensors = load_file(root / f"runs/{name}.safetensors")
        found |= {f"{name}.{key}": value for key, value in tensors.items()}
    return found


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_run_that_stops_at_any_step_is_resumed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = resumable(root)
    distill(recipe)
    whole, losses = weights_of(root), read_losses(root / "runs/student")
    take = BilevelSteps.take
    for last in range(4):

        def stop(self: BilevelSteps, step: int, batches: Any, last: int = last) -> dict[str, float]:
            if step == last:
                raise KeyboardInterrupt
            return take(self, step, batches)

        monkeypatch.setattr(BilevelSteps, "take", stop)
        with pytest.raises(KeyboardInterrupt):
            distill(recipe)
        monkeypatch.setattr(BilevelSteps, "take", take)
        torch.rand(3)
        distill(dataclasses.replace(recipe, resume=True, workers=0, checkpoint_every=5))
        assert_same_bits(weights_of(root), whole)
        assert read_losses(root / "runs/student") == losses


@pytest.mark.parametrize("rows", [1, 11])
def test_a_killed_run_is_resumed(rows: int, root: Path) -> None:
    """SIGKILL, early and in the middle; the rest comes out to the bit."""
    recipe = resumable(root)
    distill(recipe)
    whole = weights_of(root)
    (root / "runs/student.safetensors").unlink()
    log = root / "runs/student/losses.csv"
    log.unlink()
    command = [sys.executable, "-m", "ivf_core.cli", "train", "distill", "--config"]
    # Another number of threads gives other last bits, and tests before this may have set one.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [*command, str(write_recipe(root, recipe))], cwd=ROOT, env=environment
    )
    try:
        wait_until(lambda: log.is_file() and len(log.read_text().splitlines()) > rows)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
    assert not (root / "runs/student.safetensors").exists()
    distill(dataclasses.replace(recipe, resume=True))
    assert_same_bits(weights_of(root), whole)


def wait_until(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_a_run_is_resumed_with_its_own_recipe_only(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = resumable(root)

    def stop(self: BilevelSteps, step: int, batches: Any) -> dict[str, float]:
        if step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}

    monkeypatch.setattr(BilevelSteps, "take", stop)
    with pytest.raises(torch.OutOfMemoryError):
        distill(recipe)
    with pytest.raises(ValueError, match="interrupted run: continue that run"):
        distill(recipe)
    changed = dataclasses.replace(recipe, resume=True, seed=1)
    with pytest.raises(ValueError, match="seed was 0 when the run began, is 1 now"):
        distill(changed)
    for name in ("visible", "infrared", "labels"):
        (root / "pairs" / name / "5.png").unlink()
    with pytest.raises(ValueError, match="names of pairs"):
        distill(dataclasses.replace(recipe, resume=True))


# Processes


@pytest.mark.slow
def test_two_processes_are_as_good_as_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun on CPUs: gradients in float64 (`two_processes`), and a whole run.

    In the run, in float32, the contrast of all but equal features magnifies rounding errors.
    """
    smooth_adam.use(monkeypatch.setattr)
    recipe = distill_recipe(root, steps=4)
    distill(recipe)
    alone, student = read_losses(root / "runs/student"), load_model(recipe.output).student
    several = dataclasses.replace(recipe, devices=2, accelerator="cpu")
    script = ROOT / "test/helpers/two_processes.py"
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), "train", "distill", "--config", str(write_recipe(root, several))],
        check=True, timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    together = read_losses(root / "runs/student")
    assert together.keys() == alone.keys()
    for name, values in alone.items():
        assert together[name] == pytest.approx(values, rel=1e-2), name
    luma = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        network(luma, 1 - luma).fused for network in (student, load_model(recipe.output).student)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-2)


def test_torchrun_and_recipe_must_agree(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"torchrun started 2 processes .* devices is 1"):
        train_teacher(teacher_recipe(root))
