"""Pre-training of SAGE's main network, the teacher."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.class_sets import CLASS_SETS
from ivf_core.models.teacher import Teacher
from ivf_core.training.fabric import start_fabric
from ivf_core.training.loop import Learner, StepGuard, begin, run_steps
from ivf_core.training.losses import ContextWeights, TeacherWeights
from ivf_core.training.objectives import Objectives, check_weights, terms_off
from ivf_core.training.priors import prior_metadata
from ivf_core.training.recipes import provenance
from ivf_core.training.reports import picture_row, score_fusion
from ivf_core.training.run import RunRecord, run_directory
from ivf_core.training.run_options import (
    NO_SEGMENTER,
    RunOptions,
    Sources,
    find_priors,
    find_sources,
)
from ivf_core.training.run_state import RunState
from ivf_core.training.samples import Batch, BatchStream, CropOrder, MaskedPairs
from ivf_core.training.teacher_weights import save_teacher

__all__ = [
    "GuidedOptions",
    "TeacherRecipe",
    "checkpoint_options",
    "fuse_with_teacher",
    "open_frozen_segmenter",
    "open_stream",
    "train_teacher",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GuidedOptions(RunOptions):
    """Of runs in which the teacher sees masks, and may be told what is in the scene."""

    priors: str
    """Masks: the folder that ivf train priors reported, or a pattern that it alone matches."""
    segmenter: str
    """What L_seg asks: head:WEIGHTS, segformer:DIRECTORY or clipseg:DIRECTORY; none where
    there are no labels."""
    labels: str = ""
    """Name of the folder of class ids, in those plain folders that have one."""
    class_set: str = "mfnet"
    """Of these: mfnet, fmb or pst900."""
    score_pairs: int = 16
    """The most pairs kept out that are scored at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.priors:
            raise ValueError("priors: expected a folder of masks (ivf train priors makes them)")
        if not self.segmenter:
            raise ValueError(f"segmenter: expected one, or {NO_SEGMENTER}")
        if self.class_set not in CLASS_SETS:
            raise ValueError(f"class_set '{self.class_set}', known: {', '.join(CLASS_SETS)}")
        if self.score_pairs < 0:
            raise ValueError(f"score_pairs must be at least 0, got {self.score_pairs}")


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
    directory = run_directory(recipe.output)
    state = RunState(
        directory / "checkpoint.pt",
        checkpoint_options(recipe, sources),
        {"teacher": learner},
        recipe.FREE,
    )
    first = begin(recipe, state)
    with RunRecord(
        directory,
        part="teacher",
        recipe=recipe,
        total_steps=total,
        first_step=first,
        enabled=fabric.is_global_zero,
    ) as run:
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
            segmenter=open_frozen_segmenter(recipe, sources, fabric.device),
            teacher_weights=weights,
            autocast=fabric.autocast,
        )
        off = terms_off("fusion", recipe.fusion, ("reference", "reference_gradient"))
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


def open_frozen_segmenter(
    recipe: GuidedOptions, sources: Sources, device: torch.device
) -> nn.Module | None:
    """The recipe's segmenter for the classes of the labels; None, and a warning, for none."""
    if recipe.segmenter == NO_SEGMENTER:
        _log.warning("segmenter: %s: L_seg is off, the teacher learns no semantics", NO_SEGMENTER)
        return None
    from ivf_core.training.segmenters import open_segmenter

    assert sources.class_set is not None
    segmenter = open_segmenter(recipe.segmenter, sources.class_set)
    return segmenter.to(device).eval().requires_grad_(False)


def open_stream(
    recipe: RunOptions, pairs: MaskedPairs, fabric: Any, first: int, pool: int = 0
) -> BatchStream:
    """The batches of this process from number `first` on."""
    order = CropOrder(
        len(pairs),
        recipe.batch_size,
        recipe.seed,
        first=first,
        pool=pool,
        rank=fabric.global_rank,
        processes=fabric.world_size,
    )
    return BatchStream(pairs, order, fabric.device, first=first, workers=recipe.workers)


def checkpoint_options(recipe: RunOptions, sources: Sources) -> dict[str, Any]:
    """What must not change when a run is gone on with: the recipe, and which pairs there are."""
    names = MaskedPairs(sources, None, recipe.crops(masks=0, labels=False)).digest()
    return {**dataclasses.asdict(recipe), "names of pairs (SHA-256)": names}


def fuse_with_teacher(teacher: nn.Module) -> Any:
    def fuse(batch: Batch) -> Tensor:
        return teacher(batch.luma, batch.infrared, batch.visible_masks, batch.infrared_masks).fused

    return fuse
