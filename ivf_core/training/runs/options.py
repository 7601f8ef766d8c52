"""Options that the recipes of all training runs share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ivf_core.training.runs.recipe import Recipe, option

__all__ = ["FORMER_PRECISIONS", "PRECISIONS", "RunOptions"]

PRECISIONS = ("fp32", "bf16", "fp16")
"""Words for `precision` in recipes."""

FORMER_PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "True": "bf16", "False": "fp32"}
"""Words for `precision` in earlier releases; `bfloat16` was a switch."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Recipe):
    """Output, length, devices and checkpoints of a training run."""

    output: str = option(nonempty=True)
    """Weights file to write. Checkpoint, losses and images go to a folder beside it, of the same
    name without suffix."""
    steps: int = option(0, minimum=0)
    """Optimizer steps of the run; give this or `epochs`, and 0 for the other."""
    epochs: int = option(0, minimum=0)
    """Passes over the training pairs; give this or `steps`, and 0 for the other."""
    devices: int = option(1, minimum=1)
    """Processes on each node, one for each GPU if there are any. Under torchrun it must equal
    the number of processes that torchrun starts."""
    nodes: int = option(1, minimum=1)
    """Machines; torchrun starts them."""
    accelerator: str = option("auto", choices=("auto", "cpu", "cuda"))
    """auto takes GPUs if there are any; cpu or cuda."""
    precision: str = option("fp32", choices=PRECISIONS, former_values=FORMER_PRECISIONS)
    """Arithmetic of the networks: fp32, bf16, or fp16 with scaled gradients (GPU only). Weights
    and losses are always fp32."""
    workers: int = option(0, minimum=0, changeable=True, former="threads")
    """Processes that prepare batches, for each device; 0 prepares them in the training process.
    The batches do not depend on it."""
    checkpoint_every: int = option(200, minimum=1, changeable=True)
    """Steps from one checkpoint to the next."""
    image_every: int = option(
        0,
        minimum=0,
        changeable=True,
        former="picture_every",  # plain: picture
    )
    """Steps from one row of images to the next; 0 shows about twenty rows in a run."""
    resume: bool = option(False, changeable=True)
    """Continue from the checkpoint of an interrupted run, or start if there is none."""
    seed: int = option(0, minimum=0)
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.epochs > 0) == (self.steps > 0):
            raise ValueError(
                f"either epochs or steps must be positive, got {self.epochs} and {self.steps}"
            )
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of {self.devices} devices on "
                f"{self.nodes} nodes"
            )

    @property
    def batch_size(self) -> int:
        """Crops of a batch, of all processes together; an option of most recipes."""
        raise NotImplementedError

    @property
    def processes(self) -> int:
        """Processes of the whole run."""
        return self.devices * self.nodes

    def count_steps(self, pairs: int) -> int:
        """Return the steps of the run on this many pairs."""
        return self.steps or math.ceil(self.epochs * pairs / self.batch_size)

    def shows_images(self, step: int, steps: int) -> bool:
        """Return whether a row of images is due after `step` of `steps`."""
        if self.image_every:
            return (step + 1) % self.image_every == 0
        return step % max(1, steps // 20) == 0 or step == steps - 1
