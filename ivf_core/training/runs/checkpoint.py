"""Checkpoints from which a run continues as if it had never stopped."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ivf_core.system.atomic import atomic_path

__all__ = ["CheckpointError", "RunState"]

_FORMAT = "ivf-run-2"
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """Error for a checkpoint that is damaged, would be overwritten, or is of another run."""


class RunState:
    """State of a run, in one file that holds no code.

    The file is written under a temporary name and then renamed: whenever a run is killed, its
    last checkpoint is whole. Besides the parts it holds the states of the random generators of
    torch, NumPy and Python. The position in the data is the step.

    Args:
        path: file of the checkpoint.
        options: resolved recipe, values of JSON; a run must be resumed with the same.
        parts: everything that training changes, by name; has `state_dict` and `load_state_dict`.
        changeable: names of the options that may differ.
    """

    def __init__(
        self,
        path: Path,
        options: Mapping[str, Any],
        parts: Mapping[str, Any],
        changeable: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self._options = {key: value for key, value in options.items() if key not in changeable}
        self._parts = parts
        self._random: Mapping[str, Any] | None = None

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
        """Load the file into the parts; `restore_random` then sets the random generators.

        Returns:
            Steps taken before; 0 if there is no file.

        Raises:
            CheckpointError: the file is damaged, or of a run with other options; names them.
        """
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            _log.warning("there is no checkpoint '%s': the run starts at step 0", self.path)
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
            self._random = state["random"]
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint '{self.path}': does not fit this run: {error}"
            ) from error
        return int(state["step"])

    def restore_random(self) -> None:
        """Set the random generators to the state of the restored file, if there was one.

        Call it last before the first step: opening networks may draw numbers.
        """
        if self._random is not None:
            _restore_random(self._random)

    def reject_leftover(self) -> None:
        """Raise CheckpointError if there is a checkpoint: a new run would overwrite it."""
        if self.path.exists():
            raise CheckpointError(
                f"'{self.path}' is the checkpoint of an interrupted run: continue that run "
                f"(--resume), or remove the file"
            )

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)

    def _check(self, before: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(self._options))
        missing = object()
        for name in sorted({*before, *now}):
            was, value = before.get(name, missing), now.get(name, missing)
            if was != value:
                raise CheckpointError(
                    f"checkpoint '{self.path}': {name} was {_text(was)} when the run began, is "
                    f"{_text(value)} now; a run must be resumed with the recipe that it began with"
                )


def _text(value: object) -> str:
    return repr(value) if isinstance(value, (str, int, float, list, dict, type(None))) else "not"


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        # Of this process's GPU: all processes start alike and draw as many numbers.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "python": random.getstate(),
    }


def _restore_random(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
