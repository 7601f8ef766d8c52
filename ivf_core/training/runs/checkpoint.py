"""Checkpoints from which a run goes on as if it had never stopped."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ivf_core.system.atomic import atomic_path

__all__ = ["CheckpointError", "RunState", "Stateful", "Trained"]

_FORMAT = "ivf-run-1"


class CheckpointError(ValueError):
    """A checkpoint that is damaged, in the way, or of another run."""


class Stateful(Protocol):
    """Modules, optimizers, schedules."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class Trained:
    """What a checkpoint holds of a network that learns; subclasses set the attributes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


class RunState:
    """Everything that a run changes as it goes, in one file that holds no code.

    The file is replaced whole, under a temporary name first: whenever a run is killed, the last
    checkpoint is there.

    Args:
        path: of the file.
        options: the resolved recipe, values of JSON; a run goes on with the same ones only.
        parts: what changes, by name. Random numbers are kept beside them: torch's, NumPy's and
            Python's. The data's position is the step.
        free: names of options that may differ.
    """

    def __init__(
        self,
        path: Path,
        options: Mapping[str, Any],
        parts: Mapping[str, Stateful],
        free: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self._options = {key: value for key, value in options.items() if key not in free}
        self._parts = parts

    def save(self, step: int) -> None:
        """Write the state after `step` steps."""
        state = {
            "format": _FORMAT,
            "step": step,
            "options": json.dumps(self._options, sort_keys=True),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "random": _random_state(),
        }
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)

    def restore(self) -> int:
        """Put everything back.

        Returns:
            The steps taken before; 0 where there is no file.

        Raises:
            CheckpointError: the file is damaged, or of a run with other options; names them.
        """
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return 0
        except Exception as error:  # damaged bytes can end the unpickler in any way
            raise CheckpointError(
                f"checkpoint '{self.path}': cannot be read: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise CheckpointError(f"checkpoint '{self.path}': expected format {_FORMAT!r}")
        self._check(json.loads(state["options"]))
        try:
            for name, part in self._parts.items():
                part.load_state_dict(state["parts"][name])
            _restore_random(state["random"])
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint '{self.path}': does not fit this run: {error}"
            ) from error
        return int(state["step"])

    def refuse_leftover(self) -> None:
        """Raise CheckpointError where there is a checkpoint: a new run would overwrite it."""
        if self.path.exists():
            raise CheckpointError(
                f"'{self.path}' is the checkpoint of a run that was interrupted: go on with it "
                f"(--resume), or remove it"
            )

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _check(self, before: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(self._options))
        missing = object()
        for name in sorted({*before, *now}):
            was, value = before.get(name, missing), now.get(name, missing)
            if was != value:
                raise CheckpointError(
                    f"checkpoint '{self.path}': {name} was {_text(was)} when the run began, is "
                    f"{_text(value)} now; a run goes on with the recipe that it began with"
                )


def _text(value: object) -> str:
    return repr(value) if isinstance(value, (str, int, float, list, dict, type(None))) else "not"


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "python": random.getstate(),
    }


def _restore_random(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
