"""Frozen encoders for L_cs: SAM's, or a small one that learns from the pairs themselves.

The small one needs no SAM weights. It learns to inpaint masked patches of grey images of both
modalities (He et al., Masked Autoencoders, CVPR 2022; here with convolutions). A student that is
distilled with it is not SAM-guided, and its metadata say so.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.conv_encoder import GROUPS, STRIDE, ConvEncoder, convolution_unit
from ivf_core.training.losses import Total
from ivf_core.training.runs.devices import sum_over_processes
from ivf_core.training.runs.loop import Scores, SingleTask, StepGuard, run_task
from ivf_core.training.runs.network_files import load_network, save_network
from ivf_core.training.runs.optimizers import adam_with_cosine
from ivf_core.training.runs.page import read_losses
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.runs.record import run_directory
from ivf_core.training.runs.weights_origin import file_digest
from ivf_core.training.sage.options import PairOptions, find_sources
from ivf_core.training.sage.samples import Batch, MaskedPairs, open_stream

__all__ = [
    "EncoderRecipe",
    "OpenedEncoder",
    "load_encoder",
    "open_encoder",
    "save_encoder",
    "train_encoder",
]

_MASKING = 3  # other random numbers than `samples` draws
_log = logging.getLogger(__name__)


class _Painter(nn.Module):
    """Encoder and decoder of an image."""

    def __init__(self, encoder: ConvEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.widths[-1]
        self.decoder = nn.Sequential(
            convolution_unit(width, width, 1),
            nn.Conv2d(width, STRIDE**2, 1),
            nn.PixelShuffle(STRIDE),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Inpaint N x 1 x H x W, H and W multiples of 8."""
        return self.decoder(self.encoder(images)[-1])


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe(PairOptions):
    """Training of an encoder, in place of SAM's, on the pairs themselves."""

    crop: tuple[int, int] = option((192, 256), minimum=16, multiple_of=STRIDE)
    """Height and width of a crop in pixels. Half of the crops are mirrored."""
    widths: tuple[int, int, int] = option((32, 64, 96), minimum=GROUPS, multiple_of=GROUPS)
    """Channels at 1/2, 1/4 and 1/8 of the size, multiples of 8."""
    mask_ratio: float = option(0.5, above=0, below=1, former="hidden")
    """Share of the patches that are masked."""
    patch_size: int = option(16, minimum=1, former="square")
    """Side of a patch in pixels."""
    learning_rate: float = option(2e-3, above=0)
    """Learning rate of Adam, which falls to `final_learning_rate` along a cosine."""
    final_learning_rate: float = option(1e-5, minimum=0)
    """Learning rate at the end."""


def train_encoder(recipe: EncoderRecipe) -> Scores:
    """Train an encoder and write it; see `run_task`.

    Returns:
        Mean squared error of masked pixels over the last tenth of the steps, and the error of
        the mean of each image in their place.
    """
    return run_task("encoder", recipe, EncoderTask)


class EncoderTask(SingleTask[EncoderRecipe]):
    """Inpainting of masked patches."""

    def __init__(self, recipe: EncoderRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        self.sources = find_sources(recipe, labelled=False)
        self.names = self.sources.names
        self.steps = recipe.count_steps(len(self.sources))
        self.painter = _Painter(ConvEncoder(recipe.widths)).to(self.device)
        rates = (recipe.learning_rate, recipe.final_learning_rate)
        optimizer = adam_with_cosine(self.painter, self.steps, *rates)
        self.trained = self.learner("encoder", self.painter, *optimizer, prefix="encoder/")

    def start(self, first: int) -> None:
        """Open the pairs."""
        recipe = self.recipe
        crops = recipe.crops(masks=0, labels=False)
        pairs = MaskedPairs(self.sources, None, crops, in_memory=recipe.in_memory)
        self.batches = open_stream(recipe, pairs, self.fabric, first)

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return the squared error of masked pixels, and a tenth of that of the others."""
        images, mask, painted = self._paint(step, batch)
        seen, unseen = (_mean_square((painted - images)[m]) for m in (~mask, mask))
        means = images.mean(dim=(2, 3), keepdim=True)
        parts = {"hidden": unseen, "seen": seen, "mean": _mean_square((means - images)[mask])}
        return Total(unseen + 0.1 * seen, parts)

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return an image, its visible patches, and the image that the network makes of them."""
        with torch.no_grad():
            images, mask, painted = self._paint(step, self.batches[step])
        rows = {"image": images, "seen": images.masked_fill(mask, 0.5), "painted": painted}
        return {
            name: (255 * x[0, 0].clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
            for name, x in rows.items()
        }

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the encoder."""
        recipe = self.recipe
        save_encoder(
            self.painter.encoder,
            recipe.output,
            source=f"painting in hidden squares, {self.steps} steps of {recipe.batch_size} pairs",
            **origin,
        )
        losses = read_losses(run_directory(recipe.output))  # of resumed sessions, too
        scores = {}
        for name, text in (("hidden", "painted in"), ("mean", "mean of the image")):
            steps, values = losses[f"encoder/{name}"]
            scores[text] = float(values[steps >= min(0.9 * self.steps, self.steps - 1)].mean())
        return {"squared error of masked pixels, last tenth of the steps": scores}

    def _paint(self, step: int, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, the mask of their masked pixels, and the network's images."""
        recipe, fabric = self.recipe, self.fabric
        images = torch.cat((batch.luma, batch.infrared))
        shape = (2, recipe.batch_size, *recipe.crop)
        hidden = _hide(shape, recipe, step)[:, fabric.global_rank :: fabric.world_size]
        mask = hidden.flatten(0, 1).unsqueeze(1).to(images.device)
        with fabric.autocast():
            painted = self.painter(images.masked_fill(mask, 0.5))
        return images, mask, painted.float()


def _mean_square(errors: Tensor) -> Tensor:
    """Return the mean of the squares in all processes, which hold different numbers of them."""
    return sum_over_processes(errors.square().sum()) / sum_over_processes(
        torch.tensor(float(errors.numel()), device=errors.device)
    )


class OpenedEncoder(NamedTuple):
    """An encoder, and its entries in the metadata of weights that are distilled with it.

    Attributes:
        encode: frozen network from images to features, a `contrast.Encoder`.
        metadata: `encoder`, a description; `encoder_sam_guided`, "true" or "false";
            `encoder_sha256`, the digest of its file.
    """

    encode: nn.Module
    metadata: dict[str, str]


def open_encoder(
    spec: str,
    *,
    sam_checkpoint: str = "",
    layers: Sequence[int] = (0, 1),
    published: bool = False,
) -> OpenedEncoder:
    """Open the encoder of a recipe, frozen; log a warning if it is not SAM's.

    Args:
        spec: "sam", or a file that `train_encoder` wrote.
        sam_checkpoint: file of SAM's weights, relative to the data directory.
        layers: blocks of SAM's encoder, see `SamFeatures`.
        published: preprocessing of SAM's encoder, see `SamFeatures`.

    Raises:
        ValueError: the file is missing or not an encoder.
    """
    if spec == "sam":
        from ivf_core.training.masks.sam import load_sam
        from ivf_core.training.sage.sam_features import SamFeatures

        path = data_directory() / sam_checkpoint
        encode: nn.Module = SamFeatures(load_sam(path).image_encoder, layers, published=published)
        words = f"SAM's image encoder, blocks {', '.join(map(str, layers))}"
        if published:
            words += ", images unnormalised as published"
    else:
        path = Path(spec)
        encode, notes = load_encoder(path)
        words = f"a convolutional encoder, {notes.get('source', 'of unknown origin')}"
        words += ": not SAM-guided"
        _log.warning(
            "encoder '%s' is not SAM's: a student distilled with it is not SAM-guided", path
        )
    return OpenedEncoder(
        encode.eval().requires_grad_(False),
        {
            "encoder": words,
            "encoder_sam_guided": json.dumps(spec == "sam"),
            "encoder_sha256": file_digest(path),
        },
    )


def save_encoder(encoder: ConvEncoder, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write an encoder; see `save_network`."""
    save_network(encoder, path, "encoder", {"widths": encoder.widths}, **metadata)


def load_encoder(path: str | os.PathLike[str]) -> tuple[ConvEncoder, dict[str, str]]:
    """Read an encoder in evaluation mode, and its metadata; see `load_network`."""
    return load_network(path, "encoder", ConvEncoder)


def _hide(shape: tuple[int, ...], recipe: EncoderRecipe, step: int) -> Tensor:
    """Draw masked patches, ... x H x W bool, the same in all processes."""
    *outer, height, width = shape
    grid = (-(-height // recipe.patch_size), -(-width // recipe.patch_size))
    random = np.random.default_rng((_MASKING, recipe.seed, step))
    hidden = torch.from_numpy(random.random((*outer, *grid)) < recipe.mask_ratio).float()
    large = F.interpolate(hidden, scale_factor=recipe.patch_size, mode="nearest")
    return large[..., :height, :width].bool()
