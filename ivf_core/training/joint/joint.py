"""Training of a student and its head together, for fusion and for masks at once.

Both read the same first layers. Labelled images of one or two cameras go in, with damage to one
camera; the fused image is measured against what the cameras show, the masks against labels, most
of which are those of other networks (`ivf train labels`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.class_sets import CLASS_SETS, UNLABELED
from ivf_core.images.overlay import color_labels
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.graph import fold_batch_norm
from ivf_core.models.street import StreetHead, StreetStudent
from ivf_core.training.joint.backbone import load_backbone, standardize_norms
from ivf_core.training.joint.fusion_losses import invented_light, lost_contrast, sky_texture
from ivf_core.training.joint.images import (
    BOTH,
    INFRARED_ONLY,
    VISIBLE_ONLY,
    DamagedCrops,
    LabelledImage,
    as_pair,
    point_stems,
    read_set,
    read_unlabelled,
)
from ivf_core.training.losses import Total, soft_label_loss
from ivf_core.training.masks.cache import content_digest
from ivf_core.training.runs.batch_norm import restore_norm, synchronize_norm, train_mode
from ivf_core.training.runs.batches import Batch, pair_chroma, pair_tensors
from ivf_core.training.runs.calibration import calibrate
from ivf_core.training.runs.devices import gather_over_processes
from ivf_core.training.runs.loop import Scores, SingleTask, StepGuard, run_task
from ivf_core.training.runs.optimizers import one_cycle
from ivf_core.training.runs.options import PRECISIONS, RunOptions
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.segmentation.cached_teacher import (
    CachedTeacher,
    agreement,
    answer_labels,
)
from ivf_core.training.students.source_losses import darkening, edge_preservation, scd, vif

__all__ = ["JointRecipe", "train_joint"]

_LEAK = 0.05  # beyond the range of grey levels the metrics keep this share of their gradient
_ROLLED = 16  # pixels at the borders that a shift brings from the other side
_LEAST_DEVIATION = 3.0  # grey levels; a crop of less has no information to preserve


@dataclass(frozen=True, kw_only=True)
class JointRecipe(RunOptions):
    """Training of a student of the architecture `street` with its head."""

    sets: tuple[str, ...] = option(nonempty=True)
    """Sets of images: folders relative to the data directory, with `visible` and `infrared`, or
    of photographs alone."""
    label_sets: tuple[str, ...] = option(nonempty=True)
    """Folder of the labels of each set, relative to `labels`; a folder with images of its own
    is used instead of the set."""
    shares: tuple[float, ...] = option(nonempty=True, minimum=0)
    """Share of the crops of each set."""
    labels: str = option(nonempty=True)
    """Folder that `ivf train labels` wrote."""
    points: str = ""
    """CSV of points, relative to the data directory: images that have points are held out."""
    hold_out_every: int = option(7, minimum=2)
    """Every n-th image of sets with two cameras is held out as well."""
    class_set: str = option("street", choices=CLASS_SETS)
    """Classes of the labels."""
    backbone: str = ""
    """ONNX file of YOLOX-nano to start from, relative to the data directory."""
    init_from: str = ""
    """Weights of the architecture `street` to start from, instead of `backbone`."""
    part: str = option("all", choices=("all", "fusion", "masks"))
    """Layers to train: all; or with init_from those that only the fused image needs, the student's
    after the first two; or those that only the masks need, the head's. The other result stays as
    it is."""
    decoder_widths: tuple[int, int] = option((24, 8), minimum=1)
    """Channels of the student's way back at 1/4 and 1/2. A run of part fusion may change them: the
    layers of other shapes then start from random weights."""
    batch_size: int = option(8, minimum=1)  # type: ignore[assignment]
    """Crops of a batch."""
    crop: tuple[int, int] = option((256, 320), minimum=64)
    """Height and width of a crop in pixels, multiples of 32."""
    learning_rate: float = option(2e-3, above=0)
    """Highest learning rate of the head's AdamW, in one cycle."""
    student_learning_rate: float = option(4e-3, above=0)
    """Highest learning rate of the student's AdamW, in one cycle."""
    weight_decay: float = option(1e-2, minimum=0)
    """Weight decay of AdamW."""
    freeze_norm_at: float = option(0.6, minimum=0, maximum=1)
    """Share of the steps after which BatchNorm keeps its running statistics."""
    ema_decay: float = option(0.998, minimum=0, maximum=1)
    """Decay of the exponential moving average of the weights, which is what is written."""
    blind: float = option(0.22, minimum=0, maximum=1)
    """Share of the crops in which one camera shows nothing."""
    damage: float = option(0.3, minimum=0, maximum=1)
    """Share of the crops with other damage to one camera."""
    class_weight_exponent: float = option(0.4, minimum=0)
    """Exponent on the classes' inverse frequencies in the cross-entropy."""
    label_weight: float = option(1.0, minimum=0)
    """Weight of the masks' cross-entropy."""
    dice_weight: float = option(0.7, minimum=0)
    """Weight of the masks' Dice loss."""
    qabf_weight: float = option(1.7, minimum=0)
    """Weight of the preserved edges (Qabf)."""
    vif_weight: float = option(0.8, minimum=0)
    """Weight of VIF, the mean of both sources."""
    scd_weight: float = option(1.2, minimum=0)
    """Weight of SCD."""
    max_intensity_weight: float = option(0.8, minimum=0)
    """Weight of the mean distance to the brighter of the two pixels."""
    darkening_weight: float = option(4.0, minimum=0)
    """Weight of the loss of the visible image's brightness."""
    contrast_weight: float = option(8.0, minimum=0)
    """Weight of the lost contrast of the stronger camera."""
    person_contrast: float = option(6.0, minimum=0)
    """Further weight of the lost contrast on people."""
    invented_weight: float = option(8.0, minimum=0)
    """Weight of pixels brighter or darker than both sources."""
    sky_weight: float = option(4.0, minimum=0)
    """Weight of texture in the sky that the visible image lacks."""
    noise_weight: float = option(0.6, minimum=0)
    """Weight of flicker: noise that the student amplifies, and what changes as the scene moves."""
    teacher: str = ""
    """Weights whose student the fused image of clean pairs learns from, such as clear: a shipped
    name or a file, SAGE's published one too; empty for none."""
    teacher_weight: float = option(6.0, minimum=0)
    """teacher only: weight of the mean distance to its fused image."""
    teacher_logits: str = ""
    """Folder of the answers of a network that segments pairs, from which the masks learn too, as
    `ivf train logits` reported it, or a pattern such as runs/logits/sartm-*. It has seen both
    cameras of each pair without damage; photographs without a thermal image have no answer."""
    teacher_confidence_threshold: float = option(0.0, minimum=0, maximum=1)
    """teacher_logits only: answers whose largest probability is smaller are ignored."""
    distillation_weight: float = option(1.0, minimum=0)
    """teacher_logits only: weight of the divergence from its probabilities."""
    temperature: float = option(2.0, above=0)
    """teacher_logits only: divisor of both networks' logits."""
    unlabelled: tuple[str, ...] = ()
    """teacher_logits only: data sets relative to the data directory whose pairs join the training
    without their labels, if they have any; of those with splits, the split train."""
    unlabelled_share: float = option(1.0, above=0)
    """Share of the crops of each of `unlabelled`, in the unit of `shares`."""
    alone_weight: float = option(8.0, minimum=0)
    """Weight of the distance to the only camera that shows something."""
    precision: str = option("bf16", choices=PRECISIONS)
    """Arithmetic of the networks: fp32, bf16, or fp16 (GPU only)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.sets) == len(self.label_sets) == len(self.shares):
            raise ValueError("sets, label_sets and shares: give as many of each")
        if any(side % 32 for side in self.crop):
            raise ValueError(f"crop is {self.crop}, expected multiples of 32")
        if self.part != "all" and not self.init_from:
            raise ValueError(f"part {self.part} needs init_from")
        if bool(self.backbone) and bool(self.init_from):
            raise ValueError("backbone and init_from exclude each other")
        if self.unlabelled and not self.teacher_logits:
            raise ValueError("unlabelled needs teacher_logits to learn from")
        if self.part == "fusion" and self.teacher_logits:
            raise ValueError("part fusion trains no masks: teacher_logits has nothing to teach")


def train_joint(recipe: JointRecipe) -> Scores:
    """Train a student with its head, and write the average of their weights; see `run_task`.

    Returns:
        IoU of the classes on held-out images against their labels, by set, and in tables of
        their own the agreement with a teacher.
    """
    return run_task("joint", recipe, JointTask)


class JointTask(SingleTask[JointRecipe]):
    """Training of a student and a head on the same crops."""

    def __init__(self, recipe: JointRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        self.class_set = CLASS_SETS[recipe.class_set]
        self.training, self.held_out = self._read()
        self.unlabelled = self._read_unlabelled()
        self.drawn = [*self.training, *self.unlabelled]
        self.names = [item.name for items in self.drawn for item in items]
        self.steps = recipe.count_steps(len(self.names))
        self.loaded: list[nn.BatchNorm2d] = []
        student, head = self._networks()
        networks = synchronize_norm(nn.ModuleList([student, head]), self.device)
        self.networks = networks.to(self.device)
        self.networks = self.networks.to(memory_format=torch.channels_last)
        kept: dict[str, list[nn.Module]] = {
            "all": [],
            "fusion": [student.stem, student.down4, head],
            "masks": [student],
        }
        self.kept = kept[recipe.part]
        for network in self.kept:
            network.requires_grad_(False)
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": [
                        p
                        for p in network.parameters()
                        if p.requires_grad and (p.ndim > 1) == matrices
                    ],
                    "weight_decay": recipe.weight_decay if matrices else 0.0,
                    "lr": rate,
                }
                for network, rate in (
                    (student, recipe.student_learning_rate),
                    (head, recipe.learning_rate),
                )
                for matrices in (True, False)
            ]
        )
        schedule = one_cycle(optimizer, self.steps, 0.1)
        self.trained = self.learner("joint", self.networks, optimizer, schedule, max_norm=5.0)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.networks,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay),
            use_buffers=True,
        )
        self.parts["average"] = self.average

    def _read(self) -> tuple[list[list[LabelledImage]], list[list[LabelledImage]]]:
        """Read the images of each set: those to train on, and those held out."""
        recipe, root = self.recipe, data_directory()
        pointed = point_stems(root / recipe.points) if recipe.points else set()
        training, held_out = [], []
        for images, labels in zip(recipe.sets, recipe.label_sets, strict=True):
            items = read_set(root / images, Path(recipe.labels) / labels)
            held = {item.name for item in items if item.name in pointed}
            if items[0].infrared is not None and len(items) > 60:
                held |= {item.name for item in items[:: recipe.hold_out_every]}
            training.append([item for item in items if item.name not in held])
            held_out.append([item for item in items if item.name in held])
        return training, held_out

    def _read_unlabelled(self) -> list[list[LabelledImage]]:
        """Read the pairs without labels, but those that have points.

        Raises:
            ValueError: one is held out in a set with labels; names it.
        """
        recipe, root = self.recipe, data_directory()
        pointed = point_stems(root / recipe.points) if recipe.points else set()
        held_out = {_content(item): item for items in self.held_out for item in items}
        sets = []
        for folder in recipe.unlabelled:
            items = read_unlabelled(root / folder, Path(folder).name)
            sets.append([item for item in items if item.name not in pointed])
            for item in sets[-1]:
                if other := held_out.get(_content(item)):
                    raise ValueError(
                        f"unlabelled '{folder}': '{item.name}' is the held-out pair "
                        f"'{other.name}'; expected pairs that no set holds out"
                    )
        return sets

    def _networks(self) -> tuple[StreetStudent, StreetHead]:
        recipe = self.recipe
        if recipe.init_from:
            model = load_model(recipe.init_from)
            if not isinstance(model.student, StreetStudent) or not isinstance(
                model.head, StreetHead
            ):
                raise ValueError(f"init_from '{recipe.init_from}': expected street with a head")
            student = self._with_decoder(model.student)
            model.head.feature_channels = student.feature_channels
            model.head.absent_offsets = None  # they were chosen for the logits as they were
            return student.requires_grad_(True), model.head.requires_grad_(True)
        student = StreetStudent(decoder_widths=recipe.decoder_widths)
        head = StreetHead(len(self.class_set), student.feature_channels)
        if recipe.backbone:
            path = data_directory() / recipe.backbone
            self.loaded = load_backbone(path, student, head, recipe.seed)
        return student, head

    def _with_decoder(self, student: StreetStudent) -> StreetStudent:
        """Return a student with the recipe's way back: the given one if it has its widths."""
        widths = self.recipe.decoder_widths
        if student.decoder_widths == widths:
            return student
        if self.recipe.part != "fusion":
            raise ValueError(
                f"decoder_widths are {widths}, but '{self.recipe.init_from}' has "
                f"{student.decoder_widths}: only part fusion may change them"
            )
        changed = StreetStudent(student.widths, widths)
        old, new = student.state_dict(), changed.state_dict()
        new |= {name: value for name, value in old.items() if value.shape == new[name].shape}
        changed.load_state_dict(new)
        return changed

    def start(self, first: int) -> None:
        """Open the crops, and give BatchNorm its first statistics."""
        recipe = self.recipe
        self._open_teacher_logits()
        crops = DamagedCrops(
            self.drawn,
            [*recipe.shares, *[recipe.unlabelled_share] * len(self.unlabelled)],
            recipe.crop,
            seed=recipe.seed,
            blind=recipe.blind,
            damage=recipe.damage,
            classes=len(self.class_set) if self.cached else 0,
        )
        self.batches = self.open_batches(crops, recipe.batch_size, first)
        self.class_weights = self._class_weights().to(self.device)
        self.teacher: nn.Module | None = None
        if recipe.teacher:
            teacher = fold_batch_norm(load_model(recipe.teacher).student)
            self.teacher = teacher.to(self.device).to(memory_format=torch.channels_last)
        ids = {name: index for index, name in enumerate(self.class_set.names)}
        self.person, self.sky = ids.get("person", -1), ids.get("sky", -1)
        self.shown = next(item for items in (*self.held_out, *self.training) for item in items)
        if first == 0 and not recipe.init_from:
            networks: Any = self.networks
            sample = [crops[number] for number in range(24)]

            def run() -> None:
                planes = [
                    torch.from_numpy(np.stack([s.arrays[i] for s in sample])) for i in (2, 3, 4)
                ]
                student, head = networks.eval()
                head(student(*planes[:2]).features, planes[2])

            standardize_norms(self.networks, run, self.loaded)
            self.average.module.load_state_dict(self.networks.state_dict())

    def _open_teacher_logits(self) -> None:
        """Read the pair teacher's answers: of all pairs to train on, of held-out ones if known."""
        recipe = self.recipe
        self.cached: CachedTeacher | None = None
        if not recipe.teacher_logits:
            return
        threshold = recipe.teacher_confidence_threshold
        cached = CachedTeacher(recipe.teacher_logits, self.class_set, threshold)
        for sets, ask in ((self.drawn, cached.answer), (self.held_out, cached.find)):
            for items in sets:
                for index, item in enumerate(items):
                    if item.infrared is not None:
                        answer = ask(item.visible, item.infrared, item.name)
                        items[index] = replace(item, answer=answer)
        self.cached = cached

    def _class_weights(self) -> Tensor:
        """Return inverse frequencies to a power, with a mean of 1 over pixels' classes."""
        counts = np.zeros(256)
        for items, share in zip(self.training, self.recipe.shares, strict=True):
            part = np.zeros(256)
            for item in items:
                part += np.bincount(item.labels[::4, ::4].ravel(), minlength=256)
            counts += share * part / max(1, part[:UNLABELED].sum())
        frequencies = counts[: len(self.class_set)] / counts[:UNLABELED].sum()
        weights = (1 / frequencies.clip(1e-4)) ** self.recipe.class_weight_exponent
        weights /= (weights * frequencies).sum()
        return torch.from_numpy(weights.astype(np.float32))

    def set_modes(self, step: int) -> None:
        """Set training mode, and freeze BatchNorm in later steps."""
        train_mode(self.networks, step, self.recipe.freeze_norm_at * self.steps)
        for network in self.kept:
            network.eval()

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return the weighted parts of the loss, which but for the noise are of the whole batch.

        Most are quotients of sums over crops, and which parts there are depends on the crops.
        """
        visible, infrared, seen_visible, seen_infrared, chroma, labels, sure, cameras, shares = (
            batch.tensors
        )
        networks: Any = self.networks
        student, head = networks
        with self.fabric.autocast():
            out = student(seen_visible, seen_infrared)
            logits = None
            if self.recipe.part != "fusion":
                logits = gather_over_processes(head(out.features, chroma).float())
        labels = gather_over_processes(labels)
        losses = {}
        if logits is not None:
            losses = self._mask_losses(logits, labels, gather_over_processes(sure))
        if logits is not None and self.cached is not None:
            divergence = soft_label_loss(
                logits, gather_over_processes(shares), temperature=self.recipe.temperature
            )
            losses["distillation"] = self.recipe.distillation_weight * divergence
        if self.recipe.part == "masks":
            return Total(torch.stack([*losses.values()]).sum(), losses)
        visible, infrared, fused, cameras = (
            gather_over_processes(x) for x in (visible, infrared, out.fused.float(), cameras[:, 0])
        )
        losses |= self._fusion_losses(255 * visible, 255 * infrared, 255 * fused, labels, cameras)
        if self.recipe.noise_weight:
            losses["noise"] = self.recipe.noise_weight * self._flicker(
                student, seen_visible, seen_infrared, step
            )
        return Total(torch.stack([*losses.values()]).sum(), losses)

    def _mask_losses(self, logits: Tensor, labels: Tensor, sure: Tensor) -> dict[str, Tensor]:
        recipe = self.recipe
        classes = logits.shape[1]
        losses = F.cross_entropy(
            logits,
            labels,
            weight=self.class_weights,
            ignore_index=UNLABELED,
            reduction="none",
            label_smoothing=0.02,
        )
        known = (labels != UNLABELED).float() * sure
        parts = {"labels": recipe.label_weight * (losses * sure).sum() / known.sum().clamp_min(1)}
        if recipe.dice_weight:
            probability = logits.softmax(dim=1)
            truth = F.one_hot(labels.clamp_max(classes), classes + 1)[..., :classes]
            truth = truth.movedim(-1, 1).float()
            overlap, predicted, actual = (
                (x * known[:, None]).sum(dim=(0, 2, 3))
                for x in (probability * truth, probability, truth)
            )
            dice = 1 - 2 * overlap / (predicted + actual).clamp_min(1e-6)
            occurs = actual > 20
            if occurs.any():
                parts["dice"] = recipe.dice_weight * dice[occurs].mean()
        return parts

    def _fusion_losses(
        self, visible: Tensor, infrared: Tensor, fused: Tensor, labels: Tensor, cameras: Tensor
    ) -> dict[str, Tensor]:
        """Return the parts of the fused images' loss, by which cameras show something."""
        recipe = self.recipe
        losses: dict[str, Tensor] = {}
        alone = [
            (fused[cameras == which] - source[cameras == which]).abs()
            for which, source in ((VISIBLE_ONLY, visible), (INFRARED_ONLY, infrared))
        ]
        if any(part.numel() for part in alone):
            error = torch.cat([part.flatten() for part in alone]).sum() / fused.numel()
            losses["alone"] = recipe.alone_weight * error / 255
        least = torch.minimum(
            visible.std(dim=(1, 2, 3), correction=0), infrared.std(dim=(1, 2, 3), correction=0)
        )
        chosen = (cameras == BOTH) & (least >= _LEAST_DEVIATION)
        if not chosen.any():
            return losses
        share = float(chosen.float().mean())
        visible, infrared, fused, labels = (x[chosen] for x in (visible, infrared, fused, labels))
        inside = fused.clamp(0, 255)
        excess = fused - inside
        shown = inside + _LEAK * (excess - excess.detach())
        classes = F.interpolate(labels[:, None].float(), scale_factor=2, mode="nearest")
        weights = 1 + recipe.person_contrast * (classes == self.person).float()
        terms = {
            "qabf": recipe.qabf_weight * (1 - edge_preservation(visible, infrared, shown)),
            "vif": -recipe.vif_weight * vif(visible, infrared, shown),
            "scd": recipe.scd_weight * (2 - scd(visible, infrared, shown)),
            "max_intensity": recipe.max_intensity_weight
            * (shown - torch.maximum(visible, infrared)).abs().mean()
            / 255,
            "darkening": recipe.darkening_weight
            * darkening(F.avg_pool2d(shown, 4), F.avg_pool2d(visible, 4), radius=2)
            / 255,
            "contrast": recipe.contrast_weight
            * lost_contrast(visible, infrared, shown, weights)
            / 255,
            "invented": recipe.invented_weight * invented_light(visible, infrared, fused) / 255,
            "sky": recipe.sky_weight
            * sky_texture(visible, shown, (classes == self.sky).float())
            / 255,
            "excess": 4 * excess.abs().mean() / 255,
        }
        if self.teacher is not None:
            with torch.no_grad(), self.fabric.autocast():
                wanted = 255 * self.teacher(visible / 255, infrared / 255).fused.float()
            distance = (shown - wanted.clamp(0, 255)).abs().mean()
            terms["teacher"] = recipe.teacher_weight * distance / 255
        return losses | {name: share * term for name, term in terms.items()}

    def _flicker(self, student: nn.Module, visible: Tensor, infrared: Tensor, step: int) -> Tensor:
        """Return by how much two frames differ in the fused image, beyond the noisier camera.

        The second frame has other noise, and both its images are shifted by up to 3 pixels: a
        network that works at 1/8 shimmers as the scene moves.
        """
        half = slice(0, max(1, len(visible) // 3))
        generator = torch.Generator().manual_seed(step)
        sigmas = (1 + 3 * torch.rand((2, 1, 1, 1, 1), generator=generator)) / 255
        noise = torch.randn((2, *visible[half].shape), generator=generator) * sigmas
        noise = noise.to(visible.device)
        shift = [int(x) for x in torch.randint(-3, 4, (2,), generator=generator)]
        moved = [torch.roll(x[half], shift, (-2, -1)) for x in (visible, infrared)]
        modes = [m.training for m in student.modules()]
        with self.fabric.autocast():
            student.eval()  # batch statistics would differ between the two
            clean = student(visible[half], infrared[half]).fused
            noisy = student(moved[0] + noise[0], moved[1] + noise[1]).fused
            noisy = torch.roll(noisy, [-x for x in shift], (-2, -1))
        for module, mode in zip(student.modules(), modes, strict=True):
            module.training = mode
        inside = slice(_ROLLED, -_ROLLED)
        difference = (noisy.float() - clean.float())[..., inside, inside].abs().mean()
        return (difference / (sigmas.max() * 0.798) - 0.9).clamp_min(0)

    def update(self, step: int) -> dict[str, float]:
        """Take a step and update the moving average."""
        losses = super().update(step)
        self.average.update_parameters(self.networks)
        return losses

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return both sources of a held-out image, its labels, the mask and the fused luma."""
        item = self.shown
        fused, ids = _predict(self.average.module.eval(), item, self.device)
        size = item.labels.shape[::-1]
        ids = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
        infrared = item.infrared if item.infrared is not None else np.zeros_like(item.labels)
        masks = {"labels": item.labels}
        if item.answer is not None:
            masks["teacher"] = answer_labels(item.answer, item.labels.shape)
        masks["head"] = ids
        colored = {name: color_labels(labels, self.class_set) for name, labels in masks.items()}
        return {"visible": item.visible, "infrared": infrared, **colored, "student": fused}

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the averaged networks, and score their masks."""
        average: Any = restore_norm(self.average.module).eval().requires_grad_(False)
        student, head = average.to("cpu", memory_format=torch.contiguous_format)
        model = FusionModel(student, head, self.class_set, "joint")
        pairs = [as_pair(i) for items in self.training for i in items if i.infrared is not None]
        if self.cached is not None:
            origin = {**origin, "head_teacher": self.cached.origin}
        save_model(
            calibrate(model, pairs).model if pairs else model,
            self.recipe.output,
            source=f"{self.steps} steps on {', '.join(self.recipe.sets)}",
            **origin,
        )
        sets = zip(self.recipe.label_sets, self.held_out, strict=True)
        held_out = {name: items for name, items in sets if items}
        scores = {
            f"IoU against the labels of {name}": self._score(items)
            for name, items in held_out.items()
        }
        if self.cached is not None:
            for name, items in held_out.items():
                known = [item for item in items if item.answer is not None]
                if known:
                    title = self.cached.agreement_title(f"{len(known)} held-out pairs of {name}")
                    scores[title] = agreement(self._compared(known), self.class_set)
        return scores

    def _compared(self, items: Sequence[LabelledImage]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the head's classes at full size, and the teacher's answers."""
        for item in items:
            assert item.answer is not None
            _, ids = _predict(self.average.module, item, self.device)
            size = item.labels.shape[::-1]
            yield cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST), item.answer

    def _score(self, items: Sequence[LabelledImage]) -> dict[str, float]:
        size = len(self.class_set)
        confusion = np.zeros((size, size))
        for item in items:
            _, ids = _predict(self.average.module, item, self.device)
            truth = item.labels[::2, ::2][: ids.shape[0], : ids.shape[1]]
            ids = ids[: truth.shape[0], : truth.shape[1]]
            known = truth < size
            confusion += np.bincount(
                truth[known].astype(int) * size + ids[known], minlength=size * size
            ).reshape(size, size)
        union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        occurs = confusion.sum(1) > 0
        iou = confusion.diagonal() / union.clip(1)
        scores = {n: float(iou[i]) for i, n in enumerate(self.class_set.names) if occurs[i]}
        return scores | {"mean": float(iou[occurs].mean())}


def _content(item: LabelledImage) -> bytes:
    """Return a hash of both images."""
    images = (item.visible, item.infrared)
    return b"".join(content_digest(image) for image in images if image is not None)


@torch.inference_mode()
def _predict(
    networks: Any, item: LabelledImage, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return the fused luma, H x W uint8, and the class ids, H/2 x W/2 uint8."""
    student, head = networks
    pair = as_pair(item)
    out = student(*pair_tensors(pair, device))
    ids = head.class_ids(out.features, pair_chroma(pair, device))
    fused = (out.fused[0, 0].clamp(0, 1) * 255).round().byte().cpu().numpy()
    return fused, ids[0].cpu().numpy()
