"""Frozen encoders for L_cs: SAM's, or a small one that learns from the pairs themselves.

The small one is for those who have no SAM weights. It learns to paint in what was hidden of
grey pictures of both modalities (He et al., Masked Autoencoders, CVPR 2022; here with
convolutions). What is distilled with it is not SAM-guided, and says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.training.losses import Total
from ivf_core.training.runs.devices import start_fabric
from ivf_core.training.runs.loop import (
    Learner,
    StepGuard,
    open_record,
    open_state,
    open_stream,
    run_steps,
)
from ivf_core.training.runs.network_files import load_network, save_network
from ivf_core.training.runs.options import RunOptions, find_sources
from ivf_core.training.runs.recipe import data_directory, provenance
from ivf_core.training.sage.samples import MaskedPairs

__all__ = [
    "ConvEncoder",
    "EncoderRecipe",
    "OpenedEncoder",
    "load_encoder",
    "open_encoder",
    "save_encoder",
    "train_encoder",
]

_STRIDE = 8
_GROUPS = 8
_HIDING = 3  # beside the numbers that `samples` draws with
_log = logging.getLogger(__name__)


class ConvEncoder(nn.Module):
    """Grey pictures to feature maps at 1/4 and 1/8.

    Args:
        widths: channels at 1/2, 1/4 and 1/8, multiples of 8.

    Raises:
        ValueError: other widths.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 96)) -> None:
        super().__init__()
        if len(widths) != 3 or any(width < 1 or width % _GROUPS for width in widths):
            raise ValueError(f"widths are {widths}, expected three multiples of {_GROUPS}")
        self.widths = tuple(widths)
        half, quarter, eighth = widths
        self.stem = _unit(1, half, 2)
        self.quarter = nn.Sequential(_unit(half, quarter, 2), _Residual(quarter))
        self.eighth = nn.Sequential(_unit(quarter, eighth, 2), _Residual(eighth))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Encode a batch.

        Args:
            pictures: N x 1 x H x W float in [0, 1], H and W at least 16.

        Returns:
            N x C x H/4 x W/4 and N x C x H/8 x W/8, sizes rounded up.

        Raises:
            ValueError: pictures are not as above.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 1 or min(pictures.shape[2:]) < 16:
            raise ValueError(
                f"pictures are {tuple(pictures.shape)}, expected N x 1 x H x W, H and W at least 16"
            )
        quarter = self.quarter(self.stem(4 * pictures - 2))
        return [quarter, self.eighth(quarter)]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _unit(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def _unit(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1),
        nn.GroupNorm(_GROUPS, out_channels),
        nn.GELU(),
    )


class _Painter(nn.Module):
    """Encoder and decoder of a picture."""

    def __init__(self, encoder: ConvEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.widths[-1]
        self.decoder = nn.Sequential(
            _unit(width, width, 1),
            nn.Conv2d(width, _STRIDE**2, 1),
            nn.PixelShuffle(_STRIDE),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """N x 1 x H x W, H and W multiples of 8."""
        return self.decoder(self.encoder(pictures)[-1])


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe(RunOptions):
    """Training of an encoder, in place of SAM's, on the pairs themselves."""

    widths: tuple[int, int, int] = (32, 64, 96)
    """Channels at 1/2, 1/4 and 1/8, multiples of 8."""
    hidden: float = 0.5
    """Share of the squares that are hidden."""
    square: int = 16
    """Side of a square in pixels."""
    learning_rate: float = 2e-3
    """Of Adam, falling to `final_learning_rate` along a cosine."""
    final_learning_rate: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hidden < 1:
            raise ValueError(f"hidden must be between 0 and 1, got {self.hidden}")
        if self.square < 1:
            raise ValueError(f"square must be at least 1, got {self.square}")
        if any(side % _STRIDE for side in self.crop):
            raise ValueError(f"crop must be a multiple of {_STRIDE}, got {self.crop}")


def train_encoder(recipe: EncoderRecipe) -> dict[str, dict[str, float]]:
    """Run `recipe` and write the encoder.

    Returns:
        The mean squared error of hidden pixels over the last tenth of the steps, and what
        painting them in the mean of each picture would give.

    Raises:
        StepError: memory is too small, or a loss is no longer finite.
        ValueError: data, devices or a checkpoint are not as the recipe says.
    """
    fabric = start_fabric(recipe)
    origin = provenance("encoder", recipe)
    torch.manual_seed(recipe.seed)
    sources = find_sources(recipe, labelled=False)
    total = recipe.batches(len(sources))
    painter = _Painter(ConvEncoder(recipe.widths)).to(fabric.device)
    learner = Learner("encoder", painter, total, recipe.learning_rate, recipe.final_learning_rate)
    state, first = open_state(recipe, sources, {"encoder": learner})
    with open_record(recipe, "encoder", total, first, fabric) as run:
        pairs = MaskedPairs(
            sources, None, recipe.crops(masks=0, labels=False), in_memory=recipe.in_memory
        )
        stream = open_stream(recipe, pairs, fabric, first)
        last: list[dict[str, float]] = []

        def paint(step: int) -> tuple[Tensor, Tensor, Tensor]:
            """Pictures, the mask of what is hidden of them, and what was painted."""
            batch = stream[step]
            pictures = torch.cat((batch.luma, batch.infrared))
            shape = (2, recipe.batch_size, *recipe.crop)
            hidden = _hide(shape, recipe, step)[:, fabric.global_rank :: fabric.world_size]
            mask = hidden.flatten(0, 1).unsqueeze(1).to(pictures.device)
            with fabric.autocast():
                painted = painter(pictures.masked_fill(mask, 0.5))
            return pictures, mask, painted.float()

        def update(step: int) -> dict[str, float]:
            guard = StepGuard(step, stream[step].names)
            with guard.term("the encoder's pass"):
                pictures, mask, painted = paint(step)
                seen, unseen = ((painted - pictures)[m].square().mean() for m in (~mask, mask))
            loss = Total(unseen + 0.1 * seen, {"hidden": unseen, "seen": seen})
            parts = learner.descend(loss, guard)
            means = pictures.mean(dim=(2, 3), keepdim=True)
            parts["encoder/mean"] = (means - pictures)[mask].square().mean().item()
            if step >= 0.9 * total:
                last.append(parts)
            return parts

        def draw(step: int) -> dict[str, np.ndarray]:
            with torch.no_grad():
                pictures, mask, painted = paint(step)
            rows = {
                "picture": pictures,
                "seen": pictures.masked_fill(mask, 0.5),
                "painted": painted,
            }
            return {
                name: (255 * x[0, 0].clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
                for name, x in rows.items()
            }

        run_steps(recipe, state, run, range(first, total), update, draw)
        names = {"encoder/hidden": "painted in", "encoder/mean": "the picture's mean"}
        scores = {
            "squared error of hidden pixels, last tenth of the steps": {
                title: sum(parts[name] for parts in last) / len(last)
                for name, title in names.items()
            }
        } if last else {}  # fmt: skip
        run.summary(scores)
        if fabric.is_global_zero:
            save_encoder(
                painter.encoder,
                recipe.output,
                source=f"painting in hidden squares, {total} steps of {recipe.batch_size} pairs",
                **origin,
            )
    if fabric.is_global_zero:
        state.remove()
    return scores


class OpenedEncoder(NamedTuple):
    """An encoder and what weights say that were distilled with it.

    Attributes:
        encode: frozen; pictures to features, as `contrast.Encoder`.
        metadata: `encoder`, what it is, in words; `encoder_sam_guided`, "true" or "false";
            `encoder_sha256`, of its file.
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
    """The encoder of a recipe, frozen; warns in the log where it is not SAM's.

    Args:
        spec: "sam", or a file that `train_encoder` wrote.
        sam_checkpoint: file of SAM's weights, relative to the data directory.
        layers, published: of SAM's, see `SamFeatures`.

    Raises:
        ValueError: the file is missing or no encoder.
    """
    if spec == "sam":
        from ivf_core.training.masks.sam import load_sam
        from ivf_core.training.sage.sam_features import SamFeatures

        path = data_directory() / sam_checkpoint
        encode: nn.Module = SamFeatures(load_sam(path).image_encoder, layers, published=published)
        words = f"SAM's image encoder, blocks {', '.join(map(str, layers))}"
        if published:
            words += ", pictures unnormalised as published"
    else:
        path = Path(spec)
        encode, notes = load_encoder(path)
        words = f"a convolutional encoder, {notes.get('source', 'of unknown origin')}"
        words += ": not SAM-guided"
        _log.warning("encoder '%s' is not SAM's: what is distilled with it is not SAM-guided", path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return OpenedEncoder(
        encode.eval().requires_grad_(False),
        {
            "encoder": words,
            "encoder_sam_guided": json.dumps(spec == "sam"),
            "encoder_sha256": digest,
        },
    )


def save_encoder(encoder: ConvEncoder, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write an encoder; see `save_network`."""
    save_network(encoder, path, "encoder", {"widths": encoder.widths}, **metadata)


def load_encoder(path: str | os.PathLike[str]) -> tuple[ConvEncoder, dict[str, str]]:
    """An encoder in evaluation mode, and what else its file says; see `load_network`."""
    return load_network(path, "encoder", ConvEncoder)


def _hide(shape: tuple[int, ...], recipe: EncoderRecipe, step: int) -> Tensor:
    """Squares at random, ... x H x W bool, the same in all processes."""
    *outer, height, width = shape
    grid = (-(-height // recipe.square), -(-width // recipe.square))
    random = np.random.default_rng((_HIDING, recipe.seed, step))
    hidden = torch.from_numpy(random.random((*outer, *grid)) < recipe.hidden).float()
    large = F.interpolate(hidden, scale_factor=recipe.square, mode="nearest")
    return large[..., :height, :width].bool()
