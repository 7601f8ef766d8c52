"""Training of FusionSAM (KDD 2025) on labelled pairs, and its score on the test split.

The optimizer, its rate, batch and epochs are the paper's; where the paper is silent the choices are
ours. Unlike in the published code, labels are neither prompts nor resized, unlabelled pixels do not
count, no test image is trained on, and the weights of the last step are tested, once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from ivf_core.class_sets import UNLABELED
from ivf_core.data.pairs import PairFiles
from ivf_core.images.overlay import color_labels
from ivf_core.models.color import luma_chroma
from ivf_core.models.fusion_prompt import FusionPrompt, point_prompts
from ivf_core.models.fusionsam import FusionSam
from ivf_core.training.fusionsam.losses import RECONSTRUCTIONS, fusion_loss
from ivf_core.training.fusionsam.tokens import CAMERAS, tokens_loss, update_codebook
from ivf_core.training.fusionsam.weights import load_tokens, save_fusionsam
from ivf_core.training.losses import Total, at_least_float32, segmentation_loss
from ivf_core.training.masks.sam import load_class_sam
from ivf_core.training.runs.batches import Batch
from ivf_core.training.runs.devices import gather_over_processes
from ivf_core.training.runs.loop import Scores, StepGuard, run_task
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.runs.weights_origin import weights_origin
from ivf_core.training.segmentation.labelled import pair_digests
from ivf_core.training.segmentation.pair_options import PairSegmenterOptions
from ivf_core.training.segmentation.pair_task import PairSegmenterTask

__all__ = ["FusionSamLoss", "FusionSamRecipe", "train_fusionsam"]

SCHEDULES = ("constant", "cosine")
"""Words for `schedule`."""


@dataclass(frozen=True, kw_only=True)
class FusionSamLoss:
    """Weights of the terms of FusionSAM's loss, equation (1); one of weight 0 is not computed."""

    main: float = 1.0
    """Cross-entropy of the labelled pixels, f_s."""
    fusion: float = 0.1
    """SwinFusion's loss of the fused luma, f_f."""
    tokens: float = 1.0
    """Reconstruction and commitment of the tokenizers; only with train_tokens."""


@dataclass(frozen=True, kw_only=True)
class FusionSamRecipe(PairSegmenterOptions):
    """Training of a FusionSAM on labelled pairs, and its score on the test split."""

    tokens: str = option(nonempty=True)
    """Tokenizers of both cameras, a file that `ivf train tokens` wrote."""
    sam_checkpoint: str = option(nonempty=True)
    """Checkpoint of SAM, relative to the data directory, such as sam_vit_h_4b8939.pth."""
    channels: int = option(60, minimum=1)
    """Channels of fusion mask prompting."""
    heads: int = option(6, minimum=1)
    """Heads of its attention."""
    depth: int = option(6, minimum=1)
    """Blocks of attention of each camera to itself, and then to the other camera."""
    window: int = option(8, minimum=0, maximum=8)
    """Side of an attention window in latents, a power of two; 0 attends globally, as in the
    equations."""
    points: int = option(10, minimum=0)
    """Points among the prompts, where the fused features are strongest."""
    box: bool = False
    """Prompt with the box of the strongest features, too."""
    quantized: bool = True
    """Fuse quantised latents, as the paper; the published code fuses continuous ones."""
    train_tokens: bool = False
    """Train the tokenizers, too, and let their codes follow."""
    through_encoder: bool = False
    """Pass the gradient through SAM's frozen image encoder to the fused image: a step then takes
    several times as long."""
    epochs: int = option(100, minimum=0)
    """Passes over the training split; give this or `steps`, and 0 for the other."""
    batch_size: int = option(4, minimum=1)  # type: ignore[assignment]
    """Crops of a batch, of all processes together."""
    crop: tuple[int, int] = option((480, 640), minimum=32, multiple_of=32)
    """Height and width of a crop in pixels; SAM's encoder sees it at SAM's own size."""
    learning_rate: float = option(1e-4, above=0)
    """Highest learning rate of Adam."""
    weight_decay: float = option(1e-3, minimum=0)
    """Weight decay of Adam, as a part of the gradient."""
    schedule: str = option("constant", choices=SCHEDULES)
    """Schedule of the learning rate: constant, or a cosine to zero."""
    loss: FusionSamLoss = option(factory=FusionSamLoss, minimum=0)  # noqa: RUF009
    """Weights of the losses."""
    reconstruction: str = option("squared", choices=RECONSTRUCTIONS)
    """Distance of reconstructions in loss.tokens."""
    commitment: float = option(0.25, minimum=0)
    """Weight of the distance of latents from their codes in loss.tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.loss.main:
            raise ValueError("loss.main must be above 0: the mask decoder learns from it alone")
        if self.window & (self.window - 1):
            raise ValueError(f"window {self.window}: expected 0, 1, 2, 4 or 8")
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} is no multiple of {self.heads} heads")


def train_fusionsam(recipe: FusionSamRecipe) -> Scores:
    """Train a FusionSAM, write its weights, and test them; see `run_task`.

    Returns:
        IoU and accuracy of the classes that occur in the test split, by name, and their means.
    """
    return run_task("fusionsam", recipe, FusionSamTask)


class FusionSamTask(PairSegmenterTask[FusionSamRecipe]):
    """Training of a FusionSAM on crops of labelled pairs."""

    system = "FusionSAM"

    def __init__(self, recipe: FusionSamRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        root = data_directory()
        tokenizers, origin = load_tokens(recipe.tokens)
        check_unseen(origin, self.test.files, f"tokens '{recipe.tokens}'")
        sam, random = load_class_sam(root / recipe.sam_checkpoint, len(self.class_set))
        self.random = ["SAM"] if random else []
        self.notes = {
            "sam": weights_origin(root / recipe.sam_checkpoint, random),
            "tokens": f"{weights_origin(Path(recipe.tokens))}, {origin.get('source', 'unknown')}",
        }
        prompt = FusionPrompt(
            tokenizers[0].latent,  # type: ignore[arg-type]
            channels=recipe.channels,
            heads=recipe.heads,
            depth=recipe.depth,
            window=recipe.window,
        )
        self.network: Any = FusionSam(
            tuple(tokenizers),  # type: ignore[arg-type]
            prompt,
            sam,
            self.class_set,
            points=recipe.points,
            box=recipe.box,
            quantized=recipe.quantized,
            train_tokens=recipe.train_tokens,
            through_encoder=recipe.through_encoder,
        ).to(self.device)
        optimizer = torch.optim.Adam(
            [p for p in self.network.parameters() if p.requires_grad],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        schedule: LRScheduler = LambdaLR(optimizer, lambda _step: 1.0)
        if recipe.schedule == "cosine":
            schedule = CosineAnnealingLR(optimizer, max(1, self.steps))
        self.trained = self.learner("fusionsam", self.network, optimizer, schedule)

    def update(self, step: int) -> dict[str, float]:
        """Take a step; with train_tokens, move the codes, too."""
        self.latents: list[Tensor] = []
        values = super().update(step)
        if self.latents:
            for name, tokenizer, latents in zip(
                CAMERAS, self.network.tokenizers, self.latents, strict=True
            ):
                found = update_codebook(tokenizer.codebook, latents)
                values |= {f"{name} {key}": value for key, value in found.items()}
        return values

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return the weighted terms of equation (1), the cross-entropy of the whole batch."""
        weights = self.recipe.loss
        visible, infrared, labels = batch.tensors
        with self.fabric.autocast():
            self.out = self.network(visible, infrared)
        main = gather_over_processes(at_least_float32(self.out.main))
        whole = gather_over_processes(labels)
        terms = {"main": weights.main * segmentation_loss(main, whole, ignore=UNLABELED)}
        luma = luma_chroma((visible * 255).round())[0] / 255
        if weights.fusion:
            fused = at_least_float32(self.out.fused)
            terms["fusion"] = weights.fusion * fusion_loss(luma, infrared, fused)
        if self.recipe.train_tokens and weights.tokens:
            for name, tokenizer, plane in zip(
                CAMERAS, self.network.tokenizers, (luma, infrared), strict=True
            ):
                with self.fabric.autocast():
                    own, _, latents = tokens_loss(tokenizer, plane, self.recipe)
                terms |= {f"{name} {key}": weights.tokens * loss for key, loss in own.items()}
                self.latents.append(latents)
        return Total(torch.stack([*terms.values()]).sum(), terms)

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return a crop, the fused luma with its points, the mask prompt, labels and classes."""
        with torch.no_grad():
            plane = self.network.prompt.prompt(self.out.features.float())[0, 0]
        low, high = plane.aminmax()
        plane = (plane - low) / (high - low).clamp_min(1e-6)
        fused = _mark(_to_bytes(self.out.fused[0, 0]), self.out.features[:1], self.recipe.points)
        large = torch.nn.functional.interpolate(plane[None, None], self.recipe.crop, mode="nearest")
        ids = self.out.main[0].detach().argmax(dim=0).byte().cpu().numpy()
        return {
            **self.first_crop(step),
            "fused, points": fused,
            "mask prompt": _to_bytes(large[0, 0]),
            "fusionsam": color_labels(ids, self.class_set),
        }

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the network and test it."""
        network = self.network.eval()
        source = f"{self.steps} steps on the training split of {self.recipe.dataset}"
        save_fusionsam(network, self.recipe.output, source=source, **self.notes, **origin)
        return self.scores(network)


def check_unseen(metadata: Mapping[str, str], test: Sequence[PairFiles], what: str) -> None:
    """Raise ValueError if weights to start from have learned from a pair to test on.

    Args:
        metadata: metadata of the weights, with digests of their pairs in `pairs`.
        test: pairs to test on.
        what: the weights, for the error.

    Raises:
        ValueError: they have, or the metadata do not say.
    """
    try:
        seen = set(json.loads(metadata["pairs"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{what}: its metadata do not say which pairs it was trained on; expected a file "
            "that ivf train tokens wrote"
        ) from None
    found = pair_digests(test)
    if both := sorted(seen & found.keys()):
        raise ValueError(
            f"{what} was trained on '{found[both[0]].visible}', which is to be tested on: expected "
            "a file of the training split alone"
        )


def _to_bytes(plane: Tensor) -> np.ndarray:
    """Return H x W in [0, 1] as uint8."""
    return (plane.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()


def _mark(plane: np.ndarray, features: Tensor, points: int) -> np.ndarray:
    """Draw points of the fused features, cells of 4 x 4 pixels, into an image in red."""
    image = np.repeat(plane[..., None], 3, axis=2)
    cells, found = (x[0].cpu().numpy() for x in point_prompts(features, points))
    for row, column in cells[found] * FusionSam.feature_stride:
        image[row : row + 4, column : column + 4] = (255, 0, 0)
    return image
