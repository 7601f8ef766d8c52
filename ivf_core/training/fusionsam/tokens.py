"""Training of FusionSAM's tokenizers, a VQ-GAN of each camera, on pairs without labels.

The paper names the losses, but no weights, sizes or schedule. These are ours or, where its text
allows, those of the code from which FusionSAM's script is derived (TATS). That script scales each
image by its own extremes, which makes the same temperature another value in each image, and
validates on the images that it trains on; neither is done here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.data.datasets import PairDataset, open_split
from ivf_core.data.pairs import Pair
from ivf_core.models.codebook import Codebook, perplexity
from ivf_core.models.vqgan import PatchDiscriminator, Tokenizer
from ivf_core.training.fusionsam.losses import (
    ADVERSARIAL_LOSSES,
    RECONSTRUCTIONS,
    discriminator_loss,
    feature_loss,
    generator_loss,
    reconstruction_loss,
)
from ivf_core.training.fusionsam.weights import build_tokenizers, save_tokens
from ivf_core.training.losses import Total, at_least_float32
from ivf_core.training.runs.batch_norm import synchronize_norm
from ivf_core.training.runs.batches import PairCrops, pair_tensors
from ivf_core.training.runs.devices import gather_over_processes
from ivf_core.training.runs.loop import Scores, StepGuard, Task, run_task
from ivf_core.training.runs.options import RunOptions
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.segmentation.labelled import check_disjoint, pair_digests

__all__ = ["CAMERAS", "TokensRecipe", "tokens_loss", "train_tokens", "update_codebook"]

CAMERAS = ("visible", "infrared")
"""Names of the tokenizers, in their order."""


@dataclass(frozen=True, kw_only=True)
class TokensRecipe(RunOptions):
    """Training of a VQ-GAN of each camera on pairs, and its scores on held-out pairs."""

    folders: tuple[str, ...] = option(nonempty=True)
    """Data sets in the layouts of `ivf_core.data.datasets`, relative to the data directory; of
    those with splits train is used."""
    hold_out_every: int = option(7, minimum=2)
    """Every n-th pair of a data set without published splits is held out and scored at the end;
    of others the split test is scored."""
    width: int = option(32, minimum=2, multiple_of=2)
    """Channels after the first convolution; the latents have four times as many before they are
    projected."""
    latent: int = option(64, minimum=1)
    """Channels of a latent."""
    codes: int = option(1024, minimum=2)
    """Codes of each camera."""
    steps: int = option(20_000, minimum=0)
    """Optimizer steps of the run; give this or `epochs`, and 0 for the other."""
    batch_size: int = option(8, minimum=1)  # type: ignore[assignment]
    """Crops of a batch, of all processes together."""
    crop: tuple[int, int] = option((256, 256), minimum=32, multiple_of=4)
    """Height and width of a crop in pixels."""
    scales: tuple[float, float] = option((0.5, 2.0), above=0, ascending=True)
    """Range of the size of a crop, relative to `crop`, before it is resized."""
    learning_rate: float = option(3e-4, above=0)
    """Learning rate of Adam, with betas of 0.5 and 0.9."""
    reconstruction: str = option("squared", choices=RECONSTRUCTIONS)
    """Distance of reconstructions: squared, as in equation (5); or absolute."""
    commitment: float = option(0.25, minimum=0)
    """Weight beta of the distance of latents from their codes, in equation (6)."""
    perceptual: float = option(1.0, minimum=0)
    """Weight of equation (7), distances of the discriminator's features."""
    adversarial: float = option(0.1, minimum=0)
    """Weight of the adversarial loss, equation (8)."""
    adversarial_loss: str = option("logistic", choices=ADVERSARIAL_LOSSES)
    """Form of the adversarial loss: logistic, as in equation (8); or hinge."""
    adversarial_from: float = option(0.3, minimum=0, maximum=1)
    """Share of the steps after which the discriminator learns, and equations (7) and (8) count."""
    discriminator_width: int = option(64, minimum=1)
    """Channels of the discriminator's first layer."""
    decay: float = option(0.99, minimum=0, below=1)
    """Decay of the moving averages that are the codes."""
    restart_below: float = option(1.0, minimum=0)
    """Latents of a batch, as a moving average, below which a code is replaced by a latent."""
    workers: int = option(4, minimum=0, changeable=True)
    """Processes that draw crops, for each device; 0 draws them in the training process."""
    checkpoint_every: int = option(1000, minimum=1, changeable=True)
    """Steps from one checkpoint to the next."""

    @property
    def adversarial_step(self) -> float:
        """Share of the steps at which the discriminator starts; 1 if nothing reads it."""
        return self.adversarial_from if self.perceptual or self.adversarial else 1.0


def train_tokens(recipe: TokensRecipe) -> Scores:
    """Train tokenizers, write them, and score them on held-out pairs; see `run_task`.

    Returns:
        Of each camera PSNR of reconstructions in dB, perplexity, and share of the codes that
        occur.
    """
    return run_task("tokens", recipe, TokensTask)


def tokens_loss(
    tokenizer: Tokenizer, images: Tensor, recipe: Any
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return equations (5) and (6), weighted, the reconstructions, and the latents.

    Args:
        tokenizer: tokenizer of a camera.
        images: N x 1 x H x W float in [0, 1].
        recipe: has `reconstruction` and `commitment`.
    """
    reconstructed, quantized, latents = tokenizer(images)
    reconstructed = at_least_float32(reconstructed)
    terms = {
        "reconstruction": reconstruction_loss(images, reconstructed, recipe.reconstruction),
        "commitment": recipe.commitment * at_least_float32(quantized.commitment),
    }
    return terms, reconstructed, at_least_float32(latents)


def update_codebook(codebook: Codebook, latents: Tensor) -> dict[str, float]:
    """Move a codebook towards the latents of a step, of all processes.

    Returns:
        Perplexity of the batch, and the number of codes that were replaced.
    """
    whole = gather_over_processes(latents.detach())
    used = perplexity(codebook.nearest(whole), len(codebook.embedding))
    return {"perplexity": used, "restarted": float(codebook.update(whole))}


class TokensTask(Task[TokensRecipe]):
    """Training of both tokenizers on crops of pairs, each against a discriminator of its own."""

    def __init__(self, recipe: TokensRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        self.pairs: list[PairDataset] = []
        self.held_out: dict[str, PairDataset] = {}
        for folder in recipe.folders:
            train, held_out = open_split(data_directory() / folder, recipe.hold_out_every)
            check_disjoint(train.files, held_out.files)
            self.pairs.append(train)
            self.held_out[folder] = held_out
        self.files = [files for dataset in self.pairs for files in dataset.files]
        self.names = [files.name for files in self.files]
        self.steps = recipe.count_steps(len(self.names))
        self.adversarial_from = round(recipe.adversarial_step * self.steps)
        self.tokenizers = build_tokenizers(
            recipe.width, recipe.latent, recipe.codes,
            decay=recipe.decay, restart_below=recipe.restart_below,
        ).to(self.device)  # fmt: skip
        judges = nn.ModuleList(PatchDiscriminator(recipe.discriminator_width) for _ in CAMERAS)
        self.judges = synchronize_norm(judges, self.device).to(self.device)
        self.learners = [
            self.learner(name, network, *_adam(network, recipe.learning_rate), max_norm=1.0)
            for name, network in (("tokenizer", self.tokenizers), ("discriminator", self.judges))
        ]

    def start(self, first: int) -> None:
        """Read the pairs and open their crops."""
        training = [pair for dataset in self.pairs for pair in dataset]
        shown = next((dataset[0] for dataset in self.held_out.values() if len(dataset)), None)
        self.shown: Pair = shown or training[0]
        recipe = self.recipe
        crops = PairCrops(training, recipe.crop, seed=recipe.seed, scales=recipe.scales, light=0)
        self.batches = self.open_batches(crops, recipe.batch_size, first)

    def update(self, step: int) -> dict[str, float]:
        """Take a step of the tokenizers and, from some step on, one of their discriminators."""
        batch = self.batches[step]
        guard = StepGuard(step, batch.names)
        compete = step >= self.adversarial_from
        self.tokenizers.train()
        self.judges.train()
        with guard.term("forward pass"):
            self._start_codebooks(batch.tensors)
            terms: dict[str, Tensor] = {}
            images, latents = [], []
            for name, judge, tokenizer, real in self._cameras(batch.tensors):
                with self.fabric.autocast():
                    own, fake, latent = tokens_loss(tokenizer, real, self.recipe)
                    if compete:
                        own |= self._compete(judge, real, fake)
                terms |= {f"{name}/{term}": value for term, value in own.items()}
                images.append((real, fake.detach()))
                latents.append(latent)
        total = Total(torch.stack([*terms.values()]).sum(), terms)
        values = self.learners[0].step(total, guard)
        if compete:
            values |= self.learners[1].step(self._judge(images), guard)
        for name, tokenizer, latent in zip(CAMERAS, self.tokenizers, latents, strict=True):
            found = update_codebook(tokenizer.codebook, latent)  # type: ignore[arg-type]
            values |= {f"{name}/{key}": value for key, value in found.items()}
        return values

    def _cameras(self, planes: tuple[Tensor, ...]) -> Iterator[tuple[Any, Any, Any, Tensor]]:
        """Yield name, discriminator, tokenizer and images of each camera."""
        yield from zip(CAMERAS, self.judges, self.tokenizers, planes, strict=True)

    @torch.no_grad()
    def _start_codebooks(self, planes: tuple[Tensor, ...]) -> None:
        """Take the codes of a new run from the latents of its first batch."""
        for _, _, tokenizer, real in self._cameras(planes):
            if not tokenizer.codebook.started:
                with self.fabric.autocast():
                    latents = at_least_float32(tokenizer.encode(real))
                tokenizer.codebook.start(gather_over_processes(latents))

    def _compete(self, judge: PatchDiscriminator, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses of reconstructions that a discriminator sees."""
        recipe, terms = self.recipe, {}
        score, features = judge(fake)
        if recipe.perceptual:
            with torch.no_grad():
                _, wanted = judge(real)
            terms["perceptual"] = recipe.perceptual * feature_loss(wanted, features)
        if recipe.adversarial:
            score = at_least_float32(score)
            loss = generator_loss(score, recipe.adversarial_loss)
            terms["adversarial"] = recipe.adversarial * loss
        return {name: at_least_float32(value) for name, value in terms.items()}

    def _judge(self, images: list[tuple[Tensor, Tensor]]) -> Total:
        """Return the losses of the discriminators."""
        terms = {}
        for name, judge, (real, fake) in zip(CAMERAS, self.judges, images, strict=True):
            with self.fabric.autocast():
                of_real, of_fake = (at_least_float32(judge(x)[0]) for x in (real, fake))
            loss = discriminator_loss(of_real, of_fake, self.recipe.adversarial_loss)
            terms[f"{name}/discriminator"] = loss
        return Total(torch.stack([*terms.values()]).sum(), terms)

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return both images of a held-out pair, each with its reconstruction."""
        self.tokenizers.eval()
        row: dict[str, np.ndarray] = {}
        for name, tokenizer, image in self._whole(self.shown):
            with torch.no_grad():
                both = (image, tokenizer(image)[0])
            row |= {f"{name}{kind}": (x[0, 0].clamp(0, 1) * 255).round().byte().cpu().numpy()
                    for kind, x in zip(("", ", reconstructed"), both, strict=True)}  # fmt: skip
        return row

    def _whole(self, pair: Pair) -> Iterator[tuple[str, Any, Tensor]]:
        """Yield name, tokenizer and image of each camera, cut to sides that the network takes."""
        planes = pair_tensors(pair, self.device)
        for name, tokenizer, plane in zip(CAMERAS, self.tokenizers, planes, strict=True):
            rows, columns = (side - side % 2**tokenizer.levels for side in plane.shape[2:])  # type: ignore[operator]
            yield name, tokenizer, plane[..., :rows, :columns]

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the tokenizers and score them."""
        self.tokenizers.eval()
        source = f"{self.steps} steps on {', '.join(self.recipe.folders)}"
        pairs = json.dumps(sorted(pair_digests(self.files)))
        save_tokens(self.tokenizers, self.recipe.output, source=source, pairs=pairs, **origin)
        return self._score()

    @torch.inference_mode()
    def _score(self) -> Scores:
        psnr: dict[str, list[float]] = {name: [] for name in CAMERAS}
        indices: dict[str, list[Tensor]] = {name: [] for name in CAMERAS}
        for dataset in self.held_out.values():
            for pair in dataset:
                for name, tokenizer, image in self._whole(pair):
                    reconstructed, quantized, _ = tokenizer(image)
                    error = F.mse_loss(reconstructed.clamp(0, 1), image).item()
                    psnr[name].append(-10 * math.log10(max(error, 1e-10)))
                    indices[name].append(quantized.indices.flatten())
        codes, scores = self.recipe.codes, {}
        for name in CAMERAS:
            if indices[name]:
                used = torch.cat(indices[name])
                scores[f"{name}, held-out pairs"] = {
                    "PSNR in dB": sum(psnr[name]) / len(psnr[name]),
                    "perplexity": perplexity(used, codes),
                    "share of codes used": len(used.unique()) / codes,
                }
        return scores


def _adam(network: nn.Module, rate: float) -> tuple[Any, Any]:
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.5, 0.9))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: 1.0)
