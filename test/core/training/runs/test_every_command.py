"""All commands of `ivf train`: resumed after a kill, stopped by a bad loss, in two processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smooth_adam
import torch
from safetensors.torch import load_file
from small_runs import (
    COMMANDS,
    recipe_of,
    run,
    write_answers,
    write_networks,
    write_recipe,
)
from torch import Tensor

from ivf_core.training.runs.loop import StepError
from ivf_core.training.runs.page import read_losses
from ivf_core.training.runs.record import run_directory

ROOT = Path(__file__).parents[4]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def root(root: Path, quick_calibration: None) -> Path:
    write_networks(root)
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Another number of threads gives other last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def subcommand(command: str) -> str:
    return "student" if command == "fast" else command


def need_packages(command: str) -> None:
    """Skip where a package is missing that the command needs."""
    if command in ("segformer", "sartm"):
        pytest.importorskip("transformers")
    if command == "fusionsam":
        pytest.importorskip("segment_anything")


def weights_of(recipe: Any) -> dict[str, Tensor]:
    """Tensors that a run has written, also those in its record."""
    output, directory = Path(recipe.output), run_directory(recipe.output)
    files = [output, directory / "teacher.safetensors", output / "model.safetensors"]
    found = {str(path): load_file(path) for path in files if path.is_file()}
    assert found
    return {f"{path}: {name}": t for path, tensors in found.items() for name, t in tensors.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_run_is_resumed_to_the_bit(command: str, root: Path, one_thread: None) -> None:
    """SIGKILL after four steps, a checkpoint after two: weights and losses are as without.

    Heads also learn from a pair teacher's answers, and from pairs without labels.
    """
    need_packages(command)
    taught = write_answers(root) if command in ("head", "joint") else {}
    recipe = recipe_of(command, root, steps=5, checkpoint_every=2, **taught)
    run(command, recipe)
    whole, losses = weights_of(recipe), read_losses(run_directory(recipe.output))
    for path in Path(recipe.output).parent.rglob("*.safetensors"):
        path.unlink()
    arguments = ["train", subcommand(command), "--config", str(write_recipe(root, recipe))]
    script = str(ROOT / "test/helpers/killed_run.py")
    killed = subprocess.run(
        [sys.executable, script, "3", *arguments], env={**ENVIRONMENT, "IVF_DATA": str(root)}
    )
    assert killed.returncode == -signal.SIGKILL
    assert (run_directory(recipe.output) / "checkpoint.pt").is_file()
    record = run_directory(recipe.output)
    names = (".checkpoint.abcdefgh.pt", ".metadata.abcdefgh.json", "images/.00000000.abcdefgh.png")
    leftovers = [record / name for name in names]
    for path in leftovers:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    torch.rand(3)
    run(command, dataclasses.replace(recipe, resume=True, workers=1, checkpoint_every=3))
    assert not any(path.exists() for path in leftovers)
    resumed = weights_of(recipe)
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
    again = read_losses(run_directory(recipe.output))
    assert again.keys() == losses.keys()
    assert not taught or "distillation" in losses
    for name, (steps, values) in losses.items():
        np.testing.assert_array_equal(again[name][0], steps)
        np.testing.assert_array_equal(again[name][1], values)
    assert not (run_directory(recipe.output) / "checkpoint.pt").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_loss_that_is_not_finite_stops_a_run(command: str, root: Path) -> None:
    """With one type of error, which names step, loss and files."""
    need_packages(command)
    names = ("student_learning_rate", "teacher_learning_rate")
    rates = dict.fromkeys(names if command == "distill" else ("learning_rate",), 1e30)
    recipe = recipe_of(command, root, **rates)
    with pytest.raises(StepError, match=r"^step \d, .* is (nan|-?inf); batch of .+; look at these"):
        run(command, recipe)
    assert not Path(recipe.output).exists()


@pytest.mark.parametrize(
    "command",
    ["student", "fast", "head", "unsupervised", "encoder", "sartm",
     *(pytest.param(command, marks=pytest.mark.slow)
       for command in ("joint", "tokens", "fusionsam"))],
)  # fmt: skip
def test_two_processes_learn_as_one(
    command: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun on CPUs: losses of whole batches, gradients and BatchNorm of both.

    Half of the digits agree. Flicker is that of the first crops of each process.
    """
    need_packages(command)
    smooth_adam.use(monkeypatch.setattr)
    bound = torch.finfo(torch.float32).eps ** 0.5
    options: dict[str, Any] = {}
    if command in ("head", "joint"):
        options = write_answers(root)
    if command == "joint":
        options |= {"batch_size": 4, "noise_weight": 0.0, "steps": 2}
    recipe = recipe_of(command, root, **{"steps": 4, **options})
    run(command, recipe)
    alone, before = read_losses(run_directory(recipe.output)), weights_of(recipe)
    several = dataclasses.replace(recipe, devices=2, accelerator="cpu")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         smooth_adam.__file__, "train", subcommand(command),
         "--config", str(write_recipe(root, several))],
        check=True, timeout=400, env={**ENVIRONMENT, "IVF_DATA": str(root)},
    )  # fmt: skip
    together = read_losses(run_directory(recipe.output))
    assert together.keys() == alone.keys()
    for name, (_, values) in alone.items():
        assert together[name][1] == pytest.approx(values, rel=bound, abs=bound), name
    for name, tensor in weights_of(recipe).items():
        if "running" in name:  # BatchNorm of the whole batch
            torch.testing.assert_close(tensor, before[name], rtol=bound, atol=bound)


def test_resume_without_a_checkpoint_starts_a_run(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of("encoder", root, steps=2, resume=True)
    run("encoder", recipe)
    assert Path(recipe.output).is_file()
    assert "there is no checkpoint" in caplog.text
