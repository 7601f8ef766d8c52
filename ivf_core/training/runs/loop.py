"""Loop of all training runs: setup, steps with checkpoints and images, end."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from ivf_core.system.atomic import remove_leftovers_of
from ivf_core.training.losses import Total
from ivf_core.training.runs.batches import Sample, open_batches
from ivf_core.training.runs.checkpoint import RunState
from ivf_core.training.runs.devices import average_over_processes, start_fabric
from ivf_core.training.runs.options import RunOptions
from ivf_core.training.runs.recipe import provenance
from ivf_core.training.runs.record import RunRecord, run_directory

__all__ = ["Learner", "Scores", "SingleTask", "StepError", "StepGuard", "Task", "run_task"]

Scores = dict[str, dict[str, float]]
"""Values by name, by the title of their table."""

R = TypeVar("R", bound=RunOptions)


class StepError(RuntimeError):
    """Error for a step that cannot be taken: memory is too small, or a loss is not finite.

    The weights are those after the last step; the last checkpoint stays.
    """


class StepGuard:
    """Errors of a step that name the step, the term and the files.

    Args:
        step: number of the step, from 0.
        files: names of the pairs in the batch.
    """

    def __init__(self, step: int, files: Sequence[str]) -> None:
        self.step = step
        self.files = files

    @contextmanager
    def term(self, name: str) -> Iterator[None]:
        """Raise StepError, naming the term, if the code inside needs too much memory."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, StepError) or not _is_memory(error):
                raise
            raise self._error(
                name,
                f"memory is too small ({str(error).splitlines()[0] if str(error) else 'no more'})",
                "continue from the last checkpoint with more memory (--resume), or start again "
                "with a smaller batch_size or crop, precision bf16, or the term's weight at 0",
            ) from error

    def check_finite(self, values: dict[str, float]) -> None:
        """Raise StepError for the first value that is not finite."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._error(
                    name,
                    f"{name} is {value}",
                    "look at these files; start again with a smaller learning rate or precision "
                    "fp32, or continue from the last checkpoint (--resume)",
                )

    def _error(self, term: str, what: str, remedy: str) -> StepError:
        return StepError(
            f"step {self.step}, {term}: {what}; batch of {', '.join(self.files)}; {remedy}"
        )


class Learner:
    """A network that learns, with its optimizer and its schedule.

    The schedule counts the steps of this network. The published one counts the batches of both
    networks, so that the student, which takes half of them, ends at a learning rate of 1e-3
    instead of 1e-5.

    Args:
        name: name of the network, for errors.
        network: on its device.
        optimizer: of the network's parameters.
        schedule: of the optimizer's learning rates, one step of it for each step.
        max_norm: largest norm of the gradient; longer ones are clipped. Of a `ModuleList` it is
            the norm of each network for itself.
        prefix: first part of the names of losses.
        fp16: whether gradients are scaled against underflow; a step whose gradient overflows is
            left out and the scale is halved.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler,
        *,
        max_norm: float = math.inf,
        prefix: str = "",
        fp16: bool = False,
    ) -> None:
        self.name = name
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.max_norm = max_norm
        self.prefix = prefix
        device = next(network.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=fp16)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step, of the first group."""
        return self.optimizer.param_groups[0]["lr"]

    def step(
        self, total: Total, guard: StepGuard, gradients: Sequence[Tensor] | None = None
    ) -> dict[str, float]:
        """Take an optimizer step.

        Args:
            total: the loss and its parts.
            guard: names the step in errors.
            gradients: one for each parameter, if they are not the derivative of the loss.

        Returns:
            Parts of the loss by name, the mean over processes.

        Raises:
            StepError: a part or a gradient is not finite, or memory is too small.
        """
        parameters = list(self.network.parameters())
        self.optimizer.zero_grad()
        if gradients is None:
            with guard.term(f"gradient of the {self.name}'s loss"):
                self.scaler.scale(total.loss).backward()
        else:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        values = torch.stack([part.detach().float() for part in total.parts.values()])
        average_over_processes([*(p.grad for p in parameters if p.grad is not None), values])
        self.scaler.unscale_(self.optimizer)
        networks = [*self.network] if isinstance(self.network, nn.ModuleList) else [self.network]
        norms = [nn.utils.clip_grad_norm_(n.parameters(), self.max_norm) for n in networks]
        norm = torch.stack(norms).norm().float()
        # One transfer from the device for everything that is checked.
        *parts, length = torch.cat((values, norm[None])).tolist()
        named = {f"{self.prefix}{k}": v for k, v in zip(total.parts, parts, strict=True)}
        guard.check_finite(named)
        if not self.scaler.is_enabled():  # it leaves out steps that overflow
            guard.check_finite({f"gradient of the {self.name}'s loss": length})
        with guard.term(f"step of the {self.name}"):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return named

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the network, the optimizer, the schedule and the scaler."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule,
                "scaler": self.scaler}  # fmt: skip


class Task(ABC, Generic[R]):
    """A training problem: its networks, data and losses. `run_task` runs it.

    `__init__` of subclasses builds networks and learners and finds the data, `start` opens the
    data, `loss` computes what is learned, `finish` writes the weights.

    Attributes:
        recipe: options of the run.
        fabric: devices and precision.
        device: device of this process.
        steps: steps of the whole run.
        names: names of the training pairs; a run must be resumed with the same.
        parts: learners, and everything else that changes from step to step, by name.
        batches: batches by number, each with `names`; `start` opens them.
    """

    def __init__(self, recipe: R, fabric: Any) -> None:
        self.recipe = recipe
        self.fabric = fabric
        self.device: torch.device = fabric.device
        self.steps = 0
        self.names: Sequence[str] = ()
        self.parts: dict[str, Any] = {}
        self.batches: Any = None

    def learner(self, name: str, network: nn.Module, *optimizer: Any, **options: Any) -> Learner:
        """Return a learner that is part of the checkpoint; see `Learner` for the arguments."""
        fp16 = self.recipe.precision == "fp16"
        learner = Learner(name, network, *optimizer, fp16=fp16, **options)
        self.parts[name] = learner
        return learner

    def open_batches(self, samples: Dataset[Sample], batch_size: int, first: int) -> Any:
        """Return batches of samples by number; see `batches.open_batches`."""
        workers = self.recipe.workers
        return open_batches(samples, batch_size, self.fabric, first=first, workers=workers)

    @abstractmethod
    def start(self, first: int) -> None:
        """Open the data from batch number `first` on; errors and warnings enter the record."""

    @abstractmethod
    def update(self, step: int) -> dict[str, float]:
        """Take a step and return its losses by name."""

    @abstractmethod
    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return a row of images after a step; see `RunRecord.images`."""

    @abstractmethod
    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the weights and return scores of held-out pairs; in the first process only.

        Args:
            origin: recipe and revision, for the metadata of the weights.
        """


class SingleTask(Task[R]):
    """A training problem with one learner and one loss.

    Attributes:
        trained: the learner.
    """

    trained: Learner

    @abstractmethod
    def loss(self, step: int, batch: Any, guard: StepGuard) -> Total:
        """Return the loss of a batch and its parts."""

    def set_modes(self, step: int) -> None:
        """Set networks to training mode before a step."""
        self.trained.network.train()

    def update(self, step: int) -> dict[str, float]:
        """Take a step and return its losses by name."""
        batch = self.batches[step]
        guard = StepGuard(step, batch.names)
        self.set_modes(step)
        with guard.term("forward pass"):
            total = self.loss(step, batch, guard)
        return self.trained.step(total, guard)


def run_task(
    part: str,
    recipe: R,
    build: Callable[[R, Any], Task[R]],
    prepare: Callable[[R, Any], R] | None = None,
) -> Scores:
    """Run a recipe from setup to scores.

    The first process writes the record and the checkpoints. The record is in `run_directory`.

    Args:
        part: name of the command, such as "student".
        recipe: options of the run.
        build: class of the task.
        prepare: function of the recipe and the fabric that runs in each process first, and
            returns the recipe of the run.

    Returns:
        Scores in the first process; nothing in others.

    Raises:
        StepError: memory is too small, or a loss is no longer finite.
        ValueError: data, weights, devices or a checkpoint do not fit the recipe.
    """
    fabric = start_fabric(recipe)
    if prepare is not None:
        recipe = prepare(recipe, fabric)
    origin = provenance(part, recipe)
    torch.manual_seed(recipe.seed)
    task = build(recipe, fabric)
    state, first = _open_state(task)
    with RunRecord(
        run_directory(recipe.output), part=part, recipe=recipe, total_steps=task.steps,
        first_step=first, enabled=fabric.is_global_zero,
    ) as record:  # fmt: skip
        task.start(first)
        state.restore_random()
        _take_steps(task, state, record, first)
        scores = task.finish(origin) if record.enabled else {}
        record.summary(scores)
    if record.enabled:
        state.remove()
    return scores


def _open_state(task: Task[Any]) -> tuple[RunState, int]:
    """Return the state of a run, and the steps taken before; raise if a run would be lost."""
    names = hashlib.sha256("\n".join(task.names).encode()).hexdigest()
    options = {**dataclasses.asdict(task.recipe), "names of pairs (SHA-256)": names}
    path = run_directory(task.recipe.output) / "checkpoint.pt"
    remove_leftovers_of([path, task.recipe.output])
    state = RunState(path, options, task.parts, task.recipe.changeable())
    if task.recipe.resume:
        return state, state.restore()
    state.reject_leftover()
    return state, 0


def _take_steps(task: Task[Any], state: RunState, record: RunRecord, first: int) -> None:
    """Take the remaining steps, with checkpoints between them and after the last."""
    recipe, last = task.recipe, task.steps - 1
    for step in range(first, task.steps):
        record.losses(step, task.update(step))
        if record.enabled and recipe.shows_images(step, task.steps):
            record.images(step, task.images(step))
        if record.enabled and ((step + 1) % recipe.checkpoint_every == 0 or step == last):
            state.save(step + 1)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "not enough memory" in text or "can't allocate memory" in text
