"""Steps of a run: learners, what may go wrong, checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.training.losses import Total
from ivf_core.training.runs.checkpoint import RunState, Trained
from ivf_core.training.runs.devices import average_over_processes
from ivf_core.training.runs.options import RunOptions
from ivf_core.training.runs.record import RunRecord, run_directory
from ivf_core.training.sage.samples import BatchStream, CropOrder, MaskedPairs, Source

__all__ = [
    "Learner",
    "StepError",
    "StepGuard",
    "open_record",
    "open_state",
    "open_stream",
    "run_steps",
]


class StepError(RuntimeError):
    """A step that cannot be taken: memory is too small, or a loss is not finite.

    The weights are those after the last step; the last checkpoint stays.
    """


class StepGuard:
    """Tells where a run stopped: step, term and files.

    Args:
        step: number of the step, from 0.
        files: of the batch.
    """

    def __init__(self, step: int, files: Sequence[str]) -> None:
        self.step = step
        self.files = files

    @contextmanager
    def term(self, name: str) -> Iterator[None]:
        """Whatever needs too much memory in here raises StepError, naming the term."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, StepError) or not _is_memory(error):
                raise
            raise self._error(
                name,
                f"memory is too small ({str(error).splitlines()[0] if str(error) else 'no more'})",
                "go on from the last checkpoint where there is more (--resume), or begin anew with "
                "a smaller batch_size or crop, precision bf16-mixed, or the term's weight at 0",
            ) from error

    def check_finite(self, values: dict[str, float]) -> None:
        """Raise StepError for the first of these that is not."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._error(
                    name,
                    f"{name} is {value}",
                    "look at these files; begin anew with a smaller learning rate or precision "
                    "32-true, or go on from the last checkpoint (--resume)",
                )

    def _error(self, term: str, what: str, remedy: str) -> StepError:
        return StepError(
            f"step {self.step}, {term}: {what}; batch of {', '.join(self.files)}; {remedy}"
        )


class Learner(Trained):
    """A network with its Adam and a cosine over the steps that it takes itself.

    The published schedule counts the batches of both networks, so that the student, which
    takes half of them, ends at a learning rate of 1e-3 instead of 1e-5.

    Args:
        name: of the network, for logs.
        network: on its device.
        steps: that it will take.
        learning_rate, final_learning_rate: ends of the cosine.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        steps: int,
        learning_rate: float,
        final_learning_rate: float,
    ) -> None:
        self.name = name
        self.network = network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, max(1, steps), eta_min=final_learning_rate
        )

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def descend(
        self,
        total: Total,
        guard: StepGuard,
        gradients: Sequence[Tensor | None] | None = None,
    ) -> dict[str, float]:
        """Take a step.

        Args:
            total: the loss and its parts.
            gradients: of the loss, one a parameter, where they are not simply its derivative.

        Returns:
            The parts, the mean of all processes, "NAME/PART".

        Raises:
            StepError: a part or a gradient is not finite, or memory is too small.
        """
        parameters = list(self.network.parameters())
        if gradients is None:
            with guard.term(f"gradient of the {self.name}'s loss"):
                gradients = torch.autograd.grad(total.loss, parameters, allow_unused=True)
        used = [gradient for gradient in gradients if gradient is not None]
        values = torch.stack([part.detach().float() for part in total.parts.values()])
        average_over_processes([*used, values])
        # One transfer from the device for all that has to be looked at.
        norm = torch.stack(torch._foreach_norm(used)).norm().float()
        *parts, length = torch.cat((values, norm[None])).tolist()
        named = {f"{self.name}/{k}": v for k, v in zip(total.parts, parts, strict=True)}
        guard.check_finite({**named, f"gradient of the {self.name}'s loss": length})
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        with guard.term(f"step of the {self.name}"):
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        return named


def open_state(
    options: RunOptions, sources: Sequence[Source], learners: Mapping[str, Learner]
) -> tuple[RunState, int]:
    """A run's checkpoint; one that is there is gone on with, or refused.

    Returns:
        The state, and how many steps were taken before.
    """
    names = "\n".join(source.files.name for source in sources)
    must_not_change = {
        **dataclasses.asdict(options),
        "names of pairs (SHA-256)": hashlib.sha256(names.encode()).hexdigest(),
    }
    path = run_directory(options.output) / "checkpoint.pt"
    state = RunState(path, must_not_change, learners, options.FREE)
    if not options.resume:
        state.refuse_leftover()
        return state, 0
    return state, state.restore()


def open_stream(
    options: RunOptions, pairs: MaskedPairs, fabric: Any, first: int, pool: int = 0
) -> BatchStream:
    """The batches of this process, from number `first` on."""
    order = CropOrder(
        len(pairs),
        options.batch_size,
        options.seed,
        first=first,
        pool=pool,
        rank=fabric.global_rank,
        processes=fabric.world_size,
    )
    return BatchStream(pairs, order, fabric.device, first=first, workers=options.workers)


def open_record(options: RunOptions, part: str, total: int, first: int, fabric: Any) -> RunRecord:
    """The record of a run of `total` steps that goes on after `first`; one process writes it."""
    return RunRecord(
        run_directory(options.output),
        part=part,
        recipe=options,
        total_steps=total,
        first_step=first,
        enabled=fabric.is_global_zero,
    )


def run_steps(
    options: RunOptions,
    state: RunState,
    run: RunRecord,
    steps: range,
    update: Callable[[int], dict[str, float]],
    draw: Callable[[int], dict[str, np.ndarray]],
) -> None:
    """Take the steps that are left, with checkpoints between them and after the last.

    Args:
        run: what it says goes there; that of the first process is enabled, and it alone
            writes checkpoints.
        update: takes a step and returns its losses by name.
        draw: makes a row of pictures after a step.
    """
    for step in steps:
        run.losses(step, update(step))
        if run.enabled and (step + 1) % options.picture_every == 0:
            run.pictures(step, draw(step))
        if run.enabled and ((step + 1) % options.checkpoint_every == 0 or step + 1 == steps.stop):
            state.save(step + 1)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "not enough memory" in text or "can't allocate memory" in text
