"""Small pairs with masks in a data directory, and recipes that train on them in seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from ivf_core.class_sets import MFNET
from ivf_core.data.pairs import list_pair_files
from ivf_core.images.files import write_image
from ivf_core.models.checkpoints import FusionModel, save_model
from ivf_core.models.conv_encoder import ConvEncoder
from ivf_core.models.student import FastStudent, FusionStudent
from ivf_core.models.teacher import Teacher
from ivf_core.training.fusionsam.fusionsam import FusionSamRecipe, train_fusionsam
from ivf_core.training.fusionsam.tokens import TokensRecipe, train_tokens
from ivf_core.training.fusionsam.weights import build_tokenizers, save_tokens
from ivf_core.training.joint.joint import JointRecipe, train_joint
from ivf_core.training.masks.priors import PriorRecipe, make_priors
from ivf_core.training.runs.options import RunOptions
from ivf_core.training.sage.distill import DistillRecipe, distill
from ivf_core.training.sage.encoder import (
    EncoderRecipe,
    save_encoder,
    train_encoder,
)
from ivf_core.training.sage.samples import Batch, Place
from ivf_core.training.sage.smoke import save_tiny_sam
from ivf_core.training.sage.teacher import TeacherRecipe, train_teacher
from ivf_core.training.sage.teacher_weights import save_teacher
from ivf_core.training.sartm.sartm import SartmRecipe, train_sartm
from ivf_core.training.sartm.smoke import save_tiny_clip, save_tiny_sam2
from ivf_core.training.segmentation.head import HeadRecipe, train_head
from ivf_core.training.segmentation.logit_cache import LogitCache
from ivf_core.training.segmentation.segformer import SegformerRecipe, train_segformer
from ivf_core.training.students.student import StudentRecipe, train_student
from ivf_core.training.students.unsupervised import UnsupervisedRecipe, train_unsupervised

SIZE = (48, 56)
COMMANDS = ("student", "fast", "unsupervised", "head", "segformer", "teacher", "distill", "encoder",
            "joint", "sartm", "tokens", "fusionsam")  # fmt: skip
RUN: dict[str, Any] = dict(
    folders=("pairs",), crop=(32, 32), batch_size=2, steps=6, hold_out_every=4, score_pairs=0
)


def write_folder(folder: Path, count: int, seed: int) -> None:
    """Smooth pairs with labels of two classes."""
    random = np.random.default_rng(seed)
    for number in range(count):
        name = f"{number}.png"
        noise = random.integers(0, 256, (5, 7, 4), np.uint8)
        image = cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        write_image(folder / "visible" / name, image[..., :3])
        write_image(folder / "infrared" / name, image[..., 3])
        write_image(folder / "labels" / name, (image[..., 3] > 128).astype(np.uint8))


def write_pairs(root: Path, count: int = 6) -> None:
    """Pairs below `root`/pairs, and their masks."""
    write_folder(root / "pairs", count, seed=0)
    make_priors(
        PriorRecipe(
            folders=("pairs",), output=str(root / "priors"), source="crops", count=3,
            crop_sides=(0.5, 0.9),
        )
    )  # fmt: skip


def write_answers(root: Path) -> dict[str, Any]:
    """Write more pairs, and a pair teacher's answers to all; return the options to learn from."""
    write_folder(root / "more", 2, seed=1)
    cache = LogitCache.create(root / "logits", {"kind": "sartm", "sha256": "0"}, MFNET)
    generator = torch.Generator().manual_seed(0)
    for folder in ("pairs", "more"):
        for files in list_pair_files(root / folder):
            logits = 2 * torch.randn(len(MFNET), *SIZE, generator=generator)
            cache.write(files.read_visible(), files.read_infrared(), logits)
    return {"teacher_logits": str(cache.directory), "unlabelled": ("more",)}


def write_networks(root: Path) -> None:
    """A teacher, an encoder and two students with random weights."""
    torch.manual_seed(1)
    save_teacher(Teacher(2), root / "teacher.safetensors", source="random")
    save_encoder(ConvEncoder((8, 8, 8)), root / "encoder.safetensors", source="random")
    student = FusionStudent().eval()
    torch.nn.init.constant_(student.decoder.bias, 0.5)  # type: ignore[arg-type]
    save_model(FusionModel(student), root / "sage.safetensors")
    fast = FastStudent(widths=(16, 16, 16), convolutions=(0, 1, 1, 0, 0)).eval()
    save_model(FusionModel(fast), root / "fast.safetensors")


def recipe_of(command: str, root: Path, **options: Any) -> RunOptions:
    """A recipe of `ivf train COMMAND`; "fast" stands for `student` of that architecture."""
    fields = RUN | {"output": str(root / f"runs/{command}.safetensors"), **options}
    if command == "teacher":
        return teacher_recipe(root, **fields)
    if command == "distill":
        return distill_recipe(root, **fields)
    del fields["score_pairs"]
    if command == "encoder":
        return EncoderRecipe(**{"widths": (8, 8, 8), **fields})
    if command == "tokens":
        defaults: dict[str, Any] = dict(
            width=4, latent=4, codes=8, discriminator_width=4, workers=0, learning_rate=1e-2
        )
        return TokensRecipe(**{**defaults, **fields})
    if command in ("student", "fast"):
        fields |= {"teacher": str(root / "sage.safetensors"), "pool_size": 8}
        architecture = "fast" if command == "fast" else "sage"
        return StudentRecipe(**{"architecture": architecture, "precision": "fp32", **fields})
    if command == "unsupervised":
        fields |= {"init_from": str(root / "fast.safetensors"), "crop": (48, 48)}
        return UnsupervisedRecipe(**{"precision": "fp32", **fields})
    del fields["folders"]
    if command == "joint":
        fields |= {"sets": ("pairs",), "label_sets": ("pairs",), "shares": (1.0,)}
        fields |= {"labels": str(root), "crop": (64, 64)}
        return JointRecipe(**{"precision": "fp32", **fields})
    if command == "segformer":
        fields |= {"output": str(root / "runs/segformer"), "dataset": "pairs", "labels": "labels"}
        fields |= {"class_set": "mfnet", "weights": str(root / "fast.safetensors"), "model": "b0"}
        return SegformerRecipe(**{"epochs": 0, "workers": 0, **fields})
    if command == "sartm":
        for name, save in (("sam2_tiny", save_tiny_sam2), ("clip_tiny", save_tiny_clip)):
            if not (root / name).is_dir():
                save(root / name)
        defaults = dict(
            dataset="pairs", class_set="mfnet", sam2="sam2_tiny", text="clip_tiny", rank=4,
            epochs=0, workers=0, learning_rate=1e-2,
        )  # fmt: skip
        return SartmRecipe(**{**defaults, **fields, "crop": (64, 64)})
    if command == "fusionsam":
        if not (root / "sam_tiny.pth").is_file():
            write_fusionsam_parts(root)
        defaults = dict(
            dataset="pairs", class_set="mfnet", sam_checkpoint="sam_tiny.pth",
            tokens=str(root / "tokens.safetensors"), channels=8, heads=2, depth=1, epochs=0,
            workers=0, learning_rate=3e-3,
        )  # fmt: skip
        return FusionSamRecipe(**{**defaults, **fields, "crop": (64, 64)})
    del fields["batch_size"]
    fields |= {"student": str(root / "fast.safetensors"), "folder": "pairs", "labels": "labels"}
    fields |= {"confidence": "", "scenes": 1, "held_out_scenes": 0, "widths": (16, 16, 16)}
    return HeadRecipe(**{"train_student": True, "precision": "fp32", **fields})


def run(command: str, recipe: Any) -> Any:
    """Run a recipe of `recipe_of` in this process."""
    functions = {"teacher": train_teacher, "distill": distill, "encoder": train_encoder,
                 "unsupervised": train_unsupervised, "head": train_head,
                 "segformer": train_segformer, "joint": train_joint,
                 "sartm": train_sartm, "tokens": train_tokens,
                 "fusionsam": train_fusionsam}  # fmt: skip
    return functions.get(command, train_student)(recipe)


def write_fusionsam_parts(root: Path) -> None:
    """Write a tiny SAM, and tokenizers that say that they saw no pairs, with random weights."""
    save_tiny_sam(root / "sam_tiny.pth")
    torch.manual_seed(2)
    tokenizers = build_tokenizers(4, 4, 8)
    save_tokens(tokenizers, root / "tokens.safetensors", pairs="[]", source="random weights")


def write_recipe(root: Path, recipe: object) -> Path:
    """Write a recipe as YAML below `root`."""
    path = root / f"{type(recipe).__name__}.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(recipe)))))  # type: ignore[call-overload]
    return path


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
    from ivf_core.training.sage.losses import TeacherWeights

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
