"""Training of SARTM (arXiv:2505.01950v1) on labelled pairs, and its score on the test split.

The paper and its code disagree in much; what is built follows the paper, and where that is silent
the code, with these exceptions. The weights of the losses are ours but for the main one: the
published ones (1, 0.008, 10000, 100) belong to prototypes that its code divides by their pixels
twice, and to a second head that it never trains. The weights of the last step are tested, once:
the published code keeps the best epoch on the test split. Crops are not resized to 1280 x 1280.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ivf_core.images.overlay import color_labels
from ivf_core.models.sartm import DECODES, THERMAL_NORMALIZATIONS, Sartm
from ivf_core.training.losses import Total, at_least_float32, ohem_cross_entropy
from ivf_core.training.runs.batch_norm import restore_norm, synchronize_norm
from ivf_core.training.runs.batches import Batch
from ivf_core.training.runs.devices import gather_over_processes
from ivf_core.training.runs.loop import Scores, StepGuard, run_task
from ivf_core.training.runs.recipe import data_directory, option
from ivf_core.training.runs.weights_origin import weights_digest, weights_origin
from ivf_core.training.sartm.language import similarity_to_json, text_similarity
from ivf_core.training.sartm.prototypes import (
    Prototypes,
    language_loss,
    mask_average_pool,
    relation_loss,
)
from ivf_core.training.sartm.sam2 import open_sam2
from ivf_core.training.sartm.weights import save_sartm
from ivf_core.training.segmentation.pair_options import PairSegmenterOptions
from ivf_core.training.segmentation.pair_task import PairSegmenterTask

__all__ = ["SartmLoss", "SartmRecipe", "train_sartm"]

_WARMUP_START = 0.1  # share of the learning rate at the first step


@dataclass(frozen=True, kw_only=True)
class SartmLoss:
    """Weights of the terms of SARTM's loss, equation (15); a term of weight 0 is not computed."""

    main: float = 1.0
    """OHEM cross-entropy of the mask decoder's logits."""
    auxiliary: float = 0.4
    """OHEM cross-entropy of the second head's logits; 0.008 in the paper."""
    relation: float = 100.0
    """L_cr, prototypes against their moving average; 10000 in the paper."""
    language: float = 100.0
    """L_se, similarities of prototypes against those of class names; 100 in the paper."""


@dataclass(frozen=True, kw_only=True)
class SartmRecipe(PairSegmenterOptions):
    """Training of a SARTM on labelled pairs, and its score on the test split."""

    sam2: str = option(nonempty=True)
    """Directory of SAM2's weights, relative to the data directory, in safetensors as
    `save_pretrained` writes it: such as facebook/sam2-hiera-base-plus."""
    text: str = ""
    """Directory of CLIP's, such as openai/clip-vit-base-patch32, or JSON file of similarities of
    the class names, relative to the data directory; only for loss.language."""
    rank: int = option(16, minimum=1)
    """Rank of LoRA."""
    decode: str = option("fused", choices=DECODES)
    """Features that the mask decoder reads: fused, once; or each modality's own, and the mean of
    both logits, as the published code."""
    memory_embedding: bool = True
    """Add SAM2's embedding for images without a memory, as SAM2 does; the published code does
    not."""
    per_pixel: bool = False
    """Divide the sums of the fusion's cross-attention by the number of pixels, so that they do
    not depend on the size of the images; as published they are not."""
    thermal_normalization: str = option("imagenet", choices=THERMAL_NORMALIZATIONS)
    """Normalisation of the thermal image: imagenet, as of RGB; or none, as in the published
    code."""
    average_heads: bool = False
    """Classify by the mean of both heads' probabilities in the test and as a teacher; the
    published code tests the mask decoder alone."""
    self_contained: bool = True
    """Write SAM2's frozen tensors into the file, too; otherwise it names `sam2` and the SHA-256 of
    its weights, and opens only where that directory has them."""
    epochs: int = option(500, minimum=0)
    """Passes over the training split; give this or `steps`, and 0 for the other."""
    batch_size: int = option(8, minimum=1)  # type: ignore[assignment]
    """Crops of a batch, of all processes together."""
    crop: tuple[int, int] = option((800, 800), minimum=32, multiple_of=32)
    """Height and width of a crop in pixels."""
    learning_rate: float = option(1e-4, above=0)
    """Highest learning rate of AdamW."""
    weight_decay: float = option(0.01, minimum=0)
    """Weight decay of all parameters but vectors."""
    warmup_ratio: float = option(0.02, minimum=0, below=1)
    """Share of the steps in which the learning rate rises linearly from a tenth: 10 epochs of
    500."""
    power: float = option(0.9, minimum=0)
    """Exponent of the polynomial by which the learning rate then falls to zero."""
    loss: SartmLoss = option(factory=SartmLoss, minimum=0)  # noqa: RUF009
    """Weights of the losses."""
    language_temperature: float = option(1.0, above=0)
    """Temperature of the similarities in loss.language."""
    prototype_decay: float = option(0.9, minimum=0, below=1)
    """Decay of the moving average of the prototypes of classes."""
    ohem_keep_probability: float = option(0.7, minimum=0, maximum=1)
    """Probability of the true class up to which a pixel is hard."""
    ohem_keep_share: float = option(1 / 16, above=0, maximum=1)
    """Smallest share of the labelled pixels that count, the hardest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.loss.main:
            raise ValueError("loss.main must be above 0: the mask decoder learns from it alone")
        if self.loss.language and not self.text:
            raise ValueError("loss.language needs text, a directory of CLIP's; or set it to 0")


def train_sartm(recipe: SartmRecipe) -> Scores:
    """Train a SARTM, write its weights, and test them; see `run_task`.

    Returns:
        IoU and accuracy of the classes that occur in the test split, by name, and their means.
    """
    return run_task("sartm", recipe, SartmTask)


class SartmTask(PairSegmenterTask[SartmRecipe]):
    """Training of a SARTM on crops of labelled pairs."""

    system = "SARTM"

    def __init__(self, recipe: SartmRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        root = data_directory()
        sam2, random = open_sam2(root / recipe.sam2, len(self.class_set))
        self.random = ["SAM2"] if random else []
        self.notes = {
            "sam2": weights_origin(root / recipe.sam2, random),
            "sam2_sha256": weights_digest(root / recipe.sam2),
        }
        self.similarity = self._similarity(root)
        network = Sartm(
            sam2,
            self.class_set,
            rank=recipe.rank,
            decode=recipe.decode,
            memory_embedding=recipe.memory_embedding,
            per_pixel=recipe.per_pixel,
            thermal_normalization=recipe.thermal_normalization,
            average_heads=recipe.average_heads,
        )
        self.network: Any = synchronize_norm(network.to(self.device), self.device)
        self.prototypes = Prototypes(
            len(self.class_set), sam2.mask_decoder.hidden_size, recipe.prototype_decay
        ).to(self.device)
        self.parts["prototypes"] = self.prototypes
        optimizer = _optimizer(self.network, recipe)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, learning_rate_factor(self.steps, recipe.warmup_ratio, recipe.power)
        )
        self.trained = self.learner("sartm", self.network, optimizer, schedule)

    def _similarity(self, root: Path) -> torch.Tensor | None:
        """Return the similarities of the class names, and note their origin."""
        if not self.recipe.loss.language:
            self.notes["text"] = "none: loss.language is 0"
            return None
        path = root / self.recipe.text
        similarity, random = text_similarity(path, self.class_set)
        self.random += ["CLIP"] if random else []
        self.notes["text"] = weights_origin(path, random)
        self.notes["text_similarity"] = similarity_to_json(similarity, self.class_set)
        return similarity.to(self.device)

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return the weighted terms of equation (15), of the whole batch."""
        weights = self.recipe.loss
        visible, infrared, labels = batch.tensors
        with self.fabric.autocast():
            self.out = self.network(visible, infrared)
        whole = gather_over_processes(labels)
        terms = {}
        heads = {"main": self.out.main, "auxiliary": self.out.auxiliary}
        for name, logits in heads.items():
            if weight := getattr(weights, name):
                terms[name] = weight * ohem_cross_entropy(
                    gather_over_processes(at_least_float32(logits)),
                    whole,
                    keep_probability=self.recipe.ohem_keep_probability,
                    keep_share=self.recipe.ohem_keep_share,
                )
        features = at_least_float32(self.out.features)
        if weights.relation or weights.language:
            prototypes, present = mask_average_pool(features, labels, len(self.class_set))
            average = self.prototypes.update(prototypes.detach(), present)
        if weights.relation:
            terms["relation"] = weights.relation * relation_loss(prototypes, average, present)
        if self.similarity is not None:
            terms["language"] = weights.language * language_loss(
                prototypes, self.similarity, present, temperature=self.recipe.language_temperature
            )
        return Total(torch.stack([*terms.values()]).sum(), terms)

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return both images of the first crop, its labels, and the classes of both heads."""
        main, auxiliary = (
            x[0].detach().argmax(dim=0).byte().cpu().numpy()
            for x in (self.out.main, self.out.auxiliary)
        )
        return {
            **self.first_crop(step),
            "sartm": color_labels(main, self.class_set),
            "second head": color_labels(auxiliary, self.class_set),
        }

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the network and test it."""
        network = restore_norm(self.network).eval()
        source = f"{self.steps} steps on the training split of {self.recipe.dataset}"
        outside = None if self.recipe.self_contained else self.recipe.sam2
        save_sartm(network, self.recipe.output, outside, source=source, **self.notes, **origin)
        return self.scores(network)


def learning_rate_factor(steps: int, warmup: float, power: float) -> Callable[[int], float]:
    """Return the share of the highest learning rate by step: linear from a tenth, then poly.

    Args:
        steps: steps of the run.
        warmup: share of the steps in which it rises.
        power: exponent of (1 - t), where t is the share of the steps after the rise.
    """
    rising = round(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return _WARMUP_START + (1 - _WARMUP_START) * step / rising
        return max(0.0, 1 - (step - rising) / max(1, steps - rising)) ** power

    return factor


def _optimizer(network: nn.Module, recipe: SartmRecipe) -> torch.optim.AdamW:
    """Return AdamW of what is trained; vectors do not decay."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if (p.ndim > 1) == decays], "weight_decay": decay}
        for decays, decay in ((True, recipe.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)
