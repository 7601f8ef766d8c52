"""Training of networks that segment pairs: what their tasks share, from the splits to the test."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, TypeVar

import numpy as np
from tqdm import tqdm

from ivf_core.images.overlay import color_labels
from ivf_core.models.pair_segmenter import PairSegmenter
from ivf_core.training.runs.loop import Scores, SingleTask
from ivf_core.training.segmentation.pair_images import ColorPairCrops, PairImages, score_pairs
from ivf_core.training.segmentation.pair_options import PairSegmenterOptions
from ivf_core.training.segmentation.segmenters import scores_by_class

__all__ = ["PairSegmenterTask"]

P = TypeVar("P", bound=PairSegmenterOptions)
_log = logging.getLogger(__name__)


class PairSegmenterTask(SingleTask[P]):
    """Training on crops of the training split's pairs, and a test on whole pairs of the other.

    Subclasses build the network and its learner, compute the loss and write the weights.

    Attributes:
        system: name of the system, for warnings.
        class_set: classes of the labels.
        training, test: pairs of both splits.
        random: networks to start from whose weights are random, by name.
    """

    system: ClassVar[str]

    def __init__(self, recipe: P, fabric: Any) -> None:
        super().__init__(recipe, fabric)
        both = recipe.open_split()
        assert both[0].class_set is not None
        self.class_set = both[0].class_set
        self.training, self.test = (PairImages(part.files, self.class_set) for part in both)
        self.names = [files.name for files in self.training.files]
        self.steps = recipe.count_steps(len(self.training))
        self.random: list[str] = []

    def start(self, first: int) -> None:
        """Read the pairs and open their crops."""
        recipe = self.recipe
        for name in self.random:
            _log.warning(
                "%s has random weights: the run shows that training works, its scores say "
                "nothing about %s",
                name,
                self.system,
            )
        images = list(tqdm(self.training, desc="read pairs", mininterval=5))
        crops = ColorPairCrops(
            images, self.names, recipe.crop, scales=recipe.scales, seed=recipe.seed
        )
        self.batches = self.open_batches(crops, recipe.batch_size, first)

    def first_crop(self, step: int) -> dict[str, np.ndarray]:
        """Return both images and the labels of a batch's first crop, for `images`."""
        visible, infrared, labels = (x[0].cpu() for x in self.batches[step].tensors)
        return {
            "visible": (visible * 255).round().byte().permute(1, 2, 0).numpy(),
            "infrared": (infrared[0] * 255).round().byte().numpy(),
            "labels": color_labels(labels.byte().numpy(), self.class_set),
        }

    def scores(self, network: PairSegmenter) -> Scores:
        """Test a network in evaluation mode."""
        return scores_by_class(score_pairs(network, self.test, self.device), self.class_set)
