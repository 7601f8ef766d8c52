"""For torchrun: gradients of half a batch in each process are those of a whole one; then `ivf`."""

from __future__ import annotations

import sys

import smooth_adam
import torch
import torch.distributed as dist
from small_runs import random_batch
from torch import Tensor

from ivf_core.cli import main
from ivf_core.models.conv_encoder import ConvEncoder
from ivf_core.models.student import FusionStudent
from ivf_core.models.teacher import Teacher
from ivf_core.training.runs.batch_norm import synchronize_norm
from ivf_core.training.runs.devices import average_over_processes
from ivf_core.training.runs.loop import StepGuard
from ivf_core.training.sage.contrast import MaskContrast
from ivf_core.training.sage.objectives import Objectives
from ivf_core.training.sage.samples import Batch


class Brightness(torch.nn.Module):
    """Two classes."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat((images[:, :1], 1 - images[:, 1:2]), dim=1)


def results(batch: Batch) -> dict[str, Tensor]:
    """Losses of both levels, their gradients, and BatchNorm's statistics."""
    torch.manual_seed(0)
    teacher, student = Teacher(2), synchronize_norm(FusionStudent(), torch.device("cpu"))
    encode = ConvEncoder((8, 8, 8)).requires_grad_(False)
    levels = Objectives(teacher, student, MaskContrast(encode), Brightness())
    guard = StepGuard(0, ())
    found = {}
    for name, network, total in (
        ("student", student, levels.upper(batch, guard)),
        ("teacher", teacher, levels.lower(batch, guard)),
    ):
        parameters = dict(network.named_parameters())
        gradients = torch.autograd.grad(total.loss, list(parameters.values()))
        found |= {f"{name}.{key}": g for key, g in zip(parameters, gradients, strict=True)}
        found |= {f"{name} {term}": part.detach() for term, part in total.parts.items()}
    average_over_processes(list(found.values()))
    statistics = student.state_dict().items()
    return found | {key: value.clone() for key, value in statistics if "running" in key}


def check() -> None:
    """Compare in float64, whose rounding errors are far from what any fault would cause."""
    torch.set_default_dtype(torch.float64)
    batch = random_batch(3)
    # As many labelled pixels in one crop as not in the other; one process has no mask at all.
    batch.labels[0, :, :20] = 255
    batch.visible_masks[1] = 0
    batch.infrared_masks[1] = 0
    alone = results(batch)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    together = results(Batch(*(part[rank::2] for part in batch)))  # type: ignore[arg-type]
    for name, value in alone.items():
        # Half of the digits agree; a bias before BatchNorm has the gradient zero, and rounding.
        bound = torch.finfo(value.dtype).eps ** 0.5 * (1 + value.norm())
        error = (together[name] - value).norm()
        assert error < bound, f"{name}: {error} where {bound} is allowed"
    torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    check()
    smooth_adam.use(setattr)
    sys.exit(main())
