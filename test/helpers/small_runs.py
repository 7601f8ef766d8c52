"""Small pairs with masks in a data directory, and recipes that train on them in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ivf_core.images.files import write_image
from ivf_core.models.teacher import Teacher
from ivf_core.training.masks.priors import PriorRecipe, make_priors
from ivf_core.training.sage.distill import DistillRecipe
from ivf_core.training.sage.encoder import ConvEncoder, save_encoder
from ivf_core.training.sage.samples import Batch, Place
from ivf_core.training.sage.teacher import TeacherRecipe
from ivf_core.training.sage.teacher_weights import save_teacher

SIZE = (48, 56)
RUN: dict[str, Any] = dict(
    folders=("pairs",), crop=(32, 32), batch_size=2, steps=6, hold_out_every=4, score_pairs=0
)


def write_pairs(root: Path, count: int = 6) -> None:
    """Smooth pairs with labels of two classes below `root`/pairs, and their masks."""
    random = np.random.default_rng(0)
    for number in range(count):
        name = f"{number}.png"
        noise = random.integers(0, 256, (5, 7, 4), np.uint8)
        picture = cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        write_image(root / "pairs/visible" / name, picture[..., :3])
        write_image(root / "pairs/infrared" / name, picture[..., 3])
        write_image(root / "pairs/labels" / name, (picture[..., 3] > 128).astype(np.uint8))
    make_priors(
        PriorRecipe(
            folders=("pairs",), output=str(root / "priors"), source="crops", count=3,
            crop_sides=(0.5, 0.9),
        )
    )  # fmt: skip


def write_networks(root: Path) -> None:
    """A teacher and an encoder with random weights."""
    torch.manual_seed(1)
    save_teacher(Teacher(2), root / "teacher.safetensors", source="random")
    save_encoder(ConvEncoder((8, 8, 8)), root / "encoder.safetensors", source="random")


def teacher_recipe(root: Path, **options: Any) -> TeacherRecipe:
    fields = dict(
        RUN, priors=str(root / "priors/crops-*"), segmenter="none", masks=2,
        output=str(root / "runs/teacher.safetensors"),
    )  # fmt: skip
    return TeacherRecipe(**{**fields, **options})


def distill_recipe(root: Path, **options: Any) -> DistillRecipe:
    fields = dict(
        RUN, priors=str(root / "priors/crops-*"), segmenter="none",
        teacher=str(root / "teacher.safetensors"), encoder=str(root / "encoder.safetensors"),
        teacher_loss=without_segmentation(), output=str(root / "runs/student.safetensors"),
    )  # fmt: skip
    return DistillRecipe(**{**fields, **options})


def without_segmentation(**options: Any) -> Any:
    from ivf_core.training.losses import TeacherWeights

    return TeacherWeights(**{"segmentation": 0.0, **options})


def random_batch(seed: int = 0, count: int = 2, side: int = 32, masks: int = 2) -> Batch:
    """Noise with rectangles for masks, the last of the infrared image's empty."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(count, 1, side, side, generator=generator) for _ in range(2)]
    planes = torch.zeros(2, count, masks, side, side)
    planes[:, :, :, 4:20, 8:24] = 1
    planes[0, 0, 0] = 0
    planes[1, :, -1] = 0
    labels = torch.zeros(count, side, side, dtype=torch.int64)
    chroma = torch.full((count, 2, side, side), 128.0)
    names = tuple(f"{number}.png" for number in range(count))
    places = tuple(Place(0, number) for number in range(count))
    return Batch(images[0], images[1], planes[0], planes[1], labels, chroma, names, places)
