"""Pre-training of SAGE's main network, the teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ivf_core.models.teacher import Teacher
from ivf_core.training.losses import ContextWeights, TeacherWeights
from ivf_core.training.masks.priors import prior_metadata
from ivf_core.training.runs.devices import start_fabric
from ivf_core.training.runs.loop import (
    Learner,
    StepGuard,
    open_record,
    open_state,
    open_stream,
    run_steps,
)
from ivf_core.training.runs.options import (
    NO_SEGMENTER,
    GuidedOptions,
    find_priors,
    find_sources,
)
from ivf_core.training.runs.recipe import provenance
from ivf_core.training.sage.objectives import (
    Objectives,
    check_weights,
    open_frozen_segmenter,
    terms_off,
)
from ivf_core.training.sage.reports import fuse_with_teacher, picture_row, score_fusion
from ivf_core.training.sage.samples import MaskedPairs
from ivf_core.training.sage.teacher_weights import save_teacher

__all__ = [
    "TeacherRecipe",
    "train_teacher",
]


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe(GuidedOptions):
    """Pre-training of the teacher. The defaults are those published with SAGE."""

    masks: int = 4
    """Planes of each modality: the largest masks."""
    keep_latent: bool = True
    """False: the Persistent Repository without Z (Table 3 II a)."""
    keep_keys_values: bool = True
    """False: without K and V (Table 3 II b); with both False there is none (c)."""
    learning_rate: float = 5e-4
    """Of Adam, falling to `final_learning_rate` along a cosine."""
    final_learning_rate: float = 1e-5
    fusion: ContextWeights = TeacherWeights().fusion
    """Weights of squared errors and edges; there is no reference yet."""
    segmentation: float = TeacherWeights().segmentation
    """Weight of L_seg."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks < 1:
            raise ValueError(f"masks must be at least 1, got {self.masks}")
        check_weights("fusion", self.fusion)
        if self.fusion.reference or self.fusion.reference_gradient:
            raise ValueError("fusion: reference and reference_gradient must be 0, there is none")
        if self.segmentation < 0:
            raise ValueError(f"segmentation must be at least 0, got {self.segmentation}")
        if self.segmentation == 0 and self.segmenter != NO_SEGMENTER:
            raise ValueError(f"segmentation is 0: set segmenter to {NO_SEGMENTER}")


def train_teacher(recipe: TeacherRecipe) -> dict[str, dict[str, float]]:
    """Run `recipe`, write the teacher, and score it on pairs kept out.

    Returns:
        Metrics by name, under a title; nothing where no pair was kept out. In the first
        process; in others nothing.

    Raises:
        StepError: memory is too small, or a loss is no longer finite.
        ValueError: data, masks, segmenter, devices or a checkpoint are not as the recipe says.
    """
    fabric = start_fabric(recipe)
    origin = provenance("teacher", recipe)
    torch.manual_seed(recipe.seed)
    labelled = recipe.segmenter != NO_SEGMENTER
    sources = find_sources(
        recipe, labelled=labelled, labels=recipe.labels, class_set=recipe.class_set
    )
    total = recipe.batches(len(sources))
    teacher = Teacher(
        recipe.masks, keep_latent=recipe.keep_latent, keep_keys_values=recipe.keep_keys_values
    ).to(fabric.device)
    learner = Learner("teacher", teacher, total, recipe.learning_rate, recipe.final_learning_rate)
    state, first = open_state(recipe, sources, {"teacher": learner})
    with open_record(recipe, "teacher", total, first, fabric) as run:
        pairs = MaskedPairs(
            sources,
            find_priors(recipe.priors),
            recipe.crops(masks=recipe.masks, labels=labelled),
            in_memory=recipe.in_memory,
        )
        assert pairs.cache is not None
        weights = TeacherWeights(recipe.fusion, segmentation=recipe.segmentation)
        objectives = Objectives(
            teacher,
            segmenter=open_frozen_segmenter(recipe.segmenter, sources.class_set, fabric.device),
            teacher_weights=weights,
            autocast=fabric.autocast,
        )
        off = terms_off("fusion", recipe.fusion)
        if not labelled:
            off.append("segmentation")
        stream = open_stream(recipe, pairs, fabric, first)

        def update(step: int) -> dict[str, float]:
            batch = stream[step]
            guard = StepGuard(step, batch.names)
            return learner.descend(objectives.pretraining(batch, guard), guard)

        def draw(step: int) -> dict[str, np.ndarray]:
            with torch.no_grad():
                batch = stream[step]
                out = objectives.run_teacher(batch, StepGuard(step, batch.names))
            return picture_row(batch, {"teacher": out.fused})

        run_steps(recipe, state, run, range(first, total), update, draw)
        scores: dict[str, dict[str, float]] = {}
        if fabric.is_global_zero:
            save_teacher(
                teacher,
                recipe.output,
                source=f"pre-trained in {total} steps of {recipe.batch_size}",
                segmenter=recipe.segmenter,
                terms_off=", ".join(off),
                **prior_metadata(pairs.cache),
                **origin,
            )
            if sources.kept_out and recipe.score_pairs:
                kept_out = MaskedPairs(sources.kept_out, pairs.cache, pairs.options)
                title = f"teacher, at most {recipe.score_pairs} pairs kept out"
                scores[title] = score_fusion(
                    fuse_with_teacher(teacher), kept_out, recipe.score_pairs, fabric.device
                )
            run.summary(scores)
    if fabric.is_global_zero:
        state.remove()
    return scores
