"""Pre-training of SAGE's main network, the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ivf_core.models.teacher import Teacher
from ivf_core.training.losses import Total
from ivf_core.training.masks.priors import prior_metadata
from ivf_core.training.runs.loop import Scores, SingleTask, StepGuard, run_task
from ivf_core.training.runs.optimizers import adam_with_cosine
from ivf_core.training.runs.recipe import option
from ivf_core.training.sage.losses import ContextWeights, TeacherWeights
from ivf_core.training.sage.objectives import Objectives, open_frozen_segmenter, terms_off
from ivf_core.training.sage.options import NO_SEGMENTER, GuidedOptions, find_priors, find_sources
from ivf_core.training.sage.reports import fuse_with_teacher, image_row, score_held_out
from ivf_core.training.sage.samples import Batch, MaskedPairs, open_stream
from ivf_core.training.sage.teacher_weights import save_teacher

__all__ = ["TeacherRecipe", "train_teacher"]


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe(GuidedOptions):
    """Pre-training of the teacher. The defaults are those published with SAGE."""

    masks: int = option(4, minimum=1)
    """Masks of each modality that the teacher sees: the largest ones."""
    patches: bool = True
    """Show the teacher the image inside each mask (section 3.1); false shows bare masks."""
    keep_latent: bool = True
    """Keep Z in the Persistent Repository (Table 3 II a without)."""
    keep_keys_values: bool = True
    """Keep K and V in the Persistent Repository (Table 3 II b without, c without both)."""
    learning_rate: float = option(5e-4, above=0)
    """Learning rate of Adam, which falls to `final_learning_rate` along a cosine."""
    final_learning_rate: float = option(1e-5, minimum=0)
    """Learning rate at the end."""
    fusion_loss: ContextWeights = option(  # noqa: RUF009
        TeacherWeights().fusion, minimum=0, former="fusion"
    )
    """Weights of squared errors and edges; those of a reference must be 0, there is none yet."""
    segmentation_weight: float = option(
        TeacherWeights().segmentation, minimum=0, former="segmentation"
    )
    """Weight of L_seg."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion_loss.reference or self.fusion_loss.reference_gradient:
            raise ValueError(
                "fusion_loss: reference and reference_gradient must be 0, there is none"
            )
        if self.segmentation_weight == 0 and self.labelled:
            raise ValueError(f"segmentation_weight is 0: set segmenter to {NO_SEGMENTER}")


def train_teacher(recipe: TeacherRecipe) -> Scores:
    """Train a teacher, write it, and score it on held-out pairs; see `run_task`."""
    return run_task("teacher", recipe, TeacherTask)


class TeacherTask(SingleTask[TeacherRecipe]):
    """Pre-training of a teacher without a student."""

    def __init__(self, recipe: TeacherRecipe, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        self.sources = find_sources(
            recipe, labelled=recipe.labelled, labels=recipe.labels, class_set=recipe.class_set
        )
        self.names = self.sources.names
        self.steps = recipe.count_steps(len(self.sources))
        self.teacher = Teacher(
            recipe.masks,
            patches=recipe.patches,
            keep_latent=recipe.keep_latent,
            keep_keys_values=recipe.keep_keys_values,
        ).to(self.device)
        rates = (recipe.learning_rate, recipe.final_learning_rate)
        optimizer = adam_with_cosine(self.teacher, self.steps, *rates)
        self.trained = self.learner("teacher", self.teacher, *optimizer, prefix="teacher/")

    def start(self, first: int) -> None:
        """Open pairs, masks and the segmenter."""
        recipe = self.recipe
        crops = recipe.crops(masks=recipe.masks, labels=recipe.labelled)
        cache = find_priors(recipe.priors)
        self.priors = prior_metadata(cache)
        self.pairs = MaskedPairs(self.sources, cache, crops, in_memory=recipe.in_memory)
        self.objectives = Objectives(
            self.teacher,
            segmenter=open_frozen_segmenter(recipe.segmenter, self.sources.class_set, self.device),
            teacher_weights=TeacherWeights(
                recipe.fusion_loss, segmentation=recipe.segmentation_weight
            ),
            autocast=self.fabric.autocast,
        )
        self.off = terms_off("fusion_loss", recipe.fusion_loss)
        if not recipe.labelled:
            self.off.append("segmentation")
        self.batches = open_stream(recipe, self.pairs, self.fabric, first)

    def loss(self, step: int, batch: Batch, guard: StepGuard) -> Total:
        """Return the teacher's own loss."""
        return self.objectives.pretraining(batch, guard)

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Return the sources, the fused image and the masks of a crop."""
        with torch.no_grad():
            batch = self.batches[step]
            out = self.objectives.run_teacher(batch, StepGuard(step, batch.names))
        return image_row(batch, {"teacher": out.fused})

    def finish(self, origin: dict[str, str]) -> Scores:
        """Write the teacher and score it."""
        recipe = self.recipe
        save_teacher(
            self.teacher,
            recipe.output,
            source=f"pre-trained in {self.steps} steps of {recipe.batch_size}",
            segmenter=recipe.segmenter,
            terms_off=", ".join(self.off),
            **self.priors,
            **origin,
        )
        held_out = MaskedPairs(self.sources.held_out, self.pairs.cache, self.pairs.options)
        fuse = {"teacher": fuse_with_teacher(self.teacher)}
        return score_held_out(fuse, held_out, recipe.score_pairs, self.device)
