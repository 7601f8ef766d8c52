"""Steps a second of SAGE's teacher and student, beside a plain PyTorch loop.

The networks, losses, optimizers, crops and batch are those of `ivf train distill` by default,
with the small encoder in place of SAM's and the head of `fast` as segmenter, both with weights
that need no download. The batch is synthetic and stays on the device: reading is not measured.
The plain loop needs PyTorch, NumPy and OpenCV only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.inference.gpu_measurements import Row, Settings, serve_rows, time_calls
from ivf_core.models.checkpoints import load_model
from ivf_core.models.color import recolor_unrounded
from ivf_core.models.conv_encoder import ConvEncoder
from ivf_core.models.graph import fold_batch_norm
from ivf_core.models.student import FusionStudent, StudentOutput
from ivf_core.models.teacher import Teacher
from ivf_core.scenes import random_scene
from ivf_core.training.losses import segmentation_loss
from ivf_core.training.masks.sources import LabelMasks
from ivf_core.training.sage.losses import masked_contrast, student_loss, teacher_loss

if TYPE_CHECKING:
    from ivf_core.training.sage.objectives import Objectives

__all__ = ["Crops", "Networks", "measure_steps", "our_step", "plain_step", "synthetic_crops"]

_MASKS = 4
_LEAST_AREA = 16  # of a mask, in pixels
_RATES = {"student": 2e-3, "teacher": 5e-4}
_LUMA = (0.299, 0.587, 0.114)


class Crops(NamedTuple):
    """Batch on the device; see `ivf_core.training.sage.samples.Batch` for the shapes."""

    luma: Tensor
    infrared: Tensor
    visible_masks: Tensor
    infrared_masks: Tensor
    labels: Tensor
    chroma: Tensor


class Networks(nn.Module):
    """Networks of the distillation, on a device: both learn, the others are frozen.

    Args:
        device: "cpu", "cuda" or "cuda:N".
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        fast = load_model("fast")
        assert fast.head is not None
        self.teacher, self.student = Teacher(_MASKS), FusionStudent()
        self.encoder = ConvEncoder().requires_grad_(False)
        self.segmenter = nn.ModuleList(fold_batch_norm(x) for x in (fast.student, fast.head))
        self.segmenter.requires_grad_(False)
        self.to(device)
        self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.segmenter.eval()


def synthetic_crops(settings: Settings) -> Crops:
    """Draw a batch of synthetic scenes with the regions of their labels as masks."""
    count, (height, width) = (2, (64, 64)) if settings.quick else (4, (192, 256))
    columns: list[list[Tensor]] = [[] for _ in Crops._fields]
    for seed in range(count):
        scene = random_scene(seed)
        visible, infrared = (
            cv2.resize(x, (width, height)) for x in (scene.visible, scene.infrared)
        )
        labels = cv2.resize(scene.labels, (width, height), interpolation=cv2.INTER_NEAREST)
        found = LabelMasks(_MASKS, _LEAST_AREA).masks(labels)
        masks = np.zeros((_MASKS, height, width), np.float32)
        masks[: len(found)] = found
        luma, *chroma = cv2.split(cv2.cvtColor(visible, cv2.COLOR_RGB2YCrCb))
        planes = (
            luma[None].astype(np.float32) / 255, infrared[None].astype(np.float32) / 255,
            masks, masks, labels.astype(np.int64), np.stack(chroma).astype(np.float32),
        )  # fmt: skip
        for column, plane in zip(columns, planes, strict=True):
            column.append(torch.from_numpy(plane))
    return Crops(*(torch.stack(column).to(settings.device) for column in columns))


def measure_steps(settings: Settings) -> Iterator[Row]:
    """Measure steps of both networks in fp32 and bf16, of the plain loop and of ours."""
    crops = synthetic_crops(settings)
    count, _, height, width = crops.luma.shape
    loops: dict[str, Callable[..., Callable[[], object]]] = {
        "plain PyTorch": plain_step,
        "ivf train": our_step,
    }
    for network in _RATES:
        for precision in ("fp32", "bf16"):
            for name, prepare in loops.items():
                head = {"network": network, "precision": precision, "loop": name}
                try:
                    step = prepare(Networks(settings.device), crops, network, precision)
                except ImportError as error:
                    yield head | {"note": f"not measured: {error}"}
                    continue
                times = time_calls(settings, step)
                rate = {"steps_per_second": 1e3 / times["median_ms"]}
                yield head | {"crop": f"{width}x{height}", "batch": count} | rate | times


def plain_step(
    networks: Networks, crops: Crops, network: str, precision: str
) -> Callable[[], float]:
    """Return a step of a plain loop: losses, backward and Adam, with one value read back.

    Args:
        networks: on the device of the crops.
        crops: the batch.
        network: "student" or "teacher"; the other one runs without a gradient.
        precision: "fp32", or "bf16" for autocast.
    """
    learns = getattr(networks, network)
    optimizer = torch.optim.Adam(learns.parameters(), lr=_RATES[network])
    device = crops.luma.device.type

    def run(name: str) -> StudentOutput:
        with torch.set_grad_enabled(name == network):
            images = crops.luma, crops.infrared
            masks = (crops.visible_masks, crops.infrared_masks) if name == "teacher" else ()
            out = getattr(networks, name)(*images, *masks)
        first, second, third, fourth, fifth = (feature.float() for feature in out.features)
        return StudentOutput(out.fused.float(), (first, second, third, fourth, fifth))

    def encode(images: Tensor) -> list[Tensor]:
        return [layer.float() for layer in networks.encoder(images)]

    def step() -> float:
        with torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext():
            teacher, student = run("teacher"), run("student")
            out, other = (teacher, student) if network == "teacher" else (student, teacher)
            images = out.fused, other.fused
            contrast = masked_contrast(*images, crops.luma, crops.visible_masks, encode)
            contrast = contrast + masked_contrast(
                *images, crops.infrared, crops.infrared_masks, encode
            )
            logits = _logits(networks, out, crops) if network == "teacher" else None
        if logits is None:
            total = student_loss(out, other, crops.luma, crops.infrared, contrast)
        else:
            segmentation = segmentation_loss(logits, crops.labels)
            total = teacher_loss(
                out, crops.luma, crops.infrared, segmentation=segmentation, student=other,
                contrast=contrast,
            )  # fmt: skip
        optimizer.zero_grad()
        total.loss.backward()
        optimizer.step()
        return float(total.loss.detach())

    return step


def our_step(
    networks: Networks, crops: Crops, network: str, precision: str
) -> Callable[[], dict[str, float]]:
    """Return a step of `ivf train distill`, with arguments as for `plain_step`.

    Raises:
        ImportError: a package of training is not installed.
    """
    from lightning_fabric import Fabric

    from ivf_core.training.runs.loop import Learner, StepGuard
    from ivf_core.training.runs.optimizers import adam_with_cosine
    from ivf_core.training.sage.samples import Batch, Place

    device = crops.luma.device
    fabric = Fabric(
        accelerator=device.type,
        devices=1 if device.type == "cpu" else [device.index or 0],
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    objectives = _objectives(networks, fabric.autocast)
    learns = getattr(networks, network)
    optimizer = adam_with_cosine(learns, 10_000, _RATES[network], 1e-5)
    learner = Learner(network, learns, *optimizer)
    count = len(crops.luma)

    def step() -> dict[str, float]:
        # A new batch in every step, since L_cs keeps features of the sources of the last ones.
        places = tuple(Place(0, index) for index in range(count))
        batch = Batch(*crops, ("scene",) * count, places)
        guard = StepGuard(0, batch.names)
        losses = objectives.lower if network == "teacher" else objectives.upper
        return learner.step(losses(batch, guard), guard)

    return step


def _objectives(networks: Networks, autocast: Callable[[], object]) -> Objectives:
    from ivf_core.training.sage.contrast import MaskContrast
    from ivf_core.training.sage.objectives import Objectives
    from ivf_core.training.segmentation.segmenters import HeadSegmenter

    segmenter = HeadSegmenter(load_model("fast")).to(next(networks.parameters()).device)
    return Objectives(
        networks.teacher,
        networks.student,
        MaskContrast(networks.encoder),
        segmenter,
        autocast=autocast,  # type: ignore[arg-type]
    )


def _logits(networks: Networks, out: StudentOutput, crops: Crops) -> Tensor:
    """Return logits of the fused image in the visible image's colours, from its luma alone."""
    rgb = recolor_unrounded(out.fused, *crops.chroma.split(1, dim=1)).clamp(0, 1)
    plane = (rgb * rgb.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
    student, head = networks.segmenter
    return head(student(plane, plane).features).float()


if __name__ == "__main__":
    _options = json.loads(sys.argv[1])
    _options.pop("part")
    serve_rows(measure_steps, Settings(**_options))
